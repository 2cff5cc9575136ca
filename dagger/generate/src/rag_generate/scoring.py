"""How well each sentence of the passages answers a question, and the passages as a whole.

A sentence's score is the log-odds of a logistic model that an annotator would pick it; the support
of an answer is a second logistic model's probability that the passages hold an answer at all. Both
see only shared word stems, the shape of a sentence and the retriever's cosine: nothing of meaning
beyond that.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from .models import Context
from .sentences import Sentence, split_sentences
from .terms import content_terms, stem, words

DENSE_GAP_PER_RANK = 0.08  # cosine; stands in for the gap of a passage that has no cosine
SHORT_WORDS = 5  # words; a sentence below is a fragment more often than an answer

_DATE = re.compile(
    r"\b(?:1[0-9]{3}|20[0-9]{2}|january|february|march|april|may|june|july|august|september|october"
    r"|november|december|century|today|monday|tuesday|wednesday|thursday|friday|saturday|sunday)\b",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"[0-9]")
_NAME = re.compile(r"(?<=[\w,;(] )[A-Z][a-z]+")
_PLACE = re.compile(r"\b(?:in|at|near|on|from|to|of) (?:the )?[A-Z]")
ASKED_KINDS = (  # what the question says, what the answer then holds
    (re.compile(r"\b(?:when|what (?:year|date|day|month)|how old)\b", re.IGNORECASE), _DATE),
    (
        re.compile(r"\bhow (?:many|much|long|far|tall|big|high|old|often|fast)\b", re.IGNORECASE),
        _NUMBER,
    ),
    (re.compile(r"\bwho(?:se|m)?\b", re.IGNORECASE), _NAME),
    (re.compile(r"\bwhere\b", re.IGNORECASE), _PLACE),
)


class Question(NamedTuple):
    """What a question asks, ready to be compared."""

    terms: dict[str, int]  # stem -> number of the term, in order
    prefixes: frozenset[str]  # first letters of the terms; words without them are not stemmed
    asked: tuple[re.Pattern[str], ...]  # what a sentence that answers holds


class Features(NamedTuple):
    """What a sentence is scored by; shares are of the question's term weight, 0 to 1."""

    coverage: float  # share of the terms in the sentence
    coverage_with_title: float  # share of the terms in sentence and title together
    dense_gap: float  # cosine of the passage minus the best passage's, <= 0
    first: float  # 1 for the first sentence of a passage
    log_length: float  # natural logarithm of words + 1
    short: float  # 1 below SHORT_WORDS
    asked_kind: float  # 1 when it holds the date, number, name or place asked for
    question: float  # 1 when it asks something itself
    heading: float  # 1 for a Markdown heading
    code: float  # 1 for a line of code


# Weights of a logistic regression (L2 strength 10 on standardised features) of "an annotator picked
# this sentence", fitted on the questions with even line numbers of CLAP NQ dev (75, answerable) and
# of the Chroma chunking set (162, four corpora), each with its five passages of best cosine.
SENTENCE_BIAS = -3.22  # log-odds
SENTENCE_WEIGHTS = Features(
    coverage=2.65,
    coverage_with_title=3.56,
    dense_gap=12.41,
    first=0.28,
    log_length=0.04,
    short=-1.19,
    asked_kind=0.48,
    question=-1.0,  # the last three are too rare there to fit and are set by hand
    heading=-3.0,
    code=-1.0,
)
# Weights of "the passages hold the answer", fitted on the same questions, the 75 unanswerable ones
# of CLAP NQ (even lines), and all of them with their right passages taken away.
SUPPORT_WITH_DENSE = (-5.76, 7.72, 3.10)  # log-odds: bias, best cosine, passage coverage
SUPPORT_WITHOUT_DENSE = (-1.41, 3.93, -1.17)  # log-odds: bias, passage coverage, unknown terms


class Candidate(NamedTuple):
    """A sentence of a passage and how likely it is part of the answer."""

    context: int  # index of the passage
    start: int  # offsets in the passage's text
    end: int
    kind: str
    score: float  # log-odds
    features: Features


class Evidence(NamedTuple):
    """What the support of an answer is judged by."""

    dense: float | None  # best cosine of a passage, or None when no passage has one
    passage_coverage: float  # share of the question's terms in the best sentence's passage
    unknown: float  # share of the terms, by count, that no passage holds


def read_question(query: str) -> Question:
    """Return the terms of the question and the kind of answer it asks for."""
    terms = {term: number for number, term in enumerate(content_terms(query))}
    asked = tuple(kind for question, kind in ASKED_KINDS if question.search(query))
    return Question(terms, frozenset(term[:2] for term in terms), asked)


