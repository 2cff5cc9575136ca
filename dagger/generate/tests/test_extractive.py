"""The generator `extractive` on small passages."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_generate import generate
from rag_generate.extractive import Extractive
from rag_generate.generator import Draft
from rag_generate.markers import find_markers
from rag_generate.models import GenerateRequest, GenerateResponse
from rag_generate.settings import MIN_SUPPORT
from rag_kit.passages import Context

Build = Callable[..., GenerateRequest]
NONE = "Not found."


def answer(request: GenerateRequest, least: float = 0.0) -> GenerateResponse:
    return generate(
        request,
        generators={"extractive": Extractive(min_support=least)},
        default="extractive",
        no_context_text=NONE,
    )


def test_the_best_sentence_answers_with_its_number(make_request: Build) -> None:
    """The sentence that shares the question's words comes first, quoted exactly."""
    response = answer(make_request(generate={"max_sentences": 1}))

    assert response.answer == "Only the board may sign contracts [1]."
    assert response.citations[0].quote == "Only the board may sign contracts."
    assert response.citations[0].spans == [[100, 134]]
    assert (response.llm_generated, response.usage.llm_calls) == (False, 0)


def test_bracketed_numbers_of_a_passage_are_no_citations(make_request: Build) -> None:
    """The quote keeps a passage's own footnote mark, the answer does not."""
    response = answer(make_request(query="Is soup served daily?", generate={"max_sentences": 1}))

    assert response.answer == "Soup is served daily [3]."
    assert response.citations[0].quote == "Soup is served daily.[7]"
    assert response.citation_check.removed_markers == []


def test_the_date_asked_for_is_preferred(make_request: Build) -> None:
    """A question that asks when is answered by the sentence with a date."""
    text = "The bridge was built by the town. The bridge was built in 1932."
    context = {"marker": 1, "chunk_id": "c", "document_id": "d", "text": text, "span": [0, 63],
               "score": 1.0, "scores": {"dense": 0.8}}  # fmt: skip

    response = answer(
        make_request(
            query="When was the bridge built?", contexts=[context], generate={"max_sentences": 1}
        )
    )

    assert response.answer == "The bridge was built in 1932 [1]."


def test_equal_sentences_are_said_once(make_request: Build) -> None:
    """A passage found twice does not answer twice."""
    contexts = make_request().contexts
    twin = contexts[0].model_copy(update={"marker": 9, "chunk_id": "twin"})

    response = answer(make_request(contexts=[c.model_dump() for c in (contexts[0], twin)]))

    assert response.answer.count("Only the board") == 1


def test_a_question_off_the_topic_is_not_answered(make_request: Build) -> None:
    """Support below the threshold gives the configured text, no citation."""
    request = make_request(query="How do volcanoes erupt?")
    far = [c.model_copy(update={"scores": {"dense": 0.05}}).model_dump() for c in request.contexts]

    response = answer(make_request(query=request.query, contexts=far), least=0.25)

    assert (response.answer, response.finish_reason) == (NONE, "no_context")
    assert not response.answerable
    assert response.citations == []
    assert response.support is not None
    assert response.support < 0.25


def test_a_request_may_set_its_own_threshold(make_request: Build) -> None:
    """generate.min_support replaces the setting."""
    assert answer(make_request(generate={"min_support": 1.0})).finish_reason == "no_context"
    assert answer(make_request(generate={"min_support": 0.0}), least=1.0).finish_reason == "stop"


def test_headings_and_questions_do_not_answer(make_request: Build) -> None:
    """A heading repeats the question's words without answering it."""
    text = "# Who may sign contracts?\nContracts are signed by the board."
    context = {"marker": 1, "chunk_id": "c", "document_id": "d", "text": text,
               "span": [0, len(text)], "score": 1.0, "scores": {"dense": 0.8}}  # fmt: skip

    response = answer(make_request(contexts=[context], generate={"max_sentences": 1}))

    assert response.answer == "Contracts are signed by the board [1]."


@pytest.mark.parametrize("scores", [{}, {"sparse": 3.0}])
def test_passages_without_a_cosine_are_judged_by_words_alone(
    make_request: Build, scores: dict[str, float]
) -> None:
    """Sparse retrieval gives no cosine; support comes from coverage."""
    contexts = [
        c.model_copy(update={"scores": scores}).model_dump() for c in make_request().contexts
    ]
    good = answer(make_request(contexts=contexts))
    bad = answer(make_request(contexts=contexts, query="How do volcanoes erupt?"))

    assert good.support is not None
    assert bad.support is not None
    assert good.support > 0.5 > 0.25 > bad.support


def test_an_item_is_found_by_its_number(make_request: Build) -> None:
    """The number in front of a list item stands outside the sentence and still counts for it."""
    lease = "# Lease\n\n1. The rent is 900 EUR.\n2. The deposit is due.\n3. Pets need consent.\n"
    question = "What does clause 3 of the lease say?"
    request = make_request(query=question, contexts=[passage(lease)], generate={"max_sentences": 1})

    assert answer(request).answer == "Pets need consent [1]."


