"""Reranking in the pipeline: a second stage that chooses from more passages than are wanted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rag_doubles import resident
from reranker_double import RerankerDouble, changed, reranker_double, status

from rag_kit.errors import StepError
from rag_kit.handler import Handler
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.quality.blocking import replay_answer
from rag_pipeline.quality.conformance import check_step
from rag_pipeline.settings import RagSettings
from rag_pipeline.steps.local import LocalPipeline, open_local
from rag_pipeline.steps.remote import open_remote
from rag_pipeline.wire import open_pipeline

QUESTION: dict[str, Any] = {
    "query": "Who keeps the accounts and signs contracts?",
    "request_id": "r",
}
LONG = " ".join(f"Journey {n} needs a travel request before it begins." for n in range(30))
DOCUMENTS = [
    f"The board signs contracts. {LONG}",
    "The treasurer keeps the accounts.",
    "The chair signs letters, and the secretary keeps the minutes.",
    f"Accounts are kept for ten years. {LONG}",
    "Contracts above 5,000 euros need two signatures.",
    "Members pay their fee in January.",
]


@pytest.fixture(scope="module")
def double() -> Iterator[RerankerDouble]:
    """A reranking server that scores by shared words."""
    with reranker_double() as running:
        yield running


def written(folder: Path) -> Path:
    """Write six documents; two of them are of two passages."""
    docs = folder / "docs"
    docs.mkdir()
    for number, text in enumerate(DOCUMENTS):
        (docs / f"d{number}.md").write_text(f"# Rules {number}\n\n{text}\n")
    return docs


@pytest.fixture(scope="module")
def local(
    tmp_path_factory: pytest.TempPathFactory, double: RerankerDouble
) -> Iterator[LocalPipeline]:
    """The pipeline in this process, with the double as its reranker."""
    folder = tmp_path_factory.mktemp("rerank")
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:  # the settings are read once
            patch.setenv("RAG_RERANKER_URL", double.url)
            patch.setenv("RAG_BREAKER_CALLS", "1000")
            opened = stack.enter_context(open_local(home=folder / "home"))
        opened.retriever.ingest([written(folder)])
        yield opened


@pytest.fixture(scope="module")
def remote(local: LocalPipeline) -> Iterator[Pipeline]:
    """The same steps behind servers."""
    with ExitStack() as stack:
        urls = {}
        for name, step in local.steps.items():
            handler: Handler = step.__self__  # type: ignore[attr-defined]
            urls[name] = stack.enter_context(resident(partial(nullcontext, handler), name))
        yield stack.enter_context(open_remote(urls, deadline_s=30, wait=True))


@pytest.fixture(params=["local", "remote"])
def pipeline(request: pytest.FixtureRequest, double: RerankerDouble) -> Iterator[Pipeline]:
    """The pipeline, run in both ways, with a server that works again afterwards."""
    opened: Pipeline = request.getfixturevalue(request.param)
    good = [*double.script]
    double.bodies.clear()
    yield opened
    double.behave(*good)


def ids(passages: list[dict[str, Any]]) -> list[str]:
    return [passage["chunk_id"] for passage in passages]


def test_it_is_there_because_it_is_configured(pipeline: Pipeline) -> None:
    """Provenance and timings name the step, each passage has its score."""
    response = pipeline.answer(QUESTION)

    assert list(response["timings_ms"]) == ["retrieve", "rerank", "augment", "generate", "total"]
    assert response["provenance"]["rerank"]["reranker"] == "cohere"
    assert all("rerank" in context["scores"] for context in response["contexts"])
    assert (response["degraded"], response["answerable"]) == (False, True)


def test_more_are_searched_than_are_wanted(pipeline: Pipeline, double: RerankerDouble) -> None:
    """One passage is wanted, the reranker reads all there are; its request is one."""
    everything = pipeline.search({**QUESTION, "top_k": 100, "rerank": {"enabled": False}})
    response = pipeline.search({**QUESTION, "top_k": 1})

    assert len(response["results"]) == 1 < len(everything["results"])
    assert [len(body["documents"]) for body in double.bodies] == [len(everything["results"])]
    scores = response["results"][0]["scores"]
    assert scores.keys() == {"dense", "sparse", "retrieve", "rerank"}


def test_candidates_are_the_requests_or_the_operators(
    pipeline: Pipeline, double: RerankerDouble
) -> None:
    """`rerank.candidates` bounds what a question costs, never below top_k."""
    pipeline.search({**QUESTION, "top_k": 1, "rerank": {"candidates": 2}})
    pipeline.search({**QUESTION, "top_k": 3, "rerank": {"candidates": 2}})

    assert [len(body["documents"]) for body in double.bodies] == [2, 3]
    assert RagSettings(rerank_candidates=7).stages()[1].candidates == 7


def test_min_score_is_on_the_rerankers_scale(pipeline: Pipeline) -> None:
    """The search itself drops nothing by it."""
    every = pipeline.search(QUESTION)["results"]
    best = every[0]["score"]
    some = pipeline.search({**QUESTION, "min_score": best})["results"]

    assert ids(some) == ids([passage for passage in every if passage["score"] == best])
    assert 0 < len(some) < len(every)


def test_the_searchs_document_cap_holds_for_both_stages(pipeline: Pipeline) -> None:
    """`retrieve.max_per_document` is not undone by the second stage."""
    response = pipeline.search({**QUESTION, "retrieve": {"max_per_document": 1}})
    documents = [passage["document_id"] for passage in response["results"]]

    assert len(documents) == len(set(documents)) > 1


def test_a_request_turns_it_off(pipeline: Pipeline, double: RerankerDouble) -> None:
    """Then nothing of it is left: no call, no score, no timing."""
    response = pipeline.answer({**QUESTION, "rerank": {"enabled": False}})

    assert "rerank" not in response["timings_ms"] | response["provenance"]
    assert all("rerank" not in context["scores"] for context in response["contexts"])
    assert double.bodies == []


def test_a_stream_has_the_same_passages(pipeline: Pipeline) -> None:
    """The search results come first, in the new order."""

    async def events() -> list[Any]:
        return [event async for event in pipeline.handler.events(json.dumps(QUESTION))]

    first, *_, last = pipeline.portal.call(events)

    assert json.loads(first.data)["results"] == pipeline.search(QUESTION)["results"]
    assert "rerank" in json.loads(last.data)["timings_ms"]


@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        (status(500), "reranker_unavailable"),
        (changed(lambda rows: rows[1:]), "reranker_bad_response"),
        (status(401), "reranker_misconfigured"),
    ],
)
def test_the_order_of_the_search_answers_when_it_fails(
    pipeline: Pipeline, double: RerankerDouble, behaviour: Any, code: str
) -> None:
    """The same passages as without it; `degraded` and a warning say so."""
    without = pipeline.answer({**QUESTION, "rerank": {"enabled": False}})
    double.behave(behaviour)
    response = pipeline.answer({**QUESTION, "min_score": 0.99})
    found = pipeline.search(QUESTION)

    assert ids(response["contexts"]) == ids(without["contexts"])
    assert response["degraded"] and found["degraded"]
    assert [warning[: len(code) + 11] for warning in response["warnings"]] == [f"degraded: {code}:"]


def test_a_request_may_rather_fail(pipeline: Pipeline, double: RerankerDouble) -> None:
    """`required`: an error of the step, as an envelope."""
    double.behave(status(500))
    error = pipeline.answer({**QUESTION, "rerank": {"required": True}})["error"]

    assert (error["code"], error["step"], error["retryable"]) == (
        "reranker_unavailable",
        "rerank",
        True,
    )


@pytest.mark.parametrize("options", [{"bogus": 1}, {"candidates": 0}, {"candidates": "9"}])
def test_a_bad_option_is_the_steps_own_error(pipeline: Pipeline, options: dict[str, Any]) -> None:
    """The pipeline reads `candidates` and leaves the check to the step."""
    error = pipeline.answer({**QUESTION, "rerank": options})["error"]

    assert (error["code"], error["param"]) == ("invalid_request", f"rerank.{next(iter(options))}")


def test_a_replay_repeats_it(local: LocalPipeline, double: RerankerDouble) -> None:
    """The same scores are identical; a reranker that fails, or is off, is named as the cause."""
    answered = [
        local.answer({**QUESTION, "rerank": options}) for options in ({}, {"enabled": False})
    ]
    reports = [json.loads(replay_answer(local, json.dumps(each).encode())) for each in answered]
    double.behave(status(500))
    failed = json.loads(replay_answer(local, json.dumps(answered[0]).encode()))
    double.behave(lambda exchange, rows: exchange.reply(rows))

    assert [report["identical"] for report in reports] == [True, True]
    assert [each["provenance"]["rag"]["request"]["rerank"] for each in answered] == [
        {},
        {"enabled": False},
    ]
    assert not failed["identical"]
    assert "failed of rerank changed: None, now reranker_unavailable" in [
        difference["message"] for difference in failed["differences"]
    ]


def test_the_step_keeps_the_contract(local: LocalPipeline) -> None:
    """Conformance passes, as for every step that gives passages."""

    async def report() -> list[tuple[str, bool]]:
        checked = await check_step("rerank", local.steps["rerank"])
        return [(check.id, check.passed) for check in checked.checks]

    checks = dict(local.portal.call(report))

    assert [name for name, passed in checks.items() if not passed] == []
    assert {"keeps-passages", "top-n", "best-first", "carries-unknown-fields"} <= checks.keys()


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[LocalPipeline]:
    """The pipeline as it is without any setting."""
    with open_local(home=tmp_path / "home") as opened:
        opened.retriever.ingest([written(tmp_path)])
        yield opened


def test_without_a_reranker_the_pipeline_has_no_such_step(plain: LocalPipeline) -> None:
    """Nothing is opened and nothing costs; turning it off is no fault, any other option is."""
    response = plain.answer(QUESTION)
    off = plain.answer({**QUESTION, "rerank": {"enabled": False, "candidates": 9}})
    refused = [
        plain.answer({**QUESTION, "rerank": options})["error"]
        for options in ({"enabled": True}, {"candidates": 9}, {"bogus": 1})
    ]

    assert list(plain.steps) == ["retrieve", "augment", "generate"]
    assert "rerank" not in response["timings_ms"]
    assert ids(off["contexts"]) == ids(response["contexts"])
    assert {(error["code"], error["param"]) for error in refused} == {("invalid_request", "rerank")}


def test_the_url_of_the_step_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three URLs make a pipeline without it; its URL alone is most likely that of a server."""
    for name in ("RETRIEVE", "AUGMENT", "GENERATE"):
        monkeypatch.setenv(f"RAG_{name}_URL", "http://127.0.0.1:9")
    with open_pipeline() as pipeline:
        assert list(pipeline.steps) == ["retrieve", "augment", "generate"]
    monkeypatch.setenv("RAG_RERANK_URL", "http://127.0.0.1:9")
    with open_pipeline() as pipeline:
        assert list(pipeline.steps) == ["retrieve", "rerank", "augment", "generate"]
    with pytest.raises(StepError, match="RAG_RERANKER_URL") as caught:
        RagSettings(
            retrieve_url=None, augment_url=None, generate_url=None, rerank_url="http://x"
        ).step_urls()
    assert caught.value.code == "misconfigured"
