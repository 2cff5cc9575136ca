"""Ratings of answers over HTTP: stored with their provenance, by key, and exported."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from service_kit import QUESTION, environment, settings

from rag_pipeline.quality.feedback import parse, read_tenant, to_questions
from rag_service.app import create_app

KEYS = [
    {"name": "me", "key": "a-key-of-this-test-1"},
    {"name": "you", "key": "a-key-of-this-test-2", "collections": ["public"]},
    {"name": "some", "key": "a-key-of-this-test-3", "groups": ["hr"]},
]
UP = {"rating": "up", "query": "Who signs?", "id": "1"}


def exchange(home: Path, *requests: tuple[str, str, Any]) -> list[httpx.Response]:
    """Send requests, each (key, method, body), to the application in this process."""

    async def talk() -> list[httpx.Response]:
        with environment({"RAG_HOME": str(home)}):
            app = create_app(settings(api_keys=json.dumps(KEYS)))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return [
                await client.request(
                    method,
                    "/v1/feedback",
                    headers={"authorization": f"Bearer {key}"},
                    json=body,
                )
                for key, method, body in requests
            ]

    return asyncio.run(talk())


def test_an_answer_is_rated_with_what_it_said_of_itself(http: httpx.Client) -> None:
    """The fields of an answer are sent back as they are, and make a question of `rag eval`."""
    answer = http.post("/rag_modules", json={"query": QUESTION}).json()
    named = ("id", "query", "collection", "answer", "answerable", "citations", "provenance")
    body = {"rating": "up", **{name: answer[name] for name in named}}
    assert http.post("/v1/feedback", json=body).json() == {"status": "noted", "id": answer["id"]}
    exported = http.get("/v1/feedback")
    assert exported.headers["content-type"].startswith("application/jsonl")
    [rated] = [one for one in parse(exported.content).ratings if one.id == answer["id"]]
    assert rated.provenance == answer["provenance"]
    assert rated.citations[0].model_dump() == answer["citations"][0]
    [question] = to_questions([rated], "default").questions
    assert question.relevant == {"travel.md": 1}
    assert http.get("/v1/info").json()["feedback"] is True


def test_a_key_sees_its_own_ratings_alone(tmp_path: Path) -> None:
    """And one that may not read every document none, for answers quote documents."""
    mine, yours, own, other, hidden = exchange(
        tmp_path,
        (KEYS[0]["key"], "POST", UP),
        (KEYS[2]["key"], "POST", UP),
        (KEYS[0]["key"], "GET", None),
        (KEYS[1]["key"], "GET", None),
        (KEYS[2]["key"], "GET", None),
    )
    assert (mine.status_code, yours.status_code) == (200, 200)
    assert len(own.text.splitlines()) == 1
    assert (other.status_code, other.text) == (200, "")
    assert hidden.json()["error"]["code"] == "forbidden"
    assert len(read_tenant(tmp_path / "feedback", "some").ratings) == 1


@pytest.mark.parametrize(
    ("key", "body", "code", "said"),
    [
        ("no-such-key-at-all", UP, "unauthenticated", ""),
        (KEYS[1]["key"], {**UP, "collection": "hr"}, "collection_not_found", "'hr'"),
        (KEYS[0]["key"], {"query": "Who?"}, "invalid_request", "rating"),
        (KEYS[0]["key"], {**UP, "rating": "good"}, "invalid_request", "rating"),
        (KEYS[0]["key"], {**UP, "query": " "}, "invalid_request", "query"),
        (KEYS[0]["key"], {**UP, "stars": 5}, "invalid_request", "stars"),
        (KEYS[0]["key"], {**UP, "citations": [{}]}, "invalid_request", "document_id"),
        (KEYS[0]["key"], {**UP, "right_answer": "x" * 9000}, "invalid_request", "right_answer"),
    ],
)
def test_a_rating_that_cannot_be_meant_is_refused(
    tmp_path: Path, key: str, body: dict[str, Any], code: str, said: str
) -> None:
    """Nothing is stored, and the error names the field."""
    [refused] = exchange(tmp_path, (key, "POST", body))
    assert refused.json()["error"]["code"] == code
    assert said in refused.json()["error"]["message"]
    assert not (tmp_path / "feedback").exists()


def test_a_disk_that_takes_nothing_is_told(tmp_path: Path) -> None:
    """507, not a lost rating."""
    (tmp_path / "feedback").write_text("")
    [refused] = exchange(tmp_path, (KEYS[0]["key"], "POST", UP))
    assert refused.status_code == 507
