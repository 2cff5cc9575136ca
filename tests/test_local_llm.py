"""The product with a real language model on this machine: SmolLM2 135M, llama.cpp's server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from local_model import MODEL, ModelMissing, served
from rag_command import run, write_documents

from rag_kit.handler import Event
from rag_pipeline.steps.local import open_local

pytestmark = [pytest.mark.llm, pytest.mark.timeout(300)]
QUESTION = "Who may sign contracts?"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    try:
        with served(threads=2) as url:
            yield url
    except ModelMissing as missing:
        pytest.skip(str(missing))


def test_models_try_measures_a_real_server(url: str, tmp_path: Path) -> None:
    """Figures and settings of the server's only model; it fails exactly when it does not cite."""
    ran = run("models", "try", url, "--json", home=tmp_path)

    trial = ran.json
    assert ran.code == (0 if trial["cites"] else 1)
    assert trial["first_token_s"] > 0 and trial["tokens_per_s"] > 0
    assert trial["prompt_tokens"] > 100 and trial["answer"]
    assert trial["reasoning"] == "none"
    settings = trial["settings"]
    assert (settings["RAG_LLM_BASE_URL"], settings["RAG_LLM_MODEL"]) == (url, MODEL)


@pytest.mark.parametrize("policy", ["abstain", "warn"])
def test_a_real_models_answer_is_cited_or_withheld_whole_and_streamed(
    url: str, policy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the whole pipeline; a stream shows nothing of an answer that is withheld."""
    for name, value in (("BASE_URL", url), ("MODEL", MODEL), ("PACE", "local")):
        monkeypatch.setenv(f"RAG_LLM_{name}", value)
    request = {
        "query": QUESTION,
        "augment": {"seed": 1},
        "generate": {"on_no_citations": policy, "max_answer_tokens": 32},
    }
    with open_local(home=tmp_path / "home") as rag:
        rag.retriever.ingest([write_documents(tmp_path)])
        answer = rag.answer(request)
        *events, last = asyncio.run(_gathered(rag.handler.events(json.dumps(request))))

    final = json.loads(last.data)
    shown = "".join(
        json.loads(event.data)["delta"]["content"] for event in events if event.name == "message"
    )
    for one in (answer, final):
        assert one["usage"]["llm_calls"] == 1
        assert one["citations"] or policy == "warn" or not one["answerable"]
    if final["finish_reason"] != "filtered":  # what is filtered may have been shown in part
        assert bool(shown) == final["answerable"]


async def _gathered(events: AsyncIterator[Event]) -> list[Event]:
    return [event async for event in events]
