"""Each piece of middleware by itself: what it lets through, what it answers, what it counts.

Plain ASGI calls; no server, no application behind it but a double that notes that it was asked.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr
from service_kit import settings
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rag_kit.errors import StepError, envelope
from rag_service.http.context import Context, Principal, context_of
from rag_service.http.fair_queue import Admission, Rates
from rag_service.http.metrics import Metrics
from rag_service.http.middleware import (
    Gate,
    Keyring,
    Keys,
    Limits,
    Requests,
    address_of,
    request_id_of,
)
from rag_service.http.tracing import Traces
from rag_service.settings import ServiceSettings

ALICE, BOB = "alice-0123456789abcdef", "bob-0123456789abcdef"
KEYS = [
    {"name": "alice", "key": ALICE, "collections": ["hr*"], "write": True},
    {"name": "bob", "key": BOB, "per_minute": 6},
]
KEYED = settings(api_keys=SecretStr(json.dumps(KEYS)))
OPEN = settings()


@dataclass
class App:
    """What stands behind the middleware: answers 200, or does what it is told. A double."""

    work: Callable[[Scope, Receive, Send], Any] | None = None
    asked: list[Scope] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert callable(receive) and callable(send)
        self.asked.append(scope)
        if self.work is not None:
            await self.work(scope, receive, send)
        elif scope["type"] == "http":
            await answer(send, 200)


async def answer(send: Send, status: int, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    start = {"type": "http.response.start", "status": status, "headers": list(headers)}
    await send(start)
    await send({"type": "http.response.body", "body": b"{}"})


@dataclass
class Answer:
    """What was sent back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = json.loads(self.body)["error"]
        return error


def scope_of(
    path: str = "/rag_modules",
    method: str = "POST",
    headers: dict[str, str] | None = None,
    client: tuple[str, int] | None = ("192.0.2.7", 4711),
    context: Context | None = None,
) -> dict[str, Any]:
    given = {"host": "localhost", **(headers or {})}
    scope: dict[str, Any] = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "scheme": "http",
        "server": ("127.0.0.1", 80),
        "client": client,
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in given.items()],
    }
    if context is not None:
        scope["state"] = {"rag": context}
    return scope


def call(app: ASGIApp, scope: Scope, pieces: Iterable[bytes] = (b"{}",)) -> Answer:
    """Make one request; returns what was sent, status 0 when nothing was. Fails on no ASGI."""
    sent: list[Message] = []
    parts = list(pieces)
    waiting: list[Message] = [
        {"type": "http.request", "body": part, "more_body": at < len(parts) - 1}
        for at, part in enumerate(parts)
    ]

    async def receive() -> Message:
        return waiting.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    if not sent:
        return Answer(0, {}, b"")
    kinds = ["http.response.start"] + ["http.response.body"] * (len(sent) - 1)
    assert [message["type"] for message in sent] == kinds
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    assert list(headers) == [name.lower() for name in headers]
    return Answer(
        sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent)
    )


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def count(metrics: Metrics, name: str, **labels: str) -> float:
    """Return the value of a counter; 0.0 when it was never counted."""
    return metrics.registry.get_sample_value(name, labels) or 0.0


def a_context() -> Context:
    return Context("r-1", time.monotonic() + 30)


# -- who one is ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "name"),
    [
        (f"Bearer {ALICE}", "alice"),
        (f"bearer {BOB}", "bob"),
        (f"BEARER   {BOB}  ", "bob"),
        (f"Basic {ALICE}", None),
        (ALICE, None),
        (f"Bearer {ALICE}x", None),
        (f"Bearer {ALICE[:-1]}", None),
        ("Bearer ", None),
        ("", None),
    ],
)
def test_a_key_is_found_by_a_bearer_header_alone(header: str, name: str | None) -> None:
    """The scheme in any case, spaces around the key; nothing else."""
    ring = Keyring(KEYED.keys())
    if name is None:
        with pytest.raises(StepError, match="key"):
            ring.find(header)
    else:
        assert ring.find(header).name == name


