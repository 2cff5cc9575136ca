"""Calls of the Qdrant server: bounded in time, one retry for reads, failures as StepErrors."""

from __future__ import annotations

import asyncio
import json
import math
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import httpx
from qdrant_client import AsyncQdrantClient
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from rag_kit.background import BackgroundLoop
from rag_kit.breaker import Breaker
from rag_kit.errors import StepError

from ...settings import RetrieveSettings
from ..base import already_there, not_found

Answer = TypeVar("Answer")
Call = Callable[[AsyncQdrantClient], Awaitable[Answer]]
CONNECT_SHARE = (
    0.5  # of the time of a read: tells a server that accepts no connection from a slow one
)
WRITE_TIMEOUT_S = 60.0
PAUSES_S = (0.1, 0.5, 1.0, 3.0, 5.0)  # before a write is repeated
MOST_WORDS = 400  # characters of Qdrant's own that an error repeats
FAILING = ("retriever_unavailable", "deadline_exceeded")  # counted by the breaker


class Server:
    """One Qdrant server, by one or several of its nodes, called from any thread.

    A node that cannot be used is left for the next one in the list, also between a read and its retry.

    The time limit of a call covers all of it, also an answer that trickles in; cancelling the request
    ends the call at once, so no thread waits longer.

    Args:
        url: Where the server is, such as `http://localhost:6333`; several nodes of one, with commas between.
        settings: Its key, how long a read may take, and when calls are refused because most fail.

    Raises:
        StepError: `retriever_misconfigured`, the URL is none.
    """

    def __init__(
        self,
        url: str,
        settings: RetrieveSettings,
    ) -> None:
        self._read_s = settings.qdrant_timeout_s
        self.most_bytes = settings.qdrant_max_request_mb * 2**20  # in one request
        key = settings.qdrant_key()
        if key is not None and not key.isascii():
            raise StepError(
                "retriever_misconfigured",
                "the key of the Qdrant server holds a character that no header can carry; set "
                "RAG_QDRANT_API_KEY or RAG_QDRANT_API_KEY_FILE to the key as it is configured there",
            )
        self.breaker = Breaker("qdrant", settings)
        self._nodes = [self._client(one.strip(), key) for one in url.split(",") if one.strip()]
        if not self._nodes:
            raise bad_url()
        self._node = 0  # the one that is asked; the next one when it cannot be used
        self._background = BackgroundLoop("rag-retrieve-qdrant")

    def _client(self, url: str, key: str | None) -> AsyncQdrantClient:
        with warnings.catch_warnings():
            # a key over plain http: the operator's choice, e.g. in a pod
            warnings.simplefilter("ignore")
            try:
                return AsyncQdrantClient(
                    url,
                    api_key=key,
                    timeout=math.ceil(WRITE_TIMEOUT_S),
                    prefer_grpc=False,
                    check_compatibility=False,
                    event_hooks={"request": [self._limit_connecting]},
                )
            except ValueError as error:
                raise bad_url() from error

    async def _limit_connecting(self, request: httpx.Request) -> None:
        limits = request.extensions["timeout"]
        request.extensions["timeout"] = {**limits, "connect": self._read_s * CONNECT_SHARE}

    def read(self, call: Call[Answer], name: str = "") -> Answer:
        """Call the server, once more when it cannot be used: the call must change nothing.

        Raises:
            StepError: `retriever_…`, `deadline_exceeded` or `collection_not_found` (for `name`).
        """
        try:
            return self._call(call, name, self._read_s)
        except StepError as error:
            # a server that sends Retry-After is not called before that
            passing = error.code == "retriever_unavailable" and error.retry_after is None
            # an alias may have moved while the server looked up what it named
            moved = error.code == "collection_not_found"
            if not moved and (not passing or not self.breaker.may_retry()):
                raise
        return self._call(call, name, self._read_s)

    def write(self, call: Call[Answer], name: str = "", *, repeatable: bool = False) -> Answer:
        """Call the server once; raises as `read`, and `storage_full`.

        What may be repeated is sent again after a pause, to the next node if there is one, when a node
        says that it failed inside: a cluster notices that a node is lost by the first write that needs
        it, refuses that one, and goes on without it.
        """
        for pause in PAUSES_S if repeatable else ():
            try:
                return self._call(call, name, WRITE_TIMEOUT_S)
            except StepError as error:
                unreachable = error.code == "retriever_unavailable" and error.retry_after is None
                other_nodes = len(self._nodes) > 1
                if not isinstance(error, InternalError) and not (unreachable and other_nodes):
                    raise
            time.sleep(pause)
        return self._call(call, name, WRITE_TIMEOUT_S)

    def close(self) -> None:
        """Cancel running calls and close the connections; closing twice is fine."""
        self._background.close(self._close_all)

    async def _close_all(self) -> None:
        for node in self._nodes:
            await node.close()

    def _call(self, call: Call[Answer], name: str, seconds: float) -> Answer:
        if wait := self.breaker.refused_for():
            raise StepError(
                "retriever_unavailable",
                "most of the last calls of the Qdrant server failed; the next one is tried in "
                f"{wait:.1f} s; check that it runs at RAG_QDRANT_URL",
                retry_after=wait,
            )
        try:
            with self.breaker.timed(), explained(name):
                answer = self._background.run(self._within(call, seconds))
        except StepError as error:
            self.breaker.record(failed=error.code in FAILING)
            if error.code in FAILING:
                self._node = (self._node + 1) % len(self._nodes)
            raise
        self.breaker.record(failed=False)
        return answer

    async def _within(self, call: Call[Answer], seconds: float) -> Answer:
        async with asyncio.timeout(seconds):
            return await call(self._nodes[self._node])


