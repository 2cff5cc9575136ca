"""Questions to begin with: from the headings, answerable, and only from what the caller may read."""

from __future__ import annotations

import httpx
import pytest

from rag_kit.reports import DocumentInfo
from rag_service.api.examples import Remembered, ask_about, spread, unnumbered


def info(name: str, chunks: int = 2) -> DocumentInfo:
    return DocumentInfo(
        document_id=name, title=name, source=name, content_type="text/markdown",
        content_hash="", characters=1, chunks=chunks, metadata={},
    )  # fmt: skip


def test_examples_are_answered_with_a_source(http: httpx.Client) -> None:
    questions = http.get("/v1/examples").json()["questions"]
    assert 1 <= len(questions) <= 3
    for question in questions:
        answer = http.post("/rag_modules", json={"query": question}).json()
        assert answer["citations"], question
    assert http.get("/v1/examples").json()["questions"] == questions
    assert http.get("/v1/examples?collection=nowhere").status_code == 404


@pytest.mark.parametrize(
    ("title", "heading", "question"),
    [
        ("Travel", "Who signs?", "Who signs?"),
        ("Travel", "Meals", "What does “Travel” say about “Meals”?"),
        ("Travel", "Travel", "What is “Travel” about?"),
        ("Travel", "x" * 100, "What is “Travel” about?"),
    ],
)
def test_a_heading_makes_a_question(title: str, heading: str, question: str) -> None:
    assert ask_about(title, heading) == question


@pytest.mark.parametrize(
    ("heading", "words"),
    [("2. Scope", "Scope"), ("3.1.4 Fees", "Fees"), ("1) A", "A"), ("2024", "2024"), ("5G", "5G")],
)
def test_the_number_of_a_heading_is_left_out(heading: str, words: str) -> None:
    assert unnumbered(heading) == words


def test_documents_are_taken_from_all_over_the_list() -> None:
    names = [one.document_id for one in spread([info(f"{n:02}") for n in range(40)], 8)]
    assert names == [f"{n:02}" for n in range(0, 40, 5)]
    assert [one.document_id for one in spread([info("a", 1), info("b")], 8)] == ["b"]
    assert len(spread([info("a", 1)], 8)) == 1


def test_questions_of_old_states_are_forgotten() -> None:
    kept = Remembered()
    for number in range(100):
        kept.keep(("default", str(number), None), [])
    assert kept.get(("default", "0", None)) is None
    assert kept.get(("default", "99", None)) == []
