"""CSV and TSV: one document, exactly the decoded file, that breaks where a row starts.

The names of the columns are the heading of the rows below them.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Literal, cast

from pydantic import JsonValue

from .document import Heading, LoadedDocument, decode, lines_of, stem, tidy, unreadable

DELIMITERS = ",;\t|"


def read_csv(name: str, data: bytes) -> list[LoadedDocument]:
    """Read CSV; the delimiter is that of `, ; tab |` which its first line holds most often."""
    text = decode(name, data)
    first = text[slice(*next(lines_of(text)))]
    delimiter = max(DELIMITERS, key=first.count)
    return [_document(name, text, "text/csv", list(_rows(name, text, delimiter)))]


def read_tsv(name: str, data: bytes) -> list[LoadedDocument]:
    """Read tab-separated values; quotes count as such only if they pair up throughout."""
    text = decode(name, data)
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if _pairs_up(text) else csv.QUOTE_NONE
    rows = list(_rows(name, text, "\t", quoting))
    return [_document(name, text, "text/tab-separated-values", rows)]


def _pairs_up(text: str) -> bool:
    try:
        for _ in csv.reader(_lines(text), delimiter="\t", strict=True):
            pass
    except csv.Error:
        return False
    return True


def _lines(text: str) -> list[str]:
    return [text[begin:end] for begin, end in lines_of(text)]


def _rows(
    name: str, text: str, delimiter: str, quoting: Literal[0, 3] = csv.QUOTE_MINIMAL
) -> Iterator[tuple[int, list[str]]]:
    """Yield (offset, fields) of each row that is not blank; quoted line ends do not end a row."""
    starts = [begin for begin, _ in lines_of(text)]
    reader = csv.reader(_lines(text), delimiter=delimiter, quoting=quoting, strict=True)
    line = 0  # on which the current row starts, from 0
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                yield starts[line], fields
            line = reader.line_num
    except csv.Error as error:
        unreadable(name, f"line {line + 1} is not valid CSV ({error}); check its quotes")


def _document(
    name: str, text: str, content_type: str, rows: list[tuple[int, list[str]]]
) -> LoadedDocument:
    if not rows:
        unreadable(name, "it is empty: it holds no row")
    columns = [field.strip() for field in rows[0][1]]
    return LoadedDocument(
        name,
        stem(name),
        name,
        text,
        content_type,
        metadata={"columns": cast(JsonValue, columns)},
        breaks=tuple(offset for offset, _ in rows),
        headings=tuple(Heading(offset, 1, tidy(", ".join(columns))) for offset, _ in rows[1:2]),
    )
