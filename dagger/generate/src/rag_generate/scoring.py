"""How well each sentence of the passages answers a question, and the passages as a whole.

A sentence's score is the log-odds of a logistic model that an annotator would pick it; the support
of an answer is a second logistic model's probability that the passages hold an answer at all. Both
see only shared word stems, the shape of a sentence and the retriever's cosine: nothing of meaning
beyond that.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rag_kit.passages import Context

from .sentences import Sentence
from .table_rows import column_words, named, passage_sentences, table_rows
from .terms import question_terms, stem, words

DENSE_GAP_PER_RANK = 0.08  # cosine; stands in for the gap of a passage that has no cosine
TITLING = frozenset({"heading", "header"})  # kinds that name what stands below and answer nothing
COVERAGE_IN_COSINE = 0.5  # cosine; what full coverage counts when passages are compared
SHORT_WORDS = 5  # words; a sentence below is a fragment more often than an answer

_DATE = re.compile(
    r"\b(?:1[0-9]{3}|20[0-9]{2}|january|february|march|april|may|june|july|august|september|october"
    r"|november|december|century|today|monday|tuesday|wednesday|thursday|friday|saturday|sunday)\b",
    re.IGNORECASE,
)
_NUMBER = re.compile(
    r"[0-9]|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|forty"
    r"|fifty|sixty|hundred|thousand|million|dozen|half)\b",
    re.IGNORECASE,
)
_NAME = re.compile(r"(?<=[\w,;(] )[A-Z][a-z]+")
_PLACE = re.compile(r"\b(?:in|at|near|on|under|from|to|of) (?:the )?[A-Z`$/~]")
ASKED_KINDS = (  # what the question says, what the answer then holds
    (re.compile(r"\b(?:when|what (?:year|date|day|month)|how old)\b", re.IGNORECASE), _DATE),
    (
        re.compile(
            r"\bhow (?:many|much|long|far|tall|big|high|old|often|fast|deep|wide|large)\b",
            re.IGNORECASE,
        ),
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
    text: str = ""  # the question as asked


class Features(NamedTuple):
    """What a sentence is scored by; shares are of the question's term weight, 0 to 1."""

    coverage: float  # share of the terms in the sentence
    coverage_with_head: float  # share of the terms in sentence, heading and title together
    dense_gap: float  # cosine of the passage minus the best passage's, <= 0
    first: float  # 1 for the first sentence of a passage
    log_length: float  # natural logarithm of words + 1
    short: float  # 1 below SHORT_WORDS
    asked_kind: float  # 1 when it holds the date, number, name or place asked for
    question: float  # 1 when it asks something itself
    heading: float  # 1 for a Markdown heading
    code: float  # 1 for a line of code
    table: float  # 1 for a row of a table
    lacks_number: float  # 1 without a number where a number, a length or a duration is asked for


# Weights of a logistic regression (L2 strength 10 on standardised features) of "an annotator picked
# this sentence", fitted on the questions with even line numbers of CLAP NQ dev (75, answerable) and
# of the Chroma chunking set (162, four corpora), each with its five passages of best cosine.
SENTENCE_BIAS = -3.18  # log-odds
SENTENCE_WEIGHTS = Features(
    coverage=2.75,
    coverage_with_head=3.34,
    dense_gap=12.49,
    first=0.27,
    log_length=0.03,
    short=-1.2,
    asked_kind=0.5,
    question=-1.0,  # this and all below are too rare there to fit and are set by hand
    heading=-3.0,
    code=-1.0,
    table=-1.0,
    lacks_number=-2.5,
)
# Weights of "the passages hold the answer" (L2 strength 3), fitted on the same even halves with 1, 3
# and 5 passages: the answerable questions; as negatives the 75 unanswerable ones of CLAP NQ, all of
# them with their right passages taken away, and those of each set over the passages of the other.
# Each example counts with its cosines times 1, 0.8 and 0.6, for technical notes have lower ones than
# encyclopedias and the words must then decide. Cost of that on the odd halves: AUROC of answerable
# against unanswerable questions 0.83 instead of 0.86.
SUPPORT_WITH_DENSE = (-4.56, 5.8, 2.92, 0.34)  # log-odds: bias, best cosine, coverage, sentence
# ... and with the cosines left out: bias, coverage, sentence, unknown terms
SUPPORT_WITHOUT_DENSE = (-2.27, 3.64, 0.46, -0.38)


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
    coverage: float  # share of the question's terms, by count, in the best passage with its title
    sentence: float  # log-odds of the best sentence, every term weighed alike
    unknown: float  # share of the terms, by count, that no passage holds


def read_question(query: str) -> Question:
    """Return the terms of the question and the kind of answer it asks for."""
    terms = {term: number for number, term in enumerate(question_terms(query))}
    asked = tuple(kind for question, kind in ASKED_KINDS if question.search(query))
    return Question(terms, frozenset(term[:2] for term in terms), asked, query)


