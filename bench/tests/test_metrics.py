"""The quality benchmark's measures, on cases small enough to check by hand."""

from __future__ import annotations

import itertools
import random

import metrics
import pytest


def test_spans_that_overlap_or_touch_count_each_character_once() -> None:
    """Passages that share text are not rewarded twice."""
    assert metrics.union([(5, 15), (0, 10), (15, 20), (30, 31)]) == [(0, 20), (30, 31)]
    assert metrics.length([(5, 15), (0, 10)]) == 15


def test_shared_characters_equal_those_of_the_sets_of_characters() -> None:
    """Span arithmetic agrees with sets of character positions."""
    draw = random.Random(7)

    def spans() -> list[tuple[int, int]]:
        starts = [draw.randrange(40) for _ in range(draw.randrange(5))]
        return [(start, start + draw.randrange(1, 12)) for start in starts]

    def characters(found: list[tuple[int, int]]) -> set[int]:
        return set(itertools.chain.from_iterable(range(*span) for span in found))

    for _ in range(300):
        one, other = spans(), spans()

        assert metrics.shared(one, other) == len(characters(one) & characters(other))


def test_overlap_counts_what_was_found_in_other_documents_against_precision() -> None:
    """A passage of a wrong document costs precision and IoU, not recall."""
    found = {"right": [(0, 10), (5, 15)], "wrong": [(0, 5)]}

    assert metrics.span_overlap(found, "right", [(10, 20)]) == (0.5, 0.25, 0.2)


def test_nothing_found_scores_nothing() -> None:
    """No passage gives zeros, not a division by zero."""
    assert metrics.span_overlap({}, "right", [(10, 20)]) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("answer", "reference", "f1", "rouge"),
    [
        ("The cat sat on the mat.", "cat sat on mat", 1.0, 1.0),
        ("mat the on sat cat", "cat sat on the mat", 1.0, 0.25),
        ("cat", "the cat sat", 2 / 3, 2 / 3),
        ("dog", "cat", 0.0, 0.0),
        ("", "cat", 0.0, 0.0),
    ],
)
def test_answers_are_compared_by_their_words(
    answer: str, reference: str, f1: float, rouge: float
) -> None:
    """Case, punctuation and articles do not count; order counts for ROUGE-L only."""
    assert metrics.token_f1(answer, reference) == pytest.approx(f1)
    assert metrics.rouge_l(answer, reference) == pytest.approx(rouge)


def test_citation_numbers_are_no_words_of_the_answer() -> None:
    """The numbers are removed before an answer is compared."""
    assert metrics.without_markers("It is so [1][12]. Or not [3].") == "It is so. Or not."


def test_auroc_counts_ties_half() -> None:
    """Equal scores are a coin toss."""
    assert metrics.auroc([1, 2], [0, 1]) == 0.875
    assert metrics.auroc([1], [1]) == 0.5


def test_an_interval_holds_its_mean_and_repeats() -> None:
    """The bootstrap has a fixed seed."""
    values = [0.0, 1.0, 1.0, 0.5]

    one = metrics.estimate(values)

    assert one == metrics.estimate(values)
    assert one.low < one.mean == 0.625 < one.high


def test_rankings_are_scored_in_the_order_given() -> None:
    """A question without any document found counts as zero."""
    pytest.importorskip("ir_measures", reason="comes with the bench dependency group")

    scores = metrics.rank_scores({"a": ["d1", "d2"]}, {"a": ["d2"], "b": ["d3"]})

    assert scores["MRR@10"] == [0.5, 0.0]
    assert scores["Recall@100"] == [1.0, 0.0]
    assert scores["nDCG@10"] == [pytest.approx(0.6309, abs=1e-4), 0.0]
