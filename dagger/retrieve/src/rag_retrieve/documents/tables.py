"""Tables of a text: where they stand and how their columns are called."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise

from rag_kit.tables import PIPES, rows

from .document import Table, fence_after, lines_of

DELIMITER_ROW = re.compile(
    r"\s{0,3}\|?(?:\s*:?-+:?\s*[|+])*\s*:?-+:?\s*\|?\s*$"
)  # Org: `|---+---|`


def markdown_tables(text: str, start: int = 0) -> Iterator[Table]:
    """Yield the tables of a Markdown text, from offset `start` on and outside of code.

    A table is a row, a line of dashes and bars with as many cells, and the rows below up to a line
    without a bar.
    """
    fence, begun = "", -1
    columns: tuple[str, ...] = ()
    lines = [(start + begin, start + end) for begin, end in lines_of(text[start:])]
    lines.append((len(text), len(text)))
    for (begin, end), (below, below_end) in pairwise(lines):
        line = text[begin:end]
        fence = fence_after(line, fence)
        if begun < 0 and not fence and "|" in line:
            dashes = text[below:below_end].rstrip("\r\n")
            if "-" in dashes and "|" in dashes and DELIMITER_ROW.match(dashes):
                cells = _cells(text, begin, end)
                if len(cells) == len(dashes.strip().strip("|").replace("+", "|").split("|")):
                    begun, columns = begin, cells
        following = text[below:below_end]
        if begun >= 0 and ("|" not in following or not following.strip() or below == len(text)):
            yield Table(begun, end, columns, PIPES)
            begun = -1


def _cells(text: str, start: int, end: int) -> tuple[str, ...]:
    return next((row.cells for row in rows(text, start, end, PIPES)), ())


def clipped(tables: Sequence[Table], span: tuple[int, int]) -> tuple[Table, ...]:
    """Return the parts of tables that stand in a span."""
    first = max(0, bisect_right(tables, span[0], key=lambda table: table.start) - 1)
    parts = []
    for table in tables[first:]:
        if table.start >= span[1]:
            break
        if table.end > span[0]:
            start, end = max(table.start, span[0]), min(table.end, span[1])
            parts.append(table._replace(start=start, end=end))
    return tuple(parts)


def columns_above(tables: Sequence[Table], offset: int) -> tuple[str, ...]:
    """Return the columns of the table whose names stand above `offset`; none outside of tables."""
    at = bisect_right(tables, offset, key=lambda table: table.start) - 1
    if at < 0 or not tables[at].start < offset < tables[at].end:
        return ()
    return tables[at].columns


def inside_rows(text: str, tables: Sequence[Table], offsets: Sequence[int]) -> Iterator[int]:
    """Yield those of the ascending offsets that stand in a table, but not at the start of a row."""
    at = 0
    for table in tables:
        starts = {row.start for row in rows(text, *_bounds(table))}
        while at < len(offsets) and offsets[at] <= table.start:
            at += 1
        while at < len(offsets) and offsets[at] < table.end:
            if offsets[at] not in starts:
                yield offsets[at]
            at += 1


def _bounds(table: Table) -> tuple[int, int, str, int]:
    return table.start, table.end, table.delimiter, len(table.columns)
