"""The generator `openai` against a real server on loopback, with the real client."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from llm_stub import chunk
from pydantic import SecretStr

from rag_generate.budget import estimate_tokens
from rag_generate.generator import RESTART, Draft
from rag_generate.llm_faults import SLOW, Failure
from rag_generate.models import GenerateRequest
from rag_generate.openai_chat import OpenAIChat
from rag_generate.settings import Settings
from rag_kit.breaker import Breaker
from rag_kit.errors import StepError

KEY = "sk-canary-7f3a9c"
QUICK = {
    "llm_connect_s": 5,
    "llm_first_token_s": 5,
    "llm_idle_s": 5,
    "llm_total_s": 10,
    "llm_retry_min_s": 0.001,
    "llm_retry_max_s": 0.002,
}
SOON = 0.05  # seconds; a deadline a silent server is sure to miss

Make = Callable[..., OpenAIChat]
Build = Callable[..., GenerateRequest]


@pytest.fixture
def make_chat(llm: Any) -> Iterator[Make]:
    """Build generators that talk to the stub; closed after the test."""
    made: list[OpenAIChat] = []

    def build(
        limits: dict[str, Any] = QUICK, *, breaker: Breaker | None = None, **more: Any
    ) -> OpenAIChat:
        settings = Settings(llm_api_key=SecretStr(KEY), **limits, **more)
        made.append(OpenAIChat(llm.url, "m", settings, breaker=breaker))
        return made[-1]

    yield build
    for chat in made:
        chat.close()


def drain(chat: OpenAIChat, request: GenerateRequest) -> tuple[list[str], Draft]:
    *pieces, draft = list(chat.stream(request))
    assert isinstance(draft, Draft)
    return [piece for piece in pieces if isinstance(piece, str)], draft


def failure(chat: OpenAIChat, request: GenerateRequest) -> StepError:
    with pytest.raises(StepError) as caught:
        drain(chat, request)
    return caught.value


def test_text_arrives_in_pieces_with_the_servers_usage(
    llm: Any, make_chat: Make, make_request: Build
) -> None:
    """Pieces come as streamed; the draft holds their sum, the finish reason and the usage."""
    llm.script = [llm.text("Only the ", "board [1].")]

    pieces, draft = drain(make_chat(), make_request())

    assert pieces == ["Only the ", "board [1]."]
    assert (draft.text, draft.finish_reason) == ("Only the board [1].", "stop")
    assert draft.usage.model_dump() == {
        "prompt_tokens": 31, "completion_tokens": 7, "total_tokens": 38, "llm_calls": 1,
    }  # fmt: skip


def test_the_request_holds_prompt_limits_and_sampling(
    llm: Any, make_chat: Make, make_request: Build
) -> None:
    """The model gets the prompt as it is, streamed, with the options of the request."""
    llm.script = [llm.text("x")]
    options = {"max_answer_tokens": 40, "temperature": 0.5, "seed": 7}

    drain(make_chat(), make_request(generate=options))

    body = llm.bodies[0]
    assert body["messages"][0] == {"role": "system", "content": "Answer from the passages."}
    assert (body["model"], body["max_tokens"], body["stream"]) == ("m", 40, True)
    assert (body["temperature"], body["seed"]) == (0.5, 7)
    assert body["stream_options"] == {"include_usage": True}


def test_one_connection_serves_many_answers(llm: Any, make_chat: Make, make_request: Build) -> None:
    """The client and its connection live as long as the generator."""
    llm.script = [llm.text("x")]
    chat = make_chat()

    for _ in range(3):
        drain(chat, make_request())

    assert (llm.calls, llm.connections) == (3, 1)


@pytest.mark.parametrize(
    ("finish", "expected"),
    [("stop", "stop"), ("length", "length"), ("content_filter", "filtered"), ("eos", "stop")],
)
def test_finish_reasons_are_put_in_the_contracts_words(
    llm: Any, make_chat: Make, make_request: Build, finish: str, expected: str
) -> None:
    """Servers differ in what they call the end of an answer."""
    llm.script = [llm.text("x", finish=finish)]

    assert drain(make_chat(), make_request())[1].finish_reason == expected


def test_a_server_without_usage_is_fine(llm: Any, make_chat: Make, make_request: Build) -> None:
    """Not every server counts tokens."""
    llm.script = [llm.text("x", usage=False)]

    assert drain(make_chat(), make_request())[1].usage.total_tokens == 0


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_failure_is_retried(
    llm: Any, make_chat: Make, make_request: Build, status: int
) -> None:
    """One owner retries; the calls are counted in the usage."""
    llm.script = [llm.status(status), llm.text("x")]

    assert drain(make_chat(), make_request())[1].usage.llm_calls == llm.calls == 2


@pytest.mark.parametrize(
    ("status", "code", "calls"),
    [
        (429, "llm_rate_limited", 3),
        (500, "llm_upstream_error", 3),
        (502, "llm_upstream_error", 3),
        (400, "llm_bad_response", 1),
        (401, "llm_misconfigured", 1),
        (403, "llm_misconfigured", 1),
        (404, "llm_misconfigured", 1),
    ],
)
def test_every_status_has_its_code_and_number_of_attempts(
    llm: Any, make_chat: Make, make_request: Build, status: int, code: str, calls: int
) -> None:
    """At most three attempts, and only where another one can help."""
    llm.script = [llm.status(status)]

    assert failure(make_chat(), make_request()).code == code
    assert llm.calls == calls


def test_fault_llm_rate_limited_for_longer_than_the_deadline(
    llm: Any, make_chat: Make, make_request: Build
) -> None:
    """Retry-After beyond the remaining time ends the attempts and is passed on."""
    llm.script = [llm.status(429, Retry_After="20")]

    error = failure(make_chat(), make_request())

    assert (error.code, error.retry_after, llm.calls) == ("llm_rate_limited", 20.0, 1)


def test_an_exhausted_quota_is_not_retried(llm: Any, make_chat: Make, make_request: Build) -> None:
    """429 with insufficient_quota does not pass by waiting."""
    llm.script = [llm.status(429, {"error": {"code": "insufficient_quota"}})]

    assert failure(make_chat(), make_request()).code == "llm_rate_limited"
    assert llm.calls == 1


def test_a_prompt_the_server_finds_too_long_is_the_callers_to_shorten(
    llm: Any, make_chat: Make, make_request: Build
) -> None:
    """context_length_exceeded names the option to lower."""
    llm.script = [llm.status(400, {"error": {"code": "context_length_exceeded"}})]

    error = failure(make_chat(), make_request())

    assert (error.code, error.param) == ("invalid_request", "augment.max_context_tokens")


def test_fault_llm_upstream_error_of_a_lost_connection_is_not_tried_again(
    llm: Any, make_chat: Make, make_request: Build
) -> None:
    """The server has the request and may be at work on it: asking again could be paid twice."""
    llm.script = [llm.reset, llm.text("x")]

    error = failure(make_chat(), make_request())

    assert (error.code, llm.calls) == ("llm_upstream_error", 1)
    assert "not asked again" in error.message


def test_fault_llm_stream_broken_after_the_first_token(
    llm: Any, make_chat: Make, make_request: Build
) -> None:
    """What was shown cannot be taken back: no second attempt."""
    llm.script = [llm.events(PIECE, then=llm.drop)]

    assert failure(make_chat(), make_request()).code == "llm_stream_broken"
    assert llm.calls == 1


PIECE = json.dumps({"choices": [{"index": 0, "delta": {"content": "Only"}}]})
ROLE = json.dumps({"choices": [{"index": 0, "delta": {"role": "assistant"}}]})


@pytest.mark.parametrize(
    ("phase", "before", "limits"),
    [
        ("first token", None, {"llm_first_token_s": 2, "llm_total_s": 9}),
        ("first token", ROLE, {"llm_first_token_s": 2, "llm_total_s": 9}),
        ("idle", PIECE, {"llm_first_token_s": 9, "llm_idle_s": SOON, "llm_total_s": 9}),
        ("total", None, {"llm_first_token_s": 9, "llm_idle_s": 9, "llm_total_s": 2}),
        ("total", PIECE, {"llm_first_token_s": 9, "llm_idle_s": 9, "llm_total_s": 2}),
    ],
)
def test_fault_llm_timeout_in_every_phase(
    llm: Any,
    make_chat: Make,
    make_request: Build,
    phase: str,
    before: str | None,
    limits: dict[str, Any],
) -> None:
    """A silent server ends in llm_timeout that names the phase, after one call, and is let go."""
    llm.script = [llm.events(before, then=llm.hang) if before else llm.hang]

    error = failure(make_chat(limits), make_request())

    assert llm.client_gone.wait(10)  # the server has taken notice of all that was sent
    assert (error.code, llm.calls) == ("llm_timeout", 1)
    seconds = limits[f"llm_{phase.replace(' ', '_')}_s"]
    setting = f"RAG_LLM_{phase.replace(' ', '_').upper()}_S"
    assert error.message == (
        f"the model did not answer in time ({phase}: {seconds:g} s); {setting} is the limit; {SLOW}"
    )


def test_fault_llm_timeout_while_connecting(make_request: Build) -> None:
    """A host that takes no connection is given up in time, and tried again: it was asked nothing."""
    with socket.socket() as full, contextlib.ExitStack() as others:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):  # fill its queue: what comes after gets no answer
            other = others.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(full.getsockname())
        limits = {
            "llm_connect_s": SOON,
            "llm_total_s": 60,
            "llm_retry_min_s": 0.001,
            "llm_retry_max_s": 0.002,
        }
        chat = OpenAIChat(f"http://127.0.0.1:{full.getsockname()[1]}/v1", "m", Settings(**limits))
        try:
            error = failure(chat, make_request())
        finally:
            chat.close()

    assert (error.code, error.message) == (
        "llm_timeout",
        f"the model did not answer in time (connect: {SOON} s); RAG_LLM_CONNECT_S is the limit",
    )


def test_a_redirect_is_not_followed(llm: Any, make_chat: Make, make_request: Build) -> None:
    """A model's server cannot send the prompt elsewhere."""
    llm.script = [llm.status(307, Location=f"{llm.url}/chat/completions"), llm.text("x")]

    assert failure(make_chat(), make_request()).code == "llm_bad_response"
    assert llm.calls == 1


