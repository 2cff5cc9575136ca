"""Answer with the passages' own sentences: no model, no network, the same answer every time."""

from __future__ import annotations

import re
import unicodedata
from collections import abc
from collections.abc import Sequence

from rag_kit.languages import ENGLISH
from rag_kit.passages import Context
from rag_kit.spelling import replaced
from rag_kit.text import INVISIBLE, join_hyphenated

from .attached import with_limits, with_notes
from .generator import Draft, Quote
from .json_values import json_written
from .markers import strip_markers
from .models import GenerateRequest
from .newer import newer_first, not_of_another_year, of_asked_year
from .notes import without_mark
from .output_filter import without_images
from .questions import Question, question_parts, read_question
from .scoring import Candidate, answering, score_sentences, support_of
from .sentences import Kind, Sentence, row_cells
from .table_rows import TableRow, column_words, named_less, written
from .terms import misspelt, question_words, stem, words

SCORE_DROP = 0.6  # log-odds; a sentence this much worse than the best is left out
SHORT_VALUE = 12  # words; a longer value is a text that needs no name before it
ANSWER_MARK = re.compile(r"^\W*(?:A|Answer|Ans)\s*[:.]\s+")  # `A:` in a list of questions
NOTE_SIGN = re.compile(r"\[\^[\w-]{1,20}\]")  # `[^1]`, of a note that the answer brings along
VALUES = re.compile(
    r"(?<=[:=] )\[([0-9]+(?:, ?[0-9]+)*)\]"
)  # `[5, 15]` behind a key is no citation
MOST_ROWS = 30  # of a table, where all are asked for
LIGATURE = re.compile("[\ufb00-\ufb06]")
LINE_MARK = re.compile(r"^[ \t]*(?:(?:>[ \t]*)+(?![\d\s])|:[ \t]+)", re.MULTILINE)
SAME_WORDS = 0.8  # Jaccard overlap of words; such a sentence repeats one already chosen


class Extractive:
    """The generator `extractive`.

    Args:
        min_support: Abstain when the support of an answer is lower, 0 to 1; a request may differ.
    """

    name = "extractive"
    model: str | None = None

    def __init__(self, *, min_support: float) -> None:
        self._min_support = min_support

    def stream(self, request: GenerateRequest) -> abc.Generator[str | Draft, None, None]:
        """Yield the answer sentence by sentence, then the draft."""
        options = request.generate
        least = self._min_support if options.min_support is None else options.min_support
        question = request.question()
        answers = [_Answer(part, request.contexts) for part in question_parts(question)]
        if len(answers) > 1 and not any(one.support >= least for one in answers):
            answers = [_Answer(question, request.contexts)]
        support = max(one.support for one in answers)
        answered = [one for one in answers if one.support >= least and one.candidates]
        if not answered:
            yield Draft("", "no_context", support=support)
            return
        chosen = _chosen(answered, request.contexts, options.max_sentences)
        if request.standalone_query:
            chosen = _of_the_follow_up(request.query, chosen, request.contexts)
        chosen = with_notes(chosen, answered[0].scored, request.contexts)
        pieces: list[str] = []
        listed = sum(map(_is_row, chosen)) > 1
        for candidate in chosen:
            piece = _write(candidate, request.contexts[candidate.context])
            as_item = listed and _is_row(candidate)
            piece = f"- {piece}" if as_item else piece
            gap = "\n" if as_item or candidate.part.items or "\n" in "".join(pieces[-1:]) else " "
            pieces.append(f"{gap}{piece}" if pieces else piece)
            yield pieces[-1]
        quotes = tuple(Quote(request.contexts[c.context].marker, _start(c), c.end) for c in chosen)
        warnings = tuple(f"part_unanswered: {one.query}" for one in answers if one not in answered)
        yield Draft("".join(pieces), "stop", support=support, quotes=quotes, warnings=warnings)


