"""Answer with a language model behind an OpenAI-compatible chat API.

The answer is always streamed, so that each phase has its own deadline: connect, first token, idle,
total. One place retries (here; the client's own retries are off), and only what certainly was not
answered: no connection, 429, 5xx. A request that may have been worked on is never sent again.
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
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import httpx2
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from pydantic import SecretStr

from rag_kit.background import BackgroundLoop
from rag_kit.breaker import Breaker
from rag_kit.errors import StepError
from rag_kit.handler import on_cancel

from .budget import Fitted, fit_window
from .generator import Draft
from .llm_faults import Failure, explain_failure, refused_for_now, timed_out
from .llm_reply import Reply
from .models import GenerateRequest, Usage

NO_KEY = "none"  # the client insists on a key; servers without one ignore it
_HEADER = re.compile(r"[!-~]{1,128}")  # what may stand in a header as it is
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """How long each phase of an answer may take, and how often it is tried; times in seconds."""

    connect_s: float = 2.0
    first_token_s: float = 10.0
    idle_s: float = 5.0
    total_s: float = 30.0
    attempts: int = 3
    retry_min_s: float = 0.2
    retry_max_s: float = 2.0


class OpenAIChat:
    """The generator `openai`. Holds one client and its connections until closed.

    Args:
        base_url: Where the server is, e.g. http://127.0.0.1:8000/v1.
        model: Name of the model there.
        api_key: Its key, where it wants one; sent to the server and nowhere else.
        limits: Deadlines and retries.
        context_window: Tokens of prompt and answer together, or None when unknown.
        max_tokens_field: What the server calls the limit of an answer.
        breaker: Refuses calls while most fail.
    """

    name = "openai"

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: SecretStr | None = None,
        limits: Limits | None = None,
        context_window: int | None = None,
        max_tokens_field: str = "max_tokens",
        breaker: Breaker | None = None,
    ) -> None:
        self.model: str | None = model
        self._limits = limits or Limits()
        self._window = context_window
        self._max_tokens_field = max_tokens_field
        self.breaker = breaker or Breaker("llm")
        self._client = AsyncOpenAI(
            base_url=base_url,
            api_key=api_key.get_secret_value() if api_key else NO_KEY,
            max_retries=0,
            timeout=httpx2.Timeout(None, connect=self._limits.connect_s),
            # the server answers itself; a redirect could lead anywhere
            http_client=DefaultAsyncHttpxClient(follow_redirects=False),
        )
        self._background = BackgroundLoop("rag-generate-openai")

    def close(self) -> None:
        """Give up what still runs and close the connections."""
        self._background.close(self._client.close)

    def stream(self, request: GenerateRequest) -> abc.Generator[str | Draft, None, None]:
        """Yield the model's text as it comes, then the draft; closing early aborts the call."""
        if not request.prompt:
            raise StepError(
                "invalid_request",
                "prompt: it is empty, so there is nothing to ask the model; send what `augment` "
                'gives, or answer without a model: {"generate": {"target": "extractive"}}',
                param="prompt",
            )
        fitted = fit_window(
            request.prompt, request.contexts, request.generate.max_answer_tokens, self._window
        )
        pieces: SimpleQueue[str | Future[Draft]] = SimpleQueue()
        future = self._background.submit(self._answer(request, fitted, pieces.put))
        future.add_done_callback(pieces.put)
        on_cancel(future.cancel)
        try:
            while isinstance(piece := pieces.get(), str):
                yield piece
            yield piece.result()
        finally:
            future.cancel()

    async def _answer(
        self, request: GenerateRequest, fitted: Fitted, emit: Callable[[str], None]
    ) -> Draft:
        """Try until an answer is there, the attempts are used up, or the time is."""
        clock = asyncio.get_running_loop().time
        total = request.generate.deadline_s or self._limits.total_s
        end = clock() + total
        body = self._body(request, fitted)
        for attempt in range(1, self._limits.attempts + 1):
            if refused := self.breaker.refuses():
                raise refused_for_now(refused)
            reply = Reply()
            with self.breaker.timed():
                failure = await self._attempt(body, reply, emit, end, total)
            self.breaker.ended(failed=failure is not None and failure.down)
            if failure is None:
                return _draft(reply, attempt, fitted)
            LOG.warning(
                "model call %d of %d failed: %s",
                attempt, self._limits.attempts, failure.error.code,
            )  # fmt: skip
            wait = self._wait(failure)
            last = attempt == self._limits.attempts or clock() + wait >= end
            if last or not failure.retry or not self.breaker.may_retry():
                raise failure.error
            await asyncio.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def _wait(self, failure: Failure) -> float:
        """Return the seconds before the next attempt: what the server asks, else random."""
        # spreading load, not cryptography
        jitter = random.uniform(self._limits.retry_min_s, self._limits.retry_max_s)  # noqa: S311
        return max(jitter, failure.error.retry_after or 0.0)

    async def _attempt(
        self,
        body: dict[str, Any],
        reply: Reply,
        emit: Callable[[str], None],
        end: float,
        total: float,
    ) -> Failure | None:
        """Read one streamed answer into `reply`; returns what failed.

        It is returned and not raised, because a traceback would keep the stream until another
        thread drops it, and only this one may close it.
        """
        loop = asyncio.get_running_loop()
        phase, seconds = "first token", self._limits.first_token_s
        first = min(loop.time() + seconds, end)
        try:
            async with asyncio.timeout_at(first):
                stream = await self._client.chat.completions.create(**body)
            async with stream:
                while True:
                    deadline = first
                    if reply.started:
                        phase, seconds = "idle", self._limits.idle_s
                        deadline = min(loop.time() + seconds, end)
                    async with asyncio.timeout_at(deadline):
                        chunk = await anext(stream, None)
                    if chunk is None:
                        break
                    if text := reply.add(chunk):
                        emit(text)
            reply.check()
        except TimeoutError:
            if reply.finish_reason is not None:
                return None  # only the usage or the end mark is late
            if loop.time() >= end:
                phase, seconds = "total", total
            return timed_out(phase, seconds)
        except Exception as error:
            return explain_failure(error, started=reply.started).with_traceback(None)
        return None

    def _body(self, request: GenerateRequest, fitted: Fitted) -> dict[str, Any]:
        options = request.generate
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [message.model_dump() for message in fitted.prompt],
            "temperature": options.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
            # not every server knows both names; the client's signature does
            self._max_tokens_field: fitted.max_answer_tokens,
        }
        if options.seed is not None:
            body["seed"] = options.seed
        request_id = (request.model_extra or {}).get("request_id")
        if isinstance(request_id, str) and _HEADER.fullmatch(request_id):
            body["extra_headers"] = {"X-Request-Id": request_id}
        return body


def _draft(reply: Reply, calls: int, fitted: Fitted) -> Draft:
    usage = Usage(
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.completion_tokens,
        total_tokens=reply.prompt_tokens + reply.completion_tokens,
        llm_calls=calls,
    )
    return Draft(reply.text, reply.reason(), usage, warnings=fitted.warnings)