@pytest.mark.parametrize(
    ("deadline_s", "total_s", "limit"),
    [
        (SOON, 10, "generate.deadline_s"),
        (10, SOON, "RAG_LLM_TOTAL_S"),
        (SOON, SOON, "RAG_LLM_TOTAL_S"),
        (None, SOON, "RAG_LLM_TOTAL_S"),
    ],
)
def test_the_shorter_of_setting_and_request_is_the_limit(
    llm: Any, make_chat: Make, make_request: Build,
    deadline_s: float | None, total_s: float, limit: str,
) -> None:  # fmt: skip
    """A request may shorten the operator's limit, not lengthen it; the error says which it was."""
    llm.script = [llm.hang]
    chat = make_chat({**QUICK, "llm_total_s": total_s})

    error = failure(chat, make_request(generate={"deadline_s": deadline_s}))

    way_out = f"; {SLOW}" if limit == "RAG_LLM_TOTAL_S" else ""
    assert error.message == (
        f"the model did not answer in time (total: {SOON} s); {limit} is the limit{way_out}"
    )


def test_waiting_for_a_retry_ends_at_the_deadline(
    llm: Any, make_chat: Make, make_request: Build
) -> None:
    """A retry that would start after the deadline is not waited for."""
    llm.script = [llm.status(500)]
    slow = {"llm_total_s": 5, "llm_retry_min_s": 6, "llm_retry_max_s": 6}

    assert failure(make_chat(slow), make_request()).code == "llm_upstream_error"
    assert llm.calls == 1


