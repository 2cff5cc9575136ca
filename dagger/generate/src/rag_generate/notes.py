"""Notes below a text: `50 GB*` and, further down, `* 100 GB for students`.

The note belongs to what refers to it: it is found by the words of that line, and an answer made of that
line brings it along.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rag_kit.passages import Context

_MARK = r"\[\^[\w-]{1,20}\]|\[[0-9]{1,2}\]|\*{1,3}|[†‡]{1,3}|[⁰¹²³⁴-⁹]{1,2}"
# behind a word, a number or a full stop
REFERENCE = re.compile(rf"(?<=[^\s*\\|_])\\?({_MARK})(?=[\s.,;:!?)|\"'”’]|$)")
NOTE = re.compile(rf"^[ \t>|]*\\?({_MARK})(?::[ \t]*|[ \t]+)(?=[^\s*])", re.MULTILINE)
BRACKETED = re.compile(r"\[\^?[\w-]{1,20}\]:?")
PARAGRAPH_END = re.compile(r"\n[ \t]*\n|\Z")
# a note that only names a source says nothing about what refers to it
SOURCE = re.compile(
    r"\bet al\b|\bpp?\. ?[0-9]|\bvol\. ?[0-9]|\bdoi\b|\bISBN\b|https?://"
    r"|\b(?:journal|press|proceedings|ibid|cf\.)|\((?:19|20)[0-9]{2}[a-z]?\)|\b(?:retrieved|accessed) "
    r"|\b[A-Z][\w-]+, (?-i:[A-Z])\.|, (?:19|20)[0-9]{2}\.?$",
    re.IGNORECASE,
)
SOURCES = re.compile(
    r"^[^\w\n]*(references?|sources?|bibliography|further reading|literature|works cited|citations)[^\w\n]*$",
    re.IGNORECASE | re.MULTILINE,
)
LONGEST = 400  # characters; a longer text is no note
READ = 4 * LONGEST  # characters in which the end of a note is looked for


class Note(NamedTuple):
    """A note and one place that refers to it; positions are in the passages' texts."""

    context: int  # index of the passage that refers to it
    at: int  # where its mark stands there
    line: str  # the line up to the mark
    note_context: int
    start: int  # of the note, with its mark
    end: int


class _Place(NamedTuple):
    position: int  # in the document
    context: int
    match: re.Match[str]


def find_notes(contexts: Sequence[Context]) -> list[Note]:
    """Return each place in the passages that refers to a note in them, with its note.

    A mark refers to the next note below it in the document that begins with the same mark.
    """
    notes: dict[tuple[str, str], list[_Place]] = defaultdict(list)
    for note in sorted(_notes(contexts), key=_position):
        notes[contexts[note.context].document_id, note.match[1]].append(note)
    found = []
    for place in _places(REFERENCE, contexts) if notes else ():
        alike = notes.get((contexts[place.context].document_id, place.match[1]), [])
        following = bisect_right(alike, place.position, key=_position)
        if following < len(alike) and _is_single(place):
            note = alike[following]
            at = place.match.start()
            found.append(Note(place.context, at, _line(place), note.context, *_span(note.match)))
    return found


def _notes(contexts: Sequence[Context]) -> Iterator[_Place]:
    sources = [found.start(1) if (found := SOURCES.search(c.text)) else None for c in contexts]
    for place in _places(NOTE, contexts):
        heading = sources[place.context]
        if (heading is None or place.match.start(1) < heading) and _is_note(place):
            yield place


def _position(place: _Place) -> int:
    return place.position


def without_mark(text: str) -> str:
    """Return a note without the brackets it begins with; a sign such as `*` stays."""
    match = NOTE.match(text)
    return text[match.end() :] if match and BRACKETED.match(match[1]) else text.lstrip("\\")


def _places(pattern: re.Pattern[str], contexts: Sequence[Context]) -> list[_Place]:
    return [
        _Place(context.span[0] + match.start(), number, match)
        for number, context in enumerate(contexts)
        for match in pattern.finditer(context.text)
    ]


def _is_note(place: _Place) -> bool:
    """Whether a line that begins with a mark is a note: no item of a list, no source."""
    start, end = _span(place.match)
    text = place.match.string
    if end - start > LONGEST or SOURCE.search(text[start:end]):
        return False
    return place.match[1] != "*" or not _is_item(text, start, end)


def _is_item(text: str, start: int, end: int) -> bool:
    """Whether the line before or after begins with `*`, too."""
    lines = [text[:start].rstrip().rpartition("\n")[2], text[end:].lstrip().partition("\n")[0]]
    return any(line.lstrip().startswith("* ") for line in lines)


def _is_single(place: _Place) -> bool:
    """Whether an asterisk is no end of *emphasis*."""
    mark, line = place.match[1], _line(place)
    return not mark.startswith("*") or re.search(rf"(?<!\*){re.escape(mark)}(?=\w)", line) is None


def _line(place: _Place) -> str:
    text, at = place.match.string, place.match.start()
    return text[text.rfind("\n", 0, at) + 1 : at]


def _span(match: re.Match[str]) -> tuple[int, int]:
    """Return where a note starts, with its mark, and ends: before the next one, or with its paragraph."""
    text, begin = match.string, match.start(1)
    begin -= text[begin - 1 : begin] == "\\"
    limit = match.end() + READ
    ends = (
        found.start()
        for p in (NOTE, PARAGRAPH_END)
        if (found := p.search(text, match.end(), limit))
    )
    return begin, begin + len(text[begin : min(ends)].rstrip())
