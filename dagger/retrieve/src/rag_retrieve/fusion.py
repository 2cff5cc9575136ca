"""Fusion: the ranked lists of two legs become one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

Scores = Mapping[str, float]  # point id -> score of one leg; higher is better


def fuse_dbsf(legs: Sequence[Scores]) -> dict[str, float]:
    """Fuse by score distribution: each leg is scaled so that mean ± 3 sigma becomes 0 … 1, then summed.

    score = sum over legs of  (s - (mean - 3 sigma)) / (6 sigma),   sigma with N - 1

    A point that a leg did not find gets nothing from it; a leg of one point, or of equal scores,
    gives 0.5 to each.

    Source: Qdrant's DBSF; Mazzeschi, "Distribution-Based Score Fusion", 2023.
    """
    fused: dict[str, float] = {}
    for leg in legs:
        if not leg:
            continue
        mean = math.fsum(leg.values()) / len(leg)
        variance = math.fsum((score - mean) ** 2 for score in leg.values()) / max(len(leg) - 1, 1)
        width = 6 * math.sqrt(variance)
        for point_id, score in leg.items():
            scaled = (score - mean) / width + 0.5 if width > 0 else 0.5
            fused[point_id] = fused.get(point_id, 0.0) + scaled
    return fused


def fuse_rrf(legs: Sequence[Scores], *, k: int) -> dict[str, float]:
    """Fuse by reciprocal rank: score = sum over legs of 1 / (k + rank), rank from 1, ties by id.

    Source: Cormack et al., SIGIR 2009.
    """
    fused: dict[str, float] = {}
    for leg in legs:
        ranked = sorted(leg, key=lambda point_id: (-leg[point_id], point_id))
        for rank, point_id in enumerate(ranked, start=1):
            fused[point_id] = fused.get(point_id, 0.0) + 1.0 / (k + rank)
    return fused