@pytest.mark.parametrize(("asked", "wait"), [(None, 0.25), (0.0, 0.25), (3.0, 3.0)])
def test_the_next_attempt_waits_as_long_as_the_server_asks(
    make_chat: Make, asked: float | None, wait: float
) -> None:
    """At least the random pause that keeps callers apart."""
    chat = make_chat({"llm_retry_min_s": 0.25, "llm_retry_max_s": 0.25})
    limited = StepError("llm_rate_limited", "x", retry_after=asked)

    assert chat._wait(Failure(limited, retry=True)) == wait


def test_a_small_window_is_said_with_the_answer(
    llm: Any, make_chat: Make, make_request: Build
) -> None:
    """The draft carries the warning; the server is asked for what still fits."""
    llm.script = [llm.text("x")]
    request = make_request(generate={"max_answer_tokens": 300})
    room = estimate_tokens(request.prompt) + 240

    whole = drain(make_chat(), request)[1]
    shortened = drain(make_chat(llm_context_window=room), request)[1]

    assert (list(whole.warnings), list(shortened.warnings)) == ([], ["answer_shortened"])
    assert [body["max_tokens"] for body in llm.bodies] == [300, 240]


def test_fault_llm_upstream_error_of_a_server_that_is_not_there(
    make_request: Build, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing listens, so nothing was asked: all attempts are used, the message names no address."""
    chat = OpenAIChat("http://127.0.0.1:9/v1", "m", Settings(**QUICK))
    try:
        error = failure(chat, make_request())
    finally:
        chat.close()

    assert error.code == "llm_upstream_error"
    assert "127.0.0.1" not in error.message
    assert [record.args[:2] for record in caplog.records if record.args] == [(1, 3), (2, 3), (3, 3)]


def test_the_requests_id_reaches_the_server(llm: Any, make_chat: Make, make_request: Build) -> None:
    """The server's log can be searched for it; an id that no header can carry stays away."""
    llm.script = [llm.text("x")]
    chat = make_chat()

    drain(chat, make_request(request_id="req_1"))
    drain(chat, make_request(request_id="two\r\nHost: else"))
    drain(chat, make_request())

    assert [one.get("x-request-id") for one in llm.headers] == ["req_1", None, None]


def test_a_server_that_keeps_failing_is_left_alone(
    llm: Any, make_chat: Make, make_request: Build
) -> None:
    """After 20 failed calls none is made but a probe; one that succeeds lets all through."""
    clock = [0.0]
    llm.script = [llm.reset]
    chat = make_chat(breaker=Breaker("llm", Settings(), clock=lambda: clock[0]))
    for _ in range(20):
        assert failure(chat, make_request()).code == "llm_upstream_error"

    refused = failure(chat, make_request())

    assert (refused.code, refused.retry_after, llm.calls) == ("llm_upstream_error", 2.0, 20)
    llm.script = [llm.text("x")]
    assert failure(chat, make_request()).code == "llm_upstream_error"
    clock[0] = 2.0
    assert drain(chat, make_request())[1].text == "x"
    assert drain(chat, make_request())[1].text == "x"
    assert (llm.calls, chat.breaker.open) == (22, False)
    assert make_chat().breaker.name == "llm"


def test_a_callers_own_short_deadline_does_not_stop_the_others(
    llm: Any, make_chat: Make, make_request: Build
) -> None:
    """One caller must not be able to have the model refused to all."""
    llm.script = [llm.hang]
    chat = make_chat(breaker_calls=2)

    for _ in range(3):
        assert failure(chat, make_request(generate={"deadline_s": SOON})).code == "llm_timeout"

    assert not chat.breaker.open


def test_retries_are_a_share_of_the_calls(llm: Any, make_chat: Make, make_request: Build) -> None:
    """An outage is not made worse: after the ten saved up, one retry for ten calls."""
    llm.script = [llm.status(503)]
    chat = make_chat(breaker_calls=10_000)

    for _ in range(30):
        failure(chat, make_request())

    assert llm.calls <= 30 + 10 + 4


def test_fault_llm_bad_response_says_why(llm: Any, make_chat: Make, make_request: Build) -> None:
    """200 with anything but a finished text: one call, one code, a reason."""
    chat = make_chat()
    for behaviour, reason in [
        (llm.whole(b"<html>login</html>", "text/html"), "no text"),
        (llm.whole(b'{"choices":[{"message":{"content":"x"}}]}', "application/json"), "no text"),
        (llm.events("{garbage"), "not valid JSON"),
        (llm.events('"a string"'), ""),
        (llm.events("[1, 2]"), ""),
        (llm.events('{"choices": [{"delta": {"content": 5}}]}'), "no string"),
        (llm.events('{"choices": "x"}'), ""),
        (llm.events(), "no text"),
        (llm.events("[DONE]"), "no text"),
        (llm.events(PIECE), "without a finish reason"),
        (llm.text("  "), "empty"),
        (llm.text("", finish="length"), "raise generate.max_answer_tokens"),
    ]:
        llm.script, before = [behaviour], llm.calls

        error = failure(chat, make_request())

        assert error.code == "llm_bad_response"
        assert reason in error.message
        assert llm.calls == before + 1


def test_an_error_inside_the_stream_is_not_echoed(
    llm: Any, make_chat: Make, make_request: Build
) -> None:
    """The server's own words may hold the prompt, so only our code and text come out."""
    llm.script = [llm.events(PIECE, '{"error": {"message": "secret prompt text"}}')]

    error = failure(make_chat(), make_request())

    assert error.code == "llm_stream_broken"
    assert "secret" not in error.message


def test_closing_the_stream_aborts_the_call(llm: Any, make_chat: Make, make_request: Build) -> None:
    """A client that goes away stops the model's work."""
    llm.script = [llm.events(PIECE, then=llm.hang)]
    pieces = make_chat().stream(make_request())

    assert next(pieces) == "Only"
    pieces.close()

    assert llm.client_gone.wait(10)


def test_closing_the_generator_aborts_what_runs(
    llm: Any, make_chat: Make, make_request: Build
) -> None:
    """Shutting down leaves no call behind."""
    llm.script = [llm.events(PIECE, then=llm.hang)]
    chat = OpenAIChat(llm.url, "m", Settings(**QUICK))
    pieces = chat.stream(make_request())
    next(pieces)

    chat.close()

    assert llm.client_gone.wait(10)


def test_a_missing_usage_after_the_end_does_not_lose_the_answer(
    llm: Any, make_chat: Make, make_request: Build
) -> None:
    """A server that goes silent after its finish reason has answered."""
    end = json.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    llm.script = [llm.events(f"{PIECE}\n\ndata: {end}", then=llm.hang)]  # arrive together

    assert drain(make_chat({"llm_idle_s": SOON}), make_request())[1].text == "Only"


def test_an_empty_prompt_is_refused_before_any_call(
    llm: Any, make_chat: Make, make_request: Build
) -> None:
    """There is nothing to ask."""
    error = failure(make_chat(), make_request(prompt=[]))

    assert (error.code, error.param, llm.calls) == ("invalid_request", "prompt", 0)


def test_the_key_is_sent_and_never_shown(
    llm: Any, make_chat: Make, make_request: Build, caplog: pytest.LogCaptureFixture
) -> None:
    """The canary key reaches the server only: not logs at any level, errors or answers."""
    caplog.set_level(logging.DEBUG)
    chat = make_chat()
    shown = [repr(chat), repr(vars(chat))]
    echo = {"error": {"message": f"bad key {KEY}", "code": KEY}}
    for behaviour in [
        llm.text("x"), llm.status(401, echo), llm.status(429, echo), llm.status(400, echo),
        llm.events(json.dumps(echo)), llm.reset, llm.events("{" + KEY),
    ]:  # fmt: skip
        llm.script = [behaviour]
        try:
            shown += [str(piece) for piece in chat.stream(make_request())]
        except StepError as error:
            shown += [error.message, repr(error), repr(error.__cause__)]

    assert {headers["authorization"] for headers in llm.headers} == {f"Bearer {KEY}"}
    assert KEY not in "\n".join([*shown, caplog.text])


def test_answers_at_the_same_time_do_not_mix(
    llm: Any, make_chat: Make, make_request: Build
) -> None:
    """Eight threads share one generator; each gets its own whole answer."""

    llm.script = [lambda handler: llm.text(*handler.asked["messages"][0]["content"])(handler)]
    chat = make_chat()
    names = [f"answer number {number}" for number in range(16)]

    def ask(name: str) -> str:
        return drain(chat, make_request(prompt=[{"role": "user", "content": name}]))[1].text

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, names)) == names


