"""Requests that a browser sends for a page of another site; `test_same_origin_browser.py` has a real one."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from service_kit import QUESTION, copy_home, environment, serving, settings
from starlette.responses import Response
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from rag_kit.errors import StepError
from rag_kit.origins import normalize
from rag_service.app import create_app
from rag_service.http.fair_queue import Admission
from rag_service.http.metrics import Metrics
from rag_service.http.middleware import Gate, Keyring, Requests
from rag_service.http.same_origin import CORS_METHODS, SAFE, SameOrigin
from rag_service.http.tracing import Traces
from rag_service.settings import read_settings

KEY = "key-of-all-0123456789"
KEYS = SecretStr(json.dumps([{"name": "all", "key": KEY, "write": True}]))
BEARER = {"authorization": f"Bearer {KEY}"}
EVIL = "https://evil.example"
APP = "https://app.example.com"
UNSAFE = ("POST", "PUT", "PATCH", "DELETE", "PROPFIND", "TRACE")
FOREIGN = (
    {"origin": EVIL},
    {"origin": "null"},
    {"origin": EVIL, "sec-fetch-site": "cross-site"},
    {"origin": "null", "sec-fetch-site": "none"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
)
QUESTION_BODY = {"json": {"query": QUESTION}}
BODIES: tuple[dict[str, Any], ...] = (
    {"files": {"files": ("planted.md", b"# Planted\n\nThe password is swordfish.\n")}},
    {"data": {"query": QUESTION}},
    {"content": json.dumps({"query": QUESTION}), "headers": {"content-type": "text/plain"}},
    QUESTION_BODY,
    {},
)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    """The application, for its routes; it is never started."""
    with environment({"RAG_HOME": str(tmp_path_factory.mktemp("routes"))}):
        return create_app(settings())


@pytest.fixture(scope="module")
def operations(app: FastAPI) -> list[tuple[str, str]]:
    """Every method and path there is, the parameters filled with names that do not exist."""
    found = {
        (method, f"{route.path}/x" if isinstance(route, Mount) else route.path)
        for route in _routes(app.router.routes)
        for method in getattr(route, "methods", None) or ("GET",)
    }
    described = {
        (method.upper(), path)
        for path, methods in app.openapi()["paths"].items()
        for method in methods
    }
    assert len(described) > 20 and ("POST", "/mcp") in found
    return sorted({(method, _filled(path)) for method, path in found | described})


def _routes(routes: list[Any]) -> Iterator[Any]:
    """Yield the routes of a router and of those it includes."""
    for route in routes:
        if hasattr(route, "path"):
            yield route
        else:
            yield from _routes(route.original_router.routes)


def _filled(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "nothere", path)


@pytest.fixture(scope="module")
def paths(operations: list[tuple[str, str]]) -> list[str]:
    """Every path there is, and one that is not."""
    return sorted({path for _, path in operations} | {"/nothere"})


@pytest.fixture(scope="module", params=["keyless", "keyed"])
def client(
    request: pytest.FixtureRequest, filled: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """A client of a service without keys, and one with a key of a service with keys."""
    keyed = request.param == "keyed"
    home = copy_home(filled, tmp_path_factory.mktemp("origins") / "home")
    given = settings(api_keys=KEYS if keyed else None, allowed_origins=(APP,))
    headers = BEARER if keyed else {}
    with (
        serving(given, home=home) as url,
        httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=60) as client,
    ):
        yield client


def own_origin(client: httpx.Client) -> str:
    return f"http://{client.base_url.netloc.decode()}"


def stored(client: httpx.Client) -> list[Any]:
    """Return all collections and documents."""
    return [client.get(path).json() for path in ("/v1/collections", "/v1/documents")]


def outcome(response: httpx.Response) -> tuple[int, str]:
    """Return the status and the code of an error, of an answer no code."""
    kind = response.headers.get("content-type")
    body = response.json() if response.content and kind == "application/json" else {}
    return response.status_code, body.get("error", {}).get("code", "")


# -- every route ----------------------------------------------------------------------------------


@pytest.mark.parametrize("foreign", FOREIGN, ids=str)
def test_threat_foreign_site_is_refused_by_every_route(
    foreign: dict[str, str], paths: list[str], client: httpx.Client
) -> None:
    """Every method that is not safe, on every path, also paths and methods that do not exist."""
    before = stored(client)
    outcomes = {
        (method, path): outcome(client.request(method, path, headers=foreign))
        for path in paths
        for method in UNSAFE
    }

    assert set(outcomes.values()) == {(403, "forbidden")}
    assert stored(client) == before


@pytest.mark.parametrize("body", BODIES, ids=["multipart", "form", "text", "json", "empty"])
def test_threat_foreign_site_is_refused_with_any_body(
    body: dict[str, Any], client: httpx.Client
) -> None:
    """Bodies that a browser sends without a preflight, and others; the message has the way out."""
    before = stored(client)
    for path in ("/v1/documents", "/rag_modules", "/mcp"):
        headers = {"origin": EVIL, **body.get("headers", {})}
        response = client.post(path, **{**body, "headers": headers})

        assert outcome(response) == (403, "forbidden")
        assert f"(Origin: {EVIL})" in response.json()["error"]["message"]
        assert "RAG_ALLOWED_ORIGINS" in response.json()["error"]["message"]
        assert not [name for name in response.headers if name.startswith("access-control-")]
    assert stored(client) == before


def test_threat_foreign_site_is_refused_before_its_key_is_checked(client: httpx.Client) -> None:
    """A page of another site does not learn whether a key is valid."""
    for authorization in ("", "Bearer wrong", BEARER["authorization"]):
        headers = {"origin": EVIL, "authorization": authorization}

        assert outcome(client.post("/v1/search", headers=headers, **QUESTION_BODY)) == (
            403,
            "forbidden",
        )


def test_requests_of_the_own_page_and_of_programs_are_answered_alike(
    operations: list[tuple[str, str]], client: httpx.Client
) -> None:
    """Whatever a route answers a program, it answers the page, the address bar and allowed sites."""
    for method, path in operations:
        expected = outcome(client.request(method, path))
        for headers in (
            {"origin": own_origin(client)},
            {"origin": own_origin(client), "sec-fetch-site": "same-origin"},
            {"sec-fetch-site": "same-origin"},
            {"sec-fetch-site": "none"},
            {"origin": APP, "sec-fetch-site": "cross-site"},
        ):
            assert outcome(client.request(method, path, headers=headers)) == expected, path
        assert expected[0] != 403, path


def test_every_route_that_is_refused_says_so_in_openapi(app: FastAPI) -> None:
    """403 is documented for whatever is not safe, and CORS has every method."""
    unsafe = {
        (method.upper(), path): operation
        for path, methods in app.openapi()["paths"].items()
        for method, operation in methods.items()
        if method.upper() not in SAFE
    }

    assert [key for key, operation in unsafe.items() if "403" not in operation["responses"]] == []
    assert {method for method, _ in unsafe} <= set(CORS_METHODS.split(", "))


def test_reading_is_answered_but_not_shared_with_other_sites(client: httpx.Client) -> None:
    """A page cannot read a response without a CORS header."""
    for path in ("/", "/v1/documents", "/v1/info"):
        response = client.get(path, headers={"origin": EVIL, "sec-fetch-site": "cross-site"})

        assert response.status_code == 200
        assert not [name for name in response.headers if name.startswith("access-control-")]
        assert response.headers["vary"] == "Origin"


def test_a_service_without_allowed_sites_shares_nothing(http: httpx.Client) -> None:
    """The default: no CORS at all."""
    response = http.get("/v1/info", headers={"origin": APP})

    assert not [name for name in response.headers if name.startswith(("access-control-", "vary"))]


# -- what is the own origin -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "host", "scheme", "passes"),
    [
        ("http://localhost:8000", "localhost:8000", "http", True),
        ("http://localhost:8000", "LOCALHOST:8000", "http", True),
        ("HTTP://LocalHost:8000", "localhost:8000", "http", True),
        ("http://[::1]:8000", "[::1]:8000", "http", True),
        ("http://[FE80::A]:8000", "[fe80::a]:8000", "http", True),
        ("http://rag.example", "rag.example", "http", True),
        ("http://rag.example", "rag.example:80", "http", True),
        ("http://rag.example:80", "rag.example", "http", True),
        ("https://rag.example", "rag.example", "https", True),
        ("https://rag.example", "rag.example:443", "https", True),
        # TLS ended by a proxy that does not say so, or is not trusted
        ("https://rag.example", "rag.example", "http", True),
        ("https://rag.example", "rag.example:443", "http", True),
        ("https://rag.example:8443", "rag.example:8443", "http", True),
        # a trusted proxy said https: a page of the unencrypted site is another one
        ("http://rag.example", "rag.example", "https", False),
        ("http://rag.example:8443", "rag.example:8443", "https", False),
        ("http://localhost:3000", "localhost:8000", "http", False),
        ("http://localhost", "localhost:8000", "http", False),
        ("http://127.0.0.1:8000", "localhost:8000", "http", False),
        ("http://[::2]:8000", "[::1]:8000", "http", False),
        ("http://localhost.evil.example:8000", "localhost:8000", "http", False),
        ("http://evil.example", "rag.example", "http", False),
        ("http://localhost:8000@evil.example", "localhost:8000", "http", False),
        ("http://evil@localhost:8000", "localhost:8000", "http", False),
        ("http://localhost:8000/", "localhost:8000", "http", False),
        ("http://localhost:8000, http://evil.example", "localhost:8000", "http", False),
        ("app://localhost:8000", "localhost:8000", "http", False),
        ("localhost:8000", "localhost:8000", "http", False),
        ("//localhost:8000", "localhost:8000", "http", False),
        ("http://", "", "http", False),
        ("http://evil.example", "", "http", False),
        ("null", "null", "http", False),
        ("file://", "localhost:8000", "http", False),
        ("http://xn--mnchen-3ya.example", "xn--mnchen-3ya.example", "http", True),
    ],
)
def test_the_own_origin_is_that_of_the_host_header(
    origin: str, host: str, scheme: str, passes: bool
) -> None:
    """Compared as browsers compare: case, default ports, IPv6; the scheme where it is known."""
    status = asyncio.run(_post(SameOrigin(_answer, settings=settings()), origin, host, scheme))

    assert status == (200 if passes else 403)


def test_the_browsers_own_comparison_holds_where_a_proxy_replaces_the_host_header() -> None:
    """`Sec-Fetch-Site: same-origin` is never sent for another site, and survives any proxy."""
    guard = SameOrigin(_answer, settings=settings())
    same = {"sec-fetch-site": "same-origin"}

    assert asyncio.run(_post(guard, "https://rag.example", "127.0.0.1:8000", "http")) == 403
    assert asyncio.run(_post(guard, "https://rag.example", "127.0.0.1:8000", "http", same)) == 200
    assert asyncio.run(_post(guard, "null", "127.0.0.1:8000", "http", same)) == 200


@pytest.mark.parametrize(
    ("forwarded", "origin", "status"),
    [
        ({}, "http://rag.example", 200),
        ({}, "https://rag.example", 200),
        ({"x-forwarded-proto": "https"}, "https://rag.example", 200),
        ({"x-forwarded-proto": "https"}, "http://rag.example", 403),
        ({"x-forwarded-host": "evil.example"}, "https://evil.example", 403),
        ({"forwarded": "host=evil.example"}, "https://evil.example", 403),
    ],
)
def test_behind_a_proxy(
    forwarded: dict[str, str], origin: str, status: int, keyed: httpx.Client
) -> None:
    """X-Forwarded-Proto of a trusted proxy, such as one on this machine, is heard; no other host is."""
    headers = {**BEARER, "host": "rag.example", "origin": origin, **forwarded}

    assert keyed.post("/v1/search", headers=headers, **QUESTION_BODY).status_code == status


@pytest.fixture(scope="module")
def keyed(filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client without a key of a service with keys."""
    home = copy_home(filled, tmp_path_factory.mktemp("keyed") / "home")
    given = settings(api_keys=KEYS, allowed_origins=(APP,))
    with (
        serving(given, home=home) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=60) as client,
    ):
        yield client


