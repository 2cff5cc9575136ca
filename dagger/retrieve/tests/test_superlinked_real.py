"""This step with the real Superlinked server, each in its own environment, over loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from superlinked_kit import superlinked_process
from test_superlinked import documents

from rag_retrieve import Retriever, RetrieveSettings
from rag_retrieve.index.embedders import Embedder
from rag_retrieve.wire import handler_for

jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
PROJECT = Path(__file__).parents[1] / "superlinked"
PYTHON = PROJECT / ".venv/bin/python"
SCHEMA = PROJECT.parents[2] / "contract/retrieve.response.schema.json"

pytestmark = pytest.mark.skipif(
    not PYTHON.exists(),
    reason="the Superlinked server's environment is not installed; `make test-superlinked` does it",
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """URL of a running `python -m rag_superlinked serve`, in memory."""
    with superlinked_process(PYTHON) as found:
        yield found


@pytest.fixture
def retriever(url: str, settings: RetrieveSettings, minilm: Embedder) -> Iterator[Retriever]:
    """A retriever over the real server, which is loaded when this returns."""
    update = {
        "retriever": "superlinked",
        "superlinked_url": url,
        "superlinked_timeout_s": 30,
    }
    with Retriever(settings.model_copy(update=update), embedder=minilm) as opened:
        opened.ingest_documents(documents())
        opened.preload()  # waits for it
        yield opened


def run(retriever: Retriever, fields: dict[str, Any]) -> dict[str, Any]:
    """Ask as JSON, as every way of calling the step does."""
    request = {"query": "How many days of leave?", **fields}
    answer: dict[str, Any] = json.loads(handler_for(retriever)(json.dumps(request)))
    return answer


def test_the_response_is_that_of_the_contract(retriever: Retriever) -> None:
    """The same schema as the builtin retriever's, and every passage equals its document's text."""
    answer = run(
        retriever, {"retrieve": {"weights": {"recency": 0.3, "category": 0.5}, "category": "hr"}}
    )

    jsonschema.validate(answer, json.loads(SCHEMA.read_text()))
    assert len(answer["results"]) == 4
    for result in answer["results"]:
        text = retriever.document("default", result["document_id"]).text
        assert result["text"] == text[slice(*result["span"])]
    assert answer["provenance"]["retrieve"]["retriever"] == "superlinked"


def test_text_alone_ranks_as_the_dense_search(
    retriever: Retriever, settings: RetrieveSettings, minilm: Embedder
) -> None:
    """The vectors are the store's own: with text alone, order and cosine are those of `dense`."""
    found = run(retriever, {})["results"]
    retriever.close()
    with Retriever(settings, embedder=minilm) as builtin:
        expected = run(builtin, {"retrieve": {"mode": "dense"}})["results"]

    assert [one["chunk_id"] for one in found] == [one["chunk_id"] for one in expected]
    assert [one["score"] for one in found] == pytest.approx(
        [one["score"] for one in expected], abs=1e-4
    )


def test_weights_change_the_order(retriever: Retriever) -> None:
    """Recency brings the new rule up, a category its documents."""

    def first(options: dict[str, Any]) -> str:
        return str(run(retriever, {"retrieve": options})["results"][0]["document_id"])

    assert first({"weights": {"text": 1.0, "recency": 1.0}}) == "new.md"
    assert first({"weights": {"text": 0.2}, "category": "it"}) == "vpn.md"


def test_the_same_question_gives_the_same_answer(retriever: Retriever) -> None:
    """No clock and no chance: recency counts from the newest document."""
    options = {"retrieve": {"weights": {"recency": 0.5}}}

    assert run(retriever, options) == run(retriever, options)


def test_a_category_that_is_not_there_is_the_callers_error(retriever: Retriever) -> None:
    """The real server's refusal comes back as the step's envelope, naming the request's field."""
    error = run(retriever, {"retrieve": {"category": "legal"}})["error"]

    assert (error["code"], error["param"]) == ("invalid_request", "retrieve.category")
    assert "hr, it" in error["message"]