class _Answer:
    """What the passages hold for one question of the query."""

    def __init__(self, query: str, contexts: Sequence[Context]) -> None:
        self.query = query
        languages = [context.language or ENGLISH for context in contexts]
        self.question = read_question(replaced(query, misspelt(query, contexts)), languages)
        scored, evidence = score_sentences(self.question, contexts)
        others = _not_asked_for(query, scored)
        found = of_asked_year(query, answering(self.question, scored, evidence.unknown), contexts)
        found = not_of_another_year(query, found, contexts)
        self.scored = scored
        self.candidates = [one for one in found if (one.context, one.start) not in others]
        self.support = support_of(evidence) if self.candidates else 0.0


def _of_the_follow_up(
    query: str, chosen: Sequence[Candidate], contexts: Sequence[Context]
) -> list[Candidate]:
    """Return the sentences with a word of the follow-up's own, all of them when none has one.

    The others answer what it leans on, which was answered before.
    """
    own = {stem(word) for word in question_words(query)}
    said = [
        {stem(word) for word in words(contexts[one.context].text[one.start : one.end])}
        for one in chosen
    ]
    kept = [one for one, terms in zip(chosen, said, strict=True) if own & terms]
    return kept or list(chosen)


def _chosen(answers: Sequence[_Answer], contexts: Sequence[Context], most: int) -> list[Candidate]:
    """Return the best sentences for each question in turn, none twice."""
    chosen: dict[tuple[int, int, int], Candidate] = {}
    for one in answers:
        limit = most if len(answers) == 1 else 1
        found = _choose(one.candidates, contexts, limit)
        if rows := _all_rows(one, found, contexts):
            found = rows
        elif found and not found[0].part.items:
            found = newer_first(one.query, found, one.candidates, contexts, limit)
            found = with_limits(found, one.scored, contexts)[: max(limit, min(most, 2))]
        for candidate in found:
            chosen.setdefault((candidate.context, candidate.start, candidate.end), candidate)
    return list(chosen.values())


def _start(candidate: Candidate) -> int:
    """Return where the quote starts: with the sentence before one that begins with a pronoun."""
    before = candidate.part.before
    return candidate.start if before is None else before.start


def _not_asked_for(query: str, candidates: Sequence[Candidate]) -> set[tuple[int, int]]:
    """Return passage and start of the rows of tables that others are named before in the question."""
    table = [(one.context, one.table) for one in candidates if one.table]
    rows = [row for _, row in table]
    return {(table[at][0], rows[at].sentence.start) for at in named_less(query, rows)}


def _choose(
    candidates: Sequence[Candidate], contexts: Sequence[Context], most: int
) -> list[Candidate]:
    """Return the best sentences: passages by their best sentence, inside a passage in order."""
    ranked = sorted(candidates, key=lambda c: (-c.score, c.context, c.start, -c.end))
    chosen: list[Candidate] = []
    seen: list[set[str]] = []
    for candidate in ranked:
        if len(chosen) == most or candidate.score < ranked[0].score - SCORE_DROP:
            break
        own = set(words(contexts[candidate.context].text[candidate.start : candidate.end]))
        apart = not any(_meet(candidate, other) for other in chosen)
        if apart and all(_overlap(own, other) < SAME_WORDS for other in seen):
            chosen.append(candidate)
            seen.append(own)
        if chosen[0].part.items or chosen[0].features.extreme > 0:
            break
    order = list(dict.fromkeys(candidate.context for candidate in chosen))
    return sorted(chosen, key=lambda c: (order.index(c.context), c.start))


