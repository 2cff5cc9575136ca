"""Markers in answers, and what citations rest on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_generate.citations import verify
from rag_generate.generator import Quote
from rag_generate.markers import find_markers, strip_markers
from rag_generate.models import GenerateRequest
from rag_kit.passages import Context

Build = Callable[..., GenerateRequest]


def numbers(text: str) -> list[int]:
    return [number for marker in find_markers(text) for number in marker.numbers]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a [1] b", [1]),
        ("a [1, 2]; b [3][4]", [1, 2, 3, 4]),
        ("a [1-3]", [1, 2, 3]),
        ("a [2, 4-6, 3-3]", [2, 4, 5, 6, 3]),
        ("a [15-18], the widest [1-21], too wide [1-22]", [15, 16, 17, 18, *range(1, 22)]),
        ("the longest [999], too long [1000]", [999]),
        ("a 【2】 b 【3†source】", [2, 3]),
        ("a [^1] [Source 2] [passages 3 & 4]", [1, 2, 3, 4]),
        ("`x[1]` and ```\ny[2]\n```", []),
        ("[1](https://example.org)", []),
        ("since [2019], item [0]", []),
        ("[note] [1a] [3-1]", []),
    ],
)
def test_markers_are_found_in_the_forms_models_write(text: str, expected: list[int]) -> None:
    """Lists, ranges, labels and other brackets are citations; code, links and years are not."""
    assert numbers(text) == expected


def test_stripping_leaves_no_marker_even_when_nested() -> None:
    """Taking one marker out may not make another."""
    assert strip_markers("a [1[2]] b.[3]") == "a b."


def test_a_long_number_is_a_marker_where_a_passage_has_it(make_request: Build) -> None:
    """A passage may be numbered like a year; then it is not one."""
    first, second = make_request().contexts[:2]
    contexts = [first.model_copy(update={"marker": 2019}), second]

    verified = verify("Only the board may sign [2019][2].", contexts, None)

    assert [citation.marker for citation in verified.citations] == [2, 2019]
    assert verified.citations[1].quote.startswith("Only the board")


def test_a_list_of_numbers_is_written_one_by_one(make_request: Build) -> None:
    """Also where a later marker is fine as it is, and where a number looks like a year."""
    first, second = make_request().contexts[:2]
    contexts = [first.model_copy(update={"marker": 2019}), second]

    verified = verify("Only the board may sign [2019, 2], interns may not [2].", contexts, None)

    assert verified.text == "Only the board may sign [2019][2], interns may not [2]."


def test_a_citation_has_the_passages_page(make_request: Build) -> None:
    """What a reader needs to open the document at the place."""
    context = make_request().contexts[1].model_copy(update={"page": 7})

    assert verify("Interns may not sign [2].", [context], None).citations[0].page == 7


@pytest.mark.parametrize(
    "heading", ["# Who may sign contracts", "| Who | May sign contracts |\n|---|---|"]
)
def test_a_heading_is_neither_a_claim_nor_quoted(make_request: Build, heading: str) -> None:
    """It shares the words of what stands below it, and says nothing."""
    text = f"{heading}\n\nThe board alone signs contracts."
    context = make_request().contexts[0].model_copy(update={"text": text, "span": [0, len(text)]})

    verified = verify("# Signing\n\nThe board may sign contracts [1].", [context], None)

    assert verified.check.uncited_sentences == 0
    assert verified.citations[0].quote == "The board alone signs contracts."


@pytest.mark.parametrize(
    "heading", ["# The board signs contracts", "| The board | Signs contracts |\n|---|---|"]
)
def test_a_heading_is_not_quoted_though_it_has_every_word(
    make_request: Build, heading: str
) -> None:
    """What stands below it is, with fewer of them; in an answer it needs no marker."""
    text = f"{heading}\n\nNobody else does for contracts."
    context = make_request().contexts[0].model_copy(update={"text": text, "span": [0, len(text)]})

    verified = verify(f"{heading}\n\nThe board signs contracts [1].", [context], None)

    assert verified.citations[0].quote == "Nobody else does for contracts."
    assert verified.check.uncited_sentences == 0


def test_a_passage_is_quoted_for_its_own_claims_alone(make_request: Build) -> None:
    """A sentence that backs a claim of another number is not cited by this one."""
    first, second = make_request().contexts[:2]
    text = "The board signs contracts. Interns never sign contracts."
    contexts = [
        context.model_copy(update={"text": text, "span": [0, len(text)]})
        for context in (first, second)
    ]

    verified = verify(
        "The board signs contracts [1]. Interns never sign contracts [2].", contexts, None
    )

    assert [citation.spans for citation in verified.citations] == [[[0, 26]], [[27, len(text)]]]


@pytest.mark.parametrize(
    ("claim", "quoted"), [("sign abc def ghi", True), ("sign abc def ghi jkl", False)]
)
def test_a_quote_shares_a_quarter_of_the_claims_words(
    make_request: Build, claim: str, quoted: bool
) -> None:
    """Exactly a quarter is enough, a fifth is not."""
    text = "Boards sign. Menus change."
    context = make_request().contexts[0].model_copy(update={"text": text, "span": [0, len(text)]})

    (citation,) = verify(f"{claim} [1].", [context], None).citations

    assert (citation.quote == "Boards sign.") is quoted


def test_a_passage_cited_for_two_sentences_has_two_spans_and_two_quotes(
    make_request: Build,
) -> None:
    """Each span has its text, in the same order."""
    text = "Soup is served daily at noon. Bread is baked on Fridays only."
    context = (
        make_request().contexts[0].model_copy(update={"text": text, "span": [7, 7 + len(text)]})
    )

    [cited] = verify(
        "Soup is served daily [1]. Bread is baked on Fridays [1].", [context], None
    ).citations

    assert cited.quotes == ["Soup is served daily at noon.", "Bread is baked on Fridays only."]
    assert [text[start - 7 : end - 7] for start, end in cited.spans] == cited.quotes


def test_unknown_numbers_are_removed_and_listed(make_request: Build) -> None:
    """A citation of a passage that is not there is no citation."""
    verified = verify(
        "Only the board may sign [1, 9]. Bread is free [7].", make_request().contexts, None
    )

    assert verified.text == "Only the board may sign [1]. Bread is free."
    assert verified.check.removed_markers == [7, 9]
    assert verified.check.uncited_sentences == 1


def test_a_citation_names_the_sentence_it_rests_on(make_request: Build) -> None:
    """Spans are in the document's coordinates; the quote is the text at the first."""
    context = make_request().contexts[1]

    verified = verify("Interns must not sign any contracts. [2]", [context], None)

    (citation,) = verified.citations
    assert citation.quote == "Interns may not sign contracts."
    assert citation.spans == [[1139, 1170]]
    assert context.text[39:70] == citation.quote