class _Row(NamedTuple):
    context: int
    sentence: Sentence
    text: str
    length: int
    terms: frozenset[int]  # numbers of the question's terms it shares


def score_sentences(
    question: Question, contexts: Sequence[Context]
) -> tuple[list[Candidate], Evidence]:
    """Score every sentence of the passages.

    Returns:
        The sentences in order of passage and place, and the evidence for an answer.
    """
    rows = [
        _row(question, number, context.text, sentence)
        for number, context in enumerate(contexts)
        for sentence in split_sentences(context.text)
    ]
    idf = _idf(len(question.terms), rows)
    gaps = dense_gaps(contexts)
    titles = [_shared(question, words(context.title)) for context in contexts]
    candidates: list[Candidate] = []
    for row in rows:
        first = not candidates or candidates[-1].context != row.context
        features = _features(question, row, idf, titles[row.context], gaps[row.context], first)
        score = sentence_score(features)
        candidates.append(Candidate(row.context, *row.sentence, score=score, features=features))
    return candidates, _evidence(contexts, rows, idf, candidates)


def _row(question: Question, context: int, text: str, sentence: Sentence) -> _Row:
    own = text[sentence.start : sentence.end]
    tokens = words(own)
    return _Row(context, sentence, own, len(tokens), _shared(question, tokens))


def _shared(question: Question, tokens: list[str]) -> frozenset[int]:
    """Return the question's terms that share their stem with one of the words."""
    stems = (stem(word) for word in tokens if word[:2] in question.prefixes)
    return frozenset(question.terms[one] for one in stems if one in question.terms)


def _idf(terms: int, rows: list[_Row]) -> list[float]:
    """Weigh each term by the sentences without it: log(1 + (n - df + 0.5) / (df + 0.5)), as BM25."""
    counts = [0] * terms
    for row in rows:
        for term in row.terms:
            counts[term] += 1
    n = len(rows)
    return [math.log(1 + (n - count + 0.5) / (count + 0.5)) for count in counts]


def _share(terms: frozenset[int], idf: list[float]) -> float:
    total = sum(idf)
    return sum(idf[term] for term in sorted(terms)) / total if total else 0.0


def _features(
    question: Question,
    row: _Row,
    idf: list[float],
    title: frozenset[int],
    gap: float,
    first: bool,
) -> Features:
    return Features(
        coverage=_share(row.terms, idf),
        coverage_with_title=_share(row.terms | title, idf),
        dense_gap=gap,
        first=float(first),
        log_length=math.log(1 + row.length),
        short=float(row.length < SHORT_WORDS),
        asked_kind=float(any(kind.search(row.text) for kind in question.asked)),
        question=float(row.text.endswith("?")),
        heading=float(row.sentence.kind == "heading"),
        code=float(row.sentence.kind == "code"),
    )


def dense_gaps(contexts: Sequence[Context]) -> list[float]:
    """Return each passage's cosine minus the best one's; by rank for a passage without a cosine."""
    best = best_dense(contexts) or 0.0
    return [
        context.scores["dense"] - best if "dense" in context.scores else -DENSE_GAP_PER_RANK * rank
        for rank, context in enumerate(contexts)
    ]


def best_dense(contexts: Sequence[Context]) -> float | None:
    """Return the largest cosine of a passage, or None when no passage has one."""
    return max((c.scores["dense"] for c in contexts if "dense" in c.scores), default=None)


def _evidence(
    contexts: Sequence[Context], rows: list[_Row], idf: list[float], candidates: list[Candidate]
) -> Evidence:
    best = max(candidates, key=lambda c: c.score, default=None)
    inside: set[int] = set()
    anywhere: set[int] = set()
    for row in rows:
        anywhere |= row.terms
        if best is not None and row.context == best.context:
            inside |= row.terms
    unknown = 1 - len(anywhere) / len(idf) if idf else 1.0
    return Evidence(best_dense(contexts), _share(frozenset(inside), idf), unknown)


def sentence_score(features: Features) -> float:
    """Return the log-odds that the sentence is part of the answer."""
    return SENTENCE_BIAS + sum(w * x for w, x in zip(SENTENCE_WEIGHTS, features, strict=True))


def support_of(evidence: Evidence) -> float:
    """Return the probability, 0 to 1, that the passages hold an answer."""
    if evidence.dense is None:
        bias, coverage, unknown = SUPPORT_WITHOUT_DENSE
        odds = bias + coverage * evidence.passage_coverage + unknown * evidence.unknown
    else:
        bias, dense, coverage = SUPPORT_WITH_DENSE
        odds = bias + dense * evidence.dense + coverage * evidence.passage_coverage
    return round(1 / (1 + math.exp(-odds)), 4)
