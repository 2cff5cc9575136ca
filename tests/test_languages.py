"""Thirteen languages in one collection: found by words, found by both legs, answered, or refused.

`languages.jsonl` holds eight facts a language, the same ones in each, with a question of other words for
each, and two questions that no fact answers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from rag_generate.extractive import Extractive
from rag_generate.models import GenerateRequest
from rag_generate.settings import MIN_SUPPORT
from rag_retrieve import Retriever
from rag_retrieve.documents import LoadedDocument
from rag_retrieve.models import RetrieveOptions, RetrieveRequest
from rag_retrieve.settings import RetrieveSettings

FACTS = [
    json.loads(line)
    for line in Path(__file__).with_name("languages.jsonl").read_text("utf-8").splitlines()
]
LANGUAGES = list(dict.fromkeys(fact["language"] for fact in FACTS))
FAST = ("english", "german", "turkish", "arabic", "thai", "japanese")  # the others: full lane
SPARE = 1  # of eight; a language may be so much worse than English


class Score(NamedTuple):
    """Of how many questions the right passage came first, or the answer was right."""

    sparse: int = 0
    hybrid: int = 0
    answers: int = 0
    refusals: int = 0


def document(number: int, text: str, **fields: Any) -> LoadedDocument:
    name = f"fact-{number}.txt"
    return LoadedDocument(
        document_id=name, title=name, source=name, text=text, content_type="text/plain", **fields
    )


@pytest.fixture(scope="module")
def retriever(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Retriever]:
    chosen = LANGUAGES if request.config.getoption("--lane") == "full" else FAST
    with Retriever(RetrieveSettings(home=tmp_path_factory.mktemp("languages"))) as opened:
        opened.ingest_documents(
            document(n, fact["text"])
            for n, fact in enumerate(FACTS)
            if fact["text"] and fact["language"] in chosen
        )
        yield opened


def search(retriever: Retriever, question: str, mode: str = "hybrid") -> Any:
    options = RetrieveOptions.model_validate({"mode": mode})
    return retriever.retrieve(RetrieveRequest(query=question, retrieve=options))


def answer(question: str, found: Any) -> str:
    contexts = [{**one.model_dump(), "marker": n} for n, one in enumerate(found.results, start=1)]
    request = GenerateRequest.model_validate({"query": question, "contexts": contexts})
    draft = list(Extractive(min_support=MIN_SUPPORT).stream(request))[-1]
    return draft if isinstance(draft, str) else draft.text


def judged(retriever: Retriever, number: int, fact: dict[str, Any]) -> Score:
    question = fact["question"]
    found = search(retriever, question)
    said = answer(question, found)
    if fact["text"] is None:
        return Score(refusals=said == "")
    right = bool(re.search(fact["answer"], said)) and len(said) < 2 * len(fact["text"])
    by_words = search(retriever, question, "sparse").results
    return Score(
        bool(by_words) and by_words[0].document_id == f"fact-{number}.txt",
        found.results[0].document_id == f"fact-{number}.txt",
        right,
    )


def score(retriever: Retriever, language: str) -> Score:
    each = [
        judged(retriever, number, fact)
        for number, fact in enumerate(FACTS)
        if fact["language"] == language
    ]
    return Score(*map(sum, zip(*each, strict=True)))


@pytest.fixture(scope="module")
def english(retriever: Retriever) -> Score:
    return score(retriever, "english")


@pytest.mark.parametrize(
    "language",
    [one if one in FAST else pytest.param(one, marks=pytest.mark.full) for one in LANGUAGES],
)
def test_a_language_is_found_and_answered_as_english_is(
    language: str, retriever: Retriever, english: Score
) -> None:
    """Of eight questions, at most one fewer than in English; what no passage says is refused."""
    own = score(retriever, language)
    assert english >= Score(8, 8, 8, 2)
    assert own.sparse >= english.sparse - SPARE
    assert own.hybrid >= english.hybrid - SPARE
    assert own.answers >= english.answers - SPARE
    assert own.refusals == english.refusals


def test_a_question_in_another_script_is_told_that_words_decide(retriever: Retriever) -> None:
    """The English embedder is named in a warning, once, and only where it cannot know the letters."""
    arabic = search(retriever, "كم تكلفة بطاقة المكتبة؟").warnings
    assert [warning.partition(":")[0] for warning in arabic] == ["dense_leg_unfit"]
    assert search(retriever, "What does a card cost?").warnings == []
    assert search(retriever, "Was kostet der Ausweis?").warnings == []
    assert search(retriever, "كم تكلفة بطاقة المكتبة؟", "sparse").warnings == []


def test_passages_say_their_language(retriever: Retriever) -> None:
    """The language of a document is detected, and stands in what is found of it."""
    found = search(retriever, "Kütüphane kartı ücreti ne kadar?").results[0]
    assert found.language == "turkish"
    assert "language" not in search(retriever, "library card").results[0].model_dump()