def test_a_number_after_the_full_stop_belongs_to_the_sentence_before(make_request: Build) -> None:
    """Both habits of writing are read the same."""
    text = "The chair is elected for two years. [1] Bread is free.[3]"

    verified = verify(text, make_request().contexts, None)

    assert [c.quote for c in verified.citations] == [
        "The chair is elected for two years.", "Bread is free.",
    ]  # fmt: skip
    assert verified.check.uncited_sentences == 0


def test_a_claim_no_sentence_shares_words_with_cites_the_whole_passage(make_request: Build) -> None:
    """Where no sentence stands out, none is made up."""
    context = make_request().contexts[0]

    (citation,) = verify("Zebras gallop [1].", [context], None).citations

    assert (citation.spans, citation.quote) == ([context.span], context.text)


def test_a_passage_whose_span_does_not_fit_its_text_is_cited_whole(make_request: Build) -> None:
    """Offsets that cannot be trusted are not computed with; a warning says so."""
    context = make_request().contexts[0].model_copy(update={"span": [0, 5]})

    verified = verify("Only the board may sign [1].", [context], None)

    assert verified.citations[0].spans == [[0, 5]]
    assert verified.warnings == ["span_mismatch:1"]


PIECES = st.sampled_from(
    ["Only the board signs", " ", ".", "\n", "[1]", "[2, 9]", "【3】", "[1-4]", "[", "]", "7", "`",
     "[^2]", "- ", "# ", "bread", "é", "[2019]", "```", "[0]", "†x"]
)  # fmt: skip
TEXT = st.lists(PIECES, max_size=25).map("".join)


@settings(deadline=None)
@given(answer=TEXT, passages=st.lists(TEXT, max_size=4), offset=st.integers(0, 9999))
def test_no_answer_makes_a_citation_that_does_not_hold(
    answer: str, passages: list[str], offset: int
) -> None:
    """Quotes equal the document at their span, numbers ascend, none in the text dangles."""
    contexts = [
        Context(
            marker=n, chunk_id=str(n), document_id="d", text=text, span=[offset, offset + len(text)],
            score=1.0,
        )
        for n, text in enumerate(passages, start=1)
    ]  # fmt: skip

    verified = verify(answer, contexts, None)

    cited = [citation.marker for citation in verified.citations]
    assert cited == sorted(set(cited))
    assert set(numbers(verified.text)) == set(cited)
    for citation in verified.citations:
        text = passages[citation.marker - 1]
        cut = [text[start - offset : end - offset] for start, end in citation.spans]
        assert (citation.quote, citation.quotes) == (cut[0], cut)
        assert all(offset <= a <= b <= offset + len(text) for a, b in citation.spans)


def test_known_quotes_are_taken_as_they_are(make_request: Build) -> None:
    """An extractive answer knows what it quotes."""
    quotes = [Quote(3, 0, 24)]

    (citation,) = verify("Soup is served daily [3].", make_request().contexts, quotes).citations

    assert (citation.quote, citation.spans) == ("Soup is served daily.[7]", [[2100, 2124]])
