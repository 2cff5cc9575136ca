"""The formulae against values computed by hand, and against ir-measures where it is installed."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_pipeline.quality.metrics import (
    RESAMPLES,
    compare,
    measure,
    ndcg,
    percentile,
    recall,
    reciprocal_rank,
)

DOCUMENTS = [f"d{number}" for number in range(15)]
RANKINGS = st.permutations(DOCUMENTS).map(lambda order: order[:12])
GAINS = st.dictionaries(
    st.sampled_from([*DOCUMENTS, "never found"]), st.integers(1, 3), min_size=1, max_size=8
)


def test_ndcg_of_a_graded_ranking() -> None:
    """Grades 3 at rank 1 and 1 at rank 3, with a grade 2 that was not found."""
    gains = {"a": 3, "b": 2, "c": 1}
    expected = (3 + 1 / math.log2(4)) / (3 + 2 / math.log2(3) + 1 / math.log2(4))

    assert ndcg(["a", "x", "c"], gains) == pytest.approx(expected)
    assert ndcg(["a", "b", "c"], gains) == 1.0
    assert ndcg([], gains) == 0.0


def test_ndcg_counts_ten_ranks() -> None:
    """A relevant document at rank 11 gains nothing, and the best ranking has ten places too."""
    many = {f"r{number}": 1 for number in range(20)}

    assert ndcg([*map(str, range(10)), "a"], {"a": 1}) == 0.0
    assert ndcg(list(many), many) == 1.0


def test_recall_counts_relevant_documents_that_were_not_found() -> None:
    """One of two is a half."""
    assert recall(["x", "a"], {"a": 1, "b": 2}) == 0.5


def test_reciprocal_rank_is_of_the_first_relevant_document() -> None:
    """Rank 2 of two relevant ones is a half; beyond ten it is nothing."""
    assert reciprocal_rank(["x", "a", "b"], {"a": 1, "b": 1}) == 0.5
    assert reciprocal_rank([*map(str, range(10)), "a"], {"a": 1}) == 0.0


@pytest.mark.parametrize(("percent", "value"), [(0, 1.0), (50, 2.5), (95, 3.85), (100, 4.0)])
def test_percentiles_are_linear_between_values(percent: float, value: float) -> None:
    """As NumPy has them: place (n - 1) * percent / 100."""
    assert percentile([4.0, 1.0, 3.0, 2.0], percent) == pytest.approx(value)
    assert percentile([7.0], percent) == 7.0


def test_an_interval_holds_the_mean_and_is_repeatable() -> None:
    """Of 40 coins with 30 heads: about 0.75 ± 0.134, by the normal approximation."""
    values = [1.0] * 30 + [0.0] * 10
    metric = measure(values)

    assert metric == measure(values)
    assert (metric.value, metric.n) == (0.75, 40)
    assert metric.low == pytest.approx(0.616, abs=0.03)
    assert metric.high == pytest.approx(0.884, abs=0.03)
    assert RESAMPLES >= 1000


def test_no_question_gives_no_figure() -> None:
    """Nothing measured is null and not zero."""
    assert measure([]).model_dump() == {"value": None, "low": None, "high": None, "n": 0}


@settings(deadline=None)
@given(RANKINGS, GAINS)
def test_the_formulae_are_those_of_ir_measures(ranking: list[str], gains: dict[str, int]) -> None:
    """nDCG@10, recall and reciprocal rank equal the reference on any ranking."""
    measures = pytest.importorskip(
        "ir_measures", reason="ir-measures comes with the dependency group bench"
    )
    run = {"q": {document_id: -float(rank) for rank, document_id in enumerate(ranking)}}
    names = ["nDCG@10", "R@12", "RR@10"]
    reference = measures.calc_aggregate(
        [measures.parse_measure(name) for name in names], {"q": gains}, run
    )
    expected = [reference[measures.parse_measure(name)] for name in names]

    assert [
        ndcg(ranking, gains),
        recall(ranking, gains),
        reciprocal_rank(ranking, gains),
    ] == pytest.approx(expected)


def test_a_difference_is_taken_question_by_question() -> None:
    """The mean, the interval of the mean, and p; the other way round it has the other sign."""
    first, second = [1.0] * 20 + [0.5], [0.5] * 20 + [0.5]
    found, turned = compare(first, second), compare(second, first)

    assert found.value == pytest.approx(10 / 21)
    assert (found.n, found.real) == (21, True)
    assert found.low is not None and found.high is not None and found.low < 10 / 21 < found.high
    assert turned.value == pytest.approx(-10 / 21)
    assert turned.p == found.p == pytest.approx(1 / (RESAMPLES + 1))


def test_the_p_of_a_small_dataset_is_that_of_all_signs() -> None:
    """Of four equal differences, 2 of 16 sign patterns are as extreme: p is near 1/8, so not real."""
    found = compare([1.0] * 4, [0.0] * 4)

    assert found.p == pytest.approx(2 / 16, abs=0.03)
    assert not found.real


def test_equal_runs_do_not_differ() -> None:
    """p is 1; without a question there is no figure."""
    equal, none = compare([0.3, 0.7], [0.3, 0.7]), compare([], [])

    assert (equal.value, equal.p, equal.real) == (0.0, 1.0, False)
    assert (none.value, none.p, none.real, none.n) == (None, None, False, 0)


@pytest.mark.parametrize("seed", range(3))
def test_chance_is_rarely_taken_for_a_difference(seed: int) -> None:
    """Of 60 pairs of runs that differ by chance alone, about 5 % count as real."""
    rng = random.Random(seed)
    runs = [[[rng.random() for _ in range(30)] for _ in "ab"] for _ in range(60)]

    assert sum(compare(*pair).real for pair in runs) <= 9
