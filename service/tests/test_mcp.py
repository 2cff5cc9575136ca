"""The tools at `/mcp`, called by the official `mcp` client over streamable HTTP."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import httpx2
import jsonschema
import pytest
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from service_kit import QUESTION, LLMStub, serving, settings

KEY = "k-hr-0123456789abcdef0"
KEYS = json.dumps([{"name": "hr", "key": KEY, "collections": ["hr"]}])
MODES = pytest.mark.parametrize("mode", ["legacy", "auto"])
CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
HEADERS = {"accept": "application/json, text/event-stream"}


@pytest.fixture(scope="module")
def guarded(filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = Path(shutil.copytree(filled, tmp_path_factory.mktemp("keys") / "home"))
    with serving(settings(api_keys=KEYS), home=home) as url:
        yield url


@MODES
def test_tools(service: str, mode: str) -> None:
    async def run() -> None:
        async with Client(f"{service}/mcp", mode=mode) as client:
            assert client.server_info is not None and client.server_info.name == "rag"
            tools = (await client.list_tools()).tools
            assert [tool.name for tool in tools] == ["ask", "search"]
            for tool in tools:
                assert tool.description
                assert tool.input_schema["required"] == ["query"]
                jsonschema.Draft202012Validator.check_schema(tool.input_schema)
                jsonschema.Draft202012Validator.check_schema(tool.output_schema or {})
                assert tool.annotations is not None and tool.annotations.read_only_hint

    asyncio.run(run())


@MODES
def test_ask(service: str, mode: str) -> None:
    async def run() -> None:
        async with Client(f"{service}/mcp", mode=mode) as client:
            result = await client.call_tool("ask", {"query": QUESTION})
            assert not result.is_error
            answer = result.structured_content
            assert answer["answer"].endswith("signs as well [1].")
            assert answer["answerable"] is True
            assert answer["citations"][0]["document_id"] == "travel.md"
            text = result.content[0].text
            assert text.startswith(answer["answer"])
            assert f"[1] Travel rules (travel.md): “{answer['citations'][0]['quote']}”" in text

    asyncio.run(run())


@MODES
def test_search(service: str, mode: str) -> None:
    async def run() -> None:
        async with Client(f"{service}/mcp", mode=mode) as client:
            given = {"query": "leave", "collection": "hr", "top_k": 1, "filters": {"year": 2022}}
            result = await client.call_tool("search", given)
            (passage,) = result.structured_content["results"]
            assert passage["document_id"] == "leave.md"
            assert result.content[0].text == f"1. Leave (leave.md)\n{passage['text']}"
            nothing = await client.call_tool("search", {**given, "filters": {"year": 1}})
            assert nothing.structured_content["results"] == []
            assert nothing.content[0].text == "Nothing was found."

    asyncio.run(run())


@pytest.mark.parametrize(
    ("tool", "given", "code", "param"),
    [
        ("ask", {}, "invalid_request", "query"),
        ("ask", {"query": ""}, "invalid_request", "query"),
        ("ask", {"query": QUESTION, "top_k": 0}, "invalid_request", "top_k"),
        ("search", {"query": QUESTION, "no_context": "error"}, "invalid_request", "no_context"),
        ("search", {"query": QUESTION, "host": "x"}, "target_not_allowed", "host"),
        ("search", {"query": QUESTION, "filters": {"$x": 1}}, "invalid_request", "filters.$x"),
        ("ask", {"query": QUESTION, "collection": "no"}, "collection_not_found", "collection"),
        ("search", {"query": QUESTION, "rerank": "no"}, "invalid_request", "rerank"),
        ("ask", {"query": QUESTION, "rerank": True}, "invalid_request", "rerank"),
        (
            "ask",
            {"query": "Exoplanet Kepler-22b?", "no_context": "error"},
            "no_context",
            "no_context",
        ),
    ],
)
@MODES
def test_what_fails_is_told_to_the_caller(
    service: str, mode: str, tool: str, given: dict[str, Any], code: str, param: str | None
) -> None:
    async def run() -> None:
        async with Client(f"{service}/mcp", mode=mode) as client:
            result = await client.call_tool(tool, given)
            assert result.is_error
            assert result.content[0].text.startswith(f"{code}: ")
            told = result.meta["rag/error"]
            assert (told["code"], told["param"]) == (code, param)
            assert told["request_id"]

    asyncio.run(run())


def test_no_such_tool(service: str) -> None:
    async def run() -> None:
        async with Client(f"{service}/mcp") as client:
            with pytest.raises(MCPError, match="there are ask and search"):
                await client.call_tool("delete", {})

    asyncio.run(run())


def test_many_at_once(service: str) -> None:
    async def run() -> None:
        async with Client(f"{service}/mcp") as client:
            calls = [client.call_tool("search", {"query": QUESTION}) for _ in range(8)]
            results = await asyncio.gather(*calls)
            assert len({result.structured_content["id"] for result in results}) == 8

    asyncio.run(run())


@MODES
def test_a_key_uses_its_collections(guarded: str, mode: str) -> None:
    async def run() -> None:
        headers = {"authorization": f"Bearer {KEY}"}
        async with (
            httpx2.AsyncClient(headers=headers) as http,
            Client(streamable_http_client(f"{guarded}/mcp", http_client=http), mode=mode) as client,
        ):
            given = {"query": "How many days of leave?", "collection": "hr"}
            assert "25 days" in (await client.call_tool("ask", given)).content[0].text
            for other in ({"query": QUESTION}, {"query": QUESTION, "collection": "default"}):
                refused = await client.call_tool("ask", other)
                assert refused.meta["rag/error"]["code"] == "collection_not_found"

    asyncio.run(run())


def test_without_a_key(guarded: str) -> None:
    response = httpx.post(f"{guarded}/mcp", json=CALL, headers=HEADERS, trust_env=False)

    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["error"]["code"] == "unauthenticated"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 403),
        ({"host": "evil.example:8000"}, 403),
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "http://127.0.0.1.evil.example:80"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://localhost:3000"}, 403),
        ({"host": "localhost:8000", "origin": "http://localhost:8000"}, 200),
        ({"host": "localhost:8000"}, 200),
        ({"host": "[::1]:8000"}, 200),
    ],
)
def test_a_page_elsewhere_cannot_reach_it(
    service: str, headers: dict[str, str], status: int
) -> None:
    response = httpx.post(
        f"{service}/mcp", json=CALL, headers={**HEADERS, **headers}, trust_env=False
    )

    assert response.status_code == status


def test_with_keys_any_name_will_do(guarded: str) -> None:
    headers = {**HEADERS, "host": "rag.example", "authorization": f"Bearer {KEY}"}
    response = httpx.post(f"{guarded}/mcp", json=CALL, headers=headers, trust_env=False)

    assert response.status_code == 200


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_there_are_no_sessions(service: str, method: str) -> None:
    response = httpx.request(method, f"{service}/mcp", headers=HEADERS, trust_env=False)

    assert response.status_code == 405
    assert response.headers["allow"] == "POST"


def test_it_is_counted(service: str) -> None:
    httpx.post(f"{service}/mcp", json=CALL, headers=HEADERS, trust_env=False)

    counted = httpx.get(f"{service}/metrics", trust_env=False).text
    assert 'rag_requests_total{code="",route="/mcp",status="200",step=""}' in counted


def test_too_large(service: str) -> None:
    call = {**CALL, "params": {"x": "x" * 300_000}}
    response = httpx.post(f"{service}/mcp", json=call, headers=HEADERS, trust_env=False)

    assert response.status_code == 413
    assert response.json()["error"]["code"] == "body_too_large"


def test_the_deadline_and_a_client_that_leaves(home: Path, llm: LLMStub) -> None:
    """A call ends at the deadline; when its client goes away, so does the model's connection."""
    env = {"RAG_LLM_BASE_URL": llm.url, "RAG_LLM_MODEL": "stub"}
    llm.script = [llm.hang]
    arguments = {"name": "ask", "arguments": {"query": QUESTION}}
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": arguments}
    with serving(settings(deadline_s=2.0), home=home, env=env) as url:
        late = httpx.post(f"{url}/mcp", json=call, headers=HEADERS, trust_env=False, timeout=30)
        assert late.json()["result"]["_meta"]["rag/error"]["code"] == "deadline_exceeded"
        assert llm.client_gone.wait(10)

    llm.client_gone.clear()

    async def leave(url: str) -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            await llm.leave(client.post(f"{url}/mcp", json=call, headers=HEADERS))

    with serving(settings(deadline_s=30.0), home=home, env=env) as url:
        asyncio.run(leave(url))
        assert llm.client_gone.wait(10)
