"""Fusion: exact values and properties."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_retrieve.search.fusion import fuse_dbsf, fuse_rrf

SCORES = st.dictionaries(st.sampled_from("abcdefgh"), st.floats(-10, 10), max_size=8)


def test_dbsf_scales_each_leg_and_weighs_it() -> None:
    """Two points are one sigma from their mean, so they get 1/2 plus and minus 1/6 from a leg."""
    fused = fuse_dbsf({"dense": {"a": 0.3, "b": 0.1}, "sparse": {"a": 0.0, "b": 8.0}})

    assert fused["a"] == pytest.approx(0.5 + 0.55 / 6 - 0.45 / 6)
    assert fused["b"] == pytest.approx(0.5 - 0.55 / 6 + 0.45 / 6)


def test_dbsf_gives_half_where_a_leg_cannot_tell() -> None:
    """A leg of equal scores, or of one point, says nothing; the other decides."""
    fused = fuse_dbsf({"dense": {"a": 0.2, "b": 0.1}, "sparse": {"a": 0.0, "b": 0.0}})

    assert fused["a"] - 0.5 == pytest.approx(0.55 / 6)
    assert fuse_dbsf({"dense": {"a": 0.7}, "sparse": {"a": 0.0}}) == {"a": pytest.approx(0.5)}
    assert fuse_dbsf({"dense": {}, "sparse": {}}) == {}


def test_rrf_is_the_sum_of_reciprocal_ranks() -> None:
    """The worked example of the paper's formula, k = 60."""
    fused = fuse_rrf({"dense": {"a": 2.0, "b": 1.0}, "sparse": {"b": 9.0}}, k=60)

    assert fused == {"a": 1 / 61, "b": pytest.approx(1 / 62 + 1 / 61)}


def test_rrf_ranks_equal_scores_by_id() -> None:
    """Equal scores are ordered by id, so that fusion is deterministic."""
    assert fuse_rrf({"dense": {"b": 1.0, "a": 1.0}}, k=1) == {"a": 1 / 2, "b": 1 / 3}


@settings(deadline=None)
@given(SCORES, SCORES)
def test_fusion_keeps_every_point(first: dict[str, float], second: dict[str, float]) -> None:
    """Every point of any leg is fused, and a point better in both legs is never ranked lower."""
    both = {"dense": first, "sparse": {point_id: second.get(point_id, 0.0) for point_id in first}}
    for fused in (fuse_dbsf(both), fuse_rrf(both, k=60)):
        assert set(fused) == set(first)
        for a in first:
            for b in first:
                if first[a] > first[b] and both["sparse"][a] > both["sparse"][b]:
                    assert fused[a] >= fused[b]
