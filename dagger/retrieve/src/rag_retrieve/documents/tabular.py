"""CSV and TSV: one document, exactly the decoded file, that breaks where a row starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import cast

from pydantic import JsonValue

from rag_kit.tables import Row, rows

from .document import LoadedDocument, Table, first_warnings, page_of, stem, unreadable
from .encoding import decode
from .streams import PART_BYTES, Reading, part_document, parts_of, utf8_file
from .values import numbers

CSV = "text/csv"
TSV = "text/tab-separated-values"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
XLS = "application/vnd.ms-excel"
ODS = "application/vnd.oasis.opendocument.spreadsheet"
WORKBOOKS = (XLSX, XLS, ODS)
MAX_VALUES = 256  # of one column in one passage
MAX_VALUE_CHARACTERS = 200
DELIMITERS = ",;\t|"
SAMPLE_ROWS = 200  # from which delimiter and header are told
SAMPLE_CHARACTERS = 200_000


def read_csv(name: str, data: bytes) -> list[LoadedDocument]:
    """Read CSV; the delimiter is that of `, ; tab |` which cuts most rows into equally many cells."""
    text, warnings = decode(name, data)
    return [_document(name, text, CSV, _delimiter(text), warnings)]


def read_tsv(name: str, data: bytes) -> list[LoadedDocument]:
    """Read tab-separated values."""
    text, warnings = decode(name, data)
    return [_document(name, text, TSV, "\t", warnings)]


def stream_csv(name: str, path: Path) -> Reading:
    """Read CSV that is too large for one document: a document for each part, under the same header."""
    return _stream(name, path, CSV, None)


def stream_tsv(name: str, path: Path) -> Reading:
    """Read tab-separated values that are too large for one document."""
    return _stream(name, path, TSV, "\t")


def _stream(name: str, path: Path, content_type: str, delimiter: str | None) -> Reading:
    found = utf8_file(name, path)
    assert found is not None  # it is large
    expected = path.stat().st_size // PART_BYTES + 1
    return Reading(expected, _parts(name, path, content_type, delimiter, found.warnings))


def _parts(
    name: str,
    path: Path,
    content_type: str,
    delimiter: str | None,
    warnings: tuple[str, ...],
) -> Iterator[LoadedDocument]:
    """Yield the parts; each after the first begins with the rows up to the names of the columns."""
    head = ""
    for part in parts_of(path, quoted=True):
        if not part.text.strip():
            continue
        text = head + part.text
        delimiter = delimiter or _delimiter(text)
        document = _document(name, text, content_type, delimiter, warnings)
        own = part_document(name, part, text, content_type)
        yield replace(
            document,
            document_id=own.document_id,
            title=own.title,
            metadata={**document.metadata, **own.metadata},
        )
        head = head or _head(text, document.tables[0], delimiter)
        warnings = ()


def _head(text: str, table: Table, delimiter: str) -> str:
    """Return the text of a table up to the end of the row that names its columns, on a line of its own."""
    names = next(rows(text, table.start, table.end, delimiter, len(table.columns)))
    return f"{text[: names.end]}\n"


def _sample(text: str, delimiter: str) -> list[Row]:
    end = min(len(text), SAMPLE_CHARACTERS)
    return list(islice(rows(text, 0, end, delimiter), SAMPLE_ROWS))


def _delimiter(text: str) -> str:
    def regularity(delimiter: str) -> tuple[float, int, int]:
        found = _sample(text, delimiter)
        width = _width(found)
        regular = sum(len(row.cells) == width for row in found)
        if width < 2:
            return 0.0, 0, 0
        return regular / len(found), width, text.count(delimiter, 0, SAMPLE_CHARACTERS)

    return max(DELIMITERS, key=regularity)


def _width(found: Sequence[Row]) -> int:
    """Return how many cells most rows have; of equally frequent numbers the first one."""
    widths = Counter(len(row.cells) for row in found)
    return max(widths, key=widths.__getitem__, default=0)


def _header(found: Sequence[Row], width: int) -> int:
    """Return the number of the row that names the columns: the first one that is mostly filled.

    Lines above it are a title. Exports pad these to the width of the table.
    """
    for number, row in enumerate(found):
        filled = sum(bool(cell) for cell in row.cells)
        if len(row.cells) == width and filled >= min(width, max(2, (width + 1) // 2)):
            return number
    return 0


def _document(
    name: str, text: str, content_type: str, delimiter: str, decoding: tuple[str, ...]
) -> LoadedDocument:
    sample = _sample(text, delimiter)
    width = _width(sample)
    found = list(rows(text, 0, len(text), delimiter, width))
    if not found:
        unreadable(name, "it is empty: it holds no row")
    first = _header(found[:SAMPLE_ROWS], width)
    columns = found[first].cells
    table = Table(found[first].start, found[-1].end, columns, delimiter)
    return LoadedDocument(
        name,
        stem(name),
        name,
        text,
        content_type,
        metadata={"columns": list(columns), **_numeric(columns, found[first + 1 :], delimiter)},
        breaks=tuple(row.start for row in found),
        tables=(table,),
        warnings=first_warnings([*decoding, *_irregular(text, found[first + 1 :], len(columns))]),
    )


def _numeric(columns: Sequence[str], below: Sequence[Row], delimiter: str) -> dict[str, JsonValue]:
    """Return which columns hold numbers only."""
    named = [
        name
        for at, name in enumerate(columns)
        if name
        and numbers([r.cells[at] for r in below if at < len(r.cells)], comma=delimiter == ";")
    ]
    return {"numeric_columns": cast(JsonValue, named)} if named else {}


def row_values(document: LoadedDocument, tables: Sequence[Table]) -> dict[str, JsonValue]:
    """Return the distinct values of each named column in parts of a table; numbers as such."""
    if document.content_type not in (CSV, TSV, *WORKBOOKS):
        return {}
    numeric = document.metadata.get("numeric_columns")
    values: dict[str, JsonValue] = {}
    for table in tables:
        cells = [
            row.cells
            for row in rows(
                document.text, table.start, table.end, table.delimiter, len(table.columns)
            )
            if row.cells != table.columns
        ]
        for name, column in zip(table.columns, zip_longest(*cells, fillvalue=""), strict=False):
            kept = [cell for cell in dict.fromkeys(column) if cell][:MAX_VALUES]
            is_numeric = isinstance(numeric, list) and name in numeric
            known = numbers(kept, comma=table.delimiter == ";") if is_numeric else {}
            if name and kept:
                values[name] = [known.get(cell, cell[:MAX_VALUE_CHARACTERS]) for cell in kept]
    return values


def sheets_of(document: LoadedDocument, span: tuple[int, int]) -> dict[str, JsonValue]:
    """Return the names of the sheets of a workbook that a passage is of."""
    sheets = document.metadata.get("sheets")
    if document.content_type not in WORKBOOKS or not isinstance(sheets, list):
        return {}
    first, last = page_of(document, span[0]) or 1, page_of(document, span[1] - 1) or 1
    return {"sheet": sheets[first - 1 : last]}


def _irregular(text: str, below: Sequence[Row], width: int) -> list[str]:
    """Say which rows have another number of cells than there are columns; they are read as they are."""
    wrong = [row for row in below if len(row.cells) != width]
    if not wrong:
        return []
    places = ", ".join(f"line {_line(text, row.start)} ({len(row.cells)})" for row in wrong[:5])
    more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
    return [f"rows whose cells are not as many as the {width} columns: {places}{more}"]


def _line(text: str, offset: int) -> int:
    return len(text[:offset].splitlines()) + 1
