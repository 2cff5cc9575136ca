"""Where words of a document's text stand among the characters of a page.

The text is not the page's: lines are joined, columns and cells are put in order, hyphens are gone. So
letters and digits alone are compared, and what was put apart is found piece by piece.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

GRAM = 4  # letters that are looked up at once
SURE = 10  # letters; a shorter piece counts where it is whole words
MAX_PLACES = 64  # of equal letters that are compared
MAX_LETTERS = 6_000  # of a quote on one page; a dense page has as many
BEFORE = 80  # characters before a quote, which tell it from the same words elsewhere


class Quote(NamedTuple):
    """Words to find: the text of their page, and where they start and end in it."""

    text: str
    start: int
    end: int


class _Letter(NamedTuple):
    text: str
    at: int  # index of the character it is of


class _Run(NamedTuple):
    """Letters that two texts share: where they start in both, and how many they are."""

    at: int
    place: int
    length: int


def find_quote(quote: Quote, page: Sequence[str]) -> list[tuple[int, int]]:
    """Return where a quote stands on a page, as first and last index of the characters of each piece.

    Args:
        quote: What to find.
        page: Characters of the page, its lines in any order.
    """
    begin = max(0, quote.start - BEFORE)
    text = quote.text[begin : quote.end]
    letters, found = list(_letters(text))[: MAX_LETTERS + BEFORE], list(_letters(page))
    before = sum(letter.at + begin < quote.start for letter in letters)
    pieces = []
    for at, place, length in _runs(letters, found):
        skipped = max(0, before - at)
        if skipped < length:
            last = _with_marks(
                text, letters[at + length - 1].at, page, found[place + length - 1].at
            )
            pieces.append((found[place + skipped].at, last))
    return pieces


def _letters(text: Iterable[str]) -> Iterator[_Letter]:
    """Yield letters and digits as they are compared: without case, ligatures and forms."""
    for at, character in enumerate(text):
        for one in unicodedata.normalize("NFKC", character).casefold():
            if one.isalnum():
                yield _Letter(one, at)


def _with_marks(text: str, end: int, page: Sequence[str], last: int) -> int:
    """Return the last index of a piece with the punctuation that follows it in both texts."""
    for one, other in zip(text[end + 1 : end + 4], page[last + 1 : last + 4], strict=False):
        if one != other or one.isspace():
            break
        last += 1
    return last


def _runs(letters: Sequence[_Letter], page: Sequence[_Letter]) -> Iterator[_Run]:
    """Yield the longest pieces of `letters` that the page has; of equal ones that after the piece before."""
    gram = min(GRAM, len(letters))
    places: dict[str, list[int]] = defaultdict(list)
    for at in range(len(page) - gram + 1 if gram else 0):
        places[_gram(page, at, gram)].append(at)
    at = ended = expected = 0
    while at <= len(letters) - gram:
        known = places.get(_gram(letters, at, gram), [])
        middle = bisect_left(known, expected)
        near = known[max(0, middle - MAX_PLACES // 2) : middle + MAX_PLACES // 2]
        runs = [_Run(at, place, _common(letters, at, page, place)) for place in near]
        run = max(
            runs, key=lambda run: (run.length, -abs(run.place - expected)), default=_Run(at, 0, 0)
        )
        if run.length >= SURE or (run.length and _is_words(run, ended, letters, page)):
            yield run
            at = ended = at + run.length
            expected = run.place + run.length
        else:
            at += 1


def _gram(letters: Sequence[_Letter], at: int, size: int) -> str:
    return "".join(letter.text for letter in letters[at : at + size])


def _common(letters: Sequence[_Letter], at: int, page: Sequence[_Letter], place: int) -> int:
    """Return how many letters are the same from two places on."""
    most = min(len(letters) - at, len(page) - place)
    same = (letters[at + more].text == page[place + more].text for more in range(most))
    return next((length for length, equal in enumerate(same) if not equal), most)


def _is_words(run: _Run, ended: int, letters: Sequence[_Letter], page: Sequence[_Letter]) -> bool:
    """Whether a piece begins and ends where words do; it may go on where the piece before `ended`."""
    at, place, length = run
    begins = (at == ended or _is_edge(letters, at)) and _is_edge(page, place)
    return begins and _is_edge(letters, at + length) and _is_edge(page, place + length)


def _is_edge(letters: Sequence[_Letter], at: int) -> bool:
    """Whether a word begins at a letter, or the text ends before it."""
    return at in (0, len(letters)) or letters[at].at > letters[at - 1].at + 1