async def _answer(scope: Scope, receive: Receive, send: Send) -> None:
    await Response()(scope, receive, send)


async def _post(
    app: ASGIApp, origin: str, host: str, scheme: str, more: dict[str, str] | None = None
) -> int:
    """Post to an application as a server would call it; returns the status."""
    wrapped = Requests(app, settings=settings(), metrics=Metrics(), traces=Traces())
    transport = httpx.ASGITransport(wrapped)
    async with httpx.AsyncClient(transport=transport, base_url=f"{scheme}://x") as client:
        headers = {"origin": origin, "host": host, **(more or {})}
        return (await client.post("/v1/documents", headers=headers)).status_code


# -- the connection -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "length", ["content-length: 100000", "transfer-encoding: chunked"], ids=["length", "chunked"]
)
@pytest.mark.parametrize("path", ["/v1/documents", "/rag_modules?stream=true", "/mcp"])
def test_threat_foreign_site_is_refused_before_its_body_is_read(
    path: str, length: str, http: httpx.Client
) -> None:
    """403 comes while the body is still to be sent."""
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\norigin: {EVIL}\r\n{length}\r\n\r\n"
    with socket.create_connection(_address(http), timeout=30) as raw:
        raw.sendall(head.encode())

        assert raw.recv(65536).startswith(b"HTTP/1.1 403")


