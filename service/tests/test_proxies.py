"""Behind a reverse proxy: HEAD, prefixes, slashes, redirects, and whose headers are believed.

`test_nginx.py` has a real one in front.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import ValidationError
from service_kit import QUESTION, copy_home, environment, serving, settings
from starlette.responses import PlainTextResponse
from starlette.routing import Mount
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from rag_service.app import create_app
from rag_service.http.context import address_of, path_of
from rag_service.http.proxies import Proxies

PREFIX = "/tools/rag"
PROXY = {"x-forwarded-prefix": PREFIX}
MCP = {"accept": "application/json, text/event-stream"}
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    """The application, for its routes; it is never started."""
    with environment({"RAG_HOME": str(tmp_path_factory.mktemp("routes"))}):
        return create_app(settings())


@pytest.fixture(scope="module")
def readable(app: FastAPI) -> list[str]:
    """Every path that takes GET, its parameters filled with what exists."""
    filled = {"document_id:path": "travel.md", "ingest_id": "none", "name": "default"}
    paths = [
        re.sub(r"\{([^}]*)\}", lambda match: filled.get(match[1], "default"), route.path)
        for route in app.state.routes
        if "GET" in (getattr(route, "methods", None) or ())
    ]
    paths += [f"{route.path}/nothere" for route in app.state.routes if isinstance(route, Mount)]
    assert len(paths) > 12 and "/docs" in paths and "/page/nothere" in paths
    return sorted({*paths, "/page/page.css", "/static-offline-docs/swagger-ui.css"})


@pytest.fixture(scope="module")
def url(filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of a service that trusts a proxy on this machine."""
    home = copy_home(filled, tmp_path_factory.mktemp("proxied") / "home")
    with serving(settings(), home=home) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
        yield client


def test_head_is_get_without_the_body_on_every_route(
    client: httpx.Client, readable: list[str]
) -> None:
    """Status and headers are those of GET; the connection stays usable."""
    varying = {"x-request-id", "date", "content-length", "transfer-encoding"}
    for path in readable:
        got, head = client.get(path), client.head(path)
        assert (head.status_code, head.content) == (got.status_code, b""), path
        for name in set(got.headers) - varying:
            assert head.headers.get(name) == got.headers[name], (path, name)
        if path != "/metrics" and got.headers.get("content-type") != "application/json":
            assert head.headers.get("content-length") == got.headers.get("content-length"), path


def test_head_of_what_cannot_be_read_is_refused_as_get_is(client: httpx.Client) -> None:
    for path in ("/rag_modules", "/v1/search", "/mcp", "/retrieval"):
        assert client.head(path).status_code == 405
    assert "HEAD" in client.put("/healthz").headers["allow"]
    assert client.head("/nothere").status_code == 404


def test_head_of_the_events_of_an_ingest_ends_at_once(client: httpx.Client) -> None:
    """They go on for as long as the ingest does, which HEAD does not wait for."""
    text = " ".join(f"Sentence number {n} says something." for n in range(3000))
    files = {"files": ("long.txt", text.encode())}
    job = client.post("/v1/documents", files=files, params={"wait": "false", "collection": "x"})
    events = job.json()["events"]
    head = client.head(events)
    assert head.headers["content-type"].startswith("text/event-stream")
    assert client.get(events.removesuffix("/events")).json()["status"] != "done"
    client.delete(events.removesuffix("/events"))


@pytest.mark.parametrize("cut_off", [True, False], ids=["prefix cut off", "prefix kept"])
def test_behind_a_prefix_every_route_answers_as_without(
    client: httpx.Client, readable: list[str], cut_off: bool
) -> None:
    before = "" if cut_off else PREFIX
    for path in readable:
        plain, prefixed = client.get(path), client.get(f"{before}{path}", headers=PROXY)
        assert prefixed.status_code == plain.status_code, path
        assert prefixed.headers.get("content-type") == plain.headers.get("content-type"), path
    answer = client.post(f"{before}/rag_modules", headers=PROXY, json={"query": QUESTION})
    assert answer.json()["answerable"]
    assert (
        client.post(f"{before}/mcp", headers={**MCP, **PROXY}, json=INITIALIZE).status_code == 200
    )


