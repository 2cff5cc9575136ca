"""The document every loader returns, and the checks they share."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import NamedTuple, NoReturn

from pydantic import JsonValue

from rag_kit.errors import StepError

MAX_DOCUMENT_BYTES = 50 * 1024 * 1024
MAX_TITLE_CHARACTERS = 200
MAGIC = {
    b"%PDF-": "a PDF",
    b"PK\x03\x04": "a zip archive (docx, xlsx, pptx, zip)",
    b"\xd0\xcf\x11\xe0": "an old Office file (doc, xls, ppt)",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"\x1f\x8b": "a gzip archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
}
CONTROL = re.compile(r"[\x01-\x08\x0e-\x1a\x1c-\x1f]")
MAX_CONTROL_SHARE = 0.05  # of the first characters; above it the file is binary
FENCED = frozenset({"text/markdown", "text/html"}) | {  # types whose texts have code between fences
    *("application/x-ipynb+json", "application/epub+zip", "message/rfc822")
}
FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
MAX_WARNINGS = 20  # of one file
LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+$")


class Heading(NamedTuple):
    """A heading of a document: where its line starts, its level (1 is the highest), its words."""

    offset: int
    level: int
    text: str


class Table(NamedTuple):
    """A table of a document, from the row of its column names to its last row.

    `delimiter` stands between cells: one character of CSV, or ` | `; see `rag_kit.tables`.
    """

    start: int
    end: int
    columns: tuple[str, ...]
    delimiter: str


class LineBox(NamedTuple):
    """A line that was recognised in a scan, and its box from the top left of its page.

    Boxes are in points (1/72 inch), those of an image in pixels.
    """

    start: int
    end: int
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class Origin:
    """What a sync remembers of a document that it brought; no part of its content.

    Attributes:
        source: Address of the source, without credentials.
        name: First part of the ids of its documents.
        item: The file, object or page in the source.
        version: Of the item; another one means that its content may be another.
        documents: Documents of the item; fewer in the collection means that it was not read to its end.
        settings: Digest of what the sync added to its metadata.
        path: Of the item in the ids of its documents.
        validators: ETag and date of a page, with which the site is asked whether it has changed.
        links: Of a page, the addresses it leads to.
    """

    source: str
    name: str
    item: str
    version: str
    path: str = ""
    documents: int = 1
    settings: str = ""
    validators: tuple[str, str] = ("", "")
    links: tuple[str, ...] = ()


@dataclass(frozen=True)
class LoadedDocument:
    """One document as text; every offset counts characters of `text`.

    Attributes:
        document_id: Stable id: the file's name, or `name#record` for one record of a file.
        title: The document's own title, or the stem of its file's name.
        source: The file's name, a relative posix path.
        text: For plain text formats exactly the decoded file, else the extracted text.
        content_type: Media type of the file.
        pages: Offset at which each page starts, ascending; empty if the format has no pages.
        metadata: What can be filtered on.
        breaks: Offsets at which a row or record starts; a chunk joins complete ones where it can.
        headings: In order of appearance.
        tables: In order of appearance, none inside another.
        boxes: Of the lines that were recognised in scanned pages.
        warnings: What of the file was left out or read otherwise, and where; not stored.
        origin: The source that a sync brought it from; None for what came by hand.
        file_digest: SHA-256 of the file, in hexadecimal, where its pages can be drawn: of a PDF.
    """

    document_id: str
    title: str
    source: str
    text: str
    content_type: str
    pages: tuple[int, ...] = ()
    metadata: dict[str, JsonValue] = field(default_factory=dict)
    breaks: tuple[int, ...] = ()
    headings: tuple[Heading, ...] = ()
    tables: tuple[Table, ...] = ()
    boxes: tuple[LineBox, ...] = ()
    warnings: tuple[str, ...] = ()
    origin: Origin | None = None
    file_digest: str = ""


def page_of(document: LoadedDocument, offset: int) -> int | None:
    """Return the page, from 1, on which the character at `offset` stands; None without pages."""
    if not document.pages:
        return None
    return max(1, bisect_right(document.pages, offset))


def stem(name: str) -> str:
    """Return the last part of a path without its extension: the title of what has none."""
    return PurePosixPath(name).stem or name


def tidy(title: object) -> str:
    """Return a title on one line, of at most `MAX_TITLE_CHARACTERS`; "" if it is no text."""
    return " ".join(title.split())[:MAX_TITLE_CHARACTERS] if isinstance(title, str) else ""


def unreadable(name: str, why: str) -> NoReturn:
    """Refuse the document.

    Raises:
        StepError: `document_unreadable`, always.
    """
    raise StepError("document_unreadable", f"cannot read {name!r}: {why}")


def fence_after(line: str, fence: str) -> str:
    """Return the mark of the code block that is open after `line`; `fence` is that before it.

    Args:
        line: One line of Markdown.
        fence: The mark that opened the current block (``` or more, or tildes), "" outside.
    """
    if not (mark := FENCE.match(line)):
        return fence
    if not fence:
        return mark[1]
    closes = mark[1].startswith(fence) and not line[mark.end() :].strip()
    return "" if closes else fence


def code_lines(document: LoadedDocument) -> list[tuple[int, bool]]:
    """Return the offsets from which on a text with fences is code (True), or no longer (False)."""
    found: list[tuple[int, bool]] = []
    fence = ""
    if document.content_type in FENCED:
        for begin, end in lines_of(document.text):
            before, fence = fence, fence_after(document.text[begin:end], fence)
            if bool(before) != bool(fence):
                found.append((end, bool(fence)))
    return found


def first_warnings(warnings: Sequence[str]) -> tuple[str, ...]:
    """Return the warnings of a file; of many, the first ones and a count."""
    if len(warnings) <= MAX_WARNINGS:
        return tuple(warnings)
    return (*warnings[:MAX_WARNINGS], f"and {len(warnings) - MAX_WARNINGS} more like these")


def lines_of(text: str) -> Iterator[tuple[int, int]]:
    """Yield start and end of each line, its end mark (LF, CRLF or CR) included."""
    return (line.span() for line in LINE.finditer(text))


def kind_of(data: bytes) -> str | None:
    """Say what binary format the file is by its first bytes, or None."""
    return next((kind for magic, kind in MAGIC.items() if data.startswith(magic)), None)


def check_text(name: str, text: str) -> str:
    """Return `text` if it is text.

    Raises:
        StepError: `document_unreadable`: it is blank, or binary content.
    """
    if not text.strip():
        unreadable(name, "it is empty: it holds no text")
    if (offset := text.find("\0")) >= 0:
        unreadable(name, f"it is binary: character {offset} is NUL; give a text file")
    head = text[:65536]
    if len(CONTROL.findall(head)) > MAX_CONTROL_SHARE * len(head):
        unreadable(name, "it is binary: it is full of control characters; give a text file")
    return text
