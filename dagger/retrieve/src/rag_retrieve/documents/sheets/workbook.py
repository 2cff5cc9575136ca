"""A workbook as one document: its sheets are pages and headings, their rows those of tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import JsonValue

from rag_kit.tables import rows

from ..builder import TextBuilder
from ..document import LoadedDocument, stem, unreadable
from ..values import numbers
from .grid import Cell, Merged, Place, write_sheet

MAX_CELLS = 10_000_000  # of one sheet, empty ones between others counted


@dataclass
class Sheet:
    """A sheet: cells, which are merged, comments on them; `fault` says why it is left out."""

    name: str
    rows: list[list[Cell]] = field(default_factory=list)
    merged: Sequence[Merged] = ()
    notes: Mapping[Place, str] = field(default_factory=dict)
    fault: str = ""


def read_workbook(name: str, content_type: str, sheets: Iterable[Sheet]) -> LoadedDocument:
    """Return the document of a workbook: page n is its n-th sheet.

    Raises:
        StepError: `document_unreadable`: no sheet holds text.
    """
    builder = TextBuilder(name)
    names: list[str] = []
    for sheet in sheets:
        names.append(sheet.name)
        builder.page()
        if sheet.fault:
            builder.warnings.append(f"the sheet {sheet.name!r} {sheet.fault} and is left out")
        elif any(cell.text for row in sheet.rows for cell in row):
            builder.heading(1, sheet.name)
            write_sheet(sheet.rows, sheet.merged, builder)
            for place, note in sheet.notes.items():
                builder.paragraph(f"Comment on {_name(place)}: {note}")
    if builder.is_empty():
        why = "; ".join(builder.warnings) or "text boxes, charts and embedded files are not read"
        unreadable(name, f"it is empty: no cell of its {len(names)} sheets holds anything ({why})")
    metadata: dict[str, JsonValue] = {"sheets": list(names)}
    document = builder.build(content_type, title=stem(name), metadata=metadata)
    metadata |= _columns(document)
    return document


def _name(place: Place) -> str:
    """Return how people call a cell: B4."""
    row, column = place
    letters = ""
    while column >= 0:
        letters = chr(ord("A") + column % 26) + letters
        column = column // 26 - 1
    return f"{letters}{row + 1}"


def _columns(document: LoadedDocument) -> dict[str, JsonValue]:
    """Return the names of all columns, and which of them hold numbers only."""
    cells: dict[str, list[str]] = {}
    for table in document.tables:
        for row in rows(document.text, table.start, table.end, table.delimiter):
            if row.cells != table.columns:
                for column, cell in zip(table.columns, row.cells, strict=False):
                    cells.setdefault(column, []).append(cell)
    cells.pop("", None)
    numeric: list[JsonValue] = [
        column for column, found in cells.items() if numbers(found, comma=False)
    ]
    found: dict[str, JsonValue] = {"columns": list(cells)} if cells else {}
    return {**found, **({"numeric_columns": numeric} if numeric else {})}
