"""What each failure of a model's server becomes: code, words, another attempt or not. No server."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import openai
import pytest

from rag_generate.llm_faults import (
    Failure,
    explain_failure,
    out_of_time,
    refused_for_now,
    timed_out,
)

REQUEST = httpx2.Request("POST", "http://model.test/v1", extensions={"timeout": {"connect": 2.5}})
LOST = "the model's server cannot be reached"
DROPPED = (
    "the model's server dropped the connection before it answered; it was not asked again, "
    "because it may have been at work"
)


def refusal(
    status: int, *, wait: str | None = None, code: Any = None, kind: Any = None
) -> openai.APIStatusError:
    headers = {} if wait is None else {"Retry-After": wait}
    response = httpx2.Response(status, headers=headers, request=REQUEST)
    body = {"code": code, "type": kind, "message": "secret words of the server"}
    return openai.APIStatusError("secret words of the server", response=response, body=body)


def told(failure: Failure) -> tuple[str, str, float | None, bool, bool]:
    error = failure.error
    return error.code, error.message, error.retry_after, failure.retry, failure.down


def unreachable() -> openai.APIConnectionError:
    error = openai.APIConnectionError(request=REQUEST)
    error.__cause__ = httpx2.ConnectError("refused")
    return error


@pytest.mark.parametrize(
    ("error", "code", "message", "wait", "retry", "down"),
    [
        (refusal(401), "llm_misconfigured", "the model's server refuses our credentials (401); "
         "set RAG_LLM_API_KEY or RAG_LLM_API_KEY_FILE", None, False, False),
        (refusal(403), "llm_misconfigured", "the model's server refuses our credentials (403); "
         "set RAG_LLM_API_KEY or RAG_LLM_API_KEY_FILE", None, False, False),
        (refusal(404), "llm_misconfigured", "the model's server knows no such path or model (404); "
         "check RAG_LLM_BASE_URL (it usually ends in /v1) and RAG_LLM_MODEL", None, False, False),
        (refusal(429), "llm_rate_limited", "the model's server is over its rate limit",
         None, True, False),
        (refusal(429, wait="7"), "llm_rate_limited", "the model's server is over its rate limit",
         7.0, True, False),
        (refusal(429, wait="60"), "llm_rate_limited", "the model's server is over its rate limit",
         60.0, False, False),
        (refusal(429, code="insufficient_quota"), "llm_rate_limited",
         "the model's server is over its rate limit", None, False, False),
        (refusal(408), "llm_upstream_error", "the model's server failed (408)", None, True, False),
        (refusal(409), "llm_upstream_error", "the model's server failed (409)", None, True, False),
        (refusal(499), "llm_bad_response",
         "the model's server answered, but refused the request (499)", None, False, False),
        (refusal(500), "llm_upstream_error", "the model's server failed (500)", None, True, True),
        (refusal(503, wait="3"), "llm_upstream_error", "the model's server failed (503)",
         3.0, True, True),
        (refusal(503, wait="3600"), "llm_upstream_error", "the model's server failed (503)",
         60.0, False, True),
        (refusal(400, code="context_length_exceeded"), "invalid_request",
         "the prompt is longer than the model's window; lower augment.max_context_tokens, or set "
         "RAG_LLM_CONTEXT_WINDOW to have passages left out", None, False, False),
        (refusal(400, code="unknown_field"), "llm_bad_response",
         "the model's server answered, but refused the request (400, unknown_field)",
         None, False, False),
        (refusal(400, kind="bad_type"), "llm_bad_response",
         "the model's server answered, but refused the request (400, bad_type)",
         None, False, False),
        (refusal(400, code="My key is sk-1"), "llm_bad_response",
         "the model's server answered, but refused the request (400)", None, False, False),
        (unreachable(), "llm_upstream_error", LOST, None, True, True),
        (openai.APIConnectionError(request=REQUEST), "llm_upstream_error", DROPPED,
         None, False, True),
        (httpx2.RemoteProtocolError("cut"), "llm_upstream_error", DROPPED, None, False, True),
        (openai.APIError("x", REQUEST, body=None), "llm_upstream_error",
         "the model's server failed in its stream", None, False, True),
        (openai.APITimeoutError(REQUEST), "llm_timeout",
         "the model did not answer in time (connect: 2.5 s)", None, True, True),
        (httpx2.ConnectTimeout("slow", request=httpx2.Request("GET", "http://x")), "llm_timeout",
         "the model did not answer in time (connect: 0 s)", None, True, True),
        (json.JSONDecodeError("x", "", 0), "llm_bad_response",
         "the model's server answered, but its stream is not valid JSON", None, False, False),
        (ValueError("secret words"), "llm_bad_response",
         "the model's server answered, but its stream cannot be read (ValueError)",
         None, False, False),
    ],
    ids=lambda value: f"{type(value).__name__}" if isinstance(value, Exception) else None,
)  # fmt: skip
def test_a_failure_before_the_first_word(
    error: Exception, code: str, message: str, wait: float | None, retry: bool, down: bool
) -> None:
    """Never the server's own words, which may repeat prompt, key or address."""
    failure = explain_failure(error, started=False)

    assert told(failure) == (code, message, wait, retry, down)
    assert failure.error.param == (
        "augment.max_context_tokens" if code == "invalid_request" else None
    )


@pytest.mark.parametrize(
    "error", [unreachable(), openai.APITimeoutError(REQUEST), httpx2.ReadError("cut")]
)
def test_a_failure_after_the_first_word_is_never_tried_again(error: Exception) -> None:
    """The caller has text already."""
    failure = explain_failure(error, started=True)

    message = "the model's answer broke off after it had begun"
    assert told(failure) == ("llm_stream_broken", message, None, False, True)


def test_a_failure_stays_itself() -> None:
    """What the reader of the stream found has its words already."""
    failure = Failure(refused_for_now(1.25))

    assert explain_failure(failure, started=False) is failure
    assert told(failure) == (
        "llm_upstream_error",
        "most of the last calls of the model's server failed; the next one is tried in 1.2 s",
        1.25,
        False,
        False,
    )


def test_a_timeout_names_its_phase() -> None:
    """A caller may shorten the total, so it says nothing about the server."""
    first = timed_out("first token", 5.0)
    total = out_of_time(2.5, "generate.deadline_s")

    message = "the model did not answer in time (first token: 5 s)"
    assert told(first) == ("llm_timeout", message, None, False, True)
    assert first.retry is False
    assert (total.down, total.error.message) == (
        False,
        "the model did not answer in time (total: 2.5 s); generate.deadline_s is the limit",
    )
