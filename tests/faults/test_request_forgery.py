"""Nothing is fetched for a request: not for a field of it, nor for what stands in a document."""

from __future__ import annotations

import json
import random
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from inside import Inside, bearer
from ssrf_corpus import files, forms

pytestmark = pytest.mark.xdist_group("inside")

QUESTION = "Who signs travel requests above 2,000 euros?"
KEY = bearer("all")
MCP = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-06-18"}
Body = dict[str, Any]

# -- what would reach out ---------------------------------------------------------------------

EVENTS = (
    *("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"),
    *("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork"),
    *("urllib.Request", "ftplib.connect", "smtplib.connect"),
)
_seen: list[str] = []
_watching = False


def _audit(event: str, given: tuple[Any, ...]) -> None:
    if not _watching:
        return
    if event in EVENTS:
        _seen.append(f"{event} {given!r:.200}")
    if event == "open" and str(given[0]).endswith(("passwd", "environ", "PWNED")):
        _seen.append(f"open {given[0]}")


@contextmanager
def watched() -> Iterator[list[str]]:
    """Give what opens a connection, resolves a name, starts a process or reads a system file."""
    global _watching
    if _audit not in _installed:
        sys.addaudithook(_audit)
        _installed.append(_audit)
    _seen.clear()
    _watching = True
    try:
        yield _seen
    finally:
        _watching = False


_installed: list[Callable[..., None]] = []


@pytest.fixture(scope="module")
def listeners() -> Iterator[list[socket.socket]]:
    """Sockets of this machine that nobody may connect to; v4 and v6, several ports."""
    with ExitStack() as stack:
        first = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64))
        port = first.getsockname()[1]
        found = [first, stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64))]
        if socket.has_ipv6:
            try:
                six = socket.create_server(("::1", port), family=socket.AF_INET6)
                found.append(stack.enter_context(six))
            except OSError:
                pass  # this machine has no ::1
        for one in found:
            one.setblocking(False)
        yield found


def knocks(listeners: list[socket.socket]) -> int:
    """Return how many connections wait to be accepted."""
    number = 0
    for one in listeners:
        try:
            one.accept()[0].close()
            number += 1
        except BlockingIOError:
            pass
    return number


def corpus(listeners: list[socket.socket]) -> list[str]:
    found = forms([one.getsockname()[1] for one in listeners[:2]])
    assert len(found) >= 500
    return found


# -- the fields of a request --------------------------------------------------------------------

CHAT = {"messages": [{"role": "user", "content": QUESTION}]}
DOCUMENT = {"document_id": "a.txt", "text": "some words"}
POSTS: dict[str, Body] = {
    "/rag_modules": {"query": QUESTION},
    "/rag_modules?stream=true": {"query": QUESTION},
    "/v1/search": {"query": QUESTION},
    "/v1/chat/completions": CHAT,
    "/v1/vector_stores/default/search": {"query": QUESTION},
    "/retrieval": {"knowledge_id": "default", "query": QUESTION},
    "/v1/documents?collection=forged": {"documents": [DOCUMENT]},
}
NAMES = (
    *("qdrant_host", "qdrant_url", "base_url", "api_base", "api_key", "url", "host", "baseUrl"),
    *("QDRANT-HOST", "llm_base_url", "superlinked_url", "composite_url", "otlp_endpoint", "proxy"),
    *("callback_url", "webhookUrl", "hostname", "uri", "secret", "password", "apiKey"),
)
PLACES = (
    "",
    "retrieve",
    "augment",
    "generate",
    "generate.target",
    "retrieve.store.remote",
    "options",
    "x[]",
)


def put(body: Body, place: str, name: str, value: str) -> Body:
    """Return the request with this field at a dotted place; `x[]` is an object in a list."""
    field: Any = {name: value}
    for part in reversed([part for part in place.split(".") if part]):
        field = {part.removesuffix("[]"): [field] if part.endswith("[]") else field}
    return {**body, **field}


def named(choose: random.Random) -> Iterator[tuple[str, Body]]:
    """Yield path and a request without its value, each of every kind, in random order."""
    cases = [(path, place, name) for path in POSTS for place in PLACES for name in NAMES]
    choose.shuffle(cases)
    for path, place, name in cases:
        yield path, put(POSTS[path], place, name, "VALUE")