class _Row(NamedTuple):
    context: int
    sentence: Sentence
    text: str
    length: int
    terms: frozenset[int]  # numbers of the question's terms it shares
    head: frozenset[int]  # and those of its title, heading, column names and number in a list
    is_named: bool = False  # a row of a table, one of whose cells stands in the question


def score_sentences(
    question: Question, contexts: Sequence[Context]
) -> tuple[list[Candidate], Evidence]:
    """Score every sentence of the passages.

    Returns:
        The sentences in order of passage and place, and the evidence for an answer.
    """
    rows = [
        row for number, context in enumerate(contexts) for row in _rows(question, number, context)
    ]
    idf = _idf(len(question.terms), rows)
    gaps = dense_gaps(contexts)
    candidates: list[Candidate] = []
    for row in rows:
        first = not candidates or candidates[-1].context != row.context
        features = _features(question, row, idf, gaps[row.context], first)
        score = sentence_score(features)
        candidates.append(Candidate(row.context, *row.sentence, score=score, features=features))
    return candidates, _evidence(question, contexts, rows, candidates)


def _rows(question: Question, number: int, context: Context) -> Iterator[_Row]:
    """Yield the sentences of a passage; each is headed by the nearest heading above it."""
    title = _shared(question, words(context.title))
    heading: frozenset[int] = frozenset()
    columns: frozenset[int] = frozenset()
    before = 0
    table = table_rows(context)
    by_sentence = {row.sentence: row for row in table}
    for sentence in passage_sentences(context, table):
        item = _shared(question, words(context.text[before : sentence.start]))
        before = sentence.end
        own = context.text[sentence.start : sentence.end]
        tokens = words(own)
        terms = _shared(question, tokens)
        if sentence.kind == "heading":
            heading = terms
        elif sentence.kind == "header":
            columns = terms
        row = by_sentence.get(sentence)
        if row:
            columns = _shared(question, column_words(row))
        head = title | heading | item | (columns if sentence.kind == "table" else frozenset())
        is_named = row is not None and sentence.kind == "table" and bool(named(question.text, row))
        yield _Row(number, sentence, own, len(tokens), terms, head, is_named)


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
    gap: float,
    first: bool,
) -> Features:
    return Features(
        coverage=_share(row.terms, idf),
        coverage_with_head=_share(row.terms | row.head, idf),
        dense_gap=gap,
        first=float(first),
        log_length=math.log(1 + row.length),
        short=float(row.length < SHORT_WORDS and not row.is_named),
        asked_kind=float(any(kind.search(row.text) for kind in question.asked)),
        question=float(row.text.endswith("?")),
        heading=float(row.sentence.kind in TITLING),
        code=float(row.sentence.kind == "code"),
        table=float(row.sentence.kind == "table" and not row.is_named),
        lacks_number=float(_NUMBER in question.asked and not _NUMBER.search(row.text)),
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
    question: Question, contexts: Sequence[Context], rows: list[_Row], candidates: list[Candidate]
) -> Evidence:
    """Judge the passages; terms count alike, for rarity says little among so few sentences."""
    held: list[set[int]] = [set() for _ in contexts]
    for row in rows:
        held[row.context] |= row.terms | row.head
    count = len(question.terms) or 1
    coverage = [len(terms) / count for terms in held]
    best = max(
        range(len(contexts)),
        key=lambda n: contexts[n].scores.get("dense", 0.0) + COVERAGE_IN_COSINE * coverage[n],
        default=None,
    )
    return Evidence(
        best_dense(contexts),
        0.0 if best is None else coverage[best],
        max(
            (
                _plain_score(row, candidate.features, count)
                for row, candidate in zip(rows, candidates, strict=True)
                if candidate.kind not in TITLING
            ),
            default=SENTENCE_BIAS,
        ),
        1 - len(set().union(*held)) / count,
    )


def _plain_score(row: _Row, features: Features, count: int) -> float:
    """Return the log-odds of a sentence with every term of the question weighed alike."""
    shares = features._replace(
        coverage=len(row.terms) / count, coverage_with_head=len(row.terms | row.head) / count
    )
    return sentence_score(shares)


def answering(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the sentences that can answer: headings only when there is nothing else."""
    return [c for c in candidates if c.kind not in TITLING] or [
        c for c in candidates if c.kind == "heading"
    ]


def sentence_score(features: Features) -> float:
    """Return the log-odds that the sentence is part of the answer."""
    return SENTENCE_BIAS + sum(w * x for w, x in zip(SENTENCE_WEIGHTS, features, strict=True))


def support_of(evidence: Evidence) -> float:
    """Return the probability, 0 to 1, that the passages hold an answer."""
    if evidence.dense is None:
        bias, coverage, sentence, unknown = SUPPORT_WITHOUT_DENSE
        odds = bias + unknown * evidence.unknown
    else:
        bias, dense, coverage, sentence = SUPPORT_WITH_DENSE
        odds = bias + dense * evidence.dense
    odds += coverage * evidence.coverage + sentence * evidence.sentence
    return round(1 / (1 + math.exp(-odds)), 4)
