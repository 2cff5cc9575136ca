"""Fault `llm_down_degraded` over HTTP: sentences of the passages when the model fails."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from service_kit import DOCUMENTS, QUESTION, LLMStub, fill, serving, settings


@pytest.fixture
def llm() -> Iterator[LLMStub]:
    stub = LLMStub()
    yield stub
    stub.close()


def test_fault_llm_down_degraded_over_http(llm: LLMStub, tmp_path: Path) -> None:
    """Whole, streamed and for OpenAI clients: 200, marked, counted; the model is asked once."""
    env = {"RAG_LLM_BASE_URL": llm.url, "RAG_LLM_MODEL": "stub", "RAG_LLM_ATTEMPTS": "1"}
    home = fill(tmp_path / "home", {"default": DOCUMENTS["default"]})
    allowed: dict[str, Any] = {"generate": {"allow_degraded": True}}
    chat = {"model": "rag", "messages": [{"role": "user", "content": QUESTION}], **allowed}
    ask = {"query": QUESTION, **allowed}
    llm.script = [llm.status(500)]
    with (
        serving(home=home, env=env) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=60) as client,
    ):
        refused = client.post("/rag_modules", json={"query": QUESTION})
        whole = client.post("/rag_modules", json=ask)
        events = client.post("/rag_modules", json={**ask, "stream": True})
        completion = client.post("/v1/chat/completions", json=chat)
        calls = llm.calls
        llm.script = [llm.text("The finance director [1].")]
        written = client.post("/rag_modules", json=ask).json()
        metrics = client.get("/metrics").text

    assert (refused.status_code, refused.json()["error"]["code"]) == (502, "llm_upstream_error")
    answer = whole.json()
    assert whole.status_code == 200
    assert (answer["degraded"], answer["llm_generated"], answer["answerable"]) == (
        True,
        False,
        True,
    )
    assert "degraded: llm_upstream_error" in answer["warnings"]
    assert answer["citations"][0]["document_id"] == "travel.md"
    (final,) = re.findall(r"event: final_answer\ndata: (.*)", events.text)
    assert json.loads(final)["degraded"]
    assert json.loads(final)["answer"] == answer["answer"]
    pieces = re.findall(r"event: message\ndata: (.*)", events.text)
    told = "".join(json.loads(piece)["delta"]["content"] for piece in pieces)
    assert told == answer["answer"]
    assert completion.json()["degraded"]
    assert completion.json()["choices"][0]["message"]["content"] == answer["answer"]
    assert calls == 4
    assert (written["degraded"], written["llm_generated"]) == (False, True)
    assert re.search(r"^rag_degraded_total 3\.0$", metrics, re.MULTILINE)


def test_fault_llm_down_degraded_in_time(llm: LLMStub, tmp_path: Path) -> None:
    """A model that is silent until the request's deadline leaves time for the passages."""
    env = {"RAG_LLM_BASE_URL": llm.url, "RAG_LLM_MODEL": "stub", "RAG_LLM_FIRST_TOKEN_S": "60"}
    home = fill(tmp_path / "home", {"default": DOCUMENTS["default"]})
    llm.script = [llm.hang]
    ask = {"query": QUESTION, "generate": {"allow_degraded": True}}
    with (
        serving(settings(deadline_s=10.0), home=home, env=env) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=60) as client,
    ):
        answer = client.post("/rag_modules", json=ask)

    assert answer.status_code == 200, answer.text
    assert "degraded: llm_timeout" in answer.json()["warnings"]
    assert llm.calls == 1
