"""`POST /retrieval` as Dify's own code sends it and reads its answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from service_kit import QUESTION, copy_home, serving, settings

KEY = "k-dify-0123456789abcdef"
KEYS = json.dumps([{"name": "dify", "key": KEY, "collections": ["default", "nowhere"]}])


class Dify:
    """What Dify does with an external knowledge base; it has no client library of its own.

    Args:
        endpoint: As registered, without /retrieval.
        api_key: Sent as Bearer.
    """

    def __init__(self, endpoint: str, api_key: str) -> None:
        self._url, self._key = f"{endpoint}/retrieval", api_key
        self._client = httpx.Client(trust_env=False, timeout=30)

    def __enter__(self) -> Dify:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def register(self) -> str:
        """Ask without a body, as on registration; returns what Dify would complain of."""
        headers = {"Authorization": f"Bearer {self._key}"}
        status = self._client.post(self._url, headers=headers).status_code
        return {502: "Bad Gateway", 404: "Not Found", 403: "Forbidden"}.get(status, "")

    def send(self, knowledge_id: str, query: str, **more: Any) -> httpx.Response:
        """Send a question: a JSON text, `top_k` null when nobody set it, a threshold always."""
        setting = {"top_k": more.pop("top_k", None), "score_threshold": more.pop("threshold", 0.0)}
        params = {
            "retrieval_setting": setting,
            "query": query,
            "knowledge_id": knowledge_id,
            **more,
        }
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"}
        return self._client.post(self._url, content=json.dumps(params), headers=headers)

    def find(self, knowledge_id: str, query: str, **more: Any) -> list[dict[str, Any]]:
        """Return the documents Dify makes of the records; it writes into their metadata."""
        response = self.send(knowledge_id, query, **more)
        assert response.status_code == 200, response.text
        documents = []
        for record in response.json().get("records", []):
            metadata = record.get("metadata")
            metadata["score"] = record.get("score")
            metadata["title"] = record.get("title")
            metadata["dataset_id"] = "d1"
            documents.append({"content": record.get("content"), "metadata": metadata})
        return documents


@pytest.fixture(scope="module")
def dify(service: str) -> Iterator[Dify]:
    with Dify(service, "any") as dify:
        yield dify


@pytest.fixture(scope="module")
def guarded(filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = copy_home(filled, tmp_path_factory.mktemp("keys") / "home")
    with serving(settings(api_keys=KEYS), home=home) as url:
        yield url


def condition(*conditions: dict[str, Any], operator: str | None = "and") -> dict[str, Any]:
    checks = [{"value": None, **one} for one in conditions]
    return {"metadata_condition": {"logical_operator": operator, "conditions": checks}}


def names(documents: list[dict[str, Any]]) -> set[str]:
    return {document["metadata"]["document_id"] for document in documents}


def test_records(dify: Dify) -> None:
    best, *others = dify.find("default", QUESTION)

    assert "finance director" in best["content"]
    assert best["metadata"]["title"] == "Travel rules"
    assert best["metadata"]["topic"] == "travel"
    assert best["metadata"]["source"] == "travel.md"
    assert all(0 < other["metadata"]["score"] <= best["metadata"]["score"] for other in others)
    assert "building.txt" in names(others)  # without metadata of its own, still an object


def test_settings(dify: Dify) -> None:
    best, *_ = dify.find("default", QUESTION, top_k=3)

    assert len(dify.find("default", QUESTION, top_k=3)) == 3
    threshold = best["metadata"]["score"] - 0.01
    assert dify.find("default", QUESTION, top_k=3, threshold=threshold) == [best]
    assert dify.find("default", QUESTION, threshold=1.0) == []


def test_registration(dify: Dify, guarded: str) -> None:
    assert dify.register() == ""
    with Dify(guarded, KEY) as known, Dify(guarded, "wrong") as unknown:
        assert known.register() == ""
        assert unknown.register() == "Forbidden"


@pytest.mark.parametrize(
    ("name", "operator", "value", "documents"),
    [
        ("topic", "is", "travel", {"travel.md"}),
        ("topic", "is not", "travel", {"hours.md", "building.txt"}),
        ("topic", "in", ["travel", "work"], {"travel.md", "hours.md"}),
        ("topic", "in", "travel, x", {"travel.md"}),
        ("topic", "not in", ["travel"], {"hours.md", "building.txt"}),
        ("year", "=", 2024, {"travel.md"}),
        ("year", "=", "2024", {"travel.md"}),
        ("year", "≠", 2024, {"hours.md", "building.txt"}),
        ("year", ">", 2023, {"travel.md"}),
        ("year", "<", "2023.5", {"hours.md"}),
        ("year", "≥", 2023, {"travel.md", "hours.md"}),
        ("year", "≤", 2023, {"hours.md"}),
        ("year", "before", 2024, {"hours.md"}),
        ("year", "after", 2023, {"travel.md"}),
        ("year", "after", 1704067200, set()),
        ("topic", "contains", "rave", {"travel.md"}),
        ("topic", "not contains", "rave", {"hours.md", "building.txt"}),
        ("topic", "start with", "wo", {"hours.md"}),
        ("topic", "end with", "vel", {"travel.md"}),
        ("topic", "end with", "trave", set()),
        ("topic", "empty", None, {"building.txt"}),
        ("topic", "not empty", "", {"travel.md", "hours.md"}),
        (["owner", "topic"], "empty", None, {"building.txt"}),
        (["owner", "topic"], "not empty", None, {"travel.md", "hours.md"}),
        (["owner", "topic"], "contains", "fin", {"travel.md"}),
        (["owner", "topic"], "is", "finance", {"travel.md"}),
        (["owner", "topic"], "is not", "work", {"travel.md", "building.txt"}),
    ],
)
def test_conditions(dify: Dify, name: Any, operator: str, value: Any, documents: set[str]) -> None:
    check = {"name": name, "comparison_operator": operator, "value": value}

    assert names(dify.find("default", QUESTION, **condition(check))) == documents


@pytest.mark.parametrize(
    ("operator", "value", "stored", "passes"),
    [
        ("before", "2024-03-15", "2024-03-14", True),
        ("before", "2024-03-15", "2024-03-15", False),
        ("after", 1710460800, "2024-03-16", True),  # 2024-03-15 in seconds
        ("after", 1710460800, "2024-03-14T23:00", False),
        ("after", "2024-03-15", 1710547200, True),
        ("before", "2024-03-15T12:00:00+00:00", 1710460800, True),
        ("before", 1710460800.5, 1710460800, True),
        ("before", 10**18, "2024-03-14", False),  # no year there is
    ],
)
def test_times_are_seconds_or_dates(operator: str, value: Any, stored: Any, passes: bool) -> None:
    """Dify sends seconds; metadata has either."""
    from rag_retrieve.search.filters import matches, parse_filters
    from rag_service.api.dify import MetadataCheck, MetadataCondition, to_filters

    check = MetadataCheck(name="at", comparison_operator=operator, value=value)
    condition = parse_filters(to_filters(MetadataCondition(conditions=[check])))

    assert condition is not None and matches(condition, {"at": stored}) is passes


def test_and_or(dify: Dify) -> None:
    travel = {"name": "topic", "comparison_operator": "is", "value": "travel"}
    old = {"name": "year", "comparison_operator": "<", "value": 2024}

    assert dify.find("default", QUESTION, **condition(travel, old)) == []
    assert dify.find("default", QUESTION, **condition(travel, old, operator=None)) == []
    either = dify.find("default", QUESTION, **condition(travel, old, operator="or"))
    assert names(either) == {"travel.md", "hours.md"}
    none = {"metadata_condition": {"logical_operator": "and", "conditions": None}}
    assert "building.txt" in names(dify.find("default", QUESTION, **none))


@pytest.mark.parametrize(
    ("check", "field"),
    [
        ({"name": "a", "comparison_operator": operator, "value": "x"}, "comparison_operator")
        for operator in ("like", "matches", "")
    ]
    + [
        ({"name": "a", "comparison_operator": ">", "value": "x"}, "value"),
        ({"name": "a", "comparison_operator": "before", "value": "yesterday"}, "value"),
        ({"name": "a", "comparison_operator": "contains", "value": ""}, "value"),
        ({"name": "a", "comparison_operator": "end with"}, "value"),
        ({"name": "a", "comparison_operator": "is"}, "value"),
        ({"name": "a", "comparison_operator": "in", "value": []}, "value"),
        ({"name": "$or", "comparison_operator": "is", "value": "x"}, "name"),
        ({"name": "a", "comparison_operator": "is", "value": {}}, "value"),
        ({"name": 1, "comparison_operator": "is", "value": "x"}, "name"),
        ({"name": [], "comparison_operator": "is", "value": "x"}, "name"),
    ],
)
def test_conditions_that_cannot_be(dify: Dify, check: dict[str, Any], field: str) -> None:
    response = dify.send("default", QUESTION, **condition(check))

    told = response.json()
    assert response.status_code == 422
    assert told["error"]["param"] == f"metadata_condition.conditions.0.{field}"
    assert told["error_code"] == 422
    assert told["error_msg"] == told["error"]["message"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"query": " "}, "query"),
        ({"knowledge_id": "../x"}, "knowledge_id"),
        ({"retrieval_setting": {"top_k": 1000}}, "retrieval_setting.top_k"),
    ],
)
def test_refused(dify: Dify, change: dict[str, Any], param: str) -> None:
    response = dify.send(**{"knowledge_id": "default", "query": QUESTION, **change})

    assert response.status_code == 422
    assert response.json()["error"]["param"] == param


def test_errors_dify_can_read(guarded: str) -> None:
    with Dify(guarded, KEY) as known, Dify(guarded, "wrong") as unknown:
        missing = known.send("nowhere", QUESTION)
        denied = known.send("hr", QUESTION)  # is there, but not for this key
        wrong = unknown.send("default", QUESTION)
    bare = httpx.post(f"{guarded}/retrieval", json={}, trust_env=False)

    assert (missing.status_code, missing.json()["error_code"]) == (404, 2001)
    assert (denied.status_code, denied.json()["error_code"]) == (404, 2001)
    assert (wrong.status_code, wrong.json()["error_code"]) == (403, 1002)
    assert (bare.status_code, bare.json()["error_code"]) == (403, 1001)
    assert wrong.json()["error"]["code"] == "unauthenticated"
    assert missing.json()["error"]["code"] == "collection_not_found"
    assert all(one.json()["error_msg"] for one in (missing, denied, wrong, bare))