def test_a_ring_without_keys_is_empty() -> None:
    """Truth is whether keys are configured."""
    assert not Keyring(())
    assert Keyring(KEYED.keys())


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ("r-1", True),
        ("a.b_c:d/e+f=g-1", True),
        ("x" * 128, True),
        ("x" * 129, False),
        ("", False),
        ("a b", False),
        ("a\nb", False),
        ("é", False),
    ],
)
def test_the_callers_id_is_kept_when_it_can_be_one(asked: str, kept: bool) -> None:
    """Otherwise it is a new one, 32 hexadecimal digits."""
    given = request_id_of(asked)

    assert (given == asked) is kept
    if not kept:
        assert given.startswith("req_") and len(given) == 36
        assert given != request_id_of(asked)


def test_an_address_is_the_clients_or_empty() -> None:
    """A server on a Unix socket knows none."""
    assert address_of(scope_of()) == "192.0.2.7"
    assert address_of(scope_of(client=None)) == ""


# -- Gate ---------------------------------------------------------------------------------------


def gate(app: App, metrics: Metrics, given: ServiceSettings = OPEN, *, full: bool = True) -> Gate:
    admission = Admission(1, 0, 0.5, metrics)
    if full:
        admission.draining = True  # refuses everything
    keys = Keyring(given.keys())
    return Gate(app, admission=admission, keys=keys, settings=given, metrics=metrics)


@pytest.mark.parametrize("path", ["/rag_modules", "/rag", "/v1/search", "/v1/chat/completions"])
def test_fault_overloaded_or_draining_questions_are_refused_at_the_gate(path: str) -> None:
    """503 with the whole envelope, the request's id and the headers of every answer."""
    app, metrics = App(), Metrics()

    found = call(gate(app, metrics), scope_of(path, headers={"x-request-id": "mine"}))

    assert (found.status, app.asked) == (503, [])
    wait = found.headers["retry-after"]
    assert 1 <= int(wait) <= 4
    assert found.headers == {
        "content-type": "application/json",
        "content-length": str(len(found.body)),
        "retry-after": wait,
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
        "x-request-id": "mine",
    }
    assert found.error == {
        "type": "unavailable_error",
        "code": "draining",
        "message": "the service is shutting down; ask another one",
        "step": None,
        "param": None,
        "retryable": True,
        "request_id": "mine",
        "retry_after": int(wait),
    }
    labels = {"route": path, "status": "503", "code": "draining", "step": ""}
    assert count(metrics, "rag_requests_total", **labels) == 1


@pytest.mark.parametrize(
    "scope",
    [
        scope_of("/healthz", "GET"),
        scope_of("/rag_modules", "GET"),
        scope_of("/v1/documents", "POST"),
        {"type": "lifespan"},
        {**scope_of(), "type": "websocket"},
    ],
)
def test_the_gate_is_for_questions_alone(scope: Scope) -> None:
    """Everything else goes through, though nothing is free."""
    app = App()

    call(gate(app, Metrics()), scope)

    assert app.asked == [scope]


def test_the_gate_is_open_while_there_is_room() -> None:
    """A question with a place goes on; so does the next, since the gate takes none."""
    app = App()
    open_gate = gate(app, Metrics(), full=False)

    assert [call(open_gate, scope_of()).status for _ in range(3)] == [200, 200, 200]


@pytest.mark.parametrize(
    ("headers", "refused"),
    [(bearer(ALICE), True), (bearer("wrong-0123456789abcdef"), False), ({}, False)],
)
def test_who_is_not_let_in_is_told_so_instead(headers: dict[str, str], refused: bool) -> None:
    """Without a valid key a question goes on to where it is answered 401."""
    app = App()

    found = call(gate(app, Metrics(), KEYED), scope_of(headers=headers))

    assert (found.status == 503, app.asked == []) == (refused, refused)


@pytest.mark.parametrize(
    ("given", "headers", "tenant"),
    [(KEYED, bearer(BOB), "bob"), (OPEN, {}, "192.0.2.7"), (OPEN, bearer(BOB), "192.0.2.7")],
)
def test_the_gate_asks_for_the_tenant_within_the_deadline(
    given: ServiceSettings, headers: dict[str, str], tenant: str
) -> None:
    """The key's name, or the address without keys; with all the seconds a request may take."""
    asked: list[tuple[str, float]] = []

    class Asked(Admission):
        def check(self, tenant: str, left_s: float) -> None:
            asked.append((tenant, left_s))

    metrics = Metrics()
    admission, keys = Asked(1, 0, 1, metrics), Keyring(given.keys())
    one = Gate(App(), admission=admission, keys=keys, settings=given, metrics=metrics)
    call(one, scope_of(headers=headers))

    assert asked == [(tenant, given.deadline_s)]


