from __future__ import annotations

import pytest

from rag_augment.duplicates import (
    Passage,
    contained_share,
    find_duplicate,
    is_near_duplicate,
    resemblance,
)

WORDS = [f"word{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(104)]
DOCUMENT = " ".join(WORDS).replace("word", "")


def passage(text: str, document: str = "d", start: int = 0) -> Passage:
    return Passage(text, document, start, start + len(text))


def chunk(start: int, end: int) -> Passage:
    return Passage(DOCUMENT[start:end], "d", start, end)


def test_resemblance_is_the_shared_part_of_all_shingles():
    """{1,2,3} and {2,3,4} share two of four."""
    a, b = (frozenset({(str(n),) for n in numbers}) for numbers in ((1, 2, 3), (2, 3, 4)))
    assert resemblance(a, b) == 0.5


def test_shingles_are_all_runs_of_four_words():
    """Five words have two; three words are one."""
    assert passage("One two, three four FIVE!").shingles == {
        ("one", "two", "three", "four"),
        ("two", "three", "four", "five"),
    }
    assert passage("one two three").shingles == {("one", "two", "three")}


def test_one_changed_word_in_a_hundred_is_a_near_duplicate():
    """97 of 105 shingles remain: 0.924."""
    changed = [*WORDS[:50], "other", *WORDS[51:]]
    a, b = passage(" ".join(WORDS)), passage(" ".join(changed), "e")
    assert resemblance(a.shingles, b.shingles) == pytest.approx(97 / 105)
    assert is_near_duplicate(a, b, threshold=0.9)
    assert not is_near_duplicate(a, b, threshold=0.95)


def test_passages_whose_numbers_differ_are_never_near_duplicates():
    """Two versions of a rule must both be seen."""
    a = passage(" ".join([*WORDS, "limit 500"]))
    b = passage(" ".join([*WORDS, "limit 600"]), "e")
    assert resemblance(a.shingles, b.shingles) > 0.95
    assert find_duplicate(b, [a], threshold=0.9) is None


@pytest.mark.parametrize(
    "text",
    ["ONLY the  board\nmay sign.", "Ｏｎｌｙ the board may sign.", "Only the board may sign. "],
)
def test_case_blanks_and_compatibility_forms_make_no_difference(text):
    """The normal text is NFKC, case-folded, with single blanks."""
    assert (
        find_duplicate(passage(text, "e"), [passage("Only the board may sign.")], threshold=1) == 0
    )


def test_texts_without_words_are_compared_as_they_are():
    """No shingles is not the same as equal shingles."""
    assert find_duplicate(passage("…", "e"), [passage("!!!")], threshold=0.1) is None
    assert find_duplicate(passage("…", "e"), [passage("…")], threshold=0.1) == 0


def test_a_chunk_inside_a_better_one_is_superfluous_and_not_the_other_way_round():
    """Only what the reader already has may be dropped."""
    inner, outer = chunk(20, 60), chunk(0, 200)
    assert contained_share(inner, outer) == 1.0
    assert contained_share(outer, inner) == 0.2
    assert find_duplicate(inner, [outer], threshold=1) == 0
    assert find_duplicate(outer, [inner], threshold=0.9) is None


def test_chunks_that_overlap_a_little_are_both_kept():
    """The usual overlap of a chunker is no reason to drop its neighbour."""
    assert contained_share(chunk(80, 180), chunk(0, 100)) == 0.2
    assert find_duplicate(chunk(80, 180), [chunk(0, 100)], threshold=0.9) is None


def test_spans_that_contradict_the_texts_are_not_believed():
    """A retriever without real offsets must not lose passages."""
    a = Passage("The first passage.", "d", 0, 18)
    b = Passage("Another one, same span.", "d", 0, 18)
    assert contained_share(b, a) == 0.0
    assert contained_share(passage("same text", "e"), passage("same text", "d")) == 0.0


def test_the_first_of_several_is_named():
    """Ranks decide which passage is kept."""
    kept = [passage("something else"), passage("the rule"), passage("The rule")]
    assert find_duplicate(passage("the rule", "e"), kept, threshold=0.9) == 1
