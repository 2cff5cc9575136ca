"""Where a text may be cut, and what a cut there costs: structure first, then sentences, words.

Does not choose the cuts; that is `chunker`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from .document import LINE as LINE_PATTERN
from .document import LoadedDocument, fence_after, lines_of
from .tables import inside_rows

# Cost of starting a chunk at a boundary, on the scale on which a nearly empty chunk costs 1.
RECORD = 0.0
HEADING = 0.0
HEADING_STEP = 0.01  # per level, so that a cut prefers the higher heading
PARAGRAPH = 0.1
LINE = 0.25
SENTENCE = 0.4
WRAP = 1.0  # a line end in the middle of a sentence
WORD = 1.5

WRAPPED_CHARACTERS = 40  # a shorter line ends on purpose
ENDS = re.compile(r"[.!?…:;。！？][\"')\]”’»」』”*_`]*$")
SENTENCE_END = re.compile(
    r"(?<=[.!?…])[\"')\]”’»*_]{0,4}[^\S\r\n]+(?=\S)|(?<=[。！？｡])[」』”’）】]{0,4}(?=[^\s」』”’）】])"
)
OPENING = re.compile(r"[\"'(\[“‘«*_`]{0,3}")
LAST_WORD = re.compile(r"(?:^|[\s(\[\"'“‘])([^\s(\[\"'“‘]{0,12})\.$")
INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")  # J. / U.S. / e.g.
ABBREVIATIONS = frozenset({"e.g", "i.e"}) | {
    *("mr", "mrs", "ms", "dr", "prof", "st", "rev", "gen", "col", "sgt", "lt", "capt", "gov"),
    *("sen", "rep", "hon", "messrs", "mt", "ft", "vs", "cf", "viz", "al", "approx", "ca"),
    *("fig", "figs", "eq", "eqs", "sec", "secs", "chap", "vol", "vols", "pp"),
    *("ed", "eds", "trans", "dept", "univ", "inc", "ltd", "co", "corp", "bros", "resp", "incl"),
    *("jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec"),
}

ITEM = re.compile(r"(?:[-*+•–]|\d{1,3}[.)]|[a-z]\))\s")
CLAUSE = re.compile(r"(?<=[,;:)\]}>|])\s+")
SPACE = re.compile(r"\s+")
WINDOW = 2000  # characters around the middle in which a cut is looked for
GRAPHEME_CHARACTERS = 32  # a longer run of combining marks is no character of any script
JOINER = "\u200d"


def boundaries(document: LoadedDocument) -> dict[int, float]:
    """Return the offsets at which a chunk may start, with the cost of each, in no order."""
    text = document.text
    found: dict[int, float] = dict(_sentence_starts(text))
    found.update(_line_starts(text))
    below = -1
    for heading in document.headings:
        if heading.offset != below:  # a heading right below another stays with it
            found[heading.offset] = HEADING + HEADING_STEP * heading.level
        for offset in _heading_lines(text, heading.offset):
            found.pop(offset, None)
            below = offset
    for offset in list(inside_rows(text, document.tables, sorted(found))):
        del found[offset]
    found.update(dict.fromkeys(document.breaks, RECORD))
    return {offset: cost for offset, cost in found.items() if 0 < offset < len(text)}


def _heading_lines(text: str, start: int) -> Iterator[int]:
    """Yield the starts of the lines kept with a heading: its underline, the first line below."""
    titled = False
    for line in LINE_PATTERN.finditer(text, start):
        words = line[0].strip()
        if words and line.start() > start:
            yield line.end() - len(line[0].lstrip())
        has_words = any(character.isalnum() for character in words)
        if titled and has_words:
            return
        titled = titled or has_words


def _line_starts(text: str) -> Iterator[tuple[int, float]]:
    """Yield the first word of each line with its cost; lines a sentence runs across yield none."""
    fence, previous, blank = "", "", False
    for begin, end in lines_of(text):
        line = text[begin:end]
        words = line.strip()
        if not words:
            blank = True
            continue
        inside, fence = bool(fence), fence_after(line, fence)
        cost = LINE if inside else PARAGRAPH if blank else _line_cost(previous, words)
        introduced = not inside and previous.endswith((":", ":**")) and ITEM.match(words)
        if cost is not None and not introduced:
            yield begin + line.index(words[0]), cost
        previous, blank = words, False


def _line_cost(previous: str, line: str) -> float | None:
    first = line.lstrip("`*_\"'([“‘«")[:1]  # `code` and (brackets) go on with a sentence too
    wrapped = (
        len(previous) >= WRAPPED_CHARACTERS
        and first.isalpha()
        and not ENDS.search(previous[-8:])
        and "\t" not in previous
        and " | " not in previous
    )
    if not wrapped:
        return LINE
    return None if first.islower() else WRAP


def _sentence_starts(text: str) -> Iterator[tuple[int, float]]:
    for match in SENTENCE_END.finditer(text):
        if text[match.start() - 1] != "." or _ends_sentence(text, match.start(), match.end()):
            yield match.end(), SENTENCE


def _ends_sentence(text: str, dot: int, following: int) -> bool:
    """Tell whether the full stop before `dot` ends a sentence, by the words on both sides."""
    opening = OPENING.match(text, following)
    first = opening.end() if opening else following
    if text[first : first + 1].islower():
        return False
    word = LAST_WORD.search(text[max(0, dot - 14) : dot])
    if not word:
        return True
    if word[1].isdigit():  # a number ends a sentence, unless it numbers the item of a list
        before = text[max(0, dot - 24) : dot - 1 - len(word[1])].rstrip(" \t")
        return before != "" and before[-1] not in "\r\n"
    return word[1].lower() not in ABBREVIATIONS and not INITIALS.fullmatch(word[1])


def middle(text: str, start: int, end: int, parts: int = 2) -> int | None:
    """Return the best cut near the middle of a span: after a clause, a word, else a character.

    Args:
        text: The whole text.
        start: Where the span starts.
        end: Where it ends.
        parts: Into how many equal parts the span will be cut in all; this cut leaves half of
            them, rounded down, on its left.

    Returns:
        An offset strictly inside the span, or None where it is a single visible character.
    """
    centre = start + (end - start) * (parts // 2) // parts
    margin = min(WINDOW, (end - start) // (2 * parts))
    low, high = max(start + 1, centre - margin), min(end - 1, centre + margin)
    for pattern in (CLAUSE, SPACE):
        cuts = (match.end() for match in pattern.finditer(text, low, high))
        whole = [cut for cut in cuts if starts_character(text, cut)]
        if whole:
            return min(whole, key=lambda cut: abs(cut - centre))
    for distance in range(GRAPHEME_CHARACTERS + 1):
        for cut in (centre - distance, centre + distance):
            if start < cut < end and starts_character(text, cut):
                return cut
    return centre if end - start > GRAPHEME_CHARACTERS else None


def starts_character(text: str, offset: int) -> bool:
    """Tell whether a visible character starts at `offset`: no mark, joiner or half of a flag.

    Approximates the grapheme clusters of Unicode Standard Annex 29.
    """
    here, before = text[offset], text[offset - 1]
    if here < "\u0300":
        return not (here == "\n" and before == "\r")
    joined = before == JOINER or here == JOINER
    modifier = "\U0001f3fb" <= here <= "\U0001f3ff" or "\U000e0020" <= here <= "\U000e007f"
    jamo = "\u1160" <= here <= "\u11ff"
    if joined or modifier or jamo or unicodedata.category(here).startswith("M"):
        return False
    return not _is_regional(here) or _regionals_before(text, offset) % 2 == 0


def _is_regional(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"


def _regionals_before(text: str, offset: int) -> int:
    count = 0
    while count < min(offset, GRAPHEME_CHARACTERS) and _is_regional(text[offset - 1 - count]):
        count += 1
    return count
