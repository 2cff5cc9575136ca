"""The composite in one process: real documents, real MiniLM, nothing replaced."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rag_command import BYLAWS, write_documents

from rag_kit.errors import StepError
from rag_pipeline.steps.local import LocalPipeline, open_local, open_retriever

QUESTION = {"query": "Who may sign contracts?"}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> LocalPipeline:
    """The composite over a home with two documents."""
    folder = tmp_path_factory.mktemp("local")
    with open_local(home=folder / "home") as opened:
        opened.retriever.ingest([write_documents(folder)])
        yield opened


def test_an_answer_cites_the_documents_own_words(pipeline: LocalPipeline) -> None:
    """The quote is the stored document's text at the span."""
    response = pipeline.answer(QUESTION)
    (citation,) = response["citations"]
    stored = pipeline.retriever.document("default", citation["document_id"])
    start, end = citation["spans"][0]

    assert stored.text == BYLAWS
    assert stored.text[start:end] == citation["quote"]


def test_no_request_loads_anything(pipeline: LocalPipeline) -> None:
    """Twenty questions: one model, one collection, opened once; one embedding each."""
    pipeline.answer(QUESTION)
    before = pipeline.retriever.counters
    loads, opens, queries = before.model_loads, before.store_opens, before.queries_embedded
    for number in range(20):
        pipeline.answer({"query": f"Who may sign contract {number}?"})
    after = pipeline.retriever.counters

    assert (after.model_loads, after.store_opens) == (loads, opens) == (1, 1)
    assert after.queries_embedded == queries + 20


def test_answers_at_once_are_each_for_their_own_question(pipeline: LocalPipeline) -> None:
    """Eight callers of one pipeline get the answer to what they asked."""
    asked = ["Who may sign contracts?", "When are the accounts audited?"] * 8
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda query: pipeline.answer({"query": query}), asked))

    assert [answer["query"] for answer in answers] == asked
    assert len({answer["answer"] for answer in answers}) == 2
    assert len({answer["id"] for answer in answers}) == 16


def test_it_answers_inside_a_running_event_loop(pipeline: LocalPipeline) -> None:
    """As in a notebook: the blocking call works there, and so does the handler's coroutine."""

    async def cell() -> tuple[str, str]:
        served = json.loads(await pipeline.handler.serve(json.dumps(QUESTION)))
        return pipeline.answer(QUESTION)["answer"], served["answer"]

    first, second = asyncio.run(cell())
    assert first == second


def test_an_option_of_a_step_is_checked_by_that_step(pipeline: LocalPipeline) -> None:
    """The error names step and field."""
    error = pipeline.answer({**QUESTION, "retrieve": {"rrf_k": 0}})["error"]

    assert (error["code"], error["step"]) == ("invalid_request", "retrieve")
    assert error["param"] == "retrieve.rrf_k"


def test_an_unknown_field_is_refused(pipeline: LocalPipeline) -> None:
    """A host in the request is refused before any step sees it."""
    error = pipeline.answer({**QUESTION, "qdrant_host": "10.0.0.1"})["error"]

    assert (error["code"], error["param"]) == ("invalid_request", "qdrant_host")


def test_nothing_found_is_said(pipeline: LocalPipeline) -> None:
    """No support: `no_context` abstains by default, and fails on request."""
    query = {"query": "zygomorphic quaternion xylophone"}
    abstained = pipeline.answer(query)
    failed = pipeline.answer({**query, "no_context": "error"})

    assert (abstained["answerable"], abstained["finish_reason"]) == (False, "no_context")
    assert abstained["citations"] == []
    assert failed["error"]["code"] == "no_context"


def test_an_error_of_the_retriever_names_its_step(home: Path) -> None:
    """Callers learn which step failed, also where no request is answered."""
    with pytest.raises(StepError) as caught, open_retriever() as retriever:
        retriever.documents("nope")

    assert (caught.value.code, caught.value.step) == ("collection_not_found", "retrieve")
    assert not home.joinpath("nope").exists()


def test_what_keeps_a_step_from_opening_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad setting of any step is `misconfigured` and names the variable."""
    monkeypatch.setenv("RAG_MIN_SUPPORT", "7")

    with pytest.raises(StepError, match="RAG_MIN_SUPPORT") as caught, open_local():
        pass

    assert caught.value.code == "misconfigured"
