"""Fusion: the ranked lists of two legs become one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

WEIGHTS = {"dense": 0.55, "sparse": 0.45}  # chosen on the training claims of SciFact
BY_WORDS = {"dense": 0.1, "sparse": 0.9}  # where the embedder does not know the question's script
Scores = Mapping[str, float]  # point id -> score of one leg; higher is better


def fuse_dbsf(
    legs: Mapping[str, Scores], weights: Mapping[str, float] = WEIGHTS
) -> dict[str, float]:
    """Fuse by score distribution: scale each leg by its mean and deviation, then add, weighted.

    score = sum over legs of  weight * ((s - mean) / (6 sigma) + 1/2),   sigma with N

    The weights are scaled to a sum of 1, so that most fused scores lie
    between 0 and 1 with a mean of 0.5. A leg whose scores are all equal gives 0.5 to each.

    Args:
        legs: By leg, the score of every candidate: all legs have the same ids.
        weights: By leg, how much it counts.

    Source: Mazzeschi, "Distribution-Based Score Fusion", 2023, as in Qdrant, but with a score of
    every candidate in every leg where Qdrant counts a candidate that a leg did not return as 0.
    """
    fused: dict[str, float] = {}
    total = sum(weights[name] for name in legs)
    for name, leg in legs.items():
        mean = math.fsum(leg.values()) / max(len(leg), 1)
        deviation = math.sqrt(
            math.fsum((score - mean) ** 2 for score in leg.values()) / max(len(leg), 1)
        )
        for point_id, score in leg.items():
            scaled = (score - mean) / (6 * deviation) + 0.5 if deviation > 0 else 0.5
            fused[point_id] = fused.get(point_id, 0.0) + weights[name] / total * scaled
    return fused


def fuse_rrf(legs: Mapping[str, Scores], *, k: int) -> dict[str, float]:
    """Fuse by reciprocal rank: score = sum over legs of 1 / (k + rank), rank from 1, ties by id.

    Args:
        legs: By leg, the scores of what it returned.
        k: Constant; larger flattens the ranks.

    Source: Cormack et al., SIGIR 2009.
    """
    fused: dict[str, float] = {}
    for leg in legs.values():
        ranked = sorted(leg, key=lambda point_id: (-leg[point_id], point_id))
        for rank, point_id in enumerate(ranked, start=1):
            fused[point_id] = fused.get(point_id, 0.0) + 1.0 / (k + rank)
    return fused


def fuse_queries(scores: Sequence[Scores]) -> dict[str, float]:
    """Fuse the scores of several queries: a passage has its best one.

    So a wording that finds nothing of use costs no other its passages, and each part of a question
    brings its own.

    Args:
        scores: For each query, the scores of its candidates.
    """
    best = dict(scores[0])
    for one in scores[1:]:
        for point_id, score in one.items():
            best[point_id] = max(score, best.get(point_id, score))
    return best
