"""`replay` over a double of `retrieve`, and `rag replay` as a process."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import rag_doubles as doubles
from rag_command import run, run_module, write_documents
from rag_doubles import BODIES, StepDouble

from rag_pipeline.models import RagRequest
from rag_pipeline.quality.replay import ReplayReport, replay
from rag_pipeline.step import answer, search

REQUEST = {
    "query": "Who may sign?",
    "collection": "hr",
    "top_k": 3,
    "filters": {"year": 2024},
    "min_score": 0.1,
    "retrieve": {"mode": "dense"},
    "generate": {"seed": 1},
}


def passage(chunk_id: str, score: float, **more: Any) -> dict[str, Any]:
    return {**doubles.PASSAGE, "chunk_id": chunk_id, "score": score, **more}


def retriever(*results: dict[str, Any], **made: str) -> StepDouble:
    provenance = {"retrieve": {"version": "0.1.0", "corpus_digest": "sha256:1", **made}}
    return StepDouble(lambda request: {**request, "results": results, "provenance": provenance})


def searched(*results: dict[str, Any]) -> dict[str, Any]:
    request = RagRequest.model_validate(REQUEST)
    found = asyncio.run(search(request, {"retrieve": retriever(*results)}))
    given: dict[str, Any] = json.loads(found.model_dump_json())
    return given


def replayed(record: dict[str, Any], step: StepDouble) -> dict[str, Any]:
    text = asyncio.run(replay(json.dumps(record), {"retrieve": step}))
    report: dict[str, Any] = json.loads(text)
    return report


def differences(record: dict[str, Any], step: StepDouble) -> list[tuple[Any, ...]]:
    report = ReplayReport.model_validate(replayed(record, step))
    assert report.identical is False
    assert report.results_digest.before != report.results_digest.after
    return [(d.kind, d.name, d.before, d.after) for d in report.differences]


A, B, C = passage("a", 0.9), passage("b", 0.5), passage("c", 0.2)


def test_the_same_retrieval_is_identical() -> None:
    """Both digests are equal, and nothing is told."""
    report = replayed(searched(A, B), retriever(A, B))

    assert (report["identical"], report["differences"]) == (True, [])
    assert report["results_digest"]["before"] == report["results_digest"]["after"]
    assert (report["query"], report["collection"]) == ("Who may sign?", "hr")


def test_retrieve_is_sent_what_it_was_sent() -> None:
    """Question, collection, top_k, filters, min_score and its options; nothing of the others."""
    step = retriever(A)
    replayed(searched(A), step)
    (sent,) = step.requests

    assert {name: sent[name] for name in REQUEST if name != "generate"} == {
        name: value for name, value in REQUEST.items() if name != "generate"
    }
    assert sent["generate"] == {}


def test_an_answer_is_replayed_as_a_search_is() -> None:
    """The passages of an answer are its contexts and what was left out of the prompt."""

    def augment(request: dict[str, Any]) -> dict[str, Any]:
        built = doubles.augment_body({**request, "warnings": []})
        *contexts, last = built["contexts"]
        left = {name: last[name] for name in ("chunk_id", "document_id", "score")}
        return {**built, "contexts": contexts, "left_out": [{**left, "reason": "token_budget"}]}

    generate = StepDouble(lambda request: {**BODIES["generate"](request), "citations": []})
    given = asyncio.run(
        answer(
            RagRequest.model_validate(REQUEST),
            {
                "retrieve": retriever(A, B, C),
                "augment": StepDouble(augment),
                "generate": generate,
            },
        )
    )
    record = json.loads(given.model_dump_json())

    assert [item["chunk_id"] for item in record["left_out"]] == ["c"]
    assert replayed(record, retriever(A, B, C))["identical"] is True
    assert differences(record, retriever(A, B)) == [("gone", "c", 3, None)]


def test_what_was_left_out_without_a_rank_is_not_compared() -> None:
    """The passages known from the answer are compared; one that is not known is new."""
    record = searched(A, B)
    results = record.pop("results")
    record |= {"contexts": results[:1], "left_out": [{"reason": "too long"}]}

    assert replayed(record, retriever(A, B))["identical"] is True
    assert differences(record, retriever(A, C)) == [("new", "c", None, 2)]


def test_passages_gone_and_new_are_told() -> None:
    """With the rank they had, and the rank they have."""
    assert differences(searched(A, B), retriever(C, A)) == [
        ("gone", "b", 2, None),
        ("new", "c", None, 1),
    ]


def test_a_new_first_passage_moves_no_other() -> None:
    """Ranks are compared among the passages found both times."""
    assert differences(searched(A, B), retriever(C, A, B)) == [("new", "c", None, 1)]


def test_another_order_and_score_are_told() -> None:
    """Both passages changed places, one of them by another score."""
    assert differences(searched(A, B), retriever(passage("b", 0.95), A)) == [
        ("moved", "a", 1, 2),
        ("moved", "b", 2, 1),
        ("score", "b", 0.5, 0.95),
    ]


def test_another_span_is_told() -> None:
    """The same passage elsewhere in its document is a difference."""
    assert differences(searched(A), retriever(passage("a", 0.9, span=[0, 24]))) == [
        ("span", "a", [100, 124], [0, 24])
    ]


def test_causes_are_told_also_when_the_passages_are_identical() -> None:
    """Other documents, version and model are named with both values."""
    changed = {"corpus_digest": "sha256:2", "version": "0.2.0", "embedding_model": "new"}
    report = replayed(searched(A), retriever(A, **changed))

    assert report["identical"] is True
    assert [item["message"] for item in report["differences"]] == [
        "the documents of the collection changed: sha256:1, now sha256:2",
        "another embedding model is used: None, now new",
        "another version of retrieve answered: 0.1.0, now 0.2.0",
    ]


def test_a_digest_that_nothing_explains_is_still_a_difference() -> None:
    """A record whose digest is of other passages than it shows is not called identical."""
    record = searched(A)
    record["provenance"]["rag"]["results_digest"] = "sha256:0"

    assert differences(record, retriever(A)) == [("order", "", None, None)]


def without(*path: str) -> dict[str, Any]:
    record = searched(A)
    place = record
    for name in path[:-1]:
        place = place[name]
    del place[path[-1]]
    return record


@pytest.mark.parametrize(
    "path",
    [
        ("query",),
        ("provenance",),
        ("provenance", "rag"),
        ("provenance", "rag", "request"),
        ("provenance", "rag", "results_digest"),
    ],
)
def test_an_answer_that_lacks_what_is_needed_is_refused(path: tuple[str, ...]) -> None:
    """The field is named, and `retrieve` is not asked."""
    step = retriever(A)
    error = replayed(without(*path), step)["error"]

    assert (error["code"], error["param"]) == ("invalid_request", ".".join(path))
    assert "missing" in error["message"]
    assert step.requests == []


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_what_is_no_answer_is_an_envelope(text: str) -> None:
    """Whatever the file holds, the reply is JSON."""
    error = json.loads(asyncio.run(replay(text, {"retrieve": retriever()})))["error"]

    assert error["code"] == "invalid_request"


def test_an_envelope_is_told_from_an_answer() -> None:
    """An error cannot be replayed, and is named."""
    error = replayed({"error": {"code": "llm_timeout", "message": "late"}}, retriever())["error"]

    assert "an error (llm_timeout), not an answer" in error["message"]


def test_a_record_of_no_valid_request_is_refused() -> None:
    """A top_k that no request may have is the record's fault."""
    record = searched(A)
    record["provenance"]["rag"]["request"]["top_k"] = 0

    assert replayed(record, retriever(A))["error"]["param"] == "top_k"


