"""The handler with a step of three lines: JSON in, and always a response or an envelope out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from rag_kit.errors import CODES, StepError
from rag_kit.handler import Event, Handler, message_event


class Question(BaseModel):
    """What the step takes."""

    query: str
    top_k: int = 5


def echo(request: BaseModel) -> BaseModel:
    return request


def failing(error: BaseException) -> Callable[[BaseModel], BaseModel]:
    def run(request: BaseModel) -> BaseModel:
        raise error

    return run


def answer(raw: str | bytes, run: Callable[[Any], Any] = echo) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(Handler("echo", Question, run)(raw))
    return data


async def collect(handler: Handler, raw: str) -> list[Event]:
    return [event async for event in handler.events(raw)]


def test_a_request_is_answered_blocking_and_on_an_event_loop() -> None:
    """By a plain function and by a coroutine function, with the same JSON."""

    async def echo_later(request: BaseModel) -> BaseModel:
        return request

    plain, later = Handler("echo", Question, echo), Handler("echo", Question, echo_later)
    texts = [plain('{"query": "x"}'), later('{"query": "x"}')]
    texts += [asyncio.run(handler.serve('{"query": "x"}')) for handler in (plain, later)]

    assert texts == ['{"query":"x","top_k":5}'] * 4


@pytest.mark.parametrize(("request_id", "named"), [("mine", "mine"), (7, None), (None, None)])
def test_an_error_names_field_step_and_request(request_id: Any, named: str | None) -> None:
    """A request id that is text is repeated; types are strict, so "3" is no number."""
    raw = json.dumps({"query": "x", "top_k": "3", "request_id": request_id})
    error = answer(raw)["error"]

    assert (error["code"], error["step"], error["param"]) == ("invalid_request", "echo", "top_k")
    assert error["request_id"] == named


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (StepError("store_locked", "in use"), "store_locked", "in use"),
        (CancelledError(), "client_cancelled", "the request was given up before it was answered"),
        (ValueError("secret"), "internal_error",
         "echo failed unexpectedly (ValueError); its log has the details"),
    ],
)  # fmt: skip
def test_whatever_is_raised_becomes_an_envelope(
    error: BaseException, code: str, message: str
) -> None:
    """What an unexpected error says may be secret, so it stays in the log."""
    found = answer('{"query": "x"}', failing(error))["error"]

    assert (found["code"], found["message"]) == (code, message)


@given(raw=st.text(max_size=40) | st.binary(max_size=40))
def test_any_text_or_bytes_give_a_response_or_an_envelope(raw: str | bytes) -> None:
    """Not JSON, not UTF-8, not an object."""
    data = answer(raw)

    assert "query" in data or data["error"]["code"] in CODES.keys() - {"internal_error"}


def test_events_end_with_the_response_or_the_error() -> None:
    """Also of a step that cannot stream; what was sent before an error stays sent."""

    def words(request: BaseModel) -> Iterator[Event]:
        yield message_event("one")
        raise StepError("llm_stream_broken", "it broke off")

    plain = asyncio.run(collect(Handler("echo", Question, echo), '{"query": "x"}'))
    refused = asyncio.run(collect(Handler("echo", Question, echo), "{}"))
    broken = asyncio.run(collect(Handler("echo", Question, echo, stream=words), '{"query": "x"}'))

    assert plain == [Event("final_answer", '{"query":"x","top_k":5}')]
    assert [event.name for event in refused] == ["error"]
    assert broken[0] == Event("message", '{"delta":{"content":"one"}}')
    assert json.loads(broken[1].data)["error"]["code"] == "llm_stream_broken"
