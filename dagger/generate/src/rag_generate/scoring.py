"""How well each sentence of the passages answers a question, and the passages as a whole.

A sentence's score is the log-odds of a logistic model that an annotator would pick it; the support
of an answer is a second logistic model's probability that the passages hold an answer at all. Both
see shared word stems, the shape of a sentence, what names it, and the cosines that the retriever gives:
of each sentence with the question where it has them, else of the passage.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from rag_kit.languages import COMPOUNDING, ENGLISH
from rag_kit.passages import Context
from rag_kit.text import comparable
from rag_kit.words import compound_parts

from .extremes import Measure, extreme_rows, measure
from .inventory import VERSIONED, heading_lists, version_of
from .json_values import json_key_value
from .notes import find_notes
from .questions import EXTREME, Question, is_negated
from .structure import FIELD, MARKUP, REFERENCE, REFERENCES, Part, passage_parts
from .table_rows import WORD_BREAKS, TableRow, column_words, named, table_rows
from .terms import is_function_word, stem, words

DENSE_GAP_PER_RANK = 0.08  # cosine; stands in for the gap of a passage that has no cosine
COVERAGE_IN_COSINE = 0.5  # cosine; what full coverage counts when passages are compared
PATH_MARKS = re.compile(r"[/\\_.-]+")
STRUCTURED = frozenset({"table", "value", "list", "code"})  # kinds of sentences that are no prose
# what stands before a question in a list of them: `Q:`, `3.`, `Question 2:`
QUESTION_MARK = re.compile(r"^\W*(?:(?:Q|Question|F|Frage)? ?[0-9]*[:.)]\s+)+", re.IGNORECASE)
LONG_WORDS = 60  # words; a longer list is not likelier for it
QUOTED = re.compile(r"\"[^\"\n]{12,}\"|'[^'\n]{12,}'")  # a text in a command
LONG_PART = 6  # letters; so long a part that two compound words share is a word of its own
ALIKE = (0.3, 0.7)  # cosines of two questions that ask something else, and the same
SHORT_WORDS = 5  # words; a sentence below is a fragment more often than an answer


class Features(NamedTuple):
    """What a sentence is scored by; shares are of the question's term weight, 0 to 1."""

    coverage: float  # share of the terms in the sentence, or handed to it by a title right above
    coverage_with_head: float  # share of the terms in sentence, titles above and document's title
    similarity: float  # cosine with the question; the passage's where the sentence has none
    dense_gap: float  # cosine of the passage minus the best passage's, <= 0
    first: float  # 1 for the first sentence of a passage
    log_length: float  # natural logarithm of words + 1
    short: float  # 1 below SHORT_WORDS, unless it is a value that something names
    asked_kind: float  # 1 when it holds the date, number, name or place asked for
    title: float  # 1 for a heading, a label, a lead-in, a question
    code: float  # 1 for a line of code that no title hands its words to
    table: float  # 1 for a row of a table that the question does not name
    lacks_number: float  # 1 without a number where a number, a length or a duration is asked for
    lacks_counted: float  # 1 without the thing where its number is asked for
    lacks_anchor: float  # share of the numbers, years, versions and part numbers asked for it lacks
    affirms: float  # 1 when what is not is asked for, and it says what is
    negates: float  # 1 when what is is asked for, and it says what is not
    reference: float  # 1 for a reference to a source, unless one is asked for
    listing: float  # 1 for a list where one is asked for
    plain_list: float  # 1 for a list where none is asked for
    # 1 right below a question that asks the same; less, the less near its cosine; also where all there is of
    # a thing is asked for and a column is called so
    asked_above: float
    extreme: float  # 1 for the row with the highest or lowest value asked for, -1 for the others


