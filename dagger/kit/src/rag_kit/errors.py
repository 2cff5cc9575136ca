"""Errors of a step as JSON: one exception, one envelope, one table of codes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pydantic_core
from pydantic import BaseModel, ConfigDict, Field


@dataclass(frozen=True)
class Code:
    """What an error code means to a client: its class, HTTP status, and whether to retry."""

    type: str
    status: int
    retryable: bool


CODES: dict[str, Code] = {
    # the caller's fault
    "invalid_request": Code("invalid_request_error", 422, False),
    "body_too_large": Code("invalid_request_error", 413, False),
    "method_not_allowed": Code("invalid_request_error", 405, False),
    "not_found": Code("invalid_request_error", 404, False),
    "collection_not_found": Code("invalid_request_error", 404, False),
    "document_not_found": Code("invalid_request_error", 404, False),
    "document_unreadable": Code("invalid_request_error", 422, False),
    "collection_mismatch": Code("conflict_error", 409, False),
    "in_progress": Code("conflict_error", 409, True),
    "idempotency_mismatch": Code("invalid_request_error", 422, False),
    "no_context": Code("no_context_error", 422, False),
    "unsupported_media_type": Code("invalid_request_error", 415, False),
    "target_not_allowed": Code("invalid_request_error", 422, False),
    "unauthenticated": Code("authentication_error", 401, False),
    "forbidden": Code("permission_error", 403, False),
    "quota_exceeded": Code("rate_limit_error", 429, True),
    "client_cancelled": Code("cancelled_error", 499, True),
    # the installation's fault
    "misconfigured": Code("configuration_error", 500, False),
    "retriever_misconfigured": Code("configuration_error", 500, False),
    "reranker_misconfigured": Code("configuration_error", 500, False),
    "llm_misconfigured": Code("configuration_error", 500, False),
    "module_pin_mismatch": Code("configuration_error", 500, False),
    "store_locked": Code("conflict_error", 503, True),
    "store_corrupt": Code("internal_error", 500, False),
    "storage_full": Code("storage_error", 507, True),
    # a dependency's fault
    "source_unavailable": Code("upstream_error", 503, True),
    "retriever_unavailable": Code("upstream_error", 503, True),
    "retriever_bad_response": Code("upstream_error", 502, False),
    "embedder_unavailable": Code("upstream_error", 503, True),
    "embedder_bad_response": Code("upstream_error", 502, False),
    "reranker_unavailable": Code("upstream_error", 503, True),
    "reranker_bad_response": Code("upstream_error", 502, False),
    "llm_rate_limited": Code("upstream_error", 503, True),
    "llm_upstream_error": Code("upstream_error", 502, True),
    "llm_bad_response": Code("upstream_error", 502, True),
    "llm_timeout": Code("upstream_timeout", 504, True),
    "llm_stream_broken": Code("upstream_error", 502, True),
    "deadline_exceeded": Code("upstream_timeout", 504, True),
    "module_bad_output": Code("upstream_error", 502, False),
    "module_error": Code("internal_error", 500, False),
    "module_oom": Code("upstream_error", 503, True),
    "engine_unavailable": Code("unavailable_error", 503, True),
    "engine_lost": Code("unavailable_error", 503, True),
    # ours
    "not_supported": Code("unavailable_error", 501, False),
    "overloaded": Code("unavailable_error", 503, True),
    "draining": Code("unavailable_error", 503, True),
    "not_ready": Code("unavailable_error", 503, True),
    "internal_error": Code("internal_error", 500, False),
}


class StepError(Exception):
    """A step cannot answer; `code` is one of `CODES` and is what clients act on.

    Args:
        code: Stable name from `CODES`.
        message: One or two sentences for a person: what was wrong, with which value, what to do.
            Never a key, a host's secret, prompt or document text.
        param: The request field at fault, dotted (`retrieve.rrf_k`), or None.
        step: The step that failed; the handler fills it in when it is None.
        retry_after: Seconds a client should wait, when known.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        step: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.step = step
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        state = {"param": self.param, "step": self.step, "retry_after": self.retry_after}
        return type(self), (self.code, self.message), state

    @property
    def status(self) -> int:
        """HTTP status of this error."""
        return CODES[self.code].status


@contextmanager
def errors_of(step: str) -> Iterator[None]:
    """Set the step of an error raised inside, unless it is set already."""
    try:
        yield
    except StepError as error:
        error.step = error.step or step
        raise


class ErrorBody(BaseModel):
    """What went wrong, for a program (`code`) and for a person (`message`)."""

    model_config = ConfigDict(extra="forbid")

    type: str = Field(description="Coarse class of the error.")
    code: str = Field(description="Stable name; the field clients should act on.")
    message: str = Field(description="What was wrong, with which value, and what to do.")
    step: str | None = Field(description="The step that failed, or null.")
    param: str | None = Field(description="The request field at fault, or null.")
    retryable: bool = Field(description="Whether the same request may succeed later.")
    request_id: str | None = Field(description="Id of the request, to find it in the logs.")
    retry_after: float | None = Field(
        None, description="Seconds to wait before trying again, or null."
    )


class ErrorEnvelope(BaseModel):
    """The one shape of every failure, on every interface (the OpenAI envelope plus step fields)."""

    model_config = ConfigDict(extra="forbid")

    error: ErrorBody


def envelope(error: StepError, *, step: str, request_id: str | None = None) -> dict[str, Any]:
    """Return the error envelope of `error` as a JSON object; `step` is used when the error has none."""
    code = CODES[error.code]
    body = ErrorBody(
        type=code.type,
        code=error.code,
        message=error.message,
        step=error.step or step,
        param=error.param,
        retryable=code.retryable,
        request_id=request_id,
        retry_after=error.retry_after,
    )
    return ErrorEnvelope(error=body).model_dump()


def dump_error(error: StepError, *, step: str, request_id: str | None = None) -> str:
    """Return the error envelope of `error` as JSON text."""
    return pydantic_core.to_json(envelope(error, step=step, request_id=request_id)).decode()


def error_of(response: dict[str, Any]) -> dict[str, Any] | None:
    """Return the `error` object when `response` is an error envelope, else None."""
    error = response.get("error")
    only = response.keys() == {"error"} and isinstance(error, dict) and "code" in error
    return error if only else None
