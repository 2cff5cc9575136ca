"""Remove a citation that points to no passage, so that its sentence still reads as one.

Most citations stand behind a claim and can go. Some are words of the sentence ("According to [7], …",
"[7] says that …"): the words that introduce them go, too, or the sentence whose subject they are.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_LABEL = (
    r"(?:(?:the|this|that|both)\s+)?"
    r"(?:passages?|sources?|documents?|contexts?|references?|citations?)"
)
_SAID = (
    r"(?:stated|described|shown|mentioned|noted|explained|given|found|listed|defined|written|seen"
    r"|specified|outlined)"
)
_LEAD = re.compile(
    rf"(?P<before>[,;]?\s*)\b(?:(?:and|or|but)\s+)?(?:according\s+to|based\s+on|as\s+(?:{_SAID}\s+)?(?:in|by|per|of)"
    rf"|in|by|from|per|see(?:\s+also)?|cf\.?|under|of)\s+(?:{_LABEL}\s*)?\Z",
    re.IGNORECASE,
)
_SUBJECT = re.compile(rf"\s*(?:[-*+•]\s+|\d+[.)]\s+)?(?P<label>(?:{_LABEL}\s*)?)\Z", re.IGNORECASE)
_LIST_NAME = re.compile(
    r"[*_#>\s-]*(?:sources?|references?|citations?|see(?:\s+also)?)[*_\s]*:?[*_\s]*\Z",
    re.IGNORECASE,
)
_PARENTHESIS = re.compile(
    rf"\s*[(（]\s*(?:(?:see(?:\s+also)?|cf\.?|from|per|as\s+in|in|e\.g\.,?)\s*)?(?:{_LABEL})?\s*:?\s*\Z",
    re.IGNORECASE,
)
_AND = r"\s*(?:,?\s*\b(?:and|or)\b|[,;&/])\s*"
_BEFORE_ANOTHER = re.compile(rf"{_AND}(?=[\[【])", re.IGNORECASE)
_AFTER_ANOTHER = re.compile(rf"(?<=[\]】]){_AND}\Z", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?…。！？]+[\"'”’)]*(?=\s|\Z)|[。！？]|(?=\n)|\Z")
_SENTENCE_BEGIN = re.compile(r"(?:.*(?:[.!?…][\"'”’)]*\s|[。！？\n]))?\s*", re.DOTALL)
# what says nothing without its citation: "Passage", "The answer is:"
_EMPTY = re.compile(rf"\W*(?:{_LABEL})?\W*|.*[:：]\W*", re.IGNORECASE | re.DOTALL)
_PIECE_END = re.compile(r"[.!?。！？\n]+")
_WINDOW = 1000  # characters before and behind a citation that may be of its sentence


class Cut(NamedTuple):
    """What to write in the place of `text[start:end]`."""

    start: int
    end: int
    text: str = ""


def says_something(text: str) -> bool:
    """Whether a text without its citations has a statement left, not only what introduced them."""
    return not all(_introduces(piece.strip(" \t()（）*_,;")) for piece in _PIECE_END.split(text))


def _introduces(piece: str) -> bool:
    lead = _LEAD.match(f"{piece} ")
    return bool(lead or _EMPTY.fullmatch(piece) or _LIST_NAME.match(piece))


def start_of_last_sentence(text: str) -> int:
    """Return where the sentence or line begins that is not ended yet; the end of `text` if there is none."""
    return max((found.end() for found in _PIECE_END.finditer(text)), default=0)


def removal(text: str, start: int, end: int) -> Cut:
    """Return what to cut so that the citation `text[start:end]` is gone and its sentence whole.

    Args:
        text: The answer.
        start: Where the citation's bracket begins.
        end: Where it ends.
    """
    before, behind = text[max(0, start - _WINDOW) : start], text[end : end + _WINDOW]
    if found := _BEFORE_ANOTHER.match(behind):
        return Cut(start, end + found.end())
    if found := _AFTER_ANOTHER.search(before):
        return Cut(start - len(found[0]), end)
    if (found := _PARENTHESIS.search(before)) and (closed := re.match(r"\s*[)）]", behind)):
        return Cut(start - len(found[0]), end + closed.end())
    match = _SENTENCE_BEGIN.match(before)
    sentence = before[match.end() if match else 0 :]
    ending = _SENTENCE_END.search(behind)
    rest = behind[: ending.end() if ending else 0]
    cut = _cut_words(sentence, rest, start, end)
    if cut is None and not behind.startswith(("[", "【")):
        return Cut(start - len(before) + len(before.rstrip(" \t")), end)
    return _with_blanks(text, cut or Cut(start, end))


def _with_blanks(text: str, cut: Cut) -> Cut:
    """Return the cut with the blanks behind it, where there are some before it or nothing is."""
    behind = text[cut.end : cut.end + _WINDOW]
    at_blank = cut.start == 0 or text[cut.start - 1].isspace()
    blanks = len(behind) - len(behind.lstrip(" \t"))
    return cut._replace(end=cut.end + blanks) if at_blank and not cut.text else cut


def _cut_words(sentence: str, rest: str, start: int, end: int) -> Cut | None:
    """Return the cut where the citation is a word of its sentence, else None.

    Args:
        sentence: The sentence up to the citation.
        rest: The sentence behind it.
        start: Where the citation's bracket begins.
        end: Where it ends.
    """
    whole = Cut(start - len(sentence), end + len(rest))
    goes_on = re.match(r"\s*[^\W\d_]", rest)
    if _LIST_NAME.match(sentence) and sentence.strip() and not goes_on:
        return whole
    if lead := _LEAD.search(sentence):
        if lead.start() > 0:
            comma = ", " if lead["before"].startswith(",") and goes_on else ""
            return Cut(start - len(lead[0]), end, comma.rstrip())
        if comma_behind := re.match(r"\s*,\s*(\w?)", rest):
            return Cut(start - len(sentence), end + comma_behind.end(), comma_behind[1].upper())
        return whole
    subject = _SUBJECT.match(sentence)
    if subject and re.match(r"\s*[a-zà-ÿ]", rest):
        if not re.search(r"[\[【]", rest):
            return whole
        return Cut(start - len(subject["label"]), end, "A passage")
    return None
