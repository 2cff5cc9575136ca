"""What a model's server can answer, broken at every place: status, phase, form, end.

What is expected follows from the case itself, by the rules below and not by the product's.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from llm_stub import LLMStub, chunk

from rag_generate.generator import Draft
from rag_generate.models import GenerateRequest
from rag_generate.openai_chat import OpenAIChat
from rag_generate.settings import Settings
from rag_kit.errors import StepError

ATTEMPTS = 3
SILENT_S = 0.3
SECRET = "canary-7f3a9c"

# -- statuses ---------------------------------------------------------------------------------

STATUSES = {
    **dict.fromkeys((300, 302, 307, 308, 400, 402, 405, 413, 415, 422), ("llm_bad_response", 1)),
    **dict.fromkeys((401, 403, 404), ("llm_misconfigured", 1)),
    **dict.fromkeys(
        (408, 409, 500, 501, 502, 503, 504, 520, 529), ("llm_upstream_error", ATTEMPTS)
    ),
    429: ("llm_rate_limited", ATTEMPTS),
}
BODIES = {
    "json": json.dumps({"error": {"message": SECRET, "code": SECRET}}).encode(),
    "html": f"<html>{SECRET}</html>".encode(),
    "empty": b"",
    "bad utf-8": b'{"error": "\xff\xfe"}',
    "another shape": b'[1, "x"]',
    "huge": json.dumps({"error": {"message": SECRET * 50_000}}).encode(),
}

# -- streams ----------------------------------------------------------------------------------

ROLE = {"choices": [{"index": 0, "delta": {"role": "assistant"}}]}
TEXT, END = chunk("Only the board [1]."), chunk(finish="stop")
USAGE = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}
PHASES: dict[str, list[Any]] = {
    "nothing": [],
    "role": [ROLE],
    "text": [ROLE, TEXT],
    "finish reason": [ROLE, TEXT, END],
    "usage": [ROLE, TEXT, END, USAGE],
}
ENDS = ("done", "no done", "cut off", "reset", "silence")


def line(data: Any) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()


FORMS: dict[str, tuple[bytes, str]] = {
    # what comes last before the end, and the code it has whatever the end is ("": it is harmless)
    "plain": (b"", ""),
    "comment": (b": still there\n\n", ""),
    "unknown event": (b"event: ping\ndata: {}\n\n", ""),
    "crlf": (b": x\r\n\r\n", ""),
    "empty choices": (line({"choices": []}), ""),
    "null content": (line({"choices": [{"index": 0, "delta": {"content": None}}]}), ""),
    "bad utf-8": (
        b'data: {"choices": [{"delta": {"content": "\xff\xfe"}}]}\n\n',
        "llm_bad_response",
    ),
    "no json": (b"data: {garbage\n\n", "llm_bad_response"),
    "a string": (b'data: "x"\n\n', "llm_bad_response"),
    "content a number": (line({"choices": [{"delta": {"content": 5}}]}), "llm_bad_response"),
    "too much text": (line(chunk("x" * 1_000_001)), "llm_bad_response"),
    "an error": (line({"error": {"message": SECRET}}), "error"),
}
NUMBERS = "".join(f" {number}" for number in range(80_000))
TEXTS: dict[str, tuple[bytes, str]] = {
    # more of the answer, where it has begun and not ended, and its text
    "duplicate": (line(TEXT), "Only the board [1]."),
    "huge line": (line(chunk(NUMBERS)), NUMBERS),
    "split in bytes": (line(chunk("é€😀")), "é€😀"),
}


@dataclass(frozen=True)
class Stream:
    """One stream and what must come of it."""

    phase: str
    form: str
    end: str

    def blocks(self) -> list[bytes]:
        started = [line(one) for one in PHASES[self.phase]]
        if self.form in TEXTS:
            at = 2  # after the first text
            return [*started[:at], TEXTS[self.form][0], *started[at:]]
        return [*started, FORMS[self.form][0]]

    @property
    def ended(self) -> bool:
        """Whether the whole answer was sent."""
        return self.phase in ("finish reason", "usage")

    def expected(self) -> set[tuple[str, str]]:
        """Return the code and the text, one of them ""; a reset may lose what was not read yet."""
        lost = {("llm_upstream_error", ""), ("llm_stream_broken", "")}
        return {self._whole()} | (lost if self.end == "reset" else set())

    def _whole(self) -> tuple[str, str]:
        """Return what is expected when everything that was sent arrives."""
        begun = self.phase not in ("nothing", "role")
        code = FORMS.get(self.form, (b"", ""))[1]
        if code == "error":
            return ("llm_stream_broken" if begun else "llm_upstream_error"), ""
        if code:
            return code, ""
        if self.end in ("cut off", "reset"):
            return ("llm_stream_broken" if begun else "llm_upstream_error"), ""
        if self.ended:
            return "", "Only the board [1]." + TEXTS.get(self.form, (b"", ""))[1]
        return ("llm_timeout" if self.end == "silence" else "llm_bad_response"), ""


def streams() -> list[Stream]:
    found = []
    for phase in PHASES:
        begun = phase not in ("nothing", "role")
        for form in [*FORMS, *(TEXTS if begun else ())]:
            for end in ENDS:
                if end == "silence" and form not in ("plain", "comment", "duplicate"):
                    continue  # each costs the time of a silence
                found.append(Stream(phase, form, end))
    return found


# -- the rest ---------------------------------------------------------------------------------

WHOLE = {
    # 200, and no stream of events
    "html": (b"<html>login</html>", "text/html"),
    "empty": (b"", "application/json"),
    "no stream": (
        json.dumps({"choices": [{"message": {"content": "x"}}]}).encode(),
        "application/json",
    ),
    "bytes": (bytes(range(256)), "application/octet-stream"),
    "empty stream": (b"", "text/event-stream"),
    "only done": (b"data: [DONE]\n\n", "text/event-stream"),
    "endless line": (b"data: " + b"x" * 2_000_000, "text/event-stream"),
}


@pytest.fixture(scope="module")
def llm() -> Iterator[LLMStub]:
    """The server."""
    stub = LLMStub()
    yield stub
    stub.close()


@pytest.fixture(scope="module")
def chat(llm: LLMStub) -> Iterator[OpenAIChat]:
    """The generator; it waits hardly at all before it tries again, and is never kept from it."""
    limits = Settings(
        llm_first_token_s=30,
        llm_idle_s=30,
        llm_attempts=ATTEMPTS,
        llm_retry_min_s=0,
        llm_retry_max_s=0.001,
    )
    yield from _opened(llm, limits)


@pytest.fixture(scope="module")
def hasty(llm: LLMStub) -> Iterator[OpenAIChat]:
    """One that does not wait for the silent."""
    yield from _opened(llm, Settings(llm_first_token_s=SILENT_S, llm_idle_s=SILENT_S))


@pytest.fixture(scope="module")
def attentive(llm: LLMStub) -> Iterator[OpenAIChat]:
    """One that waits long enough to read whatever was sent before the silence."""
    yield from _opened(llm, Settings(llm_first_token_s=30, llm_idle_s=5 * SILENT_S))


def _opened(llm: LLMStub, limits: Settings) -> Iterator[OpenAIChat]:
    patient = {"llm_connect_s": 10, "llm_total_s": 60, "breaker_calls": 10**6, "retry_share": 1}
    chat = OpenAIChat(llm.url, "m", limits.model_copy(update=patient))
    yield chat
    chat.close()


def outcome(chat: OpenAIChat, llm: LLMStub, behave: Callable[[Any], None]) -> tuple[str, str, int]:
    """Return the code or the text, and how often the server was asked."""
    llm.script, before = [behave], llm.calls
    request = GenerateRequest.model_validate(
        {"query": "Who may sign?", "contexts": [], "prompt": [{"role": "user", "content": "Who?"}]}
    )
    try:
        *_, draft = list(chat.stream(request))
    except StepError as error:
        assert SECRET not in error.message
        assert "127.0.0.1" not in error.message
        return error.code, "", llm.calls - before
    assert isinstance(draft, Draft)
    return "", draft.text, llm.calls - before


def behaviour(stream: Stream) -> Callable[[Any], None]:
    def behave(handler: Any) -> None:
        handler.start_stream()
        for block in stream.blocks():
            if block:
                handler.send_piece(block)
        if stream.end == "done":
            handler.send_piece(b"data: [DONE]\n\n")
        if stream.end in ("done", "no done"):
            handler.end_stream()
            return
        handler.close_connection = True
        if stream.end == "reset":
            handler.connection.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            handler.connection.close()
        elif stream.end == "silence":
            handler.connection.recv(1)  # until the client hangs up

    return behave


def test_the_matrix_is_large() -> None:
    assert len(streams()) + len(STATUSES) + len(WHOLE) >= 200


@pytest.mark.parametrize(
    "body",
    [name if name == "json" else pytest.param(name, marks=pytest.mark.full) for name in BODIES],
)
@pytest.mark.parametrize("status", STATUSES)
def test_threat_llm_faults_every_status(
    chat: OpenAIChat, llm: LLMStub, status: int, body: str
) -> None:
    """The status alone decides; the body is not believed and not repeated."""
    elsewhere = {"Location": f"{llm.url}/elsewhere"}
    code, text, calls = outcome(
        chat, llm, lambda handler: handler.send_whole(status, BODIES[body], elsewhere)
    )

    assert (code, text, calls) == (STATUSES[status][0], "", STATUSES[status][1])


@pytest.mark.parametrize("stream", streams(), ids=lambda one: f"{one.phase}, {one.form}, {one.end}")
def test_threat_llm_faults_every_stream(
    chat: OpenAIChat, hasty: OpenAIChat, attentive: OpenAIChat, llm: LLMStub, stream: Stream
) -> None:
    """An answer is whole or none, and what may have been answered is not asked again."""
    silent = attentive if stream.ended else hasty
    chosen = silent if stream.end == "silence" else chat

    code, text, calls = outcome(chosen, llm, behaviour(stream))

    assert (code, text) in stream.expected()
    assert calls == 1


@pytest.mark.parametrize("whole", WHOLE)
def test_fault_llm_bad_response_without_a_stream(
    chat: OpenAIChat, llm: LLMStub, whole: str
) -> None:
    """200 with anything but a stream of chunks is no answer."""
    body, kind = WHOLE[whole]

    assert outcome(chat, llm, llm.whole(body, kind)) == ("llm_bad_response", "", 1)


def test_threat_llm_faults_at_the_same_time_do_not_mix(chat: OpenAIChat, llm: LLMStub) -> None:
    """Eight threads share the generator while every second answer breaks off; each gets its own."""
    llm.script = [lambda handler: _by_name(handler)]
    failed: list[str] = []

    def ask(name: str) -> None:
        prompt = [{"role": "user", "content": name}]
        request = GenerateRequest.model_validate({"query": "x", "contexts": [], "prompt": prompt})
        try:
            *_, draft = list(chat.stream(request))
            assert isinstance(draft, Draft)
            said = draft.text
        except StepError as error:
            said = error.code
        if said != (name if name.startswith("good") else "llm_stream_broken"):
            failed.append(f"{name}: {said}")

    threads = [
        threading.Thread(target=ask, args=(f"{'good' if n % 2 else 'bad'} {n}",)) for n in range(32)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failed == []


def _by_name(handler: Any) -> None:
    name = handler.asked["messages"][0]["content"]
    handler.start_stream()
    handler.send_piece(line(chunk(name)))
    if name.startswith("bad"):
        handler.close_connection = True
        return
    handler.send_piece(line(END) + b"data: [DONE]\n\n")
    handler.end_stream()