# Weights that make an annotator's sentence likeliest among all of its question (softmax over the sentences
# of five passages, L2 strength 5 on features of unit spread), fitted by bench/fit_answers.py on 1,350
# questions: the even lines of CLAP NQ dev and of the Chroma chunking set, and 350 each of SelQA, Natural
# Questions and FairytaleQA.
SENTENCE_WEIGHTS = Features(
    coverage=1.14,
    coverage_with_head=4.91,
    similarity=9.65,
    dense_gap=3.86,
    first=0.39,
    log_length=0.04,
    short=-1.58,
    asked_kind=1.64,
    title=-3.0,  # this and all below are too rare there to fit and are set by hand
    code=-1.0,
    table=-1.0,
    lacks_number=-2.5,
    lacks_counted=-1.5,
    lacks_anchor=-3.0,
    affirms=-6.0,
    negates=-1.5,
    reference=-3.0,
    listing=1.0,
    plain_list=-0.5,
    asked_above=3.0,
    extreme=3.0,
)


class Support(NamedTuple):
    """Weights of "the passages hold the answer": log-odds of each part of the evidence."""

    bias: float
    similarity: float = 0.0
    dense: float = 0.0
    coverage: float = 0.0
    sentence: float = 0.0
    unknown: float = 0.0


# Logistic regressions (L2 strength 3) on the same questions. Negatives are the unanswerable questions on even
# lines of CLAP NQ, and all of the others with their right passages taken away.
SUPPORT_BY_SENTENCES = Support(-7.59, similarity=10.74, coverage=3.7, sentence=0.02)
# ... where only passages have a cosine; each example counts with its cosines times 1, 0.8 and 0.6, for
# technical notes have lower ones than encyclopedias and the words must then decide
SUPPORT_BY_PASSAGES = Support(-5.26, dense=6.54, coverage=4.84, sentence=0.08)
# ... and without any cosine
SUPPORT_BY_WORDS = Support(-2.68, coverage=5.28, sentence=0.11, unknown=-1.02)


class Candidate(NamedTuple):
    """A sentence of a passage, or a list, and how likely it is part of the answer."""

    context: int  # index of the passage
    part: Part
    score: float  # log-odds
    features: Features
    table: TableRow | None = None  # when it is a row of a table

    @property
    def start(self) -> int:
        """Where it starts in the passage's text."""
        return self.part.sentence.start

    @property
    def end(self) -> int:
        """Where it ends in the passage's text."""
        return self.part.sentence.end


class Evidence(NamedTuple):
    """What the support of an answer is judged by."""

    similarity: float | None  # best cosine of a sentence, or None when no sentence has one
    dense: float | None  # best cosine of a passage, or None when no passage has one
    coverage: float  # share of the question's terms, by count, in the best passage with its title
    sentence: float  # log-odds of the best sentence by its words, every term weighed alike
    unknown: float  # share of the terms, by count, that no passage holds
    exact: bool = False  # the best sentence is a named value, or holds what is numbered


class _Row(NamedTuple):
    context: int
    part: Part
    text: str
    length: int
    terms: frozenset[int]  # numbers of the question's terms it shares
    handed: frozenset[int]  # those that a title right above hands to it
    head: frozenset[int]  # those of all titles, the document's title, columns, number in a list
    similarity: float  # cosine with the question
    lacking: float  # share of the numbers asked for that neither it nor its titles hold
    negated: bool
    asked_above: float = 0.0  # how surely a question right above asks the same
    is_named: bool = (
        False  # a row of a table, one of whose cells, or whose thing, stands in the question
    )
    table: TableRow | None = None
    is_asked: bool = False  # of a table, or a list of headings, of what all are asked for


def score_sentences(
    question: Question, contexts: Sequence[Context]
) -> tuple[list[Candidate], Evidence]:
    """Score every sentence of the passages.

    Returns:
        The sentences in order of passage and place, and the evidence for an answer.
    """
    noted = {(one.note_context, one.start): one.line for one in find_notes(contexts)}
    rows = [
        row
        for number, context in enumerate(contexts)
        for row in _rows(question, number, context, noted)
    ]
    rows, extremes = _compared(question, rows)
    idf = _idf(question.size, rows)
    gaps = dense_gaps(contexts if question.by_cosine else [])
    gaps = gaps or [-DENSE_GAP_PER_RANK * rank for rank in range(len(contexts))]
    candidates: list[Candidate] = []
    for row, extreme in zip(rows, extremes, strict=True):
        first = not candidates or candidates[-1].context != row.context
        features = _features(question, row, idf, gaps[row.context], first)._replace(extreme=extreme)
        score = sentence_score(features)
        candidates.append(Candidate(row.context, row.part, score, features, row.table))
    return candidates, _evidence(question, contexts, rows, candidates)


