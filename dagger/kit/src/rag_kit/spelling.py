"""Misspelt words: which words of a question may be, and which words are near them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from .words import is_unspaced, plain, words

LEAST = 4  # letters; a shorter word has too many neighbours
SHORT = 5  # letters; the neighbours of a shorter word are mostly other words, as of find and fund
MOST = 32  # letters; the neighbours of a longer word are too many, and it is hardly a word
MOST_WORDS = 32  # of a question; a longer text is pasted, and each word costs a lookup
LONG = 9  # letters; from here on, two edits count as near
ACCENTED = "àáâãäåæçèéêëìíîïñòóôõöøùúûüýßąćčďęěğıłńňőœřśšťűůźżž"
_CHUNK = re.compile(r"\S+")
_BARE = re.compile(r"[^\W\d_][^\W\d_'’-]*[^\W\d_]")  # letters, without the marks around them
_CODE = re.compile(r"[0-9_/@#\\:=<>{}$%&*+~|]|(?<=\w)\.(?=\w)")


def doubtful(query: str) -> list[str]:
    """Return the words of a question that may be misspelt: no numbers, codes, names in capitals.

    At most `MOST_WORDS`, the first ones, so that the cost of a question is bounded whatever it is.
    """
    shouted = query.isupper()
    found: dict[str, None] = {}
    for chunk in _CHUNK.findall(query):
        bare = _BARE.search(chunk)
        if not bare or _CODE.search(chunk) or is_unspaced(chunk):
            continue
        if shouted or bare[0][1:].islower():
            found |= dict.fromkeys(word for word in words(bare[0]) if LEAST <= len(word) <= MOST)
        if len(found) >= MOST_WORDS:
            break
    return list(found)[:MOST_WORDS]


def edits(word: str) -> set[str]:
    """Return the words one edit away: a letter more, less, another or swapped; the first one stays.

    Of a short word, those that differ in an accent.
    """
    first, rest = word[0], word[1:]
    letters = _letters(word)
    found = set()
    for at in range(len(rest) + 1):
        left, right = first + rest[:at], rest[at:]
        found |= {left + letter + right for letter in letters}
        if right:
            found |= {left + right[1:], *(left + letter + right[1:] for letter in letters)}
        if len(right) > 1:
            found.add(left + right[1] + right[0] + right[2:])
    return {one for one in found if one != word and _may_be_meant(word, one)}


def _may_be_meant(word: str, other: str, short: int = SHORT) -> bool:
    return len(word) >= short or plain(word) == plain(other)


def _letters(word: str) -> str:
    """Return the letters of the script that a word is written in."""
    if word[0] < "\u0250":
        return "abcdefghijklmnopqrstuvwxyz" + ACCENTED
    block = ord(word[0]) // 128 * 128
    everything = "".join(map(chr, range(block, block + 128)))
    return "".join(one for one in everything.lower() if one.isalpha() or not one.isascii())


def nearest(word: str, known: Iterable[str], *, short: int = SHORT) -> str | None:
    """Return the known word that is nearest by edits and has the same first letter; None: none is near.

    One edit is near, two are for a long word; of equally near ones the first in the alphabet. Of a word
    with fewer letters than `short`, only those that differ in an accent.
    """
    most = 2 if len(word) >= LONG else 1
    rated = [
        (edit_distance(word, one, most), one)
        for one in known
        if one[:1] == word[:1]
        and abs(len(one) - len(word)) <= most
        and _may_be_meant(word, one, short)
    ]
    found, best = min(rated, default=(most + 1, ""))
    return best if found <= most else None


def edit_distance(one: str, other: str, most: int) -> int:
    """Count the edits between two words: letters put in, left out, changed, or neighbours swapped.

    Returns:
        The number; `most + 1` when there are more.

    Source: Damerau, CACM 1964, in the restricted form (no substring is edited twice).
    """
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, left in enumerate(one, start=1):
        older, before, row = before, row, [i]
        for j, right in enumerate(other, start=1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (left != right))
            if i > 1 and j > 1 and left == other[j - 2] and one[i - 2] == right:
                cost = min(cost, older[j - 2] + 1)
            row.append(cost)
        if min(row) > most:
            return most + 1
    return min(row[-1], most + 1)


def replaced(query: str, corrections: Mapping[str, str]) -> str:
    """Return a question with words replaced, wherever they stand and in whatever case."""
    for word, other in corrections.items():
        query = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", other, query, flags=re.IGNORECASE)
    return query
