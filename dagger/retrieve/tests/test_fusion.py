"""Fusion: exact values and properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_retrieve.fusion import fuse_dbsf, fuse_rrf

SCORES = st.dictionaries(st.sampled_from("abcdefgh"), st.floats(-10, 10), max_size=8)


def test_dbsf_scales_each_leg_by_mean_and_three_sigma() -> None:
    """Two points one sigma-over-root-two apart get 0.5 plus or minus 1/(6 sqrt 2)."""
    fused = fuse_dbsf([{"a": 3.0, "b": 1.0}])

    assert fused["a"] == pytest.approx(0.5 + 1 / (6 * 2**0.5))
    assert fused["b"] == pytest.approx(0.5 - 1 / (6 * 2**0.5))


def test_dbsf_gives_half_to_a_single_point() -> None:
    """A leg of one point has no distribution; the point gets 0.5."""
    assert fuse_dbsf([{"a": 7.0}, {}]) == {"a": 0.5}


def test_rrf_is_the_sum_of_reciprocal_ranks() -> None:
    """The worked example of the paper's formula, k = 60."""
    fused = fuse_rrf([{"a": 2.0, "b": 1.0}, {"b": 9.0}], k=60)

    assert fused == {"a": 1 / 61, "b": pytest.approx(1 / 62 + 1 / 61)}


def test_rrf_ranks_equal_scores_by_id() -> None:
    """Equal scores are ordered by id, so that fusion is deterministic."""
    assert fuse_rrf([{"b": 1.0, "a": 1.0}], k=1) == {"a": 1 / 2, "b": 1 / 3}


@given(SCORES, SCORES)
def test_fusion_keeps_every_point_and_ignores_the_order_of_legs(
    first: dict[str, float], second: dict[str, float]
) -> None:
    """Every point of any leg is fused once; swapping the legs changes nothing."""
    for fuse in (fuse_dbsf, lambda legs: fuse_rrf(legs, k=60)):
        fused = fuse([first, second])
        assert set(fused) == set(first) | set(second)
        assert fused == pytest.approx(fuse([second, first]))