def filled(body: Any, form: str) -> Any:
    """Return the same with VALUE replaced, in keys too."""
    if isinstance(body, dict):
        return {key.replace("VALUE", form): filled(value, form) for key, value in body.items()}
    if isinstance(body, list):
        return [filled(one, form) for one in body]
    return body.replace("VALUE", form) if isinstance(body, str) else body


def test_fault_target_not_allowed_at_any_depth_on_any_interface(
    inside: Inside, listeners: list[socket.socket], lane: Any
) -> None:
    """A field that names a host, URL or key is refused; the value is not repeated; it is counted."""
    choose = random.Random(lane.seed)
    texts = corpus(listeners)
    before = inside.metric("rag_ssrf_block_total")
    asked = 0
    with watched() as seen:
        for path, body in islice(named(choose), lane(250, 2000)):
            form = choose.choice(texts)
            answer = inside.ask("POST", path, json=filled(body, form), headers=KEY)
            asked += 1
            where = (lane.seed, path, body, form)
            assert answer.status_code == 422, where
            assert answer.json()["error"]["code"] == "target_not_allowed", where
            assert len(form) < 8 or form not in answer.json()["error"]["message"], where
        for name in ("host", "base_url", "qdrant_url"):
            tool = {"name": "ask", "arguments": {"query": QUESTION, name: texts[0]}}
            call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": tool}
            told = inside.ask("POST", "/mcp", json=call, headers=KEY | MCP).json()["result"]
            asked += 1
            assert told["isError"]
            assert told["_meta"]["rag/error"]["code"] == "target_not_allowed"
        for step in ("retrieve", "augment", "generate"):
            for uri in ("env://RAG_LLM_API_KEY", "FILE:///etc/passwd", " cmd://id"):
                body = {"query": QUESTION, step: {"target": uri}}
                answer = inside.ask("POST", "/rag_modules", json=body, headers=KEY)
                asked += 1
                assert answer.json()["error"]["code"] == "target_not_allowed", (step, uri)

    assert seen == []
    assert knocks(listeners) == 0
    assert inside.metric("rag_ssrf_block_total") - before == asked


# -- text that is only text ---------------------------------------------------------------------

DATA: list[tuple[str, str, Body, dict[str, str]]] = [
    ("POST", "/rag_modules", {"query": "VALUE"}, {}),
    ("POST", "/rag_modules", {"query": QUESTION, "collection": "VALUE"}, {}),
    ("POST", "/rag_modules", {"query": QUESTION, "filters": {"source": "VALUE"}}, {}),
    ("POST", "/rag_modules", {"query": QUESTION, "filters": {"url": {"$in": ["VALUE"]}}}, {}),
    ("POST", "/rag_modules", {"query": QUESTION, "filters": {"VALUE": 1}}, {}),
    ("POST", "/rag_modules", {"query": QUESTION, "generate": {"target": "VALUE"}}, {}),
    ("POST", "/rag_modules", {"query": QUESTION, "retrieve": {"category": "VALUE"}}, {}),
    ("POST", "/rag_modules", {"query": QUESTION, "request_id": "VALUE"}, {}),
    ("POST", "/rag_modules", {"query": QUESTION, "VALUE": "VALUE"}, {}),
    ("POST", "/rag_modules", {"messages": [{"role": "user", "content": "VALUE"}]}, {}),
    ("POST", "/rag_modules", {"query": QUESTION}, {"traceparent": "VALUE", "referer": "VALUE"}),
    ("POST", "/rag_modules", {"query": QUESTION}, {"x-forwarded-host": "VALUE", "origin": "VALUE"}),
    ("POST", "/rag_modules", {"query": QUESTION}, {"host": "VALUE", "x-request-id": "VALUE"}),
    ("POST", "/rag", {"query": "VALUE"}, {}),
    ("POST", "/v1/search", {"query": "VALUE", "collection": "default"}, {}),
    ("POST", "/v1/chat/completions", {"model": "VALUE", **CHAT}, {}),
    ("POST", "/v1/chat/completions", {"model": "rag/VALUE", **CHAT}, {}),
    ("POST", "/v1/chat/completions", {"metadata": {"url": "VALUE"}, "user": "VALUE", **CHAT}, {}),
    (
        "POST",
        "/v1/chat/completions",
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "VALUE"}}]}
            ]
        },
        {},
    ),
    ("POST", "/v1/vector_stores/VALUE/search", {"query": QUESTION}, {}),
    (
        "POST",
        "/v1/vector_stores/default/search",
        {"query": ["VALUE"], "filters": {"type": "eq", "key": "VALUE", "value": "VALUE"}},
        {},
    ),
    ("POST", "/retrieval", {"knowledge_id": "VALUE", "query": "VALUE"}, {}),
    (
        "POST",
        "/retrieval",
        {
            "knowledge_id": "default",
            "query": QUESTION,
            "metadata_condition": {
                "conditions": [{"name": "url", "comparison_operator": "is", "value": "VALUE"}]
            },
        },
        {},
    ),
    (
        "POST",
        "/v1/documents?collection=forged",
        {
            "documents": [
                {
                    "document_id": "VALUE",
                    "title": "VALUE",
                    "text": "VALUE",
                    "metadata": {"url": "VALUE"},
                }
            ]
        },
        {"idempotency-key": "VALUE"},
    ),
    ("GET", "/v1/documents?after=VALUE&collection=default", {}, {}),
    ("GET", "/v1/documents/VALUE", {}, {}),
    ("DELETE", "/v1/documents/VALUE?collection=default", {}, {}),
    ("GET", "/v1/ingests/VALUE", {}, {}),
    ("GET", "/v1/models/VALUE", {}, {}),
    ("POST", "/v1/collections/VALUE/reindex", {}, {}),
    ("DELETE", "/v1/collections/VALUE", {}, {}),
    ("GET", "/VALUE", {}, {}),
]


