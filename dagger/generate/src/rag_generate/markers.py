"""Citation markers in an answer: numbers in brackets, in the forms models write them.

`[1]`, `[1, 2]`, `[1][2]`, `[1-3]`, `[^1]`, `[Source 1]`, `【1】`, `【1†source】`. What stands in
backticks is code, not a citation.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from typing import NamedTuple

MAX_RANGE = 20  # markers; a longer range is no citation
MAX_DIGITS = 3  # digits; an unknown number that is longer (a year) or 0 (an index) is no citation

_CODE = r"(?P<code>```.*?(?:```|\Z)|`[^`\n]*`)"
_LABEL = r"(?:(?:sources?|passages?|documents?|docs?|contexts?|refs?)\s*)?[#^]?"
_NUMBERS = r"[0-9]{1,9}(?:\s*(?:[,;&]|-|–)\s*[#^]?[0-9]{1,9})*"
_MARKER = re.compile(
    rf"{_CODE}|(?P<before>[ \t]*)[\[【]\s*{_LABEL}\s*(?P<numbers>{_NUMBERS})\s*"
    r"(?:†[^\]】\n]{0,80})?[\]】](?!\()",
    re.IGNORECASE | re.DOTALL,
)


class Marker(NamedTuple):
    """A group of numbers in brackets: `text[start:end]`, leading blanks included."""

    start: int
    end: int
    numbers: tuple[int, ...]
    blank: str  # what stood before the bracket


def find_markers(text: str, known: Container[int] = ()) -> Iterator[Marker]:
    """Yield the markers of `text`; `known` numbers count as markers however long they are."""
    for match in _MARKER.finditer(text):
        if match["code"] is None:
            numbers = _expand(match["numbers"])
            if numbers and all(n in known or 0 < n < 10**MAX_DIGITS for n in numbers):
                yield Marker(*match.span(), numbers, match["before"])


def _expand(numbers: str) -> tuple[int, ...]:
    found: list[int] = []
    for part in re.split(r"[,;&]", numbers):
        ends = [int(end) for end in re.findall(r"[0-9]+", part)]
        if len(ends) == 2 and 0 <= ends[1] - ends[0] <= MAX_RANGE:
            found += range(ends[0], ends[1] + 1)
        elif len(ends) == 1:
            found += ends
        else:
            return ()
    return tuple(dict.fromkeys(found))


def strip_markers(text: str) -> str:
    """Return `text` without anything that reads as a citation marker."""
    while True:
        pieces, last = [], 0
        for marker in find_markers(text):
            pieces.append(text[last : marker.start])
            last = marker.end
        if not pieces:
            return text
        text = "".join([*pieces, text[last:]])
