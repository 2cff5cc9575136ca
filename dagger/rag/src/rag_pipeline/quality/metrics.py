"""The formulae of `rag eval`: pure functions from rankings and values to figures."""

from __future__ import annotations

import math
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field

CUTOFF = 10  # documents; nDCG@10 and MRR@10 are what public leaderboards give
RESAMPLES = 1000  # of the bootstrap
SEED = 7  # the same answers give the same interval
SIGNIFICANT = 0.05  # p below which a difference counts as real


_SOURCES = re.compile(r"\[\d+(?:\s*,\s*\d+)*\]")


class Metric(BaseModel):
    """A mean or percentile over questions, with its 95 % interval; null for no question."""

    model_config = ConfigDict(extra="forbid")

    value: float | None
    low: float | None
    high: float | None
    n: int = Field(description="How many questions it is taken over.")


class Difference(BaseModel):
    """The mean difference of two values per question, and whether chance explains it."""

    model_config = ConfigDict(extra="forbid")

    value: float | None = Field(description="Mean of the first minus mean of the second.")
    low: float | None = Field(description="Lower end of its 95 % interval.")
    high: float | None = Field(description="Upper end.")
    p: float | None = Field(description="How often chance alone gives a difference as large.")
    real: bool = Field(description="Whether p is below 0.05.")
    n: int = Field(description="How many questions it is taken over: those with both values.")


def ndcg(ranking: Sequence[str], gains: Mapping[str, int], cutoff: int = CUTOFF) -> float:
    """Return the discounted cumulative gain over that of the best possible ranking, 0 to 1.

    DCG = sum over ranks r = 1 … cutoff of  grade(r) / log2(r + 1)

    Args:
        ranking: Document ids, best first, each once.
        gains: Grade by document id, > 0; at least one. Others have grade 0.
        cutoff: Ranks that count.

    Source: Järvelin & Kekäläinen, TOIS 20(4), 2002, with the discount of trec_eval's `ndcg_cut`.
    """
    best = sorted(gains.values(), reverse=True)
    return _dcg([gains.get(document_id, 0) for document_id in ranking], cutoff) / _dcg(best, cutoff)


def _dcg(grades: Sequence[int], cutoff: int) -> float:
    return sum(grade / math.log2(rank + 1) for rank, grade in enumerate(grades[:cutoff], 1))


def recall(ranking: Sequence[str], gains: Mapping[str, int]) -> float:
    """Return the share of the relevant documents that the ranking holds (trec_eval `recall`)."""
    return sum(document_id in gains for document_id in ranking) / len(gains)


def reciprocal_rank(
    ranking: Sequence[str], gains: Mapping[str, int], cutoff: int = CUTOFF
) -> float:
    """Return 1 / rank of the first relevant document, 0.0 when none is among the first `cutoff`.

    Source: Voorhees, TREC-8 question answering track, 1999; MRR is its mean over questions.
    """
    ranks = (rank for rank, found in enumerate(ranking[:cutoff], 1) if found in gains)
    return 1 / next(ranks, math.inf)


def word_recall(reference: str, answer: str) -> float:
    """Return the share of a right answer's words, numbers included, that an answer has, 0 to 1.

    Case, punctuation and numbers of sources do not count; repeats count as often as they stand.
    Source: the recall in SQuAD's F1 (Rajpurkar et al., EMNLP 2016), without its list of articles.
    """
    wanted, given = Counter(_words(reference)), Counter(_words(_SOURCES.sub(" ", answer)))
    return (wanted & given).total() / wanted.total() if wanted else 0.0


def _words(text: str) -> list[str]:
    return re.findall(r"\w+(?:[.,:]\d+)*", unicodedata.normalize("NFKC", text).casefold())


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile, linear between the two nearest values (NumPy's default); N >= 1."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def mean(values: Sequence[float]) -> float:
    """Return the mean; N >= 1."""
    return math.fsum(values) / len(values)


def measure(
    values: Sequence[float], statistic: Callable[[Sequence[float]], float] = mean
) -> Metric:
    """Return a statistic of one value per question with its percentile bootstrap interval.

    The questions are drawn anew, with replacement, RESAMPLES times with a fixed seed; the interval
    holds the middle 95 % of the draws. Source: Efron & Tibshirani, 1993, chapter 13.
    """
    if not values:
        return Metric(value=None, low=None, high=None, n=0)
    rng = random.Random(SEED)  # noqa: S311, no secret
    draws = [statistic(rng.choices(values, k=len(values))) for _ in range(RESAMPLES)]
    return Metric(
        value=statistic(values),
        low=percentile(draws, 2.5),
        high=percentile(draws, 97.5),
        n=len(values),
    )


def compare(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Return the difference of two runs over the same questions.

    The interval is the bootstrap of the differences. p is that of Fisher's randomization test: the
    signs of the differences are drawn anew RESAMPLES times, since under chance alone each question
    could as well have gone the other way. Source: Smucker et al., CIKM 2007.

    Args:
        first: One value per question.
        second: The same questions in the same order.
    """
    differences = [one - other for one, other in zip(first, second, strict=True)]
    middle = measure(differences)
    if middle.value is None:
        return Difference(value=None, low=None, high=None, p=None, real=False, n=0)
    rng = random.Random(SEED)  # noqa: S311, no secret
    least = abs(math.fsum(differences)) - 1e-12  # sums of floats in another order
    extreme = sum(
        abs(math.fsum(rng.choice((each, -each)) for each in differences)) >= least
        for _ in range(RESAMPLES)
    )
    p = (extreme + 1) / (RESAMPLES + 1)
    return Difference(
        value=middle.value,
        low=middle.low,
        high=middle.high,
        p=p,
        real=p < SIGNIFICANT,
        n=len(differences),
    )