def _rows(
    question: Question, number: int, context: Context, noted: Mapping[tuple[int, int], str]
) -> Iterator[_Row]:
    """Yield the parts of a passage with the terms of the question in them and in what names them.

    Args:
        question: The question.
        number: Index of the passage.
        context: The passage.
        noted: By passage and start of a note the line that refers to it.
    """
    above = " ".join([context.title, *context.headings])
    around = f"{above} {PATH_MARKS.sub(' ', context.source)}"
    language = context.language or ENGLISH

    def shared(text: str) -> frozenset[int]:
        return _shared(question, words(text, language), language) | _meant(question, text)

    title = shared(around)
    table = table_rows(context)
    by_sentence = {row.sentence: row for row in table}

    def echoes(text: str) -> bool:
        own = [word for word in words(text, language) if not is_function_word(word, language)]
        stems = {stem(word, language) for word in own}
        found = _shared(question, own, language) | _meant(question, text)
        return bool(own) and len(found) == len(stems)

    def asks_the_same(title: str) -> bool:
        text = QUESTION_MARK.sub("", title)
        asks = text.endswith(("?", "？"))
        return asks and echoes(text) and len(shared(text)) == question.size

    asks_for_all = bool(question.thing) and len(shared(question.thing)) == question.size
    headed: frozenset[int] = frozenset()
    alike = 0.0  # how near the last question in the passage is to the one asked
    parts = passage_parts(context, table, echoes)
    if question.thing:
        parts += heading_lists(parts, context.text, question.thing, echoes)
    for part in parts:
        own = context.text[part.sentence.start : part.sentence.end]
        row = by_sentence.get(part.sentence)
        said = _said(part, own, row)
        tokens = words(said, language)
        terms = _shared(question, tokens, language) | _meant(question, said)
        if part.sentence.kind == "header":
            headed = terms
        columns = shared(" ".join(column_words(row))) if row else headed
        is_listed = row is not None or (bool(part.items) and part.near == (question.thing,))
        is_asked = asks_for_all and is_listed and (row is None or len(columns) == question.size)
        names = " ".join(part.titles)
        similarity = _similarity(context, part) if question.by_cosine else 0.0
        if part.is_title:
            alike = _alike(similarity) if own.rstrip(MARKUP).endswith("?") else 0.0
        head = title | shared(f"{part.mark} {names}")
        head |= columns if part.sentence.kind == "table" else frozenset()
        near = [one for one in part.near if one[-1:] in tuple(":：?？") or echoes(one)]
        if part.before:  # a pronoun stands for what the sentence before is about
            near.append(context.text[slice(*part.before[:2])])
        near += [
            line
            for start in range(*_opening(context.text, part))
            if (line := noted.get((number, start)))
        ]
        handed = shared(" ".join(near)) if not part.is_title else frozenset()
        handed |= columns if is_asked and row else frozenset()
        singled = "" if part.items else f"{own} {part.mark}"  # a number in an item is the item's
        whole = f"{singled} {names} {around}"
        yield _Row(
            number, part, own, len(tokens), terms, handed, head,
            similarity,
            _lacking(question, whole),
            _is_negated(question, part, own),
            1.0 if is_asked else _asked_above(part, alike, asks_the_same),
            row is not None
            and part.sentence.kind == "table"
            and (is_asked or bool(named(question.text, row))),
            row,
            is_asked,
        )  # fmt: skip


