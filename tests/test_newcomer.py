"""The questions of a newcomer, asked of this project's own documentation as `make run` indexes it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from sample_corpus import MadeRun

from rag_pipeline.steps.local import open_local

ROOT = Path(__file__).resolve().parent.parent
QUESTIONS = [
    json.loads(line) for line in (ROOT / "tests" / "newcomer.jsonl").read_text().splitlines()
]
pytestmark = [
    pytest.mark.timeout(600),  # `make run` embeds the documentation
    pytest.mark.xdist_group("sample_corpus"),
]
FLOOR = 0.85  # share of the questions whose answer holds the fact asked for


@pytest.fixture(scope="module")
def answers(made_run: MadeRun) -> list[dict[str, Any]]:
    """The answer to each question, from the store that `make run` left."""
    with open_local(home=made_run.home) as pipeline:
        return [pipeline.answer({"query": q["query"], "collection": "docs"}) for q in QUESTIONS]


def test_newcomers_find_what_they_ask(answers: list[dict[str, Any]]) -> None:
    """The answer holds the expected fact for most questions; the message lists the others."""
    wrong = [
        f"{question['query']}: {answer['answer']}"
        for question, answer in zip(QUESTIONS, answers, strict=True)
        if not re.search(question["expect"], answer["answer"])
    ]

    assert len(QUESTIONS) == 40
    assert len(QUESTIONS) - len(wrong) >= FLOOR * len(QUESTIONS), "\n".join(wrong)


def test_no_answer_is_a_question_or_a_heading(answers: list[dict[str, Any]]) -> None:
    """What repeats the question is no answer."""
    echoes = [
        one["answer"]
        for one in answers
        if re.search(r"\?[*_ ]{0,4}\[\d\]|:[*_ ]?\[\d\]", one["answer"])
    ]

    assert echoes == []


def test_every_page_expected_is_there() -> None:
    """The eval set names pages of the documentation."""
    for question in QUESTIONS:
        for page in question["pages"]:
            assert (ROOT / page).is_file(), page
