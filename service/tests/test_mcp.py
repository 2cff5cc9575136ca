"""The tools at `/mcp`, called by the official `mcp` client over streamable HTTP."""

from __future__ import annotations

import asyncio
import html
import json
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
from service_kit import QUESTION, LLMStub, copy_home, environment, serving, settings
from starlette.testclient import TestClient

from rag_service.app import create_app
from rag_service.links import Links

KEY = "k-hr-0123456789abcdef0"
KEYS = json.dumps([{"name": "hr", "key": KEY, "collections": ["hr"]}])
MODES = pytest.mark.parametrize("mode", ["legacy", "auto"])
CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
HEADERS = {"accept": "application/json, text/event-stream"}


@pytest.fixture(scope="module")
def guarded(filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = copy_home(filled, tmp_path_factory.mktemp("keys") / "home")
    with serving(settings(api_keys=KEYS), home=home) as url:
        yield url


@MODES
def test_tools(service: str, mode: str) -> None:
    async def run() -> None:
        async with Client(f"{service}/mcp", mode=mode) as client:
            assert client.server_info is not None and client.server_info.name == "rag"
            tools = (await client.list_tools()).tools
            assert [tool.name for tool in tools] == ["ask", "search", "fetch"]
            for tool in tools:
                assert tool.description
                assert tool.input_schema["required"] == ["id" if tool.name == "fetch" else "query"]
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
            (shown,) = json.loads(result.content[0].text)["results"]
            assert shown == {
                "id": passage["id"],
                "title": "Leave",
                "url": passage["url"],
                "text": passage["text"],
            }
            nothing = await client.call_tool("search", {**given, "filters": {"year": 1}})
            assert nothing.structured_content["results"] == []
            assert json.loads(nothing.content[0].text) == {"results": []}

    asyncio.run(run())


@pytest.mark.parametrize("path", ["/mcp", "/mcp/chatgpt"])
def test_search_and_fetch_as_chatgpt_asks(service: str, path: str) -> None:
    """One text each; the id of a result reads its document, the address opens it at the passage."""

    async def run() -> None:
        async with Client(f"{service}{path}") as client:
            search = await client.call_tool("search", {"query": QUESTION})
            (content,) = search.content
            results = json.loads(content.text)["results"]
            assert len({one["id"] for one in results}) == len(results) > 1
            fetch = await client.call_tool("fetch", {"id": results[0]["id"]})
            (content,) = fetch.content
            document = json.loads(content.text)
            assert document == fetch.structured_content
            assert document.keys() == {"id", "title", "text", "url", "metadata"}
            assert (document["id"], document["title"]) == (results[0]["id"], "Travel rules")
            assert results[0]["text"] in document["text"]
            assert document["metadata"]["topic"] == "travel"
            for one in (results[0], document):
                shown = httpx.get(one["url"], trust_env=False)
                assert f"autofocus>{html.escape(results[0]['text'])}</mark>" in shown.text

    asyncio.run(run())


def test_the_tools_of_chatgpt_have_its_inputs_alone(service: str) -> None:
    async def run() -> None:
        async with Client(f"{service}/mcp/chatgpt") as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            assert tools.keys() == {"search", "fetch"}
            assert tools["search"].input_schema["properties"].keys() == {"query"}
            assert tools["fetch"].input_schema["properties"].keys() == {"id"}
            refused = await client.call_tool("search", {"query": QUESTION, "top_k": 3})
            assert refused.meta["rag/error"]["param"] == "top_k"

    asyncio.run(run())


@pytest.mark.parametrize(
    ("document_id", "found"),
    [
        ("default/travel.md", True),
        ("travel.md", True),
        ("hr/leave.md#0-10", True),
        ("travel.md#99-3", True),
        ("default/travel.md#0-99999", True),
        ("nowhere/travel.md", False),
        ("default/", False),
        ("../travel.md", False),
        ("hr/travel.md", False),
    ],
)
def test_an_id_is_read_with_care(service: str, document_id: str, found: bool) -> None:
    """A span that is none reads the document all the same; the service's own collection may be left out."""

    async def run() -> None:
        async with Client(f"{service}/mcp") as client:
            result = await client.call_tool("fetch", {"id": document_id})
            assert result.is_error is not found
            if not found:
                assert result.meta["rag/error"]["code"] == "document_not_found"
                assert repr(document_id) in result.content[0].text

    asyncio.run(run())


def test_of_a_long_document_the_part_around_the_passage_is_read(tmp_path: Path) -> None:
    from rag_kit.reports import StoredDocument
    from rag_service.api.mcp_documents import FETCHED, Fetched, _fetched

    text = "".join(f"{number:09} " for number in range(50_000))
    document = StoredDocument(
        document_id="long", title="Long", source="long", content_type="text/plain", text=text,
        content_hash="x", characters=len(text), chunks=1, metadata={}, pages=[],
    )  # fmt: skip

    class Addresses:
        """Stands for the service: no views."""

        def links(self, _: object) -> Links:
            return Links("http://x", views=False)

    part: Fetched = _fetched("id", document, "c", (400_000, 400_009), Addresses(), object())  # type: ignore[arg-type]

    assert len(part.text) == len(text) - part.metadata["from"] <= FETCHED  # type: ignore[index,operator]
    assert text[400_000:400_009] in part.text
    assert part.url == "rag://c/long"


# -- resources and prompts ------------------------------------------------------------------------


@MODES
def test_documents_are_resources(service: str, mode: str) -> None:
    """All that may be read are listed and read; prompts are an empty list."""

    async def run() -> None:
        async with Client(f"{service}/mcp", mode=mode) as client:
            listed = (await client.list_resources()).resources
            assert [one.uri for one in listed] == [
                *(f"rag://default/{name}" for name in ("building.txt", "hours.md", "travel.md")),
                "rag://hr/leave.md",
            ]
            (content,) = (await client.read_resource("rag://hr/leave.md")).contents
            assert "25 days" in content.text
            (template,) = (await client.list_resource_templates()).resource_templates
            assert template.uri_template == "rag://{collection}/{+document_id}"
            assert (await client.list_prompts()).prompts == []
            for unknown in ("rag://hr/nothing", "rag://hr", "file:///etc/passwd", "rag://a%20b/c"):
                with pytest.raises(MCPError) as failed:
                    await client.read_resource(unknown)
                assert failed.value.error.data["code"].endswith("_not_found")

    asyncio.run(run())


def test_resources_are_listed_in_pages(monkeypatch: pytest.MonkeyPatch, service: str) -> None:
    monkeypatch.setattr("rag_service.api.mcp.PAGE", 3)

    async def run() -> None:
        async with Client(f"{service}/mcp") as client:
            first = await client.list_resources()
            second = await client.list_resources(cursor=first.next_cursor)
            assert (len(first.resources), len(second.resources)) == (3, 1)
            assert second.next_cursor is None

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
            with pytest.raises(MCPError, match="there are ask, search, fetch"):
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
            assert [one.uri for one in (await client.list_resources()).resources] == [
                "rag://hr/leave.md"
            ]
            hidden = await client.call_tool("fetch", {"id": "default/travel.md"})
            assert hidden.meta["rag/error"]["code"] == "document_not_found"
            with pytest.raises(MCPError):
                await client.read_resource("rag://default/travel.md")
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


@pytest.mark.parametrize(
    ("given", "base"),
    [
        ({"oidc_issuer": "https://login.example"}, "http://testserver"),
        (
            {"oidc_issuer": "https://login.example", "public_url": "https://docs.example/rag/"},
            "https://docs.example/rag",
        ),
    ],
)
def test_who_signs_people_in_is_said(given: dict[str, Any], base: str, tmp_path: Path) -> None:
    """Without a key, where a refusal points to; nothing is said where no tokens are accepted."""
    with environment({"RAG_HOME": str(tmp_path)}):
        app = create_app(settings(**given))
    client = TestClient(app)
    refused = client.post("/mcp", json=CALL, headers=HEADERS)
    path = f"{base}/.well-known/oauth-protected-resource/mcp"

    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == f'Bearer resource_metadata="{path}"'
    told = client.get("/.well-known/oauth-protected-resource/mcp").json()
    assert (told["resource"], told["authorization_servers"]) == (
        *(f"{base}/mcp", ["https://login.example"]),
    )
    assert client.get("/.well-known/oauth-protected-resource").json()["resource"] == base


def test_without_tokens_nobody_is_named(guarded: str) -> None:
    response = httpx.get(f"{guarded}/.well-known/oauth-protected-resource/mcp", trust_env=False)

    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")


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