def _opening(text: str, part: Part) -> tuple[int, int]:
    """Return between which offsets a part begins as a note: with its line, or where its words do."""
    start = part.sentence.start
    return text.rfind("\n", 0, start) + 1, start + 1


def _is_negated(question: Question, part: Part, text: str) -> bool:
    """Whether a part says what is not; one item of a list speaks for all only where that is asked for."""
    own = text if question.negated or not part.items else ""
    return is_negated(" ".join([own, *part.near]))


def _alike(cosine: float) -> float:
    """Return how surely two questions ask the same, 0 to 1."""
    least, most = ALIKE
    return min(1.0, max(0.0, (cosine - least) / (most - least)))


def _asked_above(part: Part, alike: float, asks_the_same: Callable[[str], bool]) -> float:
    """Return how surely a question right above a part asks the same as the one asked, 0 to 1.

    Args:
        part: The part.
        alike: How surely the last title does, by its cosine; 0 where it is no question.
        asks_the_same: Whether a title has the words of the question.
    """
    if part.is_title or not part.near:
        return 0.0
    return 1.0 if any(map(asks_the_same, part.near)) else alike


def _said(part: Part, text: str, row: TableRow | None) -> str:
    """Return the words that count: of code without the texts it quotes, of a row its cells."""
    if part.sentence.kind == "code":
        return QUOTED.sub(" ", text)
    if row is not None:  # `,6` behind a word of CSV would be a part of it
        return " ".join(cell for _, cell in row.cells)
    is_value = part.sentence.kind == "value" or FIELD.match(text)
    return WORD_BREAKS.sub(" ", text) if is_value else text


def _similarity(context: Context, part: Part) -> float:
    """Return the cosine of a part of the passage: that of the texts it shares, by characters shared.

    A list is as near as its nearest item.
    """
    start, end = (context.span[0] + at for at in part.sentence[:2])
    shared = [
        (length, one.cosine)
        for one in context.similarities
        if one.span[0] < end  # most are elsewhere, and this is the cheaper test
        and (length := min(end, one.span[1]) - max(start, one.span[0])) > 0
    ]
    if not shared:
        return context.scores.get("dense", 0.0)
    if part.items:
        return max(cosine for _, cosine in shared)
    return sum(length * cosine for length, cosine in shared) / sum(length for length, _ in shared)


def _lacking(question: Question, text: str) -> float:
    if not question.anchors:
        return 0.0
    plain = comparable(text)
    missing = sum(not anchor.search(plain) for anchor in question.anchors)
    return missing / len(question.anchors)


def _compared(question: Question, rows: list[_Row]) -> tuple[list[_Row], list[float]]:
    """Return the rows and for each 1.0 when it holds the extreme asked for, -1.0 when less.

    The row that holds it also covers the word that asks for it.
    """
    measures = [one for at, row in enumerate(rows) for one in _measures(at, row)]
    best, compared = extreme_rows(question.text, measures)
    words_of = _shared(
        question,
        [w for match in EXTREME.finditer(question.text.lower()) for w in match[0].split()],
        ENGLISH,
    )
    rows = [
        row._replace(terms=row.terms | words_of) if at in best else row
        for at, row in enumerate(rows)
    ]
    return rows, [float((at in best) * 2 - (at in compared)) for at in range(len(rows))]


def _measures(at: int, row: _Row) -> Iterator[Measure]:
    """Yield the numbers of a row of a table, of a value of JSON, of a field of a record."""
    cells: list[tuple[str, str]] = []
    if row.table is not None and row.part.sentence.kind == "table":
        cells = list(row.table.cells)
    elif row.part.sentence.kind == "value":
        cells = [json_key_value(row.text)]
    elif row.part.sentence.kind == "heading" and (version := version_of(row.text)):
        yield Measure(at, ("version",), version)
    elif FIELD.match(row.text):
        name, _, value = row.text.partition(":")
        cells = [(name, value)]
    for name, cell in cells:
        if name and (found := measure(at, name, cell)):
            yield found


