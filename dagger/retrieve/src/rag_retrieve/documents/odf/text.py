"""OpenDocument texts and presentations: paragraphs, lists, tables, notes and comments in their order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..builder import TextBuilder
from ..document import LoadedDocument, unreadable
from ..headers import names_columns
from ..safe_xml import attribute, children, first, local
from .package import Package, open_package
from .styles import Styles, written

ODT = "application/vnd.oasis.opendocument.text"
ODP = "application/vnd.oasis.opendocument.presentation"
UNREAD = frozenset(
    {"tracked-changes", "forms", "sequence-decls", "variable-decls", "user-field-decls"}
) | {*("title", "desc", "settings")}
HIDDEN = frozenset({"hidden-text", "hidden-paragraph", "ruby-text", "annotation-end"})
DRAWING = "{urn:oasis:names:tc:opendocument:xmlns:drawing:1.0}"
MAX_DEPTH = 100  # elements inside each other
MAX_REPEATED = 1000  # rows or cells that one stands for


def read_odt(name: str, data: bytes) -> list[LoadedDocument]:
    """Read an OpenDocument text.

    Raises:
        StepError: `document_unreadable`: not one, damaged, encrypted, a zip bomb, or without text.
    """
    package = open_package(name, data, kind="OpenDocument text", suffix=".odt")
    reader = _Reader(name, package)
    if local(package.body) != "text":
        unreadable(name, f"it holds {local(package.body)!r} and no text; give it its extension")
    reader.furniture("header")
    reader.blocks(package.body)
    reader.furniture("footer")
    title = package.title or reader.title
    return [reader.builder.build(ODT, title=title, metadata=package.metadata)]


def read_odp(name: str, data: bytes) -> list[LoadedDocument]:
    """Read an OpenDocument presentation; page n is its n-th slide.

    Raises:
        StepError: `document_unreadable`: not one, damaged, encrypted, a zip bomb, or without text.
    """
    package = open_package(name, data, kind="OpenDocument presentation", suffix=".odp")
    reader = _Reader(name, package)
    for number, slide in enumerate(children(package.body, "page"), 1):
        reader.builder.page()
        reader.builder.record()
        if reader.is_hidden_slide(slide):
            reader.builder.warnings.append(f"slide {number} is hidden and is left out")
        else:
            reader.blocks(slide)
    return [reader.builder.build(ODP, title=package.title, metadata=package.metadata)]


class _Reader:
    """Appends the blocks of one document to its text."""

    def __init__(self, name: str, package: Package) -> None:
        self.builder = TextBuilder(name)
        self.title = ""
        self._package = package
        self._styles = Styles(package.styles)
        self._counts: dict[str, int] = {}  # by list: the number its last item has
        self._asides: list[str] = []
        self._shapes: list[Any] = []

    def furniture(self, kind: str) -> None:
        """Append the headers or footers of the pages, each text once."""
        seen: set[str] = set()
        for master in self._package.masters:
            for part in children(master, kind):
                lines = [self._text(one) for one in part.iter("{*}p", "{*}h")]
                text = "\n".join(filter(None, lines))
                if any(map(str.isalpha, text)) and text not in seen:
                    seen.add(text)
                    self.builder.paragraph(text)

    def is_hidden_slide(self, slide: Any) -> bool:
        """Whether a slide is not shown."""
        style = self._package.styles.get(attribute(slide, "style-name"))
        properties = None if style is None else first(style, "drawing-page-properties")
        return properties is not None and attribute(properties, "visibility") == "hidden"

    def blocks(self, parent: Any, depth: int = 0) -> None:
        """Append the blocks in an element."""
        for child in children(parent) if depth < MAX_DEPTH else ():
            kind = local(child)
            if kind == "h":
                self._heading(child)
            elif kind == "p":
                self._paragraph(child)
            elif kind == "list":
                self._list(child, attribute(child, "style-name"), 1)
            elif kind == "table":
                self._table(child)
            elif kind == "notes":
                self._notes(child)
            elif kind == "frame" and attribute(child, "class") == "title":
                self.builder.heading(1, " ".join(self._text(one) for one in child.iter("{*}p")))
            elif kind == "section" and attribute(child, "display") == "none":
                continue
            elif kind not in UNREAD:
                self.blocks(child, depth + 1)

    def _heading(self, element: Any) -> None:
        level = attribute(element, "outline-level", "1")
        self.builder.heading(int(level) if level.isdecimal() else 1, self._text(element))
        self._write_asides()

    def _paragraph(self, element: Any) -> None:
        text = self._text(element)
        if text and not self.title and self._styles.is_title(attribute(element, "style-name")):
            self.title = text
            self.builder.heading(1, text)
        else:
            self.builder.paragraph(text)
        self._write_asides()

    def _notes(self, element: Any) -> None:
        """Append what the speaker of a slide has noted."""
        lines = [self._text(one) for one in element.iter("{*}p")]
        if text := "\n".join(filter(None, lines)):
            self.builder.paragraph(f"Notes: {text}")

    def _list(self, element: Any, style: str, level: int) -> None:
        style = attribute(element, "style-name") or style
        key = attribute(element, "id") or f"{style} {level}"
        if attribute(element, "continue-numbering") != "true" and not attribute(
            element, "continue-list"
        ):
            self._counts[key] = 0
        for item in children(element, "list-item", "list-header"):
            label = ""
            if local(item) == "list-item" and (rule := self._styles.number(style, level)):
                start = attribute(item, "start-value")
                self._counts[key] = (
                    int(start) if start.isdecimal() else self._counts.get(key, 0) + 1
                )
                label = f"{rule[0]}{written(self._counts[key], rule[1])}{rule[2]} "
            self._item(item, label, style, level)

    def _item(self, item: Any, label: str, style: str, level: int) -> None:
        for block in children(item):
            if local(block) == "list":
                if level < MAX_DEPTH:
                    self._list(block, style, level + 1)
            elif local(block) == "h":
                self._heading(block)
            elif text := self._text(block):
                self.builder.line(f"{label}{text}")
                label = ""
        self._write_asides()

    def _write_asides(self) -> None:
        """Append the notes, comments and text boxes of what was just written."""
        for text in self._asides:
            self.builder.paragraph(text)
        self._asides.clear()
        shapes, self._shapes = self._shapes, []
        for shape in shapes:
            self.blocks(shape)

    def _table(self, table: Any) -> None:
        rows = [row for row in self._rows(table) if any(row)]
        width = max(map(len, rows), default=0)
        rows = [row + [""] * (width - len(row)) for row in rows]
        headed = first(table, "table-header-rows") is not None
        if width == 1:
            self.builder.paragraph("\n".join(cell for row in rows for cell in row))
        elif len(rows) > 1 and (headed or names_columns(rows[0], rows[1:])):
            self.builder.table(rows[0], rows[1:])
        else:
            self.builder.table([""] * width, rows)
        self._write_asides()

    def _rows(self, table: Any) -> Iterator[list[str]]:
        above: dict[int, tuple[int, str]] = {}
        for row in _table_rows(table):
            cells: list[str] = []
            for cell in children(row, "table-cell", "covered-table-cell"):
                self._fill(cells, above, cell)
            yield cells

    def _fill(self, cells: list[str], above: dict[int, tuple[int, str]], cell: Any) -> None:
        """Append a cell; one over several rows stands in each of them."""
        left, text = above.get(len(cells), (0, ""))
        if local(cell) == "covered-table-cell" and left:
            above[len(cells)] = (left - 1, text)
            cells.append(text)
            return
        paragraphs = (self._text(one) for one in cell.iter("{*}p", "{*}h"))
        text = " ".join(filter(None, paragraphs))
        if (down := _number(cell, "number-rows-spanned")) > 1:
            above[len(cells)] = (down - 1, text)
        cells += [text] * _number(cell, "number-columns-repeated")

    def _text(self, element: Any, depth: int = 0) -> str:
        """Return the text in an element on one line; notes and comments follow its block."""
        return " ".join("".join(self._runs(element, depth)).split())

    def _runs(self, element: Any, depth: int) -> Iterator[str]:
        if depth > MAX_DEPTH or self._styles.is_unseen(attribute(element, "style-name")):
            return
        yield element.text or ""
        for child in element:
            kind = local(child)
            if kind in ("s", "tab", "line-break"):
                yield " "
            elif kind == "note":
                body = first(child, "note-body")
                lines = [self._text(one) for one in body.iter("{*}p")] if body is not None else []
                self._asides.append(f"Note: {' '.join(lines)}")
            elif kind == "annotation":
                self._comment(child)
            elif kind and child.tag.startswith(DRAWING) and kind != "a":
                self._shapes.append(child)
            elif kind and kind not in HIDDEN:
                yield from self._runs(child, depth + 1)
            yield child.tail or ""

    def _comment(self, element: Any) -> None:
        author = first(element, "creator")
        lines = " ".join(filter(None, (self._text(one) for one in element.iter("{*}p"))))
        lead = f"Comment by {author.text}: " if author is not None and author.text else "Comment: "
        if lines:
            self._asides.append(lead + lines)


def _table_rows(parent: Any) -> Iterator[Any]:
    for child in children(
        parent, "table-row", "table-row-group", "table-rows", "table-header-rows"
    ):
        if local(child) == "table-row":
            yield child
        else:
            yield from _table_rows(child)


def _number(element: Any, name: str) -> int:
    value = attribute(element, name)
    return min(max(1, int(value)), MAX_REPEATED) if value.isdecimal() and len(value) < 9 else 1
