"""The formulae against values computed by hand, and against ir-measures where it is installed."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_pipeline.quality.metrics import (
    RESAMPLES,
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
