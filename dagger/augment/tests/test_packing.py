from __future__ import annotations

from rag_augment.duplicates import Passage
from rag_augment.packing import Candidate, Packed, Rejected, pack

LETTERS = "abcdefghij"


def words(letter: str, count: int) -> str:
    return " ".join([letter] * count)


def candidates(*bodies: str) -> list[Candidate]:
    return [Candidate(Passage(body, f"d{n}", 0, len(body)), body) for n, body in enumerate(bodies)]


def test_what_does_not_fit_is_skipped_and_a_smaller_later_one_is_packed(tokenizer):
    """6 + 3 tokens of 10; 5 do not fit between them."""
    packing = pack(
        candidates(words("a", 6), words("b", 5), words("c", 3)),
        budget=10,
        threshold=0.9,
        tokenizer=tokenizer,
    )
    assert packing.packed == {0: Packed(words("a", 6), 6), 2: Packed(words("c", 3), 3)}
    assert packing.rejected == [Rejected(1, "token_budget")]


def test_a_budget_can_be_filled_to_the_last_token(tokenizer):
    """At most means at most."""
    packing = pack(
        candidates(words("a", 6), words("b", 4)), budget=10, threshold=1, tokenizer=tokenizer
    )
    assert list(packing.packed) == [0, 1]


def test_a_duplicate_of_a_passage_left_out_is_packed(tokenizer):
    """Nothing is dropped for the sake of what is not in the prompt."""
    long, short = words("b", 9), words("b", 4)
    document = [Candidate(Passage(long, "d", 0, len(long)), long)]
    document += [Candidate(Passage(short, "d", 0, len(short)), short)]
    packing = pack(
        [*candidates(words("a", 5)), *document], budget=10, threshold=0.9, tokenizer=tokenizer
    )
    assert list(packing.packed) == [0, 2]


def test_the_best_is_cut_when_nothing_fits(tokenizer):
    """Its beginning is packed, the others are left out."""
    packing = pack(
        candidates(words("a", 30), words("b", 40)), budget=16, threshold=1, tokenizer=tokenizer
    )
    assert packing.packed == {0: Packed(words("a", 16), 16)}
    assert packing.rejected == [Rejected(1, "token_budget")]
    assert packing.is_cut


def test_a_smaller_one_that_fits_is_preferred_to_cutting(tokenizer):
    """A whole passage supports an answer better than a part."""
    packing = pack(
        candidates(words("a", 30), words("b", 8)), budget=16, threshold=1, tokenizer=tokenizer
    )
    assert list(packing.packed) == [1]
    assert not packing.is_cut


def test_an_empty_body_is_left_out_as_empty(tokenizer):
    """It is neither a duplicate nor too long."""
    packing = pack(candidates("", "a", ""), budget=16, threshold=0.9, tokenizer=tokenizer)
    assert packing.rejected == [Rejected(0, "empty"), Rejected(2, "empty")]
