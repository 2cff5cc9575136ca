"""Rows and cells of a table in a text: CSV by its delimiter, or lines with ` | ` between cells."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

PIPES = " | "  # the delimiter of tables in Markdown and of those made from HTML: no quotes, one line a row
LINE = re.compile(r"[^\r\n]*")
LINE_END = re.compile(r"\r\n|\r|\n")
CELL_BAR = re.compile(r"(?<!\\)\|")


class Row(NamedTuple):
    """One row: `text[start:end]` without its line end, and its cells, stripped."""

    start: int
    end: int
    cells: tuple[str, ...]


def rows(text: str, start: int, end: int, delimiter: str, width: int = 0) -> Iterator[Row]:
    """Yield the rows of a table that are not blank.

    A quote at the start of a cell that is never closed is a character like others.

    Args:
        text: The whole text.
        start: Where the table starts.
        end: Where it ends.
        delimiter: What stands between cells: `PIPES`, or one character of CSV.
        width: How many cells a row should have, 0 if not known. A quoted cell runs over a line end only
            where its row does not get this number of cells without that.
    """
    at = start
    while at < end:
        row = (
            _pipe_row(text, at, end)
            if delimiter == PIPES
            else _csv_row(text, at, end, delimiter, width)
        )
        if any(row.cells):
            yield row
        line_end = LINE_END.match(text, row.end, end)
        at = line_end.end() if line_end else max(row.end, at + 1)


def _pipe_row(text: str, start: int, end: int) -> Row:
    line = LINE.match(text, start, end)
    stop = line.end() if line else end
    words = text[start:stop].strip()
    if words.startswith("|"):
        words = words[1:]
    if words.endswith("|") and not words.endswith("\\|"):
        words = words[:-1]
    cells = tuple(cell.strip().replace("\\|", "|") for cell in CELL_BAR.split(words))
    return Row(start, stop, cells)


def _csv_row(text: str, start: int, end: int, delimiter: str, width: int) -> Row:
    row = _cells(text, start, end, delimiter, quoting=True)
    if width and len(row.cells) != width and LINE_END.search(text, start, row.end):
        plain = _cells(text, start, end, delimiter, quoting=False)
        if len(plain.cells) == width:
            return plain
    return row


def _cells(text: str, start: int, end: int, delimiter: str, *, quoting: bool) -> Row:
    quoted, plain = _patterns(delimiter)
    cells: list[str] = []
    at = start
    while True:
        cell = quoted.match(text, at, end) if quoting else None
        if cell:
            cells.append(cell[1].replace('""', '"').strip())
        elif cell := plain.match(text, at, end):
            cells.append(cell[0].strip())
        at = cell.end() if cell else end
        if not text.startswith(delimiter, at) or at >= end:
            return Row(start, at, tuple(cells))
        at += len(delimiter)


@lru_cache(maxsize=16)
def _patterns(delimiter: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return how a quoted cell and any other one look; white space may follow a closing quote."""
    mark = re.escape(delimiter)
    quoted = re.compile(rf'"([^"]*(?:""[^"]*)*)" *(?={mark}|\r|\n|\Z)')
    return quoted, re.compile(rf"[^{mark}\r\n]*")
