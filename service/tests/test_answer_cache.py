"""`RAG_ANSWER_CACHE` behind every interface: who gets a kept answer, and until when."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from service_kit import QUESTION, LLMStub, copy_home, serving, settings

KEYS = {
    name: {"name": name, "key": f"k-{name}-0123456789abcdef", **more}
    for name, more in {
        "alice": {"write": True},
        "bob": {},
        "carol": {"groups": ["staff"]},
        "dave": {"groups": ["board"]},
    }.items()
}
ANSWER = "The finance director signs as well [1]."


@pytest.fixture(scope="module")
def client(
    filled: Path, model: LLMStub, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """A client of a service that keeps answers."""
    home = copy_home(filled, tmp_path_factory.mktemp("kept") / "home")
    env = {"RAG_LLM_BASE_URL": model.url, "RAG_LLM_MODEL": "stub", "RAG_ANSWER_CACHE": "100"}
    given = settings(api_keys=json.dumps(list(KEYS.values())))
    model.script = [model.text(ANSWER)]
    with (
        serving(given, home=home, env=env) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=30) as client,
    ):
        yield client


@pytest.fixture
def calls(client: httpx.Client, model: LLMStub) -> Callable[..., int]:
    """Send a request with a key; returns how often the model was asked for it."""

    def send(path: str, body: dict[str, Any], name: str = "alice") -> int:
        before = model.calls
        key = {"authorization": f"Bearer {KEYS[name]['key']}"}
        response = client.post(path, json=body, headers=key)
        assert response.status_code == 200, response.text
        assert "finance director" in response.text
        return model.calls - before

    return send


CHAT = {"model": "rag", "messages": [{"role": "user", "content": QUESTION}]}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/rag_modules", {"query": QUESTION, "top_k": 4}),
        ("/v1/chat/completions", CHAT),
        ("/v1/chat/completions", {**CHAT, "stream": True}),
        ("/v1/responses", {"model": "rag", "input": QUESTION, "store": False}),
        ("/v1/responses", {"model": "rag", "input": QUESTION, "stream": True}),
    ],
    ids=["rag", "chat", "chat stream", "responses", "responses stream"],
)
def test_every_interface_gives_an_answer_again(
    calls: Callable[..., int], path: str, body: dict[str, Any]
) -> None:
    """Complete answers and streams; the search still runs, the model is not asked."""
    calls(path, body)

    assert calls(path, body) == 0


def test_answers_never_cross_keys_or_groups(calls: Callable[..., int]) -> None:
    """Even where everybody finds the same passages."""
    body = {"query": QUESTION, "top_k": 3}

    first = [calls("/rag_modules", body, name) for name in KEYS]
    again = [calls("/rag_modules", body, name) for name in KEYS]
    forged = [calls("/rag_modules", {**body, "cache_scope": "alice"}, name) for name in KEYS]

    assert first == [1, 1, 1, 1]
    assert again == forged == [0, 0, 0, 0]


def test_a_changed_document_makes_an_answer_new(
    client: httpx.Client, calls: Callable[..., int]
) -> None:
    """Any document of the collection, cited or not; a follow-up is a question of its own."""
    body = {"query": QUESTION, "top_k": 2}
    assert [calls("/rag_modules", body) for _ in range(2)] == [1, 0]
    followed = {**body, "messages": [{"role": "user", "content": "What about trips?"}]}
    followed["search_queries"] = []
    assert [calls("/rag_modules", followed) for _ in range(2)] == [1, 0]

    added = {"documents": [{"document_id": "new", "text": "The canteen opens at noon."}]}
    key = {"authorization": f"Bearer {KEYS['alice']['key']}"}
    assert client.post("/v1/documents", json=added, headers=key).status_code == 200

    assert [calls("/rag_modules", body) for _ in range(2)] == [1, 0]
    assert calls("/rag_modules", {**body, "generate": {"cache": False}}) == 1


def test_kept_answers_are_counted_and_said(client: httpx.Client) -> None:
    key = {"authorization": f"Bearer {KEYS['alice']['key']}"}

    def counted() -> dict[str, float]:
        lines = re.findall(
            r'rag_answer_cache_total\{result="(\w+)"\} (\S+)',
            client.get("/metrics", headers=key).text,
        )
        return {result: float(number) for result, number in lines}

    body = {"query": QUESTION, "top_k": 1}
    said = []
    before = counted()
    for _ in range(3):
        answer = client.post("/rag_modules", json=body, headers=key).json()
        said.append((answer["provenance"]["generate"]["cache"], answer["usage"]["llm_calls"]))
    after = counted()

    assert said == [("miss", 1), ("hit", 0), ("hit", 0)]
    assert after["miss"] == before.get("miss", 0) + 1
    assert after["hit"] == before.get("hit", 0) + 2
