"""Text as it is compared: one form for characters that look alike. Never shown, has no offsets."""

from __future__ import annotations

import re
import unicodedata

INVISIBLE = re.compile(
    "\u00ad(?:[ \t]*(?:\r\n|\r|\n)[ \t]*)?|[\u2060\ufeff]|(?<=[A-Za-z0-9])\u200b(?=[A-Za-z0-9])"
)
TRADE_MARK = re.compile("[\u2120\u2122]")  # NFKC would glue its letters to the word
NOTE_MARK = re.compile(r"(?<=[^\W\d_]{4})[\u00b2\u00b3\u00b9\u2070\u2074-\u2079]+")
HYPHEN = re.compile("[\u2010\u2011]")
# the second half of a word that a line end cut; a word with another hyphen keeps both
LINE_END_HYPHEN = re.compile(
    r"(?<![\w-])([^\W\d_]{2,})-[ \t]*(?:\r\n|\r|\n)[ \t]*(?=[^\W\d_]{2})(?!and |or |und |oder )"
)
THOUSANDS = re.compile(
    r"(?<![^\s$€£¥(])[1-9]\d{0,2}(?:"
    r"(?:,\d{3})+(?!,?\d)"
    r"|(?:\.\d{3}){1,2}(?!\.?\d)"
    r"|(?:['’]\d{3})+(?!\d)"
    r"|(?:[\u00a0\u2009\u202f]\d{3})+(?!\d)"
    r"|(?: \d{3})+(?=\s?[A-Za-z$€£¥%])"  # a plain space only before a unit
    r")"
)
SEPARATOR = re.compile(r"\D")


def fold(text: str) -> str:
    """Return `text` with one form for each character and words in one piece.

    NFKC (ligatures, width, composed accents), without soft hyphens, and with the words joined that
    are hyphenated at a line end.
    """
    if not text.isascii():
        text = NOTE_MARK.sub(" ", TRADE_MARK.sub(" ", INVISIBLE.sub("", text)))
        text = HYPHEN.sub("-", unicodedata.normalize("NFKC", text))
    return join_hyphenated(text)


def join_hyphenated(text: str) -> str:
    """Return `text` with the words in one piece that a hyphen at a line end cuts."""
    return LINE_END_HYPHEN.sub(_joined, text) if "\n" in text or "\r" in text else text


def comparable(text: str) -> str:
    """Return the text of which words are compared: folded, and 1,500 as 1500."""
    return fold(THOUSANDS.sub(lambda number: SEPARATOR.sub("", number[0]), text))


def _joined(half: re.Match[str]) -> str:
    following = half.string[half.end() : half.end() + 1]
    return half[1] if following.islower() else f"{half[1]}-"