def test_an_error_of_retrieve_is_handed_on() -> None:
    """A collection that is gone is told by its code."""
    gone = {"error": {"code": "collection_not_found", "message": "no", "param": "collection"}}

    error = replayed(searched(A), StepDouble(lambda _: gone))["error"]

    assert (error["code"], error["step"]) == ("collection_not_found", "retrieve")


# -- as a process -------------------------------------------------------------------------------


def test_the_command_tells_identical_from_different(home: Path, tmp_path: Path) -> None:
    """An answer from a pipe is identical; with one document more it is different, exit code 1."""
    papers = write_documents(tmp_path)
    run("index", str(papers), home=home)
    answered = run("ask", "Who may sign contracts?", "--json", home=home)
    (tmp_path / "answer.json").write_text(answered.out, encoding="utf-8")
    same = run("replay", "-", home=home, stdin=answered.out)
    (papers / "new.txt").write_text("The board signs contracts on Mondays.", encoding="utf-8")
    run("index", str(papers), home=home)
    changed = run("replay", str(tmp_path / "answer.json"), home=home)
    as_json = run("replay", str(tmp_path / "answer.json"), "--json", home=home)
    kinds = {item["kind"] for item in as_json.json["differences"]}

    assert (same.code, same.err) == (0, "")
    assert same.out.startswith("identical: the passages for “Who may sign contracts?”\ndigest sha")
    assert changed.code == 1
    assert changed.out.startswith("different: ")
    assert "- the documents of the collection changed: sha256:" in changed.out
    assert (as_json.code, as_json.json["identical"]) == (1, False)
    assert {"provenance", "new"} <= kinds


def test_the_command_refuses_what_is_no_answer(home: Path) -> None:
    """The error stands on stderr, and nothing is called identical."""
    ran = run("replay", "-", home=home, stdin='{"query": "x"}')

    assert (ran.code, ran.out) == (1, "")
    assert "collection: required, but missing" in ran.err


def test_the_module_command_writes_the_report_to_a_file(home: Path, tmp_path: Path) -> None:
    """`python -m rag_pipeline replay` replays a search, too."""
    run("index", str(write_documents(tmp_path)), home=home)
    found = run("search", "Who may sign contracts?", "--json", home=home)
    source, target = tmp_path / "found.json", tmp_path / "report.json"
    source.write_text(found.out, encoding="utf-8")
    files = ["--input", str(source), "--output", str(target)]
    done = run_module("replay", *files, home=home)

    assert done.code == 0, done.err
    assert ReplayReport.model_validate_json(target.read_text()).identical is True