def test_threat_foreign_site_is_refused_among_pipelined_requests(http: httpx.Client) -> None:
    """Each request of a connection is judged by its own headers."""
    body = json.dumps({"query": QUESTION})

    def post(origin: str, extra: str = "") -> str:
        return (
            f"POST /v1/search HTTP/1.1\r\nhost: localhost\r\norigin: {origin}\r\n{extra}"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}"
        )

    own, end = "http://localhost", "connection: close\r\n"
    with socket.create_connection(_address(http), timeout=30) as raw:
        raw.sendall("".join((post(own), post(EVIL), post(own), post(EVIL, end))).encode())
        received = b"".join(iter(lambda: raw.recv(65536), b""))

    assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"200", b"403", b"200", b"403"]


def _address(client: httpx.Client) -> tuple[str, int]:
    return client.base_url.host, client.base_url.port or 80


# -- CORS -----------------------------------------------------------------------------------------

PREFLIGHT = {
    "access-control-request-method": "DELETE",
    "access-control-request-headers": "authorization,content-type,x-stainless-os",
}


def test_a_preflight_of_an_allowed_site_is_answered_without_a_key(
    keyed: httpx.Client, paths: list[str]
) -> None:
    """Browsers send no key along; any header may be asked for, as clients have their own."""
    for path in paths:
        response = keyed.options(
            path, headers={"origin": APP, "sec-fetch-site": "cross-site", **PREFLIGHT}
        )

        assert (response.status_code, response.content) == (204, b"")
        assert response.headers["x-request-id"]
        assert {
            name: value
            for name, value in response.headers.items()
            if name.startswith(("access-control-", "vary"))
        } == {
            "access-control-allow-origin": APP,
            "access-control-allow-methods": "GET, POST, DELETE",
            "access-control-allow-headers": "authorization,content-type,x-stainless-os",
            "access-control-expose-headers": (
                "Idempotency-Replayed, Retry-After, WWW-Authenticate, X-Request-Id"
            ),
            "access-control-max-age": "600",
            "vary": "Origin, Access-Control-Request-Headers",
        }


