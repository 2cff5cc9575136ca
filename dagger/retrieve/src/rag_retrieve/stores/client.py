"""Calls of the Qdrant server: one retry for reads, and its failures as StepErrors."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import httpx
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from ..errors import StepError
from . import already_there, not_found

Answer = TypeVar("Answer")


def read(call: Callable[[], Answer], name: str = "") -> Answer:
    """Call the server, once more when the connection failed: the call must change nothing.

    Raises:
        StepError: `retriever_…`, `deadline_exceeded` or `collection_not_found` (for `name`).
    """
    with explained(name):
        try:
            return call()
        except ResponseHandlingException as error:
            if not isinstance(error.source, httpx.NetworkError | httpx.RemoteProtocolError):
                raise
            return call()


@contextmanager
def explained(name: str = "") -> Iterator[None]:
    """Turn the client's failures into StepErrors; none of them shows the key or the host."""
    try:
        yield
    except ResponseHandlingException as error:
        raise _no_answer(error.source) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise bad_response("it is not JSON") from error
    except httpx.InvalidURL as error:
        raise bad_url() from error
    except UnexpectedResponse as error:
        raise _refused(error, name) from error
    except ResourceExhaustedResponse as error:
        raise StepError(
            "retriever_unavailable",
            "the Qdrant server takes no more requests for now; try again later",
            retry_after=float(error.retry_after_s),
        ) from error


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


def _no_answer(source: Exception) -> StepError:
    if isinstance(source, httpx.ConnectTimeout | httpx.PoolTimeout):
        return _unavailable("it does not accept a connection in time")
    if isinstance(source, httpx.TimeoutException):
        return StepError(
            "deadline_exceeded",
            "the Qdrant server did not answer in time; try again, or raise RAG_QDRANT_TIMEOUT_S",
        )
    if isinstance(source, httpx.UnsupportedProtocol | httpx.InvalidURL):
        return bad_url()
    if isinstance(source, httpx.HTTPError):
        return _unavailable(type(source).__name__)
    return bad_response("it is not the JSON of Qdrant's REST interface")


def _refused(error: UnexpectedResponse, name: str) -> StepError:
    status = error.status_code or 0
    text = error.content[:4096].decode("utf-8", "replace")
    if status in (401, 403):
        return StepError(
            "retriever_misconfigured",
            f"the Qdrant server refuses the key (HTTP {status}); set RAG_QDRANT_API_KEY or "
            "RAG_QDRANT_API_KEY_FILE to one that may read and write",
        )
    if status == 404 and name:
        return not_found(name)
    if status == 409 and name:
        return already_there(name)
    if "No space left" in text or ("disk" in text and "space" in text):
        return StepError(
            "storage_full", "the Qdrant server has no disk space left; free some there"
        )
    if status >= 500 or status == 429:
        return _unavailable(f"HTTP {status}")
    return bad_response(f"HTTP {status}")


def _unavailable(reason: str) -> StepError:
    return StepError(
        "retriever_unavailable",
        f"the Qdrant server cannot be used ({reason}); check that it runs at RAG_QDRANT_URL",
    )
