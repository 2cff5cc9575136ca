"""Notice that a model repeats itself without end."""

from __future__ import annotations

import re

TAIL = 1600  # characters looked at
REPEATS = 4  # times in a row
LEAST = 160  # characters of all repeats together; a shorter run is a figure of speech or a table
STEP = 64  # new characters after which the text is looked at again

_END = re.compile(r"[.!?…](?=\s)|[。！？\n]")


class RepetitionCheck:
    """Looks at the end of a text that grows, every few characters."""

    def __init__(self) -> None:
        self._tail = ""
        self._unseen = 0

    def feed(self, piece: str) -> bool:
        """Take in the next piece; returns whether the text now ends in a loop."""
        self._tail = (self._tail + piece)[-TAIL:]
        self._unseen += len(piece)
        if self._unseen < STEP:
            return False
        self._unseen = 0
        return loop_of(self._tail) is not None


def loop_of(text: str) -> int | None:
    """Return where the first of the parts that a text repeats at its end is over, or None.

    That is the end of a sentence where there is one.
    A part has letters or digits: a ruled line is no loop. Linear in `TAIL`: in the reversed tail,
    the borders of each beginning give its shortest period (Knuth, Morris and Pratt, 1977).
    """
    tail = text[: -TAIL - 1 : -1]
    borders = [0] * len(tail)
    best = None
    for at in range(1, len(tail)):
        border = borders[at - 1]
        while border and tail[at] != tail[border]:
            border = borders[border - 1]
        borders[at] = border + (tail[at] == tail[border])
        length, period = at + 1, at + 1 - borders[at]
        if length >= max(LEAST, REPEATS * period) and any(map(str.isalnum, tail[:period])):
            best = len(text) - length, period
    return _first_end(text, *best) if best else None


def _first_end(text: str, start: int, period: int) -> int:
    """Return where the first part ends of a text that repeats every `period` characters from `start`."""
    while start and text[start - 1] == text[start - 1 + period]:
        start -= 1  # it began before the tail
    found = _END.search(text, start + period - 1, start + 2 * period)
    return found.end() if found else start + period