def reasoning(text: str, *, field: str) -> str:
    """A chunk whose text is in the field some servers have for reasoning."""
    return json.dumps({"choices": [{"index": 0, "delta": {field: text}}]})


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_in_a_field_of_its_own_counts_as_a_first_token_and_is_not_shown(
    llm: Any, make_chat: Make, make_request: Build, field: str
) -> None:
    """The wait for the first token ends with it; the answer is the content alone."""
    end = json.dumps(chunk(finish="stop"))
    llm.script = [
        llm.events(
            reasoning("The by-laws …", field=field), json.dumps(chunk("Yes [1].")), end, "[DONE]"
        )
    ]

    pieces, draft = drain(make_chat(), make_request())

    assert (pieces, draft.text) == (["Yes [1]."], "Yes [1].")


def test_reasoning_in_the_text_is_neither_streamed_nor_in_the_answer(
    llm: Any, make_chat: Make, make_request: Build
) -> None:
    """Tags that arrive in pieces are tags."""
    llm.script = [llm.text("<thi", "nk>The boa", "rd?</th", "ink>", "\n\nThe board [1].")]

    pieces, draft = drain(make_chat(), make_request())

    assert "".join(pieces) == draft.text == "\n\nThe board [1]."


def test_reasoning_that_the_template_opens_is_learned_from_the_first_answer(
    llm: Any, make_chat: Make, make_request: Build
) -> None:
    """Its end withdraws what was said; the next answer shows nothing before it."""
    llm.script = [llm.text("Hm [2]. ", "So:", "</think>", "The board [1].")]
    chat = make_chat()

    first, second = list(chat.stream(make_request())), list(chat.stream(make_request()))

    assert first[:-1] == ["Hm [2]. ", "So:", RESTART, "The board [1]."]
    assert [piece for piece in second[:-1] if isinstance(piece, str)] == ["The board [1]."]
    assert [answer[-1].text for answer in (first, second)] == ["The board [1]."] * 2


