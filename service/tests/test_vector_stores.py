"""Vector store search, asked by the official `openai` client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import numpy
import openai
import pytest
from service_kit import QUESTION


@pytest.fixture(scope="module")
def client(service: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service}/v1", api_key="any", max_retries=0) as client:
        yield client


def test_results(client: openai.OpenAI) -> None:
    page = client.vector_stores.search("default", query=QUESTION)

    assert page.object == "vector_store.search_results.page"
    assert (page.model_extra or {})["search_query"] == [QUESTION]
    assert (page.model_extra or {})["has_more"] is False
    best = page.data[0]
    assert (best.file_id, best.filename) == ("travel.md", "travel.md")
    assert best.content[0].type == "text"
    assert "finance director" in best.content[0].text
    assert best.attributes == {"year": 2024, "topic": "travel", "owner": "finance"}
    assert 0 < best.score <= 1
    assert best.score == max(item.score for item in page.data)
    assert list(page) == page.data  # there is no second page


def test_async_client(service: str) -> None:
    async def find() -> None:
        async with openai.AsyncOpenAI(base_url=f"{service}/v1", api_key="any") as client:
            page = client.vector_stores.search("hr", query="How many days of leave?")
            files = [item.file_id async for item in page]
            assert files[0] == "leave.md"

    asyncio.run(find())


def test_options(client: openai.OpenAI) -> None:
    everything = client.vector_stores.search("default", query=QUESTION, rewrite_query=True).data
    few = client.vector_stores.search("default", query=QUESTION, max_num_results=2).data
    good = client.vector_stores.search(
        "default",
        query=QUESTION,
        ranking_options={"ranker": "auto", "score_threshold": everything[0].score - 0.01},
    ).data

    assert few == everything[:2]
    assert good == everything[:1]


@pytest.mark.parametrize(
    ("weights", "leg"),
    [
        ({"embedding_weight": 1, "text_weight": 0}, "dense"),
        ({"embedding_weight": 0, "text_weight": 2}, "sparse"),
    ],
)
def test_a_weight_of_0_leaves_a_leg_out(
    client: openai.OpenAI, http: httpx.Client, weights: Any, leg: str
) -> None:
    ranking: Any = {"hybrid_search": weights}
    found = client.vector_stores.search("default", query=QUESTION, ranking_options=ranking).data
    question = {"query": QUESTION, "retrieve": {"mode": leg}, "top_k": 10, "search_queries": []}
    expected = http.post("/v1/search", json=question).json()["results"]

    assert [item.score for item in found] == [result["score"] for result in expected]


def test_what_is_not_known_is_ignored_and_named(http: httpx.Client) -> None:
    body = {"query": QUESTION, "chunking": {"a": 1}, "top_k": 3, "user": None}

    response = http.post("/v1/vector_stores/default/search", json=body)

    assert response.status_code == 200
    assert response.headers["x-rag-warning"] == "ignored: chunking, top_k"


def test_several_queries(client: openai.OpenAI) -> None:
    queries = [QUESTION, "When does the front door open?"]

    page = client.vector_stores.search("default", query=queries, max_num_results=3)

    alone = [client.vector_stores.search("default", query=query).data for query in queries]
    best = {found[0].file_id: found[0].score for found in alone}
    scores = {item.file_id: item.score for item in reversed(page.data)}
    assert (page.model_extra or {})["search_query"] == queries
    assert len(page.data) == 3
    assert best.items() <= scores.items()


@pytest.mark.parametrize(
    ("filters", "documents"),
    [
        ({"type": "eq", "key": "topic", "value": "travel"}, {"travel.md"}),
        ({"type": "ne", "key": "topic", "value": "travel"}, {"hours.md", "building.txt"}),
        ({"type": "gt", "key": "year", "value": 2023}, {"travel.md"}),
        ({"type": "gte", "key": "year", "value": 2023}, {"travel.md", "hours.md"}),
        ({"type": "lt", "key": "year", "value": 2024}, {"hours.md"}),
        ({"type": "lte", "key": "year", "value": 2023}, {"hours.md"}),
        ({"type": "in", "key": "topic", "value": ["work", "x"]}, {"hours.md"}),
        ({"type": "nin", "key": "topic", "value": ["work"]}, {"travel.md", "building.txt"}),
        (
            {
                "type": "or",
                "filters": [
                    {"type": "eq", "key": "topic", "value": "work"},
                    {
                        "type": "and",
                        "filters": [
                            {"type": "eq", "key": "owner", "value": "finance"},
                            {"type": "eq", "key": "year", "value": 2024},
                        ],
                    },
                ],
            },
            {"travel.md", "hours.md"},
        ),
    ],
)
def test_filters(client: openai.OpenAI, filters: Any, documents: set[str]) -> None:
    page = client.vector_stores.search("default", query=QUESTION, filters=filters)

    assert {item.file_id for item in page.data} == documents


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"query": ""}, "query"),
        ({"query": []}, "query"),
        ({"query": 5}, "query"),
        ({"max_num_results": 51}, "max_num_results"),
        ({"max_num_results": 0}, "max_num_results"),
        (
            {"ranking_options": {"hybrid_search": {"text_weight": -1}}},
            "ranking_options.hybrid_search.embedding_weight",
        ),
        ({"filters": {"type": "like", "key": "a", "value": "b"}}, "filters"),
        ({"filters": {"type": "eq", "key": "a"}}, "filters"),
        ({"filters": {"type": "eq", "key": "$not", "value": {}}}, "filters"),
        ({"filters": {"topic": "travel"}}, "filters"),
        ({"filters": {"type": "and", "filters": []}}, "filters"),
        ({"filters": {"type": "and", "filters": [{"type": "x"}]}}, "filters.filters.0"),
        ({"filters": {"type": "gt", "key": "year", "value": True}}, "filters.year.$gt"),
    ],
)
def test_refused(client: openai.OpenAI, change: dict[str, Any], param: str) -> None:
    body = {"query": QUESTION, **change}

    with pytest.raises(openai.UnprocessableEntityError) as failed:
        client.post("/vector_stores/default/search", body=body, cast_to=object)

    assert failed.value.param == param


def test_no_such_collection(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as failed:
        client.vector_stores.search("nowhere", query=QUESTION)

    assert failed.value.code == "collection_not_found"


# -- embeddings -----------------------------------------------------------------------------------


def test_embeddings(client: openai.OpenAI, http: httpx.Client) -> None:
    """As the client asks for them (base64) and as plain numbers; near texts are near."""
    texts = ["The garage opens at five.", "When does the car park open?", "Fish is served."]

    made = client.embeddings.create(model="any", input=texts)
    plain = http.post("/v1/embeddings", json={"input": texts[0], "dimensions": 384}).json()

    garage, question, fish = (numpy.array(one.embedding) for one in made.data)
    assert garage @ question > garage @ fish
    assert abs(numpy.linalg.norm(garage) - 1) < 1e-5
    assert numpy.allclose(plain["data"][0]["embedding"], garage, atol=1e-6)
    assert made.usage.total_tokens > plain["usage"]["prompt_tokens"] > 5
    assert made.model == plain["model"] != "any"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": " "}, "input"),
        ({"input": ["a", ""]}, "input.1"),
        ({"input": [1, 2]}, "input"),
        ({"input": "a", "dimensions": 7}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": ["a"] * 2049}, "input"),
    ],
)
def test_what_cannot_be_embedded(http: httpx.Client, body: Any, param: str) -> None:
    response = http.post("/v1/embeddings", json=body)

    assert (response.status_code, response.json()["error"]["param"]) == (422, param)