def _shared(question: Question, tokens: list[str], language: str) -> frozenset[int]:
    """Return the question's terms that share their stem with one of the words."""
    if language != ENGLISH:
        return _shared_abroad(question, tokens, language)
    stems = (stem(word) for word in tokens if word[:2] in question.prefixes)
    return frozenset(question.terms[one] for one in stems if one in question.terms)


def _shared_abroad(question: Question, tokens: list[str], language: str) -> frozenset[int]:
    """Return the question's terms that share their stem, or a part of a compound word, with a word."""
    stems = {stem(word, language) for word in tokens}
    found = {number for term, number in question.terms.items() if term in stems}
    if language in COMPOUNDING:
        parts = {stem(part, language) for word in tokens for part in compound_parts(word, language)}
        for term, number in question.terms.items():
            own = {stem(part, language) for part in compound_parts(term, language)}
            if term in parts or stems & own or any(len(one) >= LONG_PART for one in parts & own):
                found.add(number)
    return frozenset(found)


def _meant(question: Question, text: str) -> frozenset[int]:
    """Return the question's terms that a text says in other words."""
    return frozenset[int]().union(*(terms for terms, said in question.said if said.search(text)))


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
    kind = row.part.sentence.kind
    said = row.terms | row.handed
    is_value = bool(
        (row.handed and not row.part.before)
        or row.is_named
        or row.part.name
        or kind in ("value", "list")
        or _tells(question, row)
    )
    return Features(
        coverage=_share(
            said if kind == "list" or row.is_asked or row.terms - row.handed else row.terms, idf
        ),
        coverage_with_head=_share(said | row.head, idf),
        similarity=row.similarity,
        dense_gap=gap,
        first=float(first),
        log_length=math.log(1 + min(row.length, LONG_WORDS)),
        short=float(row.length < SHORT_WORDS and not is_value),
        asked_kind=float(any(kind.answer.search(row.text) for kind in question.asked)),
        title=float(row.part.is_title and not _tells(question, row)),
        code=float(kind == "code" and not row.handed),
        table=float(kind == "table" and not row.is_named),
        lacks_number=float(
            any(k.is_number and not k.answer.search(row.text) for k in question.asked)
        ),
        lacks_counted=float(question.counted is not None and not _counts(question.counted, row)),
        lacks_anchor=row.lacking,
        affirms=float(question.negated and not row.negated),
        negates=float(question.open and not question.negated and row.negated),
        reference=float(_is_reference(row) and not question.wants_source),
        listing=float((kind == "list" and question.wants_items) or row.is_asked),
        plain_list=float(kind == "list" and not question.wants_items),
        asked_above=row.asked_above,
        extreme=0.0,
    )


def _tells(question: Question, row: _Row) -> bool:
    """Whether a heading answers: with the date or the version asked for."""
    if row.part.sentence.kind != "heading" or row.lacking:
        return False
    if VERSIONED.search(question.text) and EXTREME.search(question.text):
        return version_of(row.text) is not None
    rest = comparable(row.text)
    for anchor in question.anchors:
        rest = anchor.sub(" ", rest)
    told = any(kind.answer.search(rest) for kind in question.asked if not kind.is_number)
    is_about = bool(question.anchors) or 2 * len(row.terms | row.head) > question.size
    return bool(row.terms) and is_about and told and any(map(str.isdigit, rest))


def _counts(thing: re.Pattern[str], row: _Row) -> bool:
    """Whether a row says, or a column's or a label's name says, what its number counts."""
    columns = row.table.columns if row.table else ()
    near = [name for name in row.part.near[-1:] if not any(map(str.isdigit, name))]
    return bool(thing.search(WORD_BREAKS.sub(" ", " ".join([*near, *columns, row.text]))))