def test_the_api_page_names_its_parts_behind_the_prefix(client: httpx.Client) -> None:
    page = client.get("/docs", headers=PROXY).text
    parts = re.findall(r"""["'](/[^"']*(?:\.js|\.css|\.png|\.json))["']""", page)
    assert len(parts) >= 4
    assert all(part.startswith(f"{PREFIX}/") for part in parts)
    assert {client.get(part, headers=PROXY).status_code for part in parts} == {200}
    described = client.get("/openapi.json", headers=PROXY).json()
    assert described["servers"] == [{"url": PREFIX}]
    assert "servers" not in client.get("/openapi.json").json()


def test_the_page_names_no_path_from_the_root(client: httpx.Client) -> None:
    """So it works behind any prefix that ends in a slash, and the one without is sent there."""
    page = client.get("/").text
    assert not re.findall(r"""(?:src|href|action)=["']/""", page)
    sent = client.get(PREFIX, headers=PROXY)
    assert (sent.status_code, sent.headers["location"]) == (307, f"{PREFIX}/")
    assert client.get(f"{PREFIX}/", headers=PROXY).text == page


def test_paths_in_answers_have_the_prefix(client: httpx.Client) -> None:
    files = {"files": ("a.txt", b"One sentence.")}
    params = {"wait": "false", "collection": "prefixed"}
    job = client.post("/v1/documents", files=files, params=params, headers=PROXY)
    assert job.headers["location"] == f"{PREFIX}/v1/ingests/{job.json()['id']}"
    assert job.json()["events"] == f"{job.headers['location']}/events"
    state = client.get(job.headers["location"], headers=PROXY).json()
    assert state["events"] == job.json()["events"]


def test_a_slash_at_the_end_changes_nothing_and_nothing_is_redirected_to_another_url(
    client: httpx.Client, app: FastAPI
) -> None:
    """Every route without parameters, with the methods it has; no Location names a host."""
    plain = {
        (method, route.path)
        for route in app.state.routes
        if "{" not in getattr(route, "path", "{") and route.path != "/"
        for method in getattr(route, "methods", None) or ()
    }
    assert ("POST", "/mcp") in plain
    for method, path in sorted(plain):
        answers = [
            client.request(method, f"{path}{slash}", headers=MCP, content=b"{")
            for slash in ("", "/")
        ]
        assert answers[0].status_code == answers[1].status_code, (method, path)
        assert not any("://" in answer.headers.get("location", "") for answer in answers)
        assert not any(answer.is_redirect for answer in answers)
    assert client.post("/mcp/", headers=MCP, json=INITIALIZE).status_code == 200
    assert client.get("/page/").status_code == client.get("/nothere/").status_code == 404


def test_events_are_not_held_back_by_nginx(client: httpx.Client) -> None:
    """`X-Accel-Buffering: no` on every interface that streams, and on no other answer."""
    asked = {"query": QUESTION}
    chat = {"model": "rag", "messages": [{"role": "user", "content": QUESTION}]}
    streams: list[tuple[str, dict[str, Any]]] = [
        ("/rag_modules?stream=true", {"json": asked}),
        ("/v1/chat/completions", {"json": {**chat, "stream": True}}),
        (
            "/v1/documents?collection=events",
            {"files": {"files": ("a.txt", b"A")}, "headers": {"accept": "text/event-stream"}},
        ),
    ]
    for path, more in streams:
        with client.stream("POST", path, **more) as response:
            assert response.headers["content-type"].startswith("text/event-stream"), path
            assert response.headers["x-accel-buffering"] == "no", path
            response.read()
    assert "x-accel-buffering" not in client.post("/rag_modules", json=asked).headers


# -- whose headers are believed ---------------------------------------------------------------