@pytest.mark.parametrize("origin", [EVIL, "null", "http://app.example.com", f"{APP}:8443"])
def test_threat_foreign_site_gets_no_preflight(
    origin: str, client: httpx.Client, paths: list[str]
) -> None:
    """403 and no CORS header, with the key of nobody."""
    for path in paths:
        response = client.options(path, headers={"origin": origin, **PREFLIGHT})

        assert outcome(response) == (403, "forbidden")
        assert not [name for name in response.headers if name.startswith("access-control-")]


def test_options_is_as_before_where_it_is_no_preflight(client: httpx.Client) -> None:
    """No route takes it."""
    for headers in ({}, {"origin": EVIL}, PREFLIGHT):
        assert outcome(client.options("/v1/search", headers=headers))[0] == 405


def test_an_allowed_site_can_read_answers_and_errors(keyed: httpx.Client) -> None:
    """Also what the key check refuses, so that its page can say why."""
    for headers, status in ((BEARER, 200), ({}, 401), ({**BEARER, "content-type": "text/x"}, 415)):
        response = keyed.post("/v1/search", headers={"origin": APP, **headers}, **QUESTION_BODY)

        assert response.status_code == status
        assert response.headers["access-control-allow-origin"] == APP
        assert "X-Request-Id" in response.headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in response.headers
    streamed = {"origin": APP, "accept": "text/event-stream", **BEARER}
    response = keyed.post("/rag_modules", headers=streamed, **QUESTION_BODY)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["access-control-allow-origin"] == APP