def _is_reference(row: _Row) -> bool:
    return any(map(REFERENCES.fullmatch, row.part.titles)) or bool(REFERENCE.search(row.text))


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
        held[row.context] |= row.terms | row.handed | row.head
    count = question.size or 1
    coverage = [len(terms) / count for terms in held]
    best = max(
        range(len(contexts)),
        key=lambda n: (
            question.by_cosine * contexts[n].scores.get("dense", 0.0)
            + COVERAGE_IN_COSINE * coverage[n]
        ),
        default=None,
    )
    judged = [
        (_plain_score(row, candidate.features, count), row, candidate.score)
        for row, candidate in zip(rows, candidates, strict=True)
        if not candidate.features.title
    ]
    top = max(judged, key=lambda one: one[2], default=None)
    has_sentences = any(context.similarities for context in contexts)
    return Evidence(
        max((r.similarity for _, r, _ in judged), default=0.0)
        if has_sentences and question.by_cosine
        else None,
        best_dense(contexts) if question.by_cosine else None,
        0.0 if best is None else coverage[best],
        max((score for score, _, _ in judged), default=0.0),
        1 - len(set().union(*held)) / count,
        top is not None and _is_exact(question, top[1]),
    )


def _is_exact(question: Question, row: _Row) -> bool:
    """Whether words say more than cosines: a named value, a number, or a relation in other words.

    Embedding models are trained on prose: a row, a field or a code has a low cosine with its question.
    """
    is_value = row.part.sentence.kind in STRUCTURED or bool(row.part.name)
    if row.table is not None and not question.wants_rows and not EXTREME.search(question.text):
        is_value = bool(
            row.terms
        )  # a column alone is no answer: `What does a saw cost?` names a row
    said = row.terms | row.handed
    if any(said >= terms for terms, _ in question.said):  # what it is said of may stand in a title
        said |= row.head
    in_words = bool(question.said) or bool(FIELD.match(row.text)) or _tells(question, row)
    says_all = in_words and len(said) == question.size
    return not row.lacking and (is_value or says_all or bool(question.anchors))


def _plain_score(row: _Row, features: Features, count: int) -> float:
    """Return the log-odds of a sentence with every term of the question weighed alike."""
    said = row.terms | row.handed
    shares = features._replace(
        similarity=0.0,
        coverage=len(said if row.terms - row.handed or row.part.items else row.terms) / count,
        coverage_with_head=len(said | row.head) / count,
    )
    return sentence_score(shares)


def answering(
    question: Question, candidates: Sequence[Candidate], unknown: float
) -> list[Candidate]:
    """Return the candidates that can answer.

    Titles do not, but headings where there is nothing else. Where the number of something is asked
    for, an answer holds a number and the thing. Where no passage has what is asked about, a row does not
    answer by its columns alone: the price of something else.

    Args:
        question: The question.
        candidates: All parts of the passages.
        unknown: Share of the question's terms that no passage holds.
    """
    texts = [one for one in candidates if not one.features.title]
    if unknown and not question.wants_rows and not EXTREME.search(question.text):
        texts = [one for one in texts if not one.table or one.features.coverage]
    found = (
        [one for one in texts if not one.features.reference]
        or texts
        or [one for one in candidates if one.part.sentence.kind == "heading"]
    )
    if question.counted is not None:
        found = [one for one in found if not one.features.lacks_number + one.features.lacks_counted]
    return found


def sentence_score(features: Features) -> float:
    """Return the log-odds that the sentence is part of the answer."""
    return sum(w * x for w, x in zip(SENTENCE_WEIGHTS, features, strict=True))


def support_of(evidence: Evidence) -> float:
    """Return the probability, 0 to 1, that the passages hold an answer."""
    if evidence.dense is None or evidence.exact:
        weights = SUPPORT_BY_WORDS
    elif evidence.similarity is None:
        weights = SUPPORT_BY_PASSAGES
    else:
        weights = SUPPORT_BY_SENTENCES
    odds = (
        weights.bias
        + weights.similarity * (evidence.similarity or 0.0)
        + weights.dense * (evidence.dense or 0.0)
        + weights.coverage * evidence.coverage
        + weights.sentence * evidence.sentence
        + weights.unknown * evidence.unknown
    )
    return round(1 / (1 + math.exp(-odds)), 4)
