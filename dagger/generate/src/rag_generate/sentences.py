"""Split text into sentences with exact character offsets.

Handles abbreviations, initials, decimals, closing quotes, Markdown headings, list items, tables and
code fences, hard-wrapped and unwrapped lines. It is a set of rules for English and similar scripts
(plus the full stops of Chinese and Japanese); it does not parse Markdown and learns nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

Kind = Literal["prose", "heading", "code"]

MAX_SENTENCE_CHARS = 600  # characters; longer runs without a full stop are cut at a space
WRAP_CHARS = 40  # characters; a shorter line without a full stop ends its sentence

_ABBREVIATIONS = """
adj al approx apr art assn aug ave bros ca capt cf ch cmdr co col corp dec dept dr ed eds eg e.g eq
est etc feb fig figs ft gen gov hon i.e ie inc jan jr jul jun lt ltd maj mar messrs mr mrs ms mt no
nos nov oct op p pp par prof pt pvt ref refs rep rev rt sec sen sep sept sgt sr st supt univ v viz
vol vols vs
"""
_STARTERS = """
A After Although An And As At Because But By During For From He However If In It Its No On She Since
So That The Their Then There These They This Those To We What When While You
"""
# Lower-case, without the final dot; a dot after one of these ends no sentence ...
ABBREVIATIONS = frozenset(_ABBREVIATIONS.split())
# ... unless it is one of these and a word that starts sentences follows.
ENDING_ABBREVIATIONS = frozenset({"etc", "inc", "co", "jr", "sr", "no"})
STARTERS = frozenset(_STARTERS.split())

# a full stop, closing quotes and footnote marks like [3]
_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?:\[[0-9a-z]{1,3}\])*(?=\s)|[。！？]+[」』”’]*")
_INITIALS = re.compile(r"[A-Z]|(?:[A-Za-z]\.)+[A-Za-z]")
_FENCE = re.compile(r"\s*(```|~~~)")
_HEADING = re.compile(r"\s*#{1,6}\s+")
_ITEM = re.compile(r"\s*(?:[-*+•]|[0-9]{1,3}[.)])\s+")
_RULE = re.compile(r"\s*(?:[-=*_|:]\s*){3,}$")
_WORD_BEFORE = re.compile(r"[^\s(\[\"'“‘]*$")
_WORD_AFTER = re.compile(r"\s*[\"'“‘(\[]*(\w+)?")


class Sentence(NamedTuple):
    """Where a sentence stands: `text[start:end]`, without surrounding white space."""

    start: int
    end: int
    kind: Kind


def split_sentences(text: str) -> list[Sentence]:
    """Return the sentences of `text` in order; they never overlap and none is blank."""
    found: list[Sentence] = []
    for start, end, kind in _blocks(text):
        if kind == "prose":
            found += [
                Sentence(first, last, kind)
                for first, last in _cut(text, start, end)
                if first < last
            ]
        else:
            first, last = _trim(text, start, end)
            if first < last:
                found.append(Sentence(first, last, kind))
    return found


def _blocks(text: str) -> Iterator[tuple[int, int, Kind]]:
    """Yield runs of prose (one paragraph or list item), headings and lines of code."""
    start: int | None = None
    offset, fenced = 0, False
    previous = ""
    for line in text.splitlines(keepends=True):
        end = offset + len(line)
        special = _special(line, fenced)
        if start is not None and (special or not line.strip() or _breaks(previous, line)):
            yield start, offset, "prose"
            start = None
        if special == "fence":
            fenced = not fenced
        elif special == "code":
            yield offset, end, "code"
        elif special == "heading":
            yield offset + _length(_HEADING, line), end, "heading"
        elif special == "item":
            start = offset + _length(_ITEM, line)
        elif special is None and start is None and line.strip():
            start = offset
        offset, previous = end, line
    if start is not None:
        yield start, offset, "prose"


def _special(line: str, fenced: bool) -> str | None:
    if _FENCE.match(line):
        return "fence"
    if fenced:
        return "code"
    if _HEADING.match(line):
        return "heading"
    if _RULE.match(line):
        return "rule"
    return "item" if _ITEM.match(line) else None


def _length(pattern: re.Pattern[str], line: str) -> int:
    match = pattern.match(line)
    return match.end() if match else 0


def _breaks(previous: str, line: str) -> bool:
    """Whether a new line also starts a new sentence, though no full stop ended the one before."""
    before, after = previous.rstrip(), line.lstrip()
    if before.endswith("|") or after.startswith("|"):
        return True
    return len(before) < WRAP_CHARS and bool(after) and not after[0].islower()


def _cut(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    begin = start
    for match in _END.finditer(text, start, end):
        if _ends(text, match, end):
            yield from _limit(text, *_trim(text, begin, match.end()))
            begin = match.end()
    yield from _limit(text, *_trim(text, begin, end))


def _ends(text: str, match: re.Match[str], end: int) -> bool:
    """Whether the punctuation found ends a sentence."""
    after = _WORD_AFTER.match(text, match.end(), end)
    word = after.group(1) if after else None
    if word and word[0].islower() and match.group()[0] in ".…":
        return False
    if match.group() != ".":
        return True
    before = _WORD_BEFORE.search(text, max(0, match.start() - 40), match.start())
    word_before = before.group() if before else ""
    if word_before.lower() in ABBREVIATIONS:
        return word_before.lower() in ENDING_ABBREVIATIONS and word in STARTERS
    if _INITIALS.fullmatch(word_before):
        return word in STARTERS
    return True


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def _limit(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    while end - start > MAX_SENTENCE_CHARS:
        cut = text.rfind(" ", start + 1, start + MAX_SENTENCE_CHARS)
        cut = cut if cut > start else start + MAX_SENTENCE_CHARS
        yield _trim(text, start, cut)
        start, end = _trim(text, cut, end)
    yield start, end