def test_a_model_known_to_start_in_reasoning_may_answer_without(
    llm: Any, make_chat: Make, make_request: Build
) -> None:
    """Text without a closing tag is the answer when it ended by itself, else unfinished thought."""
    chat = make_chat(llm_starts_in_reasoning=True)
    llm.script = [llm.text("The board [1].")]
    assert drain(chat, make_request())[1].text == "The board [1]."

    llm.script = [llm.text("Let me think about", finish="length")]
    assert "before any text" in failure(chat, make_request()).message


@pytest.mark.parametrize(
    ("pieces", "finish", "why"),
    [
        (("<think>The board",), "stop", "it wrote reasoning and no answer"),
        (("<think>The board",), "length", "the limit of tokens was used up before any text"),
        (("<think>", *["Wait, no. "] * 40), "stop", "it repeats itself without an answer"),
    ],
)
def test_fault_llm_bad_response_of_a_model_that_only_thinks(
    llm: Any, make_chat: Make, make_request: Build, pieces: Any, finish: str, why: str
) -> None:
    """There is no answer to show, and the error says what came instead."""
    llm.script = [llm.text(*pieces, finish=finish)]

    error = failure(make_chat(), make_request())

    assert (error.code, why in error.message) == ("llm_bad_response", True)


def test_a_model_that_repeats_itself_is_cut_off(
    llm: Any, make_chat: Make, make_request: Build
) -> None:
    """The call ends although the server would go on; the answer keeps the first of the repeats."""
    said = [json.dumps(chunk("The board signs all contracts [1]. "))] * 9
    llm.script = [llm.events(json.dumps(chunk("Yes. ")), *said, then=llm.hang)]

    _, draft = drain(make_chat(), make_request())

    assert llm.client_gone.wait(10)
    assert draft.text == "Yes. The board signs all contracts [1]."
    assert (draft.finish_reason, draft.warnings) == ("length", ("repetition",))


def test_a_pace_sets_the_deadlines_that_are_unset() -> None:
    """One setting for a slow model; a deadline of its own still counts."""
    slow = Settings(llm_pace="local", llm_idle_s=7)

    assert (slow.llm_first_token_s, slow.llm_idle_s, slow.llm_total_s) == (120, 7, 300)
    assert Settings().llm_first_token_s == 10
