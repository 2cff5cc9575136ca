"""A reranking server: Cohere's, Jina's and vLLM's `POST /v1/rerank`, or TEI's `POST /rerank`.

Retries happen here only. A request changes nothing, so it may be sent again whenever the server
failed; the deadline holds for all batches and attempts together. No message holds the server's own
words: they may repeat a passage, the key or the address.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import httpx
import pydantic_core

from rag_kit.background import BackgroundLoop
from rag_kit.breaker import Breaker
from rag_kit.errors import StepError
from rag_kit.retry_after import is_soon, retry_after

from .reranker import Scored
from .scores import Reader, bad_response, cohere_scores, in_order, tei_scores
from .settings import RerankSettings

LOG = logging.getLogger(__name__)
CONNECT_S = 2.0  # seconds
RETRY_S = (0.05, 0.25)  # shortest and longest wait before a retry, seconds
MAX_REPLY_BYTES = 4 * 1024 * 1024  # a server may repeat the texts
READERS: dict[str, Reader] = {"cohere": cohere_scores, "tei": tei_scores}


class Failure(NamedTuple):
    """One request failed.

    Args:
        error: What the caller gets when no attempt is left.
        retry: Whether another attempt may succeed.
        down: Whether it indicates that the server is down, for any request.
    """

    error: StepError
    retry: bool = False
    down: bool = False


class RerankServer:
    """A reranker behind HTTP. Holds one client and its connections until closed.

    Args:
        settings: URL, key, model, deadline and retries.
        breaker: Refuses calls while most fail; None: one with these settings.

    Raises:
        StepError: `reranker_misconfigured`, there is no URL, or the key cannot be read.
    """

    digest: str | None = None

    def __init__(self, settings: RerankSettings, *, breaker: Breaker | None = None) -> None:
        self.name, self.model = settings.kind, settings.reranker_model
        self.breaker = breaker or Breaker("reranker", settings)
        self._settings, self._url = settings, settings.endpoint()
        key = settings.key()
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(settings.reranker_timeout_s, connect=CONNECT_S),
            headers={"Authorization": f"Bearer {key}"} if key else {},
            follow_redirects=False,  # the server answers itself; a redirect could lead anywhere
        )
        self._background = BackgroundLoop("rag-rerank")

    def close(self) -> None:
        """Cancel running calls and close the connections."""
        self._background.close(self._client.aclose)

    def score(self, query: str, texts: Sequence[str]) -> Scored:
        """Score texts for a question, in batches that are sent at the same time."""
        return self._background.run(self._score(query, texts))

    async def _score(self, query: str, texts: Sequence[str]) -> Scored:
        size, seconds = self._settings.batch, self._settings.reranker_timeout_s
        end = asyncio.get_running_loop().time() + seconds
        try:
            async with asyncio.timeout_at(end), asyncio.TaskGroup() as tasks:
                batches = [
                    tasks.create_task(self._batch(query, texts[start : start + size], end))
                    for start in range(0, len(texts), size)
                ]
        except TimeoutError:
            self.breaker.record(failed=True)
            raise StepError(
                "deadline_exceeded",
                f"the reranker did not score {len(texts)} passages within {seconds:g} s "
                "(RAG_RERANKER_TIMEOUT_S); rank fewer with rerank.candidates",
            ) from None
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        replies = [batch.result() for batch in batches]
        return Scored([score for reply in replies for score in reply.scores], replies[0].model)

    async def _batch(self, query: str, texts: Sequence[str], end: float) -> Scored:
        """Try until there are scores, no attempt is left, or the next one would be too late."""
        clock = asyncio.get_running_loop().time
        attempts = self._settings.reranker_attempts
        for attempt in range(1, attempts + 1):
            if seconds := self.breaker.refused_for():
                raise _unavailable("failed most of the last calls and is not asked now", seconds)
            with self.breaker.timed():
                outcome = await self._post(query, texts)
            self.breaker.record(failed=isinstance(outcome, Failure) and outcome.down)
            if isinstance(outcome, Scored):
                return outcome
            LOG.warning(
                "reranking, attempt %d of %d: %s",
                attempt, attempts, outcome.error.message,
            )  # fmt: skip
            # spreading load, not cryptography
            wait = max(random.uniform(*RETRY_S), outcome.error.retry_after or 0.0)  # noqa: S311
            last = attempt == attempts or clock() + wait >= end
            if last or not outcome.retry or not self.breaker.may_retry():
                raise outcome.error
            await asyncio.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    async def _post(self, query: str, texts: Sequence[str]) -> Scored | Failure:
        try:
            async with self._client.stream("POST", self._url, json=self._body(query, texts)) as got:
                if got.status_code != 200:
                    return _refused(got)
                content = bytearray()
                async for piece in got.aiter_bytes():
                    content += piece
                    if len(content) > MAX_REPLY_BYTES:
                        return Failure(bad_response(f"with more than {MAX_REPLY_BYTES} bytes"))
            return self._read(bytes(content), len(texts))
        except StepError as error:
            return Failure(error)
        except httpx.TransportError as error:
            lost = _unavailable(f"cannot be reached ({type(error).__name__})")
            return Failure(lost, retry=True, down=True)
        except httpx.HTTPError as error:  # a reply that cannot be decoded
            return Failure(bad_response(f"its reply cannot be read ({type(error).__name__})"))

    def _body(self, query: str, texts: Sequence[str]) -> dict[str, Any]:
        if self.name == "tei":
            return {"query": query, "texts": texts, "raw_scores": False, "truncate": True}
        body = {"query": query, "documents": texts, "top_n": len(texts)}
        return {"model": self.model, **body} if self.model else body

    def _read(self, content: bytes, count: int) -> Scored:
        try:
            reply = pydantic_core.from_json(content)  # NaN is found where it matters
        except ValueError:
            raise bad_response("its reply is no JSON") from None
        scores = in_order(READERS[self.name](reply), count, logits=self._settings.logits)
        model = reply.get("model") if isinstance(reply, dict) else None
        return Scored(scores, model[:200] if isinstance(model, str) else None)


def _refused(reply: httpx.Response) -> Failure:
    """Return the failure of a status that is not 200."""
    status = reply.status_code
    if status in (401, 403):
        return Failure(
            StepError(
                "reranker_misconfigured",
                f"the reranker refuses our credentials ({status}); set RAG_RERANKER_API_KEY or "
                "RAG_RERANKER_API_KEY_FILE",
            )
        )
    if status in (404, 405) or 300 <= status < 400:
        return Failure(
            StepError(
                "reranker_misconfigured",
                f"the reranker has no such path or model ({status}); check RAG_RERANKER_URL, "
                "RAG_RERANKER_MODEL, and whether RAG_RERANKER says what it speaks",
            )
        )
    wait = retry_after(reply.headers.get("retry-after"))
    if status in (408, 425, 429) or status >= 500:
        what = "is over its rate limit" if status == 429 else f"failed ({status})"
        return Failure(_unavailable(what, wait), retry=is_soon(wait), down=status >= 500)
    return Failure(
        bad_response(
            f"it refused the request ({status}); check RAG_RERANKER_MODEL, or lower RAG_RERANKER_BATCH"
        )
    )


def _unavailable(problem: str, wait: float | None = None) -> StepError:
    return StepError("reranker_unavailable", f"the reranker {problem}", retry_after=wait)