def seen(peer: str, headers: dict[str, str], path: str = "/docs", **given: Any) -> tuple[str, ...]:
    """Return client, scheme, root path and path as the application sees them."""
    found: list[tuple[str, ...]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        found.append((address_of(scope), scope["scheme"], scope["root_path"], path_of(scope)))
        await PlainTextResponse("")(scope, receive, send)

    proxies = Proxies(app, settings=settings(**given), paths=["/docs"])
    TestClient(proxies, client=(peer, 1)).get(path, headers=headers)
    return found[0]


FORWARDED = {
    "x-forwarded-for": "203.0.113.9",
    "x-forwarded-proto": "https",
    "x-forwarded-prefix": PREFIX,
}


@pytest.mark.parametrize(
    ("peer", "trusted", "believed"),
    [
        ("127.0.0.1", None, True),
        ("::1", None, True),
        ("10.1.2.3", None, False),
        ("10.1.2.3", ("10.0.0.0/8",), True),
        ("10.1.2.3", ("10.1.2.3",), True),
        ("10.1.2.4", ("10.1.2.3",), False),
        ("127.0.0.1", ("10.0.0.0/8",), False),
        ("fd00::7", ("fd00::/8",), True),
        ("127.0.0.1", (), False),
    ],
)
def test_only_trusted_proxies_are_believed(
    peer: str, trusted: tuple[str, ...] | None, believed: bool
) -> None:
    given = {} if trusted is None else {"trusted_proxies": trusted}
    expected = ("203.0.113.9", "https", PREFIX) if believed else (peer, "http", "")
    assert seen(peer, FORWARDED, **given) == (*expected, "/docs")


@pytest.mark.parametrize(
    "prefix", ["", "/", "rag", "//evil.example", "/a b", '/"><script>', "/a/../..//b", "https://x"]
)
def test_a_prefix_that_is_no_path_is_ignored(prefix: str) -> None:
    assert seen("127.0.0.1", {"x-forwarded-prefix": prefix})[2:] == ("", "/docs")


def test_the_configured_prefix_counts_whatever_a_proxy_says() -> None:
    for path in ("/docs", "/mine/docs", "/docs/", "/mine/docs/"):
        assert seen("127.0.0.1", FORWARDED, path, root_path="/mine")[2:] == ("/mine", "/docs")
    assert seen("127.0.0.1", {}, "/minefield", root_path="/mine")[3] == "/minefield"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("trusted_proxies", ("proxy.local",)),
        ("trusted_proxies", ("*",)),
        ("root_path", "rag"),
        ("root_path", "/rag/"),
        ("root_path", "//host"),
    ],
)
def test_settings_that_cannot_work_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=name):
        settings(**{name: value})


# -- texts for clients elsewhere ----------------------------------------------------------------

MISTAKES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("GET", "/v1/documents?collection=nothere", {}),
    ("GET", "/v1/documents/nothere.md", {}),
    ("DELETE", "/v1/documents/nothere.md", {}),
    ("DELETE", "/v1/collections/nothere", {}),
    ("POST", "/v1/collections/nothere/reindex", {}),
    ("GET", "/v1/ingests/nothere", {}),
    ("POST", "/rag_modules", {"json": {"query": "x", "collection": "nothere"}}),
    ("POST", "/rag_modules", {"json": {"query": "x", "retrieve": {"nothere": 1}}}),
    ("POST", "/rag_modules", {"json": {"query": ""}}),
    ("POST", "/v1/search", {"json": {"query": "x", "top_k": 0}}),
    ("POST", "/v1/chat/completions", {"json": {"model": "nothere", "messages": []}}),
    ("POST", "/v1/vector_stores/nothere/search", {"json": {"query": "x"}}),
    ("POST", "/retrieval", {"json": {"knowledge_id": "nothere", "query": "x"}}),
    ("POST", "/v1/documents", {"files": {"files": ("a.bin", b"\0")}}),
    ("POST", "/rag", {"json": {"query": "x"}}),
    ("GET", "/nothere", {}),
)


@pytest.mark.parametrize(("method", "path", "more"), MISTAKES)
def test_an_error_names_no_command_and_no_file_that_a_client_elsewhere_lacks(
    client: httpx.Client, method: str, path: str, more: dict[str, Any]
) -> None:
    answer = client.request(method, path, **more)
    assert answer.status_code >= 400
    assert not re.search(r"`rag |contract/|RAG_HOME|/tmp/|/home/|dagger call", answer.text), (
        answer.text
    )