def sent(inside: Inside, case: tuple[str, str, Body, dict[str, str]], form: str) -> int:
    method, path, body, headers = case
    value = form.encode().decode("latin-1")
    printable = "".join(letter for letter in value if letter.isprintable() or letter == " ").strip()
    told = {name: text.replace("VALUE", printable) for name, text in headers.items()}
    more = {"content": json.dumps(filled(body, form)).encode()} if body else {}
    kind = {"content-type": "application/json"} if body else {}
    answer = inside.ask(
        method,
        path.replace("VALUE", quote(form, safe="/")),
        headers={name: text.encode("latin-1") for name, text in (KEY | kind | told).items()},
        **more,
    )
    return answer.status_code


@pytest.mark.timeout(1800)
def test_threat_request_forgery_by_any_field(
    inside: Inside, listeners: list[socket.socket], lane: Any
) -> None:
    """Over 500 forms of an address in the fields that hold text: no connection, no name looked up."""
    choose = random.Random(lane.seed)
    texts = corpus(listeners)
    statuses: set[int] = set()
    with watched() as seen:
        for at, form in enumerate(texts):
            cases = DATA if lane.name == "full" else [DATA[at % len(DATA)]]
            for case in cases:
                status = sent(inside, case, form)
                statuses.add(status)
                assert status < 500 or (status == 503 and case[1] == "/rag"), (
                    lane.seed,
                    case,
                    form,
                )
        upload(inside, choose.sample(texts, lane(6, len(texts))))

    assert seen == []
    assert knocks(listeners) == 0
    assert {200, 404, 422} <= statuses
    assert not Path("PWNED").exists()


def upload(inside: Inside, texts: list[str]) -> None:
    """Add documents of every kind that name these addresses, under names that are addresses."""
    for form in texts:
        made = [
            ("files", (f"{at}-{form[:60]}-{name}", data))
            for at, (name, data) in enumerate(files(form).items())
        ]
        answer = inside.ask("POST", "/v1/documents?collection=forged", files=made, headers=KEY)
        assert answer.status_code == 200, (form, answer.text)
        failed = {one["document_id"].rpartition("-")[2] for one in answer.json()["failed"]}
        unreadable = {"image.svg"}
        if "#" in form:
            unreadable.add("entity.docx")  # XML allows no fragment there
        assert failed <= unreadable, (form, answer.json()["failed"])


def test_the_watch_sees_a_connection(listeners: list[socket.socket]) -> None:
    """The tests above can fail."""
    with watched() as seen:
        socket.create_connection(listeners[0].getsockname()).close()

    assert [event.split()[0] for event in seen] == ["socket.getaddrinfo", "socket.connect"]
    assert knocks(listeners) == 1
