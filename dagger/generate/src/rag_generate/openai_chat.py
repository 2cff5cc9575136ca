"""Answer with a language model behind an OpenAI-compatible chat API.

The answer is always streamed, so that each phase has its own deadline: connect, first token, idle,
total. Retries happen here only (the client's own are off), and only for requests that certainly were not
answered: no connection, 429, 5xx. A request the model may have worked on is never sent again.
The model's address and key are the operator's; a request cannot choose them. It calls no tools.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections import abc
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, NamedTuple

import httpx2
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from rag_kit.background import BackgroundLoop
from rag_kit.breaker import Breaker
from rag_kit.errors import StepError
from rag_kit.handler import on_cancel

from .budget import Fitted, fit_window
from .generator import RESTART, Draft, Restart
from .llm_faults import (
    TOTAL,
    Failure,
    explain_failure,
    out_of_time,
    refused_for_now,
    timed_out,
)
from .llm_reply import Reply
from .models import GenerateRequest, Usage
from .reasoning import ReasoningFilter
from .settings import Settings

NO_KEY = "none"  # the client insists on a key; servers without one ignore it
_HEADER = re.compile(r"[!-~]{1,128}")  # what may stand in a header as it is
LOG = logging.getLogger(__name__)


class Deadline(NamedTuple):
    """The time by which an answer must be complete.

    Args:
        at: Time of the event loop's clock.
        seconds: From the start until then.
        source: The setting or the request field it comes from.
    """

    at: float
    seconds: float
    source: str


class OpenAIChat:
    """The generator `openai`. Holds one client and its connections until closed.

    Args:
        base_url: Where the server is, e.g. http://127.0.0.1:8000/v1.
        model: Name of the model there.
        settings: The server's key, deadlines, retries and the model's context window.
        breaker: Refuses calls while most fail; None: one with these settings.
    """

    name = "openai"

    def __init__(
        self,
        base_url: str,
        model: str,
        settings: Settings,
        *,
        breaker: Breaker | None = None,
    ) -> None:
        self.model: str | None = model
        self._settings = settings
        self.breaker = breaker or Breaker("llm", settings)
        api_key = settings.api_key()
        self._client = AsyncOpenAI(
            base_url=base_url,
            api_key=api_key.get_secret_value() if api_key else NO_KEY,
            max_retries=0,
            timeout=httpx2.Timeout(None, connect=settings.llm_connect_s),
            # the server answers itself; a redirect could lead anywhere
            http_client=DefaultAsyncHttpxClient(follow_redirects=False),
        )
        self._background = BackgroundLoop("rag-generate-openai")
        # whether the server's template opens the model's reasoning, so that its text only ends it
        self._starts_inside = settings.llm_starts_in_reasoning

    def close(self) -> None:
        """Cancel running calls and close the connections."""
        self._background.close(self._client.close)

    def stream(self, request: GenerateRequest) -> abc.Generator[str | Restart | Draft, None, None]:
        """Yield the model's text as it arrives, then the draft; closing early aborts the call."""
        if not request.prompt:
            raise StepError(
                "invalid_request",
                "prompt: it is empty, so there is nothing to ask the model; send what `augment` "
                'gives, or answer without a model: {"generate": {"target": "extractive"}}',
                param="prompt",
            )
        fitted = fit_window(
            request.prompt,
            request.contexts,
            request.generate.max_answer_tokens or self._settings.llm_max_answer_tokens,
            self._settings.llm_context_window,
        )
        pieces: SimpleQueue[str | Restart | Future[Draft]] = SimpleQueue()
        future = self._background.submit(self._answer(request, fitted, pieces.put))
        future.add_done_callback(pieces.put)
        on_cancel(future.cancel)
        try:
            while isinstance(piece := pieces.get(), (str, Restart)):
                yield piece
            yield piece.result()
        finally:
            future.cancel()

    async def _answer(
        self, request: GenerateRequest, fitted: Fitted, emit: Callable[[str | Restart], None]
    ) -> Draft:
        """Try until there is an answer, no attempt is left, or the deadline is reached."""
        clock = asyncio.get_running_loop().time
        deadline = self._deadline(request.generate.deadline_s, clock())
        attempts = self._settings.llm_attempts
        body = self._body(request, fitted)
        for attempt in range(1, attempts + 1):
            if seconds := self.breaker.refused_for():
                raise refused_for_now(seconds)
            began = clock()
            reply = Reply(ReasoningFilter(starts_inside=self._starts_inside))
            with self.breaker.timed():
                failure = await self._attempt(body, reply, emit, deadline)
            self.breaker.record(failed=failure is not None and failure.down)
            if failure is None:
                return _draft(reply, attempt, fitted, clock() - began)
            LOG.warning(
                "model call %d of %d failed: %s",
                attempt, attempts, failure.error.code,
            )  # fmt: skip
            wait = self._wait(failure)
            last = attempt == attempts or clock() + wait >= deadline.at
            if last or not failure.retry or not self.breaker.may_retry():
                raise failure.error
            await asyncio.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def _deadline(self, deadline_s: float | None, now: float) -> Deadline:
        """Return the request's deadline where it is earlier than the setting's."""
        total_s = self._settings.llm_total_s
        if deadline_s is not None and deadline_s < total_s:
            return Deadline(now + deadline_s, deadline_s, "generate.deadline_s")
        return Deadline(now + total_s, total_s, TOTAL)

    def _wait(self, failure: Failure) -> float:
        """Return the seconds before the next attempt: what the server asks, else random."""
        # spreading load, not cryptography
        jitter = random.uniform(self._settings.llm_retry_min_s, self._settings.llm_retry_max_s)  # noqa: S311
        return max(jitter, failure.error.retry_after or 0.0)

    async def _attempt(
        self,
        body: dict[str, Any],
        reply: Reply,
        emit: Callable[[str | Restart], None],
        deadline: Deadline,
    ) -> Failure | None:
        """Read one streamed answer into `reply`; returns what failed.

        It is returned and not raised, because a traceback would keep the stream until another
        thread drops it, and only this one may close it.
        """
        loop = asyncio.get_running_loop()
        phase, seconds = "first token", self._settings.llm_first_token_s
        began = loop.time()
        first = min(began + seconds, deadline.at)
        try:
            async with asyncio.timeout_at(first):
                stream = await self._client.chat.completions.create(**body)
            async with stream:
                while True:
                    until = first
                    if reply.started:
                        phase, seconds = "idle", self._settings.llm_idle_s
                        until = min(loop.time() + seconds, deadline.at)
                    async with asyncio.timeout_at(until):
                        chunk = await anext(stream, None)
                    if chunk is None:
                        break
                    self._pass_on(reply, chunk, emit)
                    if reply.started and reply.first_token_s is None:
                        reply.first_token_s = loop.time() - began
                    if reply.repeats:
                        break
            if rest := reply.finish():
                emit(rest)
            reply.check()
        except TimeoutError:
            if reply.finish_reason is not None:
                if rest := reply.finish():
                    emit(rest)
                return None  # only the usage or the end marker is late
            if loop.time() >= deadline.at:
                return out_of_time(deadline.seconds, deadline.source)
            return timed_out(phase, seconds, f"RAG_LLM_{phase.replace(' ', '_').upper()}_S")
        except Exception as error:
            return explain_failure(error, started=reply.started).with_traceback(None)
        return None

    def _pass_on(self, reply: Reply, chunk: Any, emit: Callable[[str | Restart], None]) -> None:
        """Add a chunk to the reply, and emit what it adds to the answer."""
        unopened = reply.reasoning.unopened
        text = reply.add(chunk)
        if reply.reasoning.unopened > unopened:
            self._starts_inside = True  # of the next answer, too
            emit(RESTART)
        if text:
            emit(text)

    def _body(self, request: GenerateRequest, fitted: Fitted) -> dict[str, Any]:
        options = request.generate
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [message.model_dump() for message in fitted.prompt],
            "temperature": options.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
            # not every server knows both names; the client's signature does
            self._settings.llm_max_tokens_field: fitted.max_answer_tokens,
        }
        if options.seed is not None:
            body["seed"] = options.seed
        if options.response_format is not None:
            body["response_format"] = options.response_format
        request_id = (request.model_extra or {}).get("request_id")
        if isinstance(request_id, str) and _HEADER.fullmatch(request_id):
            body["extra_headers"] = {"X-Request-Id": request_id}
        return body


def _draft(reply: Reply, calls: int, fitted: Fitted, seconds: float) -> Draft:
    usage = Usage(
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.completion_tokens,
        total_tokens=reply.prompt_tokens + reply.completion_tokens,
        llm_calls=calls,
    )
    warnings = (*fitted.warnings, *(["repetition"] if reply.repeats else []))
    return Draft(
        reply.text,
        reply.reason(),
        usage,
        warnings=warnings,
        first_token_s=reply.first_token_s,
        seconds=seconds,
        reasoning=reply.where_reasoning(),
    )