def passage(text: str, *, dense: float = 0.3, title: str = "") -> dict[str, object]:
    return {"marker": 1, "chunk_id": "c", "document_id": "d", "title": title, "text": text,
            "span": [0, len(text)], "score": 1.0, "scores": {"dense": dense}}  # fmt: skip


@pytest.mark.parametrize(
    ("query", "text", "dense", "expected"),
    [
        (
            "Where does data live?",
            "Scores would be wrong.\n\n## Where data lives\n\nThe store keeps collections under "
            "`$RAG_HOME`.",
            0.17,
            "The store keeps collections under `$RAG_HOME` [1].",
        ),
        (
            "How long are receipts kept?",
            "The allowance for meals is 28 euros.\nReceipts are kept for ten years.",
            0.27,
            "Receipts are kept for ten years [1].",
        ),
        (
            "How long may a language model take to answer?",
            "No language model is called when there is no context.\n\n## Deadlines\n\n"
            "A model has 30 seconds to answer.",
            0.4,
            "A model has 30 seconds to answer [1].",
        ),
        (
            "How are citations verified?",
            "## Citations are verified\n\nAfter either generator the numbers are checked.",
            0.5,
            "After either generator the numbers are checked [1].",
        ),
        (
            "Which place has the label printer?",
            "device,place,number\nLabel printer Tick,post room,INV-0007\nPress Moka,hall,INV-2210",
            0.5,
            "Label printer Tick, post room, INV-0007 [1].",
        ),
        (
            "What does rag doctor do?",
            "| Command | What it does |\n|---|---|\n| `rag doctor` | names … what fails |",
            0.5,
            "`rag doctor`, names … what fails [1].",
        ),
    ],
)
def test_what_the_passage_says_is_found_at_the_default_threshold(
    make_request: Build, query: str, text: str, dense: float, expected: str
) -> None:
    """Low cosines, headings, durations and rows: one passage is enough to answer."""
    request = make_request(
        query=query, contexts=[passage(text, dense=dense)], generate={"max_sentences": 1}
    )

    assert answer(request, least=MIN_SUPPORT).answer == expected


@pytest.mark.parametrize("query", ["How tall is the moon?", "Who won the world cup in 1998?"])
def test_unrelated_passages_support_nothing(make_request: Build, query: str) -> None:
    """Whether one passage or three, a question off the topic gets no answer."""
    text = "A lost badge is blocked for 20 francs. Receipts are kept for ten years."
    few = answer(make_request(query=query, contexts=[passage(text, dense=0.05)]), MIN_SUPPORT)

    assert few.finish_reason == "no_context"
    assert few.support is not None
    assert few.support < 0.1


def test_only_headings_and_column_names_leave_little_to_say(make_request: Build) -> None:
    """A heading is quoted when nothing else is there, column names never."""
    heading = answer(make_request(contexts=[passage("# Contracts the board may sign")]))
    header = answer(make_request(contexts=[passage("| Contracts | Sign |\n|---|---|\n")]))

    assert heading.answer == "Contracts the board may sign [1]."
    assert header.finish_reason == "no_context"


WORDS = st.sampled_from(
    ["who", "signs", "contracts", "Board", ".", "?", "\n", "# ", "[1]", "[[2]1]", "`", "- ", "```",
     "1932", "é", "｀", "【3】", "the", "[2019]", "|", "|---|", ",a,b", "---"]
)  # fmt: skip
TEXT = st.lists(WORDS, min_size=1, max_size=20).map(" ".join)


@settings(deadline=None)
@given(passages=st.lists(TEXT, min_size=1, max_size=4), query=TEXT.filter(str.strip))
def test_every_sentence_of_any_answer_is_quoted_exactly(passages: list[str], query: str) -> None:
    """Whatever stands in the passages, every number in the answer has its quote and span."""
    contexts = [
        Context(
            marker=n, chunk_id=str(n), document_id="d", text=text, span=[7, 7 + len(text)],
            score=1.0,
        )
        for n, text in enumerate(passages, start=1)
    ]  # fmt: skip

    response = answer(GenerateRequest(query=query, contexts=contexts))

    cited = {number for marker in find_markers(response.answer) for number in marker.numbers}
    assert cited == {citation.marker for citation in response.citations}
    assert response.citation_check.removed_markers == []
    for citation in response.citations:
        start, end = citation.spans[0]
        assert citation.quote == passages[citation.marker - 1][start - 7 : end - 7]
    assert response == answer(GenerateRequest(query=query, contexts=contexts))


def test_a_follow_up_is_not_answered_with_what_it_leans_on(make_request: Build) -> None:
    """The passages are judged by the question in full; sentences without a word of its own stay out."""
    text = "The treasurer keeps the accounts. The accounts are audited every year in March."
    passage = make_request().contexts[0].model_copy(update={"text": text, "span": [0, len(text)]})

    def answered(query: str, full: str) -> str:
        request = make_request(query=query, standalone_query=full, contexts=[passage.model_dump()])
        *_, draft = Extractive(min_support=0.0).stream(request)
        assert isinstance(draft, Draft)
        return draft.text

    full = "When are they audited keeps accounts?"
    assert (
        answered("When are they audited?", full)
        == "The accounts are audited every year in March [1]."
    )
    assert answered("Why?", "Why treasurer keeps accounts?").startswith("The treasurer keeps")
