"""Failures of calls to a language model, as error codes that clients act on.

No message holds the server's own words: they may repeat the prompt, the key or the address.
"""

from __future__ import annotations

import json
import re

import httpx2
import openai

from rag_kit.errors import StepError
from rag_kit.retry_after import is_soon, retry_after

CONNECT, TOTAL = "RAG_LLM_CONNECT_S", "RAG_LLM_TOTAL_S"
SLOW = "RAG_LLM_PACE=local, or reasoning, gives a slow model more time"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


class Failure(Exception):  # noqa: N818 - an outcome of one attempt, never seen by callers
    """One attempt failed.

    Args:
        error: What the caller gets when no attempt is left.
        retry: Whether another attempt may succeed without paying twice: the server was not
            reached, or reported that it did not answer.
        down: Whether it indicates that the server is down, for any request.
    """

    def __init__(self, error: StepError, *, retry: bool = False, down: bool = False) -> None:
        super().__init__(error.message)
        self.error = error
        self.retry = retry
        self.down = down


def timed_out(phase: str, seconds: float, setting: str, *, retry: bool = False) -> Failure:
    """Return the failure of a phase that took longer than it may, and the setting of its limit."""
    message = f"the model did not answer in time ({phase}: {seconds:g} s); {setting} is the limit"
    if setting != CONNECT:
        message += f"; {SLOW}"
    return Failure(StepError("llm_timeout", message), retry=retry, down=True)


def out_of_time(seconds: float, source: str) -> Failure:
    """Return the failure of an answer that took longer than its deadline, and where that was set.

    A caller may choose a short deadline, so it says nothing about the server.
    """
    message = f"the model did not answer in time (total: {seconds:g} s); {source} is the limit"
    if source == TOTAL:
        message += f"; {SLOW}"
    return Failure(StepError("llm_timeout", message))


def refused_for_now(seconds: float) -> StepError:
    """Return the error of an open circuit breaker."""
    return StepError(
        "llm_upstream_error",
        f"most of the last calls of the model's server failed; the next one is tried in {seconds:.1f} s",
        retry_after=seconds,
    )


def bad_response(what: str) -> Failure:
    """Return the failure of a server that answers with something unusable."""
    return Failure(StepError("llm_bad_response", f"the model's server answered, but {what}"))


def explain_failure(error: Exception, *, started: bool) -> Failure:
    """Turn an exception of the client into a failure.

    Args:
        error: What the client raised.
        started: Whether text had arrived; then nothing is retried.
    """
    if isinstance(error, Failure):
        return error
    if isinstance(error, openai.APIStatusError):
        return _refused(error)
    if isinstance(
        error, (json.JSONDecodeError, UnicodeDecodeError, openai.APIResponseValidationError)
    ):
        return bad_response("its stream is not valid JSON")
    if isinstance(error, (openai.APITimeoutError, httpx2.TimeoutException)) and not started:
        return timed_out("connect", _connect_seconds(error), CONNECT, retry=True)
    if isinstance(error, (openai.APIError, httpx2.HTTPError)):
        if started:
            broken = StepError(
                "llm_stream_broken", "the model's answer broke off after it had begun"
            )
            return Failure(broken, down=True)
        if isinstance(error.__cause__, httpx2.ConnectError):
            lost = StepError("llm_upstream_error", "the model's server cannot be reached")
            return Failure(lost, retry=True, down=True)
        if not isinstance(error, (openai.APIConnectionError, httpx2.HTTPError)):
            failed = StepError("llm_upstream_error", "the model's server failed in its stream")
            return Failure(failed, down=True)
        message = (
            "the model's server dropped the connection before it answered; it was not asked again, "
            "because it may have been at work"
        )
        return Failure(StepError("llm_upstream_error", message), down=True)
    return bad_response(f"its stream cannot be read ({type(error).__name__})")


def _connect_seconds(error: Exception) -> float:
    request = getattr(error, "request", None)
    timeout = request.extensions.get("timeout", {}) if request is not None else {}
    return float(timeout.get("connect") or 0.0)


def _refused(error: openai.APIStatusError) -> Failure:
    status = error.status_code
    if status in (401, 403):
        return Failure(
            StepError(
                "llm_misconfigured",
                f"the model's server refuses our credentials ({status}); "
                "set RAG_LLM_API_KEY or RAG_LLM_API_KEY_FILE",
            )
        )
    if status == 404:
        return Failure(
            StepError(
                "llm_misconfigured",
                "the model's server knows no such path or model (404); "
                "check RAG_LLM_BASE_URL (it usually ends in /v1) and RAG_LLM_MODEL",
            )
        )
    wait = retry_after(error.response.headers.get("retry-after"))
    if status == 429:
        limited = StepError(
            "llm_rate_limited", "the model's server is over its rate limit", retry_after=wait
        )
        return Failure(limited, retry=is_soon(wait) and _name(error) != "insufficient_quota")
    if status >= 500 or status in (408, 409):
        failed = StepError(
            "llm_upstream_error", f"the model's server failed ({status})", retry_after=wait
        )
        return Failure(failed, retry=is_soon(wait), down=status >= 500)
    if _name(error) == "context_length_exceeded":
        return Failure(
            StepError(
                "invalid_request",
                "the prompt is longer than the model's window; lower augment.max_context_tokens, "
                "or set RAG_LLM_CONTEXT_WINDOW to have passages left out",
                param="augment.max_context_tokens",
            )
        )
    return bad_response(f"refused the request ({status}{_detail(error)})")


def _name(error: openai.APIStatusError) -> str | None:
    """Return the server's own name for the error where it is a plain identifier."""
    name = error.code or error.type
    return name if isinstance(name, str) and _NAME.fullmatch(name) else None


def _detail(error: openai.APIStatusError) -> str:
    name = _name(error)
    return f", {name}" if name else ""
