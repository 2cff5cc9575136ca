"""OpenDocument spreadsheets: cells as they are shown, so that 19 % stays 19 %."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..document import LoadedDocument, unreadable
from ..safe_xml import attribute, children, first, local
from ..sheets.grid import Cell, Merged, Place
from ..sheets.workbook import MAX_CELLS, Sheet, read_workbook
from ..tabular import ODS
from .package import Package, open_package

VALUES = frozenset({"float", "percentage", "currency", "date", "time", "boolean"})
WRAPPERS = ("table-row-group", "table-rows", "table-header-rows")


def read_ods(name: str, data: bytes) -> list[LoadedDocument]:
    """Read an OpenDocument spreadsheet.

    Raises:
        StepError: `document_unreadable`: not one, damaged, encrypted, a zip bomb, or empty.
    """
    package = open_package(name, data, kind="OpenDocument spreadsheet", suffix=".ods")
    if local(package.body) != "spreadsheet":
        unreadable(
            name, f"it holds {local(package.body)!r} and no spreadsheet; give it its extension"
        )
    sheets = (_sheet(table, package) for table in children(package.body, "table"))
    document = read_workbook(name, ODS, sheets)
    document.metadata.update(package.metadata)
    return [document]


def _sheet(table: Any, package: Package) -> Sheet:
    sheet = Sheet(attribute(table, "name"), merged=[])
    if _is_hidden(table, package):
        sheet.fault = "is hidden"
        return sheet
    merged: list[Merged] = []
    notes: dict[Place, str] = {}
    empty = cells = width = 0
    for row in _rows(table):
        found = list(_cells(row, len(sheet.rows) + empty, merged, notes, MAX_CELLS))
        times = _times(row, "number-rows-repeated")
        if not found:
            empty += times
            continue
        width = max(width, len(found))
        cells += (times + empty) * width
        if cells > MAX_CELLS:
            return Sheet(sheet.name, fault=f"holds over {MAX_CELLS} cells")
        sheet.rows += [[] for _ in range(empty)]
        sheet.rows += [list(found) for _ in range(times)]
        empty = 0
    for line in sheet.rows:
        line += [Cell()] * (width - len(line))
    sheet.merged, sheet.notes = merged, notes
    return sheet


def _is_hidden(table: Any, package: Package) -> bool:
    style = package.styles.get(attribute(table, "style-name"))
    properties = None if style is None else first(style, "table-properties")
    return properties is not None and attribute(properties, "display") == "false"


def _rows(parent: Any) -> Iterator[Any]:
    for child in children(parent, "table-row", *WRAPPERS):
        if local(child) == "table-row":
            yield child
        else:
            yield from _rows(child)


def _cells(
    row: Any, number: int, merged: list[Merged], notes: dict[Place, str], limit: int
) -> Iterator[Cell]:
    """Yield the cells of a row up to the last one that is not empty."""
    column = empty = 0
    for child in children(row, "table-cell", "covered-table-cell"):
        times = min(_times(child, "number-columns-repeated"), limit)
        cell = _cell(child) if local(child) == "table-cell" else Cell()
        if (note := first(child, "annotation")) is not None:
            notes[number, column] = " ".join("".join(_texts(one)) for one in children(note, "p"))
        if not cell.text:
            empty += times
            column += times
            continue
        down, across = (_times(child, f"number-{what}-spanned") for what in ("rows", "columns"))
        if down > 1 or across > 1:
            merged.append((number, column, number + down - 1, column + across - 1))
        yield from [Cell()] * min(empty, limit)
        yield from [cell] * times
        column += times
        empty = 0


def _times(element: Any, name: str) -> int:
    value = attribute(element, name)
    return max(1, int(value)) if value.isdecimal() and len(value) < 9 else 1


def _cell(element: Any) -> Cell:
    lines = ("".join(_texts(paragraph)) for paragraph in children(element, "p"))
    text = " ".join(" ".join(lines).split())
    return Cell(text, attribute(element, "value-type") in VALUES and bool(text))


def _texts(element: Any) -> Iterator[str]:
    yield element.text or ""
    for child in element:
        if local(child) in ("s", "tab", "line-break"):
            yield " "
        elif local(child) and local(child) != "annotation":
            yield from _texts(child)
        yield child.tail or ""
