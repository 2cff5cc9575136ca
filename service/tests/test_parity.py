"""One question, every interface: the same citations, the same passages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from httpx_sse import connect_sse
from mcp.client.client import Client
from service_kit import QUESTION, LLMStub, serving

Ask = Callable[[str], tuple[str, list[dict[str, Any]]]]
"""Asks at a base URL; returns answer and citations."""
Find = Callable[[str], list[dict[str, Any]]]
"""Searches at a base URL; returns passages by the names of `/v1/search`."""
FIELDS = (
    "marker", "document_id", "chunk_id", "title", "source", "page", "date", "score", "spans", "quote",
    "quotes", "url",
)  # fmt: skip
BODY: Any = {"query": QUESTION}
MESSAGES: list[Any] = [{"role": "user", "content": QUESTION}]


def call(url: str, path: str, body: Any) -> Any:
    response = httpx.post(f"{url}{path}", json=body, trust_env=False, timeout=30)
    assert response.status_code == 200, response.text
    return response.json()


def tool(url: str, name: str) -> Any:
    async def run() -> Any:
        async with Client(f"{url}/mcp") as client:
            return (await client.call_tool(name, BODY)).structured_content

    return asyncio.run(run())


def ask_json(url: str) -> tuple[str, list[dict[str, Any]]]:
    answer = call(url, "/rag_modules", BODY)
    return answer["answer"], answer["citations"]


def ask_events(url: str) -> tuple[str, list[dict[str, Any]]]:
    citations, answer = [], ""
    with (
        httpx.Client(trust_env=False, timeout=30) as client,
        connect_sse(client, "POST", f"{url}/rag_modules?stream=true", json=BODY) as events,
    ):
        for event in events.iter_sse():
            if event.event == "citation":
                citations.append(event.json()["citation"])
            if event.event == "final_answer":
                answer = event.json()["answer"]
                assert event.json()["citations"] == citations
    return answer, citations


def ask_chat(url: str) -> tuple[str, list[dict[str, Any]]]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any") as client:
        answer = client.chat.completions.create(model="rag", messages=MESSAGES)
    return answer.choices[0].message.content or "", (answer.model_extra or {})["citations"]


def ask_chat_stream(url: str) -> tuple[str, list[dict[str, Any]]]:
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key="any") as client,
        client.chat.completions.create(model="rag", messages=MESSAGES, stream=True) as stream,
    ):
        last = list(stream)[-1].model_extra or {}
    return last["answer"], last["citations"]


def ask_mcp(url: str) -> tuple[str, list[dict[str, Any]]]:
    answer = tool(url, "ask")
    return answer["answer"], answer["citations"]


def find_json(url: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = call(url, "/v1/search", BODY)["results"]
    return found


def find_vector_store(url: str) -> list[dict[str, Any]]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any") as client:
        page = client.vector_stores.search("default", query=QUESTION, max_num_results=5)
    return [
        {
            **(item.model_extra or {}),
            "document_id": item.file_id,
            "source": item.filename,
            "score": item.score,
            "text": item.content[0].text,
            "metadata": item.attributes,
        }
        for item in page.data
    ]


def find_dify(url: str) -> list[dict[str, Any]]:
    body = {"knowledge_id": "default", "retrieval_setting": {"top_k": 5}, **BODY}
    places = ("document_id", "chunk_id", "source", "page", "span")
    return [
        {
            "text": record["content"],
            "score": record["score"],
            "title": record["title"],
            **{name: record["metadata"].pop(name) for name in places},
            **{
                name: record["metadata"].pop(name)
                for name in ("headings", "date")
                if name in record["metadata"]
            },
            "metadata": record["metadata"],
        }
        for record in call(url, "/retrieval", body)["records"]
    ]


def find_mcp(url: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tool(url, "search")["results"]
    return found


ASKS: list[Ask] = [ask_json, ask_events, ask_chat, ask_chat_stream, ask_mcp]
FINDS: list[Find] = [find_json, find_vector_store, find_dify, find_mcp]


@pytest.fixture
def written(home: Path, llm: LLMStub) -> Iterator[str]:
    """Base URL of a service whose answers a language model writes, with a number too many."""
    llm.script = [llm.text("Above that the finance ", "director signs as well [1]", " [7].")]
    env = {"RAG_LLM_BASE_URL": llm.url, "RAG_LLM_MODEL": "stub"}
    with serving(home=home, env=env) as url:
        yield url


@pytest.mark.parametrize("ask", ASKS[1:])
def test_the_same_citations(service: str, ask: Ask) -> None:
    answer, citations = ask_json(service)

    assert ask(service) == (answer, citations)
    assert [citation["document_id"] for citation in citations] == ["travel.md"]
    assert set(citations[0]) == set(FIELDS)


def test_the_same_citations_of_a_models_answer(written: str) -> None:
    answers = [ask(written) for ask in ASKS]

    answer, citations = answers[0]
    assert answers == [(answer, citations)] * len(ASKS)
    assert [citation["marker"] for citation in citations] == [1]
    assert "[1]" in answer and "[7]" not in answer


@pytest.mark.parametrize("find", FINDS[1:])
def test_the_same_passages(service: str, find: Find) -> None:
    expected = find_json(service)

    found = find(service)

    fields = set().union(*expected) - {"scores", "similarities"}
    assert [{name: one.get(name) for name in fields} for one in found] == [
        {name: one.get(name) for name in fields} for one in expected
    ]
    assert len(found) == len(expected) == 4


def test_a_citation_quotes_a_passage_found(service: str) -> None:
    _, (citation,) = ask_json(service)
    (passage,) = [one for one in find_json(service) if one["chunk_id"] == citation["chunk_id"]]

    start, end = (place - passage["span"][0] for place in citation["spans"][0])
    assert passage["text"][start:end] == citation["quote"]
    assert json.dumps(citation["score"]) == json.dumps(passage["score"])
