"""DOCX: what a reader of the printed document sees, and its comments and notes, in order."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from typing import Any

import docx
from docx.oxml import parse_xml
from docx.oxml.ns import qn
from pydantic import JsonValue

from ..archive import check_office_file
from ..document import Heading, LoadedDocument, check_text, stem, tidy, unreadable
from .numbering import Numbering
from .styles import Styles, value
from .tables import direct, is_frame, lines_of_table
from .text import HIDDEN, Paragraph, is_placeholder, read_paragraph

CONTENT_TYPE = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
HEADING_STYLE = re.compile(r"heading ([1-9])", re.IGNORECASE)
PAGE_NUMBER = re.compile(r"\W*(?:page|seite|p)?\W*\d*\W*(?:of|von)?\W*\d*\W*", re.IGNORECASE)
STRICT = (  # what ISO 29500 Strict calls the namespaces, and what everybody else does
    (b"http://purl.oclc.org/ooxml/officeDocument/math", b"officeDocument/2006/math"),
    (b"http://purl.oclc.org/ooxml/officeDocument/relationships/metadata/core-properties",
     b"package/2006/relationships/metadata/core-properties"),
    (b"http://purl.oclc.org/ooxml/officeDocument/relationships", b"officeDocument/2006/relationships"),
    (b"http://purl.oclc.org/ooxml/wordprocessingml/main", b"wordprocessingml/2006/main"),
    (b"http://purl.oclc.org/ooxml/drawingml/main", b"drawingml/2006/main"),
    (b"http://purl.oclc.org/ooxml/drawingml/wordprocessingDrawing",
     b"drawingml/2006/wordprocessingDrawing"),
)  # fmt: skip
TRANSITIONAL = b"http://schemas.openxmlformats.org/"
UNREAD = {
    "chart": "charts",
    "diagramData": "diagrams",
    "oleObject": "embedded objects",
    "package": "embedded files",
    "aFChunk": "embedded documents",
}
Block = tuple[int | None, str]


def read_docx(name: str, data: bytes) -> list[LoadedDocument]:
    """Read a Word document.

    Raises:
        StepError: `document_unreadable`: no zip, a zip without a document, a zip bomb, damaged,
            or without text.
    """
    check_office_file(name, data, kind="Word document", suffix=".docx")
    try:
        document = docx.Document(io.BytesIO(_transitional(data)))
        properties = document.core_properties
        title, metadata = tidy(properties.title), _metadata(properties)
        word = _Word(document.part)
        blocks = list(word.blocks())
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
            metadata=metadata,
            headings=headings,
            warnings=word.warnings,
        )
    ]


def _metadata(properties: Any) -> dict[str, JsonValue]:
    """Return author and day of the last change, but not those of the template of python-docx."""
    author, modified = tidy(properties.author), properties.modified
    if author == "python-docx":
        return {}
    changed = {"modified": modified.date().isoformat()} if modified else {}
    return {**({"author": author} if author else {}), **changed}


def _transitional(data: bytes) -> bytes:
    """Return the file with the namespaces that python-docx knows; Strict ones are renamed."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if STRICT[2][0] not in archive.read("_rels/.rels"):
            return data
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as renamed:
            for part in archive.namelist():
                content = archive.read(part)
                if part.endswith((".xml", ".rels")):
                    for strict, transitional in STRICT:
                        content = content.replace(strict, TRANSITIONAL + transitional)
                renamed.writestr(part, content)
    return buffer.getvalue()