def test_refusals_are_one_log_line_a_second(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first at once; then how many there were, once a second."""
    clock = {"now": 0.0}
    here = SimpleNamespace(monotonic=lambda: clock["now"])  # other threads' loops read the real one
    monkeypatch.setattr("rag_service.http.middleware.time", here)
    one = gate(App(), Metrics())
    caplog.set_level(logging.WARNING, "rag_service.http.middleware")

    for clock["now"] in (100.0, 100.2, 100.99, 101.0, 101.5, 102.0):
        call(one, scope_of())

    ours = [one for one in caplog.records if one.name == "rag_service.http.middleware"]
    assert [record.getMessage() for record in ours] == [
        "1 questions refused (draining)",
        "3 questions refused (draining)",
        "2 questions refused (draining)",
    ]


def test_what_a_refusal_says_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a flood a refusal costs next to nothing."""
    made: list[str] = []

    def counted(error: StepError, **more: Any) -> dict[str, Any]:
        made.append(error.code)
        return envelope(error, **more)

    monkeypatch.setattr("rag_service.http.middleware.envelope", counted)
    one = gate(App(), Metrics())

    assert {call(one, scope_of()).error["code"] for _ in range(3)} == {"draining"}
    assert made == ["draining"]


# -- Requests -----------------------------------------------------------------------------------


def requests(app: App, metrics: Metrics, traces: Traces | None = None) -> Requests:
    return Requests(app, settings=OPEN, metrics=metrics, traces=traces or Traces())


def test_a_request_has_its_id_its_deadline_and_its_headers() -> None:
    """The application finds them in its scope, the client in the answer."""
    app, began = App(), time.monotonic()

    found = call(requests(app, Metrics()), scope_of(headers={"x-request-id": "mine"}))

    context = context_of(app.asked[0])
    assert (context.request_id, found.headers["x-request-id"]) == ("mine", "mine")
    assert began + 30 <= context.deadline <= time.monotonic() + 30
    assert found.headers["cache-control"] == "no-store"
    assert found.headers["x-content-type-options"] == "nosniff"


def test_a_header_the_application_set_is_left() -> None:
    """A page may be kept by a browser."""

    async def work(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, 200, [(b"cache-control", b"max-age=60")])

    found = call(requests(App(work), Metrics()), scope_of("/", "GET"))

    assert found.headers["cache-control"] == "max-age=60"


def test_what_is_no_request_goes_through() -> None:
    """Lifespan and websockets get no context."""
    app, scope = App(), {"type": "lifespan"}

    call(requests(app, Metrics()), scope)  # the double fails without `receive` and `send`

    assert app.asked == [{"type": "lifespan"}]


def test_an_unexpected_error_is_an_envelope_and_a_traceback_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """500 for the client, without what went wrong; all of it in the log."""

    async def work(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("the database is at db.internal")

    metrics = Metrics()
    scope = scope_of(headers={"x-request-id": "mine"})
    found = call(requests(App(work), metrics), scope)

    assert (found.status, found.error["code"]) == (500, "internal_error")
    assert found.error["request_id"] == "mine"
    assert found.error["message"] == "the service failed unexpectedly; its log has the details"
    assert "db.internal" not in found.body.decode()
    assert found.headers["cache-control"] == "no-store"
    assert "request mine" in caplog.text and "db.internal" in caplog.text
    labels = {"route": "other", "status": "500", "code": "internal_error", "step": ""}
    assert count(metrics, "rag_requests_total", **labels) == 1


def test_an_error_after_the_first_byte_breaks_the_connection() -> None:
    """The server below has to cut it: a second answer would be read as the rest of the first."""

    async def work(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("too late")

    metrics = Metrics()
    with pytest.raises(RuntimeError, match="too late"):
        call(requests(App(work), metrics), scope_of())
    labels = {"route": "other", "status": "200", "code": "", "step": ""}
    assert count(metrics, "rag_requests_total", **labels) == 1


def test_fault_client_cancelled_is_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing was answered: 499 in metrics and log."""

    async def work(scope: Scope, receive: Receive, send: Send) -> None:
        raise asyncio.CancelledError

    metrics = Metrics()
    caplog.set_level(logging.INFO, "rag_service.access")
    with pytest.raises(asyncio.CancelledError):
        call(requests(App(work), metrics), scope_of())

    labels = {"route": "other", "status": "499", "code": "client_cancelled", "step": ""}
    assert count(metrics, "rag_requests_total", **labels) == 1
    assert count(metrics, "rag_cancel_total") == 1
    assert vars(caplog.records[0])["code"] == "client_cancelled"


@pytest.mark.parametrize(
    ("code", "step", "name", "labels"),
    [
        ("deadline_exceeded", "generate", "rag_deadline_total", {"step": "generate"}),
        ("target_not_allowed", "", "rag_ssrf_block_total", {}),
        ("retriever_bad_response", "retrieve", "rag_contract_violation_total", {}),
        ("module_bad_output", "", "rag_contract_violation_total", {}),
        ("module_error", "", "rag_module_fail_total", {"code": "module_error", "step": ""}),
        (
            *("module_oom", "generate", "rag_module_fail_total"),
            {"code": "module_oom", "step": "generate"},
        ),
        ("llm_timeout", "generate", "rag_llm_fail_total", {"kind": "timeout"}),
        ("llm_bad_response", "generate", "rag_llm_fail_total", {"kind": "bad_response"}),
    ],
)
def test_a_code_has_its_counter(code: str, step: str, name: str, labels: dict[str, str]) -> None:
    """Once a request; another code leaves it alone."""

    def work(code: str) -> Any:
        async def one(scope: Scope, receive: Receive, send: Send) -> None:
            context_of(scope).code, context_of(scope).step = code, step
            await answer(send, 500)

        return one

    metrics = Metrics()
    for each in (code, "internal_error", ""):
        call(requests(App(work(each)), metrics), scope_of())

    assert count(metrics, name, **labels) == 1
    assert count(metrics, "rag_cancel_total") == 0


@pytest.mark.parametrize(
    ("path", "level"),
    [("/rag_modules", "INFO"), ("/healthz", "DEBUG"), ("/metrics", "DEBUG"), ("/readyz", "DEBUG")],
)
def test_a_request_is_one_log_line(path: str, level: str, caplog: pytest.LogCaptureFixture) -> None:
    """With all that is known of it; what is asked all the time is for debugging."""

    class Route:
        def __init__(self, path: str) -> None:
            self.path = path

    async def work(scope: Scope, receive: Receive, send: Send) -> None:
        context = context_of(scope)
        context.principal = Principal("alice")
        context.collection, context.timings_ms = "hr", {"retrieve": 1.5}
        context.code, context.step = "no_context", "augment"
        scope["route"] = Route(path)
        await asyncio.sleep(0.002)
        await answer(send, 422)

    metrics = Metrics()
    caplog.set_level(logging.DEBUG, "rag_service.access")
    call(requests(App(work), metrics), scope_of(path, headers={"x-request-id": "mine"}))

    (record,) = caplog.records
    told = vars(record)
    assert (record.levelname, record.getMessage()) == (level, f"POST {path} 422")
    assert 2 <= told["ms"] < 30_000
    spent = count(metrics, "rag_request_seconds_sum", route=path)
    assert told["ms"] == round(spent * 1000, 3)
    wanted = {
        "request_id": "mine", "key": "alice", "client": "192.0.2.7", "method": "POST",
        "path": path, "status": 422, "code": "no_context", "step": "augment", "collection": "hr",
        "timings_ms": {"retrieve": 1.5},
    }  # fmt: skip
    assert {name: told[name] for name in wanted} == wanted
    assert count(metrics, "rag_request_seconds_count", route=path) == 1
    assert 0.002 <= count(metrics, "rag_request_seconds_sum", route=path) < 30


def test_a_request_is_one_span() -> None:
    """Begun with its context, ended with its status."""
    seen: list[Any] = []

    class Noted(Traces):
        @contextmanager
        def request(self, scope: Scope, context: Context) -> Iterator[Any]:
            seen.append((scope["path"], context.request_id))
            yield "the span"

        def finish(self, span: Any, context: Context, status: int) -> None:
            seen.append((span, context.request_id, context.route, status))

    scope = scope_of(headers={"x-request-id": "mine"})
    call(requests(App(), Metrics(), Noted()), scope)

    assert seen == [("/rag_modules", "mine"), ("the span", "mine", "other", 200)]


# -- Keys ---------------------------------------------------------------------------------------


def keys(app: App, metrics: Metrics, given: ServiceSettings = KEYED, now: float = 0.0) -> Keys:
    ring, rates = Keyring(given.keys()), Rates(lambda: now)
    return Keys(app, keys=ring, rates=rates, settings=given, metrics=metrics)


@pytest.mark.parametrize(
    "path", ["/", "/favicon.ico", "/healthz", "/readyz", "/v1/info", "/page/x"]
)
def test_the_open_paths_need_no_key(path: str) -> None:
    """They go through, as nobody."""
    app = App()

    found = call(keys(app, Metrics()), scope_of(path, "GET", context=a_context()))

    assert found.status == 200
    assert context_of(app.asked[0]).principal == Principal()


@pytest.mark.parametrize("path", ["/rag_modules", "/metrics", "/docs", "/pagex", "/v1/info/x"])
def test_threat_unauthenticated_use_is_refused_and_counted(path: str) -> None:
    """401, with the way in; the body is not read, the application not asked."""
    app, metrics = App(), Metrics()
    one = keys(app, metrics)

    without = call(one, scope_of(path, context=a_context()))
    wrong = call(one, scope_of(path, headers=bearer("wrong"), context=a_context()))

    assert (without.status, wrong.status, app.asked) == (401, 401, [])
    assert without.headers["www-authenticate"] == "Bearer"
    assert "Authorization: Bearer <key>" in without.error["message"]
    assert wrong.error["message"] == "the key is not known here"
    assert count(metrics, "rag_auth_fail_total") == 2


def test_who_has_a_key_is_who_it_says() -> None:
    """Name, collections, whether it may write, its rate; the key's name is the tenant."""
    app = App()
    one = keys(app, Metrics())
    for key in (ALICE, BOB):
        call(one, scope_of(headers=bearer(key), context=a_context()))

    alice, bob = (context_of(scope) for scope in app.asked)
    assert alice.principal == Principal("alice", ("hr*",), True, None)
    assert bob.principal == Principal("bob", ("*",), False, 6)
    assert (alice.tenant, bob.tenant) == ("alice", "bob")


def test_without_keys_the_address_is_the_tenant() -> None:
    """Who is nobody shares with who comes from there."""
    app = App()

    call(keys(app, Metrics(), OPEN), scope_of(context=a_context()))

    assert context_of(app.asked[0]).tenant == "192.0.2.7"


def test_fault_quota_exceeded_is_counted() -> None:
    """The key's own rate over the service's; the metrics cost nothing."""
    given = settings(api_keys=KEYED.api_keys, rate_per_minute=12)
    app, metrics = App(), Metrics()
    one = keys(app, metrics, given)

    def ask(key: str, path: str = "/rag_modules") -> int:
        return call(one, scope_of(path, headers=bearer(key), context=a_context())).status

    assert [ask(BOB) for _ in range(3)] == [200, 429, 429]  # ten seconds of six a minute
    assert [ask(ALICE) for _ in range(4)] == [200, 200, 429, 429]
    assert [ask(BOB, "/metrics") for _ in range(3)] == [200, 200, 200]
    assert count(metrics, "rag_quota_total", kind="rate") == 4
    over = call(one, scope_of(headers=bearer(BOB), context=a_context()))
    assert (over.error["code"], over.headers["retry-after"]) == ("quota_exceeded", "10")


def test_without_a_rate_nothing_is_counted() -> None:
    """Zero is any number."""
    one = keys(App(), Metrics(), OPEN)

    found = [call(one, scope_of(context=a_context())).status for _ in range(50)]

    assert set(found) == {200}


@pytest.mark.parametrize(
    ("host", "path", "status"),
    [
        ("127.0.0.1", "/rag_modules", 200),
        ("localhost:8000", "/rag_modules", 200),
        ("[::1]:8000", "/rag_modules", 200),
        ("rag.local:8000", "/rag_modules", 200),
        ("evil.example", "/rag_modules", 403),
        ("evil.example", "/", 403),
        ("evil.example", "/page/x", 403),
        ("", "/rag_modules", 403),
        ("[::1", "/rag_modules", 403),
        ("evil.example", "/healthz", 200),
        ("evil.example", "/readyz", 200),
        ("evil.example", "/metrics", 200),
    ],
)
def test_without_keys_the_host_must_be_this_machine(host: str, path: str, status: int) -> None:
    """Or a configured name; what probes and scrapers ask is answered under any."""
    one = keys(App(), Metrics(), settings(allowed_hosts=("rag.local",)))

    found = call(one, scope_of(path, headers={"host": host}, context=a_context()))

    assert found.status == status
    if status == 403:
        assert found.error["code"] == "forbidden"
        assert "RAG_ALLOWED_HOSTS" in found.error["message"]


def test_with_keys_the_host_may_be_any() -> None:
    """A page elsewhere has no key."""
    headers = {"host": "evil.example", **bearer(BOB)}

    assert (
        call(keys(App(), Metrics()), scope_of(headers=headers, context=a_context())).status == 200
    )


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
def test_keys_and_limits_leave_what_is_no_request(kind: str) -> None:
    """The application decides."""
    app, metrics = App(), Metrics()
    for one in (keys(app, metrics), Limits(app, settings=OPEN, metrics=metrics)):
        call(one, {"type": kind})

    assert app.asked == [{"type": kind}] * 2


# -- Limits -------------------------------------------------------------------------------------

SMALL = settings(max_body_bytes=1024, max_upload_bytes=2048)


def limits(app: App, metrics: Metrics) -> Limits:
    return Limits(app, settings=SMALL, metrics=metrics)


@pytest.mark.parametrize(("path", "most"), [("/rag_modules", 1024), ("/v1/documents", 2048)])
def test_fault_body_too_large_by_its_length(path: str, most: int) -> None:
    """One byte too many is refused unread; the exact size is let through; uploads have their own."""
    app, metrics = App(), Metrics()
    one = limits(app, metrics)

    def ask(length: str) -> Answer:
        headers = {"content-length": length}
        return call(one, scope_of(path, headers=headers, context=a_context()))

    over = ask(str(most + 1))
    assert (over.status, over.error["code"], app.asked) == (413, "body_too_large", [])
    assert str(most) in over.error["message"]
    assert count(metrics, "rag_rejected_total", reason="size") == 1
    # what is no number is no length: it is counted while it is read
    assert [ask(length).status for length in (str(most), "0", "", "-1", "1e9", "²")] == [200] * 6


@pytest.mark.parametrize(
    ("sizes", "fits"),
    [([1024], True), ([1000, 24], True), ([1000, 25], False), ([1025], False), ([], True)],
)
def test_fault_body_too_large_while_it_is_read(sizes: list[int], fits: bool) -> None:
    """Without a length the pieces are counted; the sum decides."""
    read = 0

    async def work(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal read
        for _ in range(max(1, len(sizes))):
            message = await receive()
            read += len(message["body"])
        await answer(send, 200)

    metrics = Metrics()
    pieces = [b"x" * size for size in sizes] or [b""]
    if fits:
        found = call(limits(App(work), metrics), scope_of(context=a_context()), pieces)
        assert (found.status, read) == (200, sum(sizes))
    else:
        with pytest.raises(StepError) as refused:
            call(limits(App(work), metrics), scope_of(context=a_context()), pieces)
        assert (refused.value.code, "1024 bytes" in refused.value.message) == (
            "body_too_large",
            True,
        )
        assert count(metrics, "rag_rejected_total", reason="size") == 1


def test_a_client_that_leaves_while_it_sends_is_passed_on() -> None:
    """A disconnect has no body."""
    seen: list[str] = []

    async def work(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((await receive())["type"])

    async def ask() -> None:
        async def receive() -> Message:
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            raise AssertionError("nothing is sent to who left")

        await limits(App(work), Metrics())(scope_of(context=a_context()), receive, send)

    asyncio.run(ask())
    assert seen == ["http.disconnect"]
