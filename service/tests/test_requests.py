"""Reading a request by itself: media type, JSON, hosts and keys in it, the model; no server."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

import httpx
import pytest
from fastapi import FastAPI, Query
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request

from rag_kit.errors import StepError
from rag_service.api.dependencies import Flag
from rag_service.http.context import Context
from rag_service.http.errors import on_validation_error
from rag_service.http.requests import (
    MAX_DEPTH,
    otherwise,
    read,
    refuse_hosts,
    takes,
)


class Inner(BaseModel):
    """A part of a question."""

    name: str = "x"


class Ask(BaseModel):
    """What is read."""

    model_config = ConfigDict(extra="forbid")

    query: str
    url: str = ""
    top_k: int = Field(5, ge=1)
    filters: dict[str, Any] = {}
    parts: list[Inner] = []


def request(body: bytes = b"", kind: str | None = "application/json", query: str = "") -> Request:
    headers = [] if kind is None else [(b"content-type", kind.encode())]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    scope = {"type": "http", "method": "POST", "path": "/", "headers": headers}
    return Request({**scope, "query_string": query.encode()}, receive)


def asked(data: Any, **more: Any) -> Ask:
    return asyncio.run(read(request(json.dumps(data).encode(), **more), Ask))


def refused(data: Any, **more: Any) -> StepError:
    with pytest.raises(StepError) as error:
        asked(data, **more)
    return error.value


@pytest.mark.parametrize(
    "kind",
    [
        *("application/json", "Application/JSON; charset=utf-8", " application/json ;x", None),
        *("application/problem+json", "application/vnd.x+JSON"),
    ],
)
def test_json_by_any_of_its_names(kind: str | None) -> None:
    """In any case, with parameters, with a suffix; and where nothing is said."""
    assert asked({"query": "q", "top_k": 3}, kind=kind).top_k == 3


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("text/plain", "text/plain"),
        ("application/jsonx", "application/jsonx"),
        ("", "nothing"),
        ("x" * 100, "x" * 80),
    ],
)
def test_fault_wrong_method_or_media_type_is_named(kind: str, said: str) -> None:
    """What it is, cut to a length one can read; before the body is parsed."""
    error = refused("no object", kind=kind)

    assert (error.code, error.message) == (
        "unsupported_media_type",
        f"send application/json; this is {said}",
    )


def test_fault_malformed_request_names_field_and_value() -> None:
    """Strictly: a number as text is none."""
    error = refused({"query": "q", "top_k": "3"})
    unknown = refused({"query": "q", "topk": 3})

    assert (error.code, error.param) == ("invalid_request", "top_k")
    assert "'3'" in error.message
    assert (unknown.code, unknown.param) == ("invalid_request", "topk")


def test_a_request_nests_as_deep_as_is_allowed() -> None:
    """Sixteen containers, and not one more."""

    def deep(levels: int) -> dict[str, Any]:
        value: dict[str, Any] = {}
        for _ in range(levels - 2):
            value = {"a": value}
        return {"query": "q", "filters": value}

    assert asked(deep(MAX_DEPTH)).query == "q"
    assert f"deeper than {MAX_DEPTH} levels" in refused(deep(MAX_DEPTH + 1)).message


HOSTS = (
    *("host", "qdrant_host", "hostName", "url", "baseUrl", "llm-base-url", "URI", "endpoint"),
    *("api_base", "apiKey", "api-key", "proxy", "https_proxy", "client_secret", "password"),
)


@pytest.mark.parametrize("name", HOSTS)
@pytest.mark.parametrize("where", ["", "retrieve", "a.b", "list"])
def test_threat_request_forgery_by_any_name(name: str, where: str) -> None:
    """At any depth, in lists too; the path is told, the value never."""
    data: dict[str, Any] = {name: "10.0.0.1:6333"}
    path = name
    for outer in reversed([one for one in where.split(".") if one]):
        data, path = {outer: [data] if where == "list" else data}, f"{outer}.{path}"

    with pytest.raises(StepError) as error:
        refuse_hosts({"query": "q", **data})

    assert (error.value.code, error.value.param) == ("target_not_allowed", path)
    assert error.value.message.startswith(f"{path}: a request never carries a host, URL or key")
    assert "10.0.0.1" not in error.value.message


def test_a_long_path_is_cut() -> None:
    """Eighty characters of it."""
    with pytest.raises(StepError) as error:
        refuse_hosts({"x" * 100 + "_url": 1})

    assert error.value.param == "x" * 80


def test_threat_request_forgery_is_found_while_it_is_read() -> None:
    """At any depth, before the model looks; a field the model has is its own."""
    error = refused(
        {"query": "q", "filters": {}, "parts": [{"name": "x", "qdrant_url": "http://x"}]}
    )

    assert (error.code, "qdrant_url" in error.message) == ("target_not_allowed", True)
    assert asked({"query": "q", "url": "http://mine"}).url == "http://mine"


@pytest.mark.parametrize(
    "data",
    [
        {"hostage": 1, "urls_seen": 1, "keyword": 1, "proxying": 1, "hosts": 1},
        {"filters": {"url": "https://example.com", "a": {"host": "x"}}},
        {"metadata": {"api_key": "x"}},
        {"documents": [{"metadata": {"url": "x"}}]},
        {"messages": [{"url": "x"}], "tools": [{"url": "x"}], "functions": [{"url": "x"}]},
        {"metadata_condition": {"host": "x"}, "response_format": {"url": "x"}},
    ],
)
def test_data_may_be_called_anything(data: dict[str, Any]) -> None:
    """Only a name that ends so; and what the caller names himself is his own."""
    refuse_hosts(data)


def test_a_data_field_itself_is_no_place_to_hide() -> None:
    """`documents` is looked through; only its metadata is not."""
    with pytest.raises(StepError) as error:
        refuse_hosts({"documents": [{"url": "x"}]})
    assert error.value.param == "documents.url"


def test_a_field_of_its_own_is_none() -> None:
    """On its own level alone."""
    assert asked({"query": "q", "url": "u"}).url == "u"
    refuse_hosts({"url": "x"}, known={"url"})
    with pytest.raises(StepError):
        refuse_hosts({"a": {"url": "x"}}, known={"url"})


@pytest.mark.parametrize("scheme", ["env", "file", "cmd", "op", "vault", "ENV", "  env"])
@pytest.mark.parametrize("step", ["retrieve", "augment", "generate"])
def test_threat_request_forgery_by_the_address_of_a_secret(scheme: str, step: str) -> None:
    """What Dagger reads as the address of a secret is refused as an option, and is text elsewhere."""
    value = f"{scheme}://HOME"
    with pytest.raises(StepError) as error:
        refuse_hosts({step: {"system": value}})
    assert (error.value.code, error.value.param) == ("target_not_allowed", f"{step}.system")
    refuse_hosts({"query": value, "filters": {"a": value}, step: {"system": f"x {value}", "n": 3}})


def flagged(query: str, *, default: bool = False) -> httpx.Response:
    """What a route answers that takes the flags `wait` and `stream`."""
    app = FastAPI(exception_handlers={RequestValidationError: on_validation_error})

    @app.middleware("http")
    async def with_context(http: Request, call_next: Any) -> Any:
        http.scope.setdefault("state", {})["rag"] = Context("r-1", 0)
        return await call_next(http)

    @app.get("/")
    async def route(
        wait: Annotated[Flag, Query(description="Whether.")] = default, stream: Flag = default
    ) -> list[bool]:
        return [wait, stream]

    return asyncio.run(_get(app, query))


async def _get(app: FastAPI, query: str) -> httpx.Response:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.get(f"/?{query}" if query != "openapi" else "/openapi.json")


@pytest.mark.parametrize(
    ("query", "default", "found"),
    [
        ("", False, False),
        ("", True, True),
        ("wait", False, True),
        ("wait=", False, True),
        ("wait=true", False, True),
        ("wait=1", False, True),
        ("wait=false", True, False),
        ("wait=0", True, False),
        ("b=1", False, False),
    ],
)
def test_a_flag_of_the_address(query: str, default: bool, found: bool) -> None:
    """Its name alone is yes."""
    assert flagged(query, default=default).json() == [found, default]


@pytest.mark.parametrize("value", ["y" * 50, "yes", "on", "True", "2", "null"])
def test_a_flag_that_is_neither_is_refused(value: str) -> None:
    """With its value, cut."""
    answer = flagged(f"stream={value}")
    error = answer.json()["error"]

    assert answer.status_code == 422
    assert (error["code"], error["param"]) == ("invalid_request", "stream")
    assert error["message"] == f"stream: send true or false, but got {value[:40]!r}"


@pytest.mark.parametrize("default", [True, False])
def test_openapi_says_what_a_flag_takes(default: bool) -> None:
    """A boolean, or one of the texts that stand for it; all of them are read."""
    document = flagged("openapi", default=default).json()
    told = document["paths"]["/"]["get"]["parameters"][0]

    assert told == {
        "name": "wait",
        "in": "query",
        "description": "Whether.",
        "required": False,
        "schema": {
            "anyOf": [{"type": "boolean"}, {"type": "string", "enum": ["1", "0", ""]}],
            "default": default,
            "title": "Wait",
        },
    }
    meant = {"true": True, "false": False, "1": True, "0": False, "": True}
    assert {text: flagged(f"wait={text}", default=default).json()[0] for text in meant} == meant


def test_a_field_of_several_kinds_says_what_it_takes() -> None:
    """In one sentence instead of one error a kind."""
    from pydantic import TypeAdapter, ValidationError

    kinds = TypeAdapter(Annotated[int | bool, otherwise("send a number")])

    assert kinds.validate_python(3) == 3
    with pytest.raises(ValidationError, match="send a number") as error:
        kinds.validate_python("x")
    assert error.value.error_count() == 1


def test_openapi_of_a_body_stands_alone() -> None:
    """No `$defs` and no references are left; what is added stands in the field."""
    body = takes(Ask, query={"pattern": r"\S"})["requestBody"]
    schema = body["content"]["application/json"]["schema"]

    assert body["required"] is True
    assert schema["properties"]["query"] == {
        "title": "Query",
        "type": "string",
        "pattern": r"\S",
    }
    items = schema["properties"]["parts"]["items"]
    assert items["properties"]["name"]["default"] == "x"
    assert "$" not in json.dumps(schema)
    assert schema["required"] == ["query"]