class InternalError(StepError):
    """Qdrant itself says that it failed inside (HTTP 500)."""


@contextmanager
def explained(name: str = "") -> Iterator[None]:
    """Turn the client's failures into StepErrors; none of them shows the key or the host."""
    try:
        yield
    except ResponseHandlingException as error:
        raise _no_answer(error.source) from error
    except TimeoutError as error:
        raise _late() from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise bad_response("it is not JSON") from error
    except (AssertionError, AttributeError) as error:  # the client's own, about an answer like null
        raise bad_response("it holds no result") from error
    except httpx.InvalidURL as error:
        raise bad_url() from error
    except UnexpectedResponse as error:
        raise _refused(error, name) from error
    except ResourceExhaustedResponse as error:
        raise _busy(float(error.retry_after_s)) from error


def bad_response(problem: str) -> StepError:
    """Return the error for an answer that cannot be right."""
    return StepError(
        "retriever_bad_response",
        f"the Qdrant server's answer cannot be used: {problem}; is RAG_QDRANT_URL a Qdrant server, "
        "and no proxy in between?",
    )


def bad_url() -> StepError:
    """Return the error for a URL that is none; it may hold a key, so it is not shown."""
    return StepError(
        "retriever_misconfigured",
        "RAG_QDRANT_URL is no URL a client can open; write it like http://localhost:6333",
    )


def _late() -> StepError:
    return StepError(
        "deadline_exceeded",
        "the Qdrant server did not answer in time; try again, or raise RAG_QDRANT_TIMEOUT_S",
    )


def _busy(seconds: float) -> StepError:
    return StepError(
        "retriever_unavailable",
        "the Qdrant server takes no more requests for now; try again later",
        retry_after=seconds,
    )


def _no_answer(source: Exception) -> StepError:
    if isinstance(source, httpx.ConnectTimeout | httpx.PoolTimeout):
        return _unavailable("it does not accept a connection in time")
    if isinstance(source, httpx.TimeoutException):
        return _late()
    if isinstance(source, httpx.UnsupportedProtocol | httpx.InvalidURL):
        return bad_url()
    if isinstance(source, httpx.DecodingError):
        return bad_response("its encoding is broken")
    if isinstance(source, httpx.HTTPError):
        return _unavailable(type(source).__name__)
    return bad_response("it is not the JSON of Qdrant's REST interface")


def _refused(error: UnexpectedResponse, name: str) -> StepError:
    status = error.status_code or 0
    text = error.content[:4096].decode("utf-8", "replace")
    words = _words(error.content)
    if status in (401, 403) and "locked" not in text.lower():
        return StepError(
            "retriever_misconfigured",
            f"the Qdrant server refuses the key (HTTP {status}); set RAG_QDRANT_API_KEY or "
            "RAG_QDRANT_API_KEY_FILE to one that may read and write",
        )
    if status == 404 and name:
        return not_found(name)
    if status == 409 and name:
        return already_there(name)
    if status == 507 or "No space left" in text or ("disk" in text and "space" in text):
        return StepError(
            "storage_full", "the Qdrant server has no disk space left; free some there"
        )
    if status == 408:
        return _late()
    if status == 429:
        return _busy(1.0)
    if status == 500 and words:
        return InternalError("retriever_unavailable", _unavailable("HTTP 500").message)
    if status >= 500:
        return _unavailable(f"HTTP {status}")
    if words and status >= 400:
        return _told(status, words)
    return bad_response(f"HTTP {status}")


def _words(content: bytes) -> str:
    """Return what Qdrant itself says about a request that it refuses; empty if it was not Qdrant."""
    try:
        told = json.loads(content)["status"]["error"]
    except (ValueError, TypeError, KeyError):
        return ""
    return " ".join(str(told).split())[:MOST_WORDS]


def _told(status: int, words: str) -> StepError:
    """Return the error for a request that this server's settings or limits do not allow."""
    if "already exists" in words:
        return StepError("collection_mismatch", f"the Qdrant server says: {words}")
    return StepError(
        "retriever_misconfigured",
        f"the Qdrant server refuses the request (HTTP {status}): {words}; its limits and its strict "
        "mode are set there",
    )


def _unavailable(reason: str) -> StepError:
    return StepError(
        "retriever_unavailable",
        f"the Qdrant server cannot be used ({reason}); check that it runs at RAG_QDRANT_URL",
    )
