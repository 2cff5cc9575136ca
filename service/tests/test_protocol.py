"""HTTP/1.1 with a gate: what is refused as it is read, and what the application is asked."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import pytest
import uvicorn
from pydantic import SecretStr
from service_kit import settings
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from rag_service.http.fair_queue import Admission
from rag_service.http.metrics import Metrics
from rag_service.http.middleware import Gate, Keyring
from rag_service.http.uvicorn_protocol import protocol_with

KEY = "alice-0123456789abcdef"
BODY = b'{"query": "Who may sign contracts?"}'


class Answers:
    """A client's connection to the protocol, and what came of it.

    Args:
        keys: The service's keys.
        full: Refuse every question.
        slow_s: Seconds the application takes.
        keep_alive_s: Seconds until an idle connection is closed.
    """

    def __init__(
        self, *, keys: str = "", full: bool = True, slow_s: float = 0, keep_alive_s: float = 5
    ) -> None:
        self._slow_s = slow_s
        self.metrics, self.asked = Metrics(), Counter[str]()
        self.state = ServerState()
        given = settings(api_keys=SecretStr(keys))
        admission = Admission(4, 0, 1, self.metrics)
        admission.draining = full
        gate = Gate(
            self._application,
            admission=admission,
            keys=Keyring(given.keys()),
            settings=given,
            metrics=self.metrics,
        )
        self._config = uvicorn.Config(
            gate, http=protocol_with(gate), log_config=None, access_log=False, ws="none"
        )
        self._config.timeout_keep_alive = keep_alive_s  # type: ignore[assignment]
        self._config.load()

    async def _application(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 200, as what stands behind the gate. A double."""
        self.asked[scope["path"]] += 1
        await asyncio.sleep(self._slow_s)
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"{}"})

    async def of(self, sent: bytes, number: int) -> list[tuple[int, dict[str, str], bytes]]:
        """Send bytes on one connection; return its answers, status, headers and body."""
        kind = self._config.http_protocol_class
        server = await asyncio.get_running_loop().create_server(
            lambda: kind(config=self._config, server_state=self.state, app_state={}),  # type: ignore[call-arg]
            "127.0.0.1",
        )
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(sent)
            answers = []
            for _ in range(number):
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
                body = await reader.readexactly(int(headers["content-length"]))
                answers.append((int(head[0].split()[1]), headers, body))
            if answers[-1][1].get("connection") == "close":
                assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
        return answers


def question(number: int = 1, *more: str, version: str = "1.1") -> bytes:
    lines = [f"POST /rag_modules HTTP/{version}", "Host: localhost", f"X-Request-ID: q{number}"]
    lines += [*more, f"Content-Length: {len(BODY)}", "", ""]
    return "\r\n".join(lines).encode() + BODY


HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


def ask(answers: Answers, sent: bytes, number: int) -> list[tuple[int, dict[str, str], bytes]]:
    return asyncio.run(asyncio.wait_for(answers.of(sent, number), 30))


def test_fault_overloaded_or_draining_is_refused_as_it_is_read() -> None:
    """Each of several on one connection gets its own answer, in turn; the connection stays open."""
    answers = Answers()

    got = ask(answers, b"".join([*map(question, range(12)), HEALTH]), 13)

    assert [status for status, *_ in got] == [503] * 12 + [200]
    assert [headers.get("x-request-id") for _, headers, _ in got] == [
        *(f"q{number}" for number in range(12)),
        None,
    ]
    errors = [json.loads(body)["error"] for _, _, body in got[:12]]
    assert {error["code"] for error in errors} == {"draining"}
    assert answers.asked == {"/healthz": 1}
    assert answers.state.total_requests == 13
    labels = {"route": "/rag_modules", "status": "503", "code": "draining", "step": ""}
    assert answers.metrics.registry.get_sample_value("rag_requests_total", labels) == 12


def test_a_connection_is_not_idle_while_one_behind_a_refusal_is_answered() -> None:
    """What was set to end the idle connection ends none at work."""
    answers = Answers(slow_s=0.5, keep_alive_s=0.1)

    got = ask(answers, question() + HEALTH, 2)

    assert [status for status, *_ in got] == [503, 200]


def test_what_is_refused_as_it_is_read_says_the_same() -> None:
    """As the application says it, which answers who wants no further request on the connection."""
    answers = Answers()

    (kept,) = ask(answers, question(), 1)
    (closed,) = ask(answers, question(1, "Connection: close"), 1)
    (old,) = ask(answers, question(version="1.0"), 1)

    told = [
        (status, {k: v for k, v in headers.items() if k not in ("retry-after", "content-length")})
        for status, headers, _ in (kept, closed, old)
    ]
    end = {"connection": "close"}
    assert told[1:] == [(told[0][0], told[0][1] | end)] * 2
    bodies = [json.loads(body)["error"] | {"retry_after": 1} for *_, body in (kept, closed, old)]
    assert bodies[1:] == [bodies[0]] * 2


def test_a_question_with_room_is_the_application_s() -> None:
    """It goes on, with what comes behind it."""
    answers = Answers(full=False)

    got = ask(answers, question(1) + HEALTH + question(2), 3)

    assert [status for status, *_ in got] == [200] * 3
    assert answers.asked == {"/rag_modules": 2, "/healthz": 1}


@pytest.mark.parametrize("keyed", [True, False])
def test_behind_a_proxy_the_address_alone_says_who_asks(
    keyed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without keys the application is asked, which knows the proxies whose word counts."""
    keys = json.dumps([{"name": "alice", "key": KEY}]) if keyed else ""
    answers = Answers(keys=keys)
    tenants = []
    check = Admission.check

    def noted(self: Admission, tenant: str, left_s: float) -> None:
        tenants.append(tenant)
        check(self, tenant, left_s)

    monkeypatch.setattr(Admission, "check", noted)
    more = ("X-Forwarded-For: 192.0.2.7", f"Authorization: Bearer {KEY}")
    (got,) = ask(answers, question(1, *more), 1)

    assert got[0] == 503
    assert tenants == ["alice" if keyed else "192.0.2.7"]
