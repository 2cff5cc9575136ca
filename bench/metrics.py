"""The numbers of the quality benchmark: pure functions from answers to scores.

Rankings are scored by ir-measures. Intervals are percentile bootstraps over the questions (Efron,
1979), 95 %, with a fixed seed: the same answers give the same interval.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

RANKING = {"nDCG@10": "nDCG@10", "Recall@10": "R@10", "Recall@100": "R@100", "MRR@10": "RR@10"}
RESAMPLES = 2000
SEED = 7
Span = tuple[int, int]


class Estimate(NamedTuple):
    """A mean over questions and the ends of its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean of one value per question with its interval; NaN for no question."""
    if not len(values):
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    data = np.asarray(values, dtype=float)
    draws = np.random.default_rng(SEED).integers(0, len(data), (RESAMPLES, len(data)))
    low, high = np.percentile(data[draws].mean(axis=1), [2.5, 97.5])
    return Estimate(float(data.mean()), float(low), float(high), len(data))


def rank_scores(
    rankings: Mapping[str, Sequence[str]], relevant: Mapping[str, Iterable[str]]
) -> dict[str, list[float]]:
    """Score rankings of document ids, best first.

    Returns:
        For each measure one value per query, in the order of `relevant`.
    """
    import ir_measures  # here: the other measures need nothing but numpy

    # trec_eval orders equal scores by its own rule: give it the rank, not the score
    run = {
        query_id: {document_id: -float(rank) for rank, document_id in enumerate(ranking)}
        for query_id, ranking in rankings.items()
    }
    judged = {query_id: dict.fromkeys(ids, 1) for query_id, ids in relevant.items()}
    found: dict[str, dict[str, float]] = {name: dict.fromkeys(relevant, 0.0) for name in RANKING}
    names = {ir_measures.parse_measure(measure): name for name, measure in RANKING.items()}
    for metric in ir_measures.iter_calc(list(names), judged, run):
        found[names[metric.measure]][metric.query_id] = metric.value
    return {name: list(values.values()) for name, values in found.items()}


# -- spans --------------------------------------------------------------------------------------


def length(spans: Iterable[Span]) -> int:
    """Count the characters in spans of one document, each once."""
    return sum(end - start for start, end in union(spans))


def union(spans: Iterable[Span]) -> list[Span]:
    """Join spans that overlap or touch: [(0, 5), (3, 8)] -> [(0, 8)]."""
    joined: list[Span] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def shared(one: Iterable[Span], other: Iterable[Span]) -> int:
    """Count the characters two sets of spans of one document have in common."""
    right = union(other)
    return sum(
        max(0, min(end, stop) - max(start, begin))
        for start, end in union(one)
        for begin, stop in right
    )


class Overlap(NamedTuple):
    """How well spans cover a reference, by characters."""

    recall: float
    precision: float
    iou: float


def span_overlap(
    found: Mapping[str, Sequence[Span]], document_id: str, reference: Sequence[Span]
) -> Overlap:
    """Compare found spans, by document id, with the reference spans of one document.

    Recall is the share of the reference that was found, precision the share of what was found
    that is reference, IoU shared over either. A character found twice counts once.
    """
    both = shared(found.get(document_id, ()), reference)
    wanted = length(reference)
    got = sum(length(spans) for spans in found.values())
    return Overlap(both / wanted, both / got if got else 0.0, both / (wanted + got - both))


# -- answers ------------------------------------------------------------------------------------


def tokens(text: str) -> list[str]:
    """Return the words of an answer as SQuAD compares them: lower case, no punctuation, articles."""
    plain = text.lower().translate(str.maketrans("", "", string.punctuation))
    return [word for word in plain.split() if word not in ("a", "an", "the")]


def without_markers(answer: str) -> str:
    """Remove the citation numbers: `so it is [1][2].` -> `so it is.`"""
    return re.sub(r"\s*\[\d+\]", "", answer)


def token_f1(answer: str, reference: str) -> float:
    """Return F1 of the bags of words (Rajpurkar et al., 2016)."""
    one, other = tokens(answer), tokens(reference)
    return _f1(sum((Counter(one) & Counter(other)).values()), len(one), len(other))


def rouge_l(answer: str, reference: str) -> float:
    """Return F1 of the longest common subsequence of words (Lin, 2004)."""
    one, other = tokens(answer), tokens(reference)
    best = [0] * (len(other) + 1)
    for word in one:
        diagonal = 0
        for at, right in enumerate(other, start=1):
            diagonal, best[at] = (
                best[at],
                max(best[at], best[at - 1], diagonal + 1 if word == right else 0),
            )
    return _f1(best[-1], len(one), len(other))


def _f1(common: int, one: int, other: int) -> float:
    return 2 * common / (one + other) if common else 0.0


# -- abstention ---------------------------------------------------------------------------------


def auroc(positives: Sequence[float], negatives: Sequence[float]) -> float:
    """Return the chance that a positive scores above a negative, ties counting half."""
    high, low = np.asarray(positives)[:, None], np.asarray(negatives)[None, :]
    return float(((high > low) + 0.5 * (high == low)).mean())


def auroc_estimate(positives: Sequence[float], negatives: Sequence[float]) -> Estimate:
    """Return `auroc` with an interval; both sides are resampled."""
    draw = np.random.default_rng(SEED)
    high, low = np.asarray(positives), np.asarray(negatives)
    values = [
        auroc(draw.choice(high, len(high)), draw.choice(low, len(low))) for _ in range(RESAMPLES)
    ]
    ends = np.percentile(values, [2.5, 97.5])
    return Estimate(auroc(high, low), float(ends[0]), float(ends[1]), len(high) + len(low))