class _Word:
    """Reads blocks, (level, text): 1-9 is a heading, 0 the title, -1 a list item or row."""

    def __init__(self, part: Any) -> None:
        self._parts = _related(part)
        self._body = part.element.body
        root = self._first("styles")
        self._styles = Styles(self._body if root is None else root)
        self._numbering = Numbering(self._first("numbering"), self._styles)
        self._notes = {kind: self._notes_of(kind) for kind in ("comments", "footnotes", "endnotes")}
        counts = {words: len(self._parts.get(kind, [])) for kind, words in UNREAD.items()}
        self.warnings = tuple(
            f"{count} {words} were left out" for words, count in counts.items() if count
        )

    def blocks(self) -> Iterator[Block]:
        """Yield the page headers, the body, the page footers."""
        yield from self._furniture("header")
        yield from self._blocks(self._body)
        yield from self._furniture("footer")

    def _first(self, kind: str) -> Any | None:
        return next(iter(self._parts.get(kind, [])), None)

    def _furniture(self, kind: str) -> Iterator[Block]:
        """Yield what stands above or below the pages, each text once, without page numbers."""
        seen: set[str] = set()
        for root in self._parts.get(kind, []):
            for _, text in self._blocks(root):
                if text not in seen and not PAGE_NUMBER.fullmatch(text):
                    seen.add(text)
                    yield None, text

    def _blocks(self, parent: Any) -> Iterator[Block]:
        for child in parent:
            if child.tag == qn("w:p"):
                yield from self._paragraph(child)
            elif child.tag == qn("w:tbl"):
                yield None, ""
                yield from self._table(child)
                yield None, ""
            elif (
                isinstance(child.tag, str) and child.tag not in HIDDEN and not is_placeholder(child)
            ):
                yield from self._blocks(child)

    def _paragraph(self, element: Any) -> Iterator[Block]:
        found = read_paragraph(element, self._styles)
        label = self._numbering.label(element) if found.text else ""
        yield self._level(element), f"{label} {found.text}".strip()
        yield from self._asides(found)

    def _asides(self, paragraph: Paragraph) -> Iterator[Block]:
        """Yield the text boxes, comments and notes of a paragraph, each a block of its own."""
        for box in paragraph.boxes:
            yield None, ""
            yield from self._blocks(box)
        for kind, key in paragraph.references:
            if note := self._notes[kind].get(key):
                yield None, note

    def _table(self, table: Any) -> Iterator[Block]:
        if is_frame(table):
            for row in direct(table, "tr"):
                for cell in direct(row, "tc"):
                    yield from self._blocks(cell)
            return
        notes: list[Block] = []

        def text_of(cell: Any) -> str:
            parts = []
            for child in self._inside(cell):
                if child.tag == qn("w:tbl"):
                    rows = lines_of_table(child, text_of)
                    parts.append("; ".join(row.replace(" | ", ": ") for row in rows))
                    continue
                found = read_paragraph(child, self._styles)
                label = self._numbering.label(child) if found.text else ""
                parts.append(f"{label} {found.text}")
                notes.extend(self._asides(found))
            return " ".join(" ".join(parts).split())

        for line in lines_of_table(table, text_of):
            yield -1, line
        yield from notes

    def _inside(self, cell: Any) -> Iterator[Any]:
        """Yield the paragraphs and tables of a cell, those in content controls too."""
        for child in cell:
            if child.tag in (qn("w:p"), qn("w:tbl")):
                yield child
            elif (
                isinstance(child.tag, str) and child.tag not in HIDDEN and not is_placeholder(child)
            ):
                yield from self._inside(child)

    def _level(self, paragraph: Any) -> int | None:
        named = self._styles.name(self._styles.of_paragraph(paragraph))
        if heading := HEADING_STYLE.match(named):
            return int(heading[1])
        if named == "Title":
            return 0
        listed = paragraph.find(f"{qn('w:pPr')}/{qn('w:numPr')}") is not None
        return -1 if listed or named.startswith("List") else None

    def _notes_of(self, kind: str) -> dict[str, str]:
        """Return the texts of comments or notes by id; of a comment, with who wrote it."""
        root = self._first(kind)
        notes = {}
        for note in () if root is None else root:
            paragraphs = (read_paragraph(p, self._styles).text for p in note.iter(qn("w:p")))
            text = " ".join(filter(None, paragraphs))
            author = tidy(note.get(qn("w:author")))
            lead = (
                f"Comment by {author}: "
                if author
                else "Comment: "
                if kind == "comments"
                else "Note: "
            )
            if text and value(note) != "separator":
                notes[note.get(qn("w:id"))] = lead + text
        return notes


def _related(part: Any) -> dict[str, list[Any]]:
    """Return the parts of a document by kind: the roots of XML ones, others as they are."""
    found: dict[str, list[Any]] = {}
    for relation in sorted(part.rels.values(), key=lambda relation: str(relation.rId)):
        kind = relation.reltype.rpartition("/")[2]
        if not relation.is_external:
            target = relation.target_part
            root = target if kind in UNREAD else _root(target)
            if root is not None:
                found.setdefault(kind, []).append(root)
    return found


def _root(part: Any) -> Any | None:
    if not part.partname.endswith(".xml"):
        return None
    return part.element if hasattr(part, "element") else parse_xml(part.blob)


def _join(blocks: list[Block]) -> tuple[str, tuple[Heading, ...]]:
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