async def _broken(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError


@pytest.mark.parametrize("status", [500, 503])
def test_an_allowed_site_can_read_that_the_service_is_overloaded_or_broken(status: int) -> None:
    """What is answered outside of the other middleware has the headers, too."""
    given, metrics = settings(allowed_origins=(APP,)), Metrics()
    admission = Admission(1, 0, 0.5, metrics)
    admission.draining = status == 503
    requests = Requests(_broken, settings=given, metrics=metrics, traces=Traces())
    gate = Gate(requests, admission=admission, keys=Keyring(()), settings=given, metrics=metrics)

    async def ask(origin: str) -> httpx.Response:
        transport = httpx.ASGITransport(gate)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.post("/rag_modules", headers={"origin": origin})

    allowed, foreign = asyncio.run(ask(APP)), asyncio.run(ask(EVIL))
    assert (allowed.status_code, foreign.status_code) == (status, status)
    assert allowed.headers["access-control-allow-origin"] == APP
    assert "access-control-allow-origin" not in foreign.headers
    assert allowed.headers["vary"] == foreign.headers["vary"] == "Origin"


# -- the setting ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "origin"),
    [
        (APP, APP),
        ("HTTPS://App.Example.com:443", APP),
        ("http://localhost:5173", "http://localhost:5173"),
        ("http://[::1]:5173", "http://[::1]:5173"),
        ("app://obsidian.md", "app://obsidian.md"),
    ],
)
def test_an_allowed_origin_is_kept_as_browsers_write_it(written: str, origin: str) -> None:
    """Any scheme: desktop applications have their own."""
    with environment({"RAG_ALLOWED_ORIGINS": json.dumps([written])}):
        assert read_settings().allowed_origins == (origin,) == (normalize(written),)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ('["*"]', "list the sites"),
        ('["https://*.example.com"]', "is not an origin"),
        ('["https://app.example.com/"]', "without a path or a slash"),
        ('["https://app.example.com/page"]', "is not an origin"),
        ('["app.example.com"]', "write scheme, host"),
        ('["null"]', "is not an origin"),
        ('["https://user@app.example.com"]', "is not an origin"),
        ('["https://app.example.com\\n"]', "is not an origin"),
        ('[""]', "is not an origin"),
        ("https://app.example.com", "lists in JSON"),
        ("*", "lists in JSON"),
    ],
)
def test_what_is_no_origin_is_refused_at_the_start(value: str, text: str) -> None:
    """With the setting's name and what to write."""
    with (
        environment({"RAG_ALLOWED_ORIGINS": value}),
        pytest.raises(StepError, match="RAG_ALLOWED_ORIGINS") as refused,
    ):
        read_settings()

    assert refused.value.code == "misconfigured"
    assert text in refused.value.message


# -- headers of pages -----------------------------------------------------------------------------


def test_nothing_is_sniffed_and_no_page_framed(http: httpx.Client, paths: list[str]) -> None:
    """Every answer says nosniff; every page, that no other may show it."""
    for path in paths:
        response = http.get(path, headers={"accept": "text/html"})

        assert response.headers["x-content-type-options"] == "nosniff", path
        if response.headers.get("content-type", "").startswith("text/html"):
            assert response.headers["x-frame-options"] == "DENY", path
            assert "frame-ancestors 'none'" in response.headers["content-security-policy"], path
            assert response.headers["referrer-policy"] == "no-referrer", path


def test_only_the_inline_script_of_the_api_page_runs(http: httpx.Client) -> None:
    """By its digest: no `unsafe-inline` for scripts."""
    policy = http.get("/docs").headers["content-security-policy"]
    scripts = policy.partition("script-src ")[2].partition(";")[0]

    assert re.fullmatch(r"'self' 'sha256-[A-Za-z0-9+/]{43}='", scripts)