def _all_rows(
    answer: _Answer, chosen: Sequence[Candidate], contexts: Sequence[Context]
) -> list[Candidate]:
    """Return the rows of the best one's table, where all are asked for; none where one is enough.

    A long table is in several passages. Where the question names rows by a cell, all of those; else
    it has to name a column.
    """
    best = max(chosen, key=lambda one: one.score, default=None)
    if best is None or not _is_row(best) or not answer.question.wants_rows:
        return []
    row, extreme = best.table, best.features.extreme > 0
    if row is None or extreme or (best.features.table and not _names_column(answer.question, row)):
        return []
    document = contexts[best.context].document_id
    found = [
        one
        for one in answer.candidates
        if _is_row(one) and one.table and one.table.columns == row.columns
        and contexts[one.context].document_id == document
        and one.features.table == best.features.table
    ]  # fmt: skip
    found.sort(key=lambda one: contexts[one.context].span[0] + one.start)
    return found[:MOST_ROWS] if len(found) > 1 else []


def _is_row(candidate: Candidate) -> bool:
    return candidate.part.sentence.kind == "table"


def _names_column(question: Question, row: TableRow) -> bool:
    return any(stem(word, question.language) in question.terms for word in column_words(row))


def _meet(one: Candidate, other: Candidate) -> bool:
    """Whether two candidates share text, with what is quoted before them."""
    return one.context == other.context and _start(one) < other.end and _start(other) < one.end


def _overlap(one: set[str], other: set[str]) -> float:
    return len(one & other) / len(one | other) if one | other else 1.0


def _write(candidate: Candidate, context: Context) -> str:
    """Return the sentence as it stands in an answer, with its number before the full stop.

    A list keeps its items. Bracketed numbers in the passage would read as citations, and its images
    would be fetched: the quote keeps them, the answer does not.
    """
    part = candidate.part
    if part.items:
        numbered = part.mark.strip()[:1].isdigit()
        items = _merged(part.items, context.text)
        return "\n".join(
            f"{f'{number}.' if numbered else '-'} {_cited(text, kind, context)}"
            for number, (text, kind) in enumerate(items, start=1)
        )
    kind = part.sentence.kind
    if kind == "table":
        row, text = candidate.table, context.text[candidate.start : candidate.end]
        return _cited(written(row) if row else ", ".join(row_cells(text)), kind, context)
    text = context.text[_start(candidate) : candidate.end]
    if part.is_note:
        return _cited(without_mark(text), kind, context)
    if kind == "value":
        text = json_written(text)
    if part.name and not text.startswith(part.name) and len(text.split()) < SHORT_VALUE:
        text = f"{part.name}, {text}"
    return _cited(ANSWER_MARK.sub("", text), kind, context)


def _merged(items: Sequence[Sentence], text: str) -> list[tuple[str, Kind]]:
    """Return the text of each item; sentences in the same line are one item."""
    found: list[tuple[int, int, Kind]] = []
    for item in items:
        if found and item.kind == "prose" and "\n" not in text[found[-1][1] : item.start]:
            found[-1] = (found[-1][0], item.end, item.kind)
        else:
            found.append((*item[:2], item.kind))
    return [
        (json_written(text[start:end]) if kind == "value" else text[start:end], kind)
        for start, end, kind in found
    ]


def _readable(text: str) -> str:
    """Return a sentence without the marks of quotes and definitions, its words in one piece."""
    text = LIGATURE.sub(lambda found: unicodedata.normalize("NFKC", found[0]), text)
    return join_hyphenated(LINE_MARK.sub("", INVISIBLE.sub("", text)))


def _cited(text: str, kind: Kind, context: Context) -> str:
    if kind == "code":
        return f"`{without_images(text.replace('`', ''))}` [{context.marker}]."
    # a lone backtick could hide the number from the check
    text = text if text.count("`") % 2 == 0 else text.replace("`", "")
    text = VALUES.sub(r"\1", text)
    text = re.sub(
        r"\s+", " ", without_images(strip_markers(NOTE_SIGN.sub("", _readable(text))))
    ).strip()
    body, end = (text[:-1].rstrip(), text[-1]) if text[-1:] in tuple(".!?") else (text, ".")
    return f"{body} [{context.marker}]{end}"
