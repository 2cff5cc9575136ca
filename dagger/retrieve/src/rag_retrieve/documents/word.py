"""DOCX: paragraphs and tables in document order. Leaves out deleted text, notes and headers."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any

import docx
from docx.oxml.ns import qn

from .archive import check_office_file
from .document import Heading, LoadedDocument, check_text, stem, tidy, unreadable

CONTENT_TYPE = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
HEADING_STYLE = re.compile(r"heading ([1-9])", re.IGNORECASE)
TEXT = {
    qn("w:tab"): "\t",
    qn("w:br"): "\n",
    qn("w:cr"): "\n",
    qn("w:noBreakHyphen"): "-",
}
FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
HIDDEN = {qn("w:del"), qn("w:moveFrom"), qn("w:pPr"), qn("w:rPr"), qn("w:instrText"), FALLBACK}


def read_docx(name: str, data: bytes) -> list[LoadedDocument]:
    """Read a Word document.

    Raises:
        StepError: `document_unreadable`: no zip, a zip without a document, a zip bomb, damaged,
            or without text.
    """
    check_office_file(name, data, kind="Word document", suffix=".docx")
    try:
        document = docx.Document(io.BytesIO(data))
        properties = document.core_properties
        title, author = tidy(properties.title), tidy(properties.author)
        styles = {style.style_id: style.name or "" for style in document.styles}
        blocks = list(_blocks(document.element.body, styles))
    except Exception as error:  # python-docx and lxml raise whatever a damaged file leads them to
        why = tidy(str(error)) or type(error).__name__
        unreadable(name, f"the document is damaged ({why}); save it again as .docx")
    text, headings = _join(blocks)
    named = next((words for level, words in blocks if level == 0 and words), "")
    first = headings[0].text if headings else ""
    return [
        LoadedDocument(
            name,
            title or tidy(named) or first or stem(name),
            name,
            check_text(name, text),
            CONTENT_TYPE,
            metadata={"author": author} if author and author != "python-docx" else {},
            headings=headings,
        )
    ]


def _blocks(parent: Any, styles: dict[str, str]) -> Iterator[tuple[int | None, str]]:
    """Yield (level, text) of each block: 1-9 is a heading, 0 the title, -1 a list item or row."""
    for child in parent:
        if child.tag == qn("w:p"):
            yield _level(child, styles), _text(child).strip()
        elif child.tag == qn("w:tbl"):
            yield None, ""
            for row in child.iter(qn("w:tr")):
                cells = (_cell(cell) for cell in row.iterfind(qn("w:tc")))
                yield -1, " | ".join(cells).strip()
            yield None, ""
        elif child.tag not in HIDDEN:  # content controls and the like
            yield from _blocks(child, styles)


def _cell(cell: Any) -> str:
    return " ".join(words for part in cell.iter(qn("w:p")) if (words := _on_one_line(_text(part))))


def _on_one_line(text: str) -> str:
    """Return the text of a table cell on one line."""
    return " ".join(text.split())


def _text(element: Any) -> str:
    """Return the text of a paragraph: runs, links, insertions; not deletions or field codes."""
    parts: list[str] = []
    for child in element:
        if child.tag == qn("w:t"):
            parts.append(child.text or "")
        elif child.tag in TEXT:
            parts.append(TEXT[child.tag])
        elif child.tag not in HIDDEN:
            parts.append(_text(child))
    return "".join(parts)


def _level(paragraph: Any, styles: dict[str, str]) -> int | None:
    properties = paragraph.find(qn("w:pPr"))
    if properties is None:
        return None
    style = properties.find(qn("w:pStyle"))
    named = styles.get(style.get(qn("w:val")), "") if style is not None else ""
    if heading := HEADING_STYLE.match(named):
        return int(heading[1])
    if named == "Title":
        return 0
    listed = properties.find(qn("w:numPr")) is not None or named.startswith("List")
    return -1 if listed else None


def _join(blocks: list[tuple[int | None, str]]) -> tuple[str, tuple[Heading, ...]]:
    """Join blocks by blank lines, list items and rows by line ends; give the headings' offsets."""
    pieces: list[str] = []
    headings: list[Heading] = []
    length, previous = 0, None
    for level, text in blocks:
        if not text:
            previous = None
            continue
        if pieces:
            pieces.append("\n" if level == previous == -1 else "\n\n")
            length += len(pieces[-1])
        if level is not None and level >= 0:
            headings.append(Heading(length, max(1, min(level, 6)), tidy(text)))
        pieces.append(text)
        length += len(text)
        previous = level
    return "".join(pieces), tuple(headings)
