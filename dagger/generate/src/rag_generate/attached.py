"""What belongs to a chosen sentence: its note, what a note refers to, the sentence that limits it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rag_kit.passages import Context

from .notes import Note, find_notes
from .scoring import Candidate
from .sentences import Sentence
from .structure import BLANK_LINE, Part

# how a sentence begins that says where the one before it ends to hold
LIMITS = re.compile(
    r"(?:after that|afterwards|thereafter|beyond that|otherwise|except(?:ions?)?|(?:all|any) other"
    r"|in (?:all )?other cases|(?:the )?others?|for (?:all )?others?|the rest"
    r"|danach|ansonsten|sonst|andernfalls|alle anderen|ausgenommen"
    r"|ensuite|au-delà|sinon|passé ce délai|tou(?:s|tes) les autres)\b",
    re.IGNORECASE,
)


def with_limits(
    chosen: Sequence[Candidate], scored: Sequence[Candidate], contexts: Sequence[Context]
) -> list[Candidate]:
    """Return the sentences, each followed by the one that says where it ends to hold.

    Args:
        chosen: The sentences of the answer.
        scored: All parts of the passages in order.
        contexts: The passages.
    """
    found: list[Candidate] = []
    for one in chosen:
        found.append(one)
        limit = _limit(one, scored, contexts)
        if limit is not None and limit not in chosen:
            found.append(limit)
    return found


def _limit(
    one: Candidate, scored: Sequence[Candidate], contexts: Sequence[Context]
) -> Candidate | None:
    if one.part.sentence.kind != "prose" or one.part.items:
        return None
    following = (c for c in scored if c.context == one.context and c.start >= one.end)
    limit = next(following, None)
    text = contexts[one.context].text
    if limit is None or limit.part.items or BLANK_LINE.search(text[one.end : limit.start]):
        return None
    return limit if LIMITS.match(text[limit.start : limit.end]) else None


def with_notes(
    chosen: Sequence[Candidate], scored: Sequence[Candidate], contexts: Sequence[Context]
) -> list[Candidate]:
    """Return the sentences and rows with the notes they refer to, a note behind what refers to it.

    Args:
        chosen: The sentences of the answer.
        scored: All parts of the passages.
        contexts: The passages.
    """
    notes = find_notes(contexts)
    found: dict[tuple[int, int, int], Candidate] = {}
    for one in chosen:
        for candidate in _noted(one, notes, scored):
            found.setdefault((candidate.context, candidate.start, candidate.end), candidate)
    return list(found.values())


def _noted(one: Candidate, notes: Sequence[Note], scored: Sequence[Candidate]) -> list[Candidate]:
    """Return a sentence with its notes; where it is a note itself, with the sentence that refers to it."""
    own = [
        n
        for n in notes
        if n.note_context == one.context and n.start < one.end and one.start < n.end
    ]
    if own:
        return [*_referring(own[0], scored), _as_candidate(own[0], one)]
    behind = [n for n in notes if n.context == one.context and one.start <= n.at <= one.end]
    return [one, *(_as_candidate(note, one) for note in behind)]


def _referring(note: Note, scored: Sequence[Candidate]) -> list[Candidate]:
    found = [c for c in scored if c.context == note.context and c.start <= note.at < c.end]
    return sorted(found, key=lambda c: c.end - c.start)[:1]


def _as_candidate(note: Note, one: Candidate) -> Candidate:
    sentence = Sentence(note.start, note.end, "prose")
    return Candidate(note.note_context, Part(sentence, is_note=True), one.score, one.features)
