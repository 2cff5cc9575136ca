"""Word tables: rows with the names of their columns, merged cells where they count."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from docx.oxml.ns import qn

from ..headers import names_columns
from .styles import switched, value
from .text import is_placeholder

WRAPPERS = {qn(f"w:{name}") for name in ("sdt", "sdtContent", "customXml", "ins", "smartTag")}
DELETED_ROW = f"{qn('w:trPr')}/{qn('w:del')}"
DELETED_CELL = f"{qn('w:tcPr')}/{qn('w:cellDel')}"
MAX_COLUMNS = 1000


class Row(NamedTuple):
    """A row: the text of its cells by column, and whether the document marks it as names."""

    cells: dict[int, str]
    marked: bool


def direct(parent: Any, name: str) -> Iterator[Any]:
    """Yield the rows or cells of a table or row, those in content controls too, none of a nested one."""
    for child in parent:
        if child.tag == qn(f"w:{name}"):
            yield child
        elif child.tag in WRAPPERS and not is_placeholder(child):
            yield from direct(child, name)


def lines_of_table(table: Any, text_of: Callable[[Any], str]) -> list[str]:
    """Return a table as lines, one for each row; each names its columns where a row above does.

    Args:
        table: A `w:tbl`.
        text_of: The text of a cell, on one line.
    """
    rows = [row for row in _rows(table, text_of) if row.cells]
    names = _names(rows)
    if names is None:
        return [" | ".join(row.cells.values()).strip() for row in rows]
    return [line for row in rows[1:] if (line := _named(row.cells, names))]


def is_frame(table: Any) -> bool:
    """Whether a table has one cell a row: it frames text, and is read as such."""
    return all(len(list(direct(row, "tc"))) <= 1 for row in direct(table, "tr"))


def _named(cells: dict[int, str], names: dict[int, str]) -> str:
    parts = []
    for column, text in cells.items():
        name = names.get(column, "")
        parts.append(f"{name.rstrip(':')}: {text}" if name and text else text)
    return " | ".join(part for part in parts if part)


def _names(rows: list[Row]) -> dict[int, str] | None:
    """Return the names of the columns where the first row holds them."""
    if len(rows) < 2:
        return None
    first, *others = rows
    width = max(map(len, (row.cells for row in rows)))
    by_column = [[row.cells.get(column, "") for column in first.cells] for row in others]
    if (first.marked and not others[-1].marked) or (
        len(first.cells) == width and names_columns(list(first.cells.values()), by_column)
    ):
        return first.cells
    return None


def _rows(table: Any, text_of: Callable[[Any], str]) -> Iterator[Row]:
    """Yield the rows; a cell merged over columns stands once, one over rows in each of them."""
    above: dict[int, str] = {}
    for row in direct(table, "tr"):
        if row.find(DELETED_ROW) is not None:
            continue
        properties = row.find(qn("w:trPr"))
        column = _count(properties, "gridBefore", 0)
        cells: dict[int, str] = {}
        tall: dict[int, str] = {}
        for cell in direct(row, "tc"):
            if cell.find(DELETED_CELL) is not None:
                continue
            merge = cell.find(f"{qn('w:tcPr')}/{qn('w:vMerge')}")
            goes_on = merge is not None and value(merge, "continue") == "continue"
            cells[column] = above.get(column, "") if goes_on else text_of(cell)
            if merge is not None:
                tall[column] = cells[column]
            column += _count(cell.find(qn("w:tcPr")), "gridSpan", 1)
        above = tall
        yield Row(cells, bool(switched(properties, qn("w:tblHeader"))) or _is_bold(row, cells))


def _is_bold(row: Any, cells: dict[int, str]) -> bool:
    """Whether all the text of a row of several cells is bold."""
    runs = [run for run in row.iter(qn("w:r")) if run.find(qn("w:t")) is not None]
    bold = [bool(switched(run.find(qn("w:rPr")), qn("w:b"))) for run in runs]
    return len(cells) > 1 and bool(bold) and all(bold)


def _count(properties: Any | None, name: str, default: int) -> int:
    text = value(None if properties is None else properties.find(qn(f"w:{name}")))
    return min(int(text), MAX_COLUMNS) if text.isdecimal() else default
