"""Builds the text of a document whose format has none of its own: blocks, headings, tables, pages."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import JsonValue

from rag_kit.tables import PIPES

from .document import (
    Heading,
    LineBox,
    LoadedDocument,
    Table,
    check_text,
    first_warnings,
    stem,
    tidy,
    unreadable,
)

UNPRINTABLE = re.compile("[\ufeff\ud800-\udfff\x00-\x08\x0b\x0c\x0e-\x1f]")
LINES = re.compile(r"\r\n?|\u2028|\u2029|\x0b|\x85")
FENCE = re.compile(r"^`{3,}", re.MULTILINE)
MAX_CHARACTERS = 20_000_000  # of one document; a long book has two million


class TextBuilder:
    """Collects the text of a document with its structure; paragraphs stand a blank line apart.

    Args:
        name: The file, for refusals.

    Attributes:
        length: Characters so far.
        warnings: What was left out or read otherwise.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.warnings: list[str] = []
        self._pieces: list[str] = []
        self.length = 0
        self._headings: list[Heading] = []
        self._tables: list[Table] = []
        self._pages: list[int] = []
        self._breaks: list[int] = []
        self._begun: list[list[int]] = []  # where the start of the next block goes

    def _write(self, text: str, *, apart: str = "\n\n") -> int:
        """Append a block and return where it starts."""
        if self._pieces:
            apart = "\n\n" if self._begun else apart
            self._pieces.append(apart)
            self.length += len(apart)
        start = self.length
        for offsets in self._begun:
            offsets.append(start)
        self._begun.clear()
        self._pieces.append(text)
        self.length += len(text)
        if self.length > MAX_CHARACTERS:
            unreadable(self.name, f"it holds over {MAX_CHARACTERS} characters of text: split it")
        return start

    def paragraph(self, text: str, *, apart: str = "\n\n") -> None:
        """Append a paragraph, with the line ends that it has; nothing of a blank one."""
        if text := printable(text).strip("\n").rstrip():
            self._write(text, apart=apart)

    def line(self, text: str) -> None:
        """Append a line right below the one before: an item of a list, a row without columns."""
        self.paragraph(" ".join(text.split()), apart="\n")

    def heading(self, level: int, text: str) -> None:
        """Append a heading of a level, 1 the highest."""
        if words := " ".join(printable(text).split()):
            self._headings.append(Heading(self._write(words), max(1, min(level, 6)), tidy(words)))

    def code(self, text: str, language: str = "") -> None:
        """Append a block of code between fences that it does not hold."""
        if (text := printable(text).strip("\n")).strip():
            marks = max((len(mark) for mark in FENCE.findall(text)), default=2)
            fence = "`" * max(3, marks + 1)
            self._write(f"{fence}{language}\n{text}\n{fence}")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Append a table of one line a row; `columns` are empty names where it has none."""
        named = any(columns)
        lines = [_row(cells) for cells in ([columns, *rows] if named else rows) if any(cells)]
        if not lines:
            return
        start = self._write("\n".join(lines))
        names = tuple(" ".join(name.split()) for name in columns)
        self._tables.append(Table(start, self.length, names, PIPES))

    def page(self) -> None:
        """Begin a page, slide or sheet; what is appended next is its first."""
        self._begun.append(self._pages)

    def record(self) -> None:
        """Begin a record, at which a passage rather starts than anywhere else."""
        self._begun.append(self._breaks)

    def document(self, part: LoadedDocument, *, deeper: int = 0) -> None:
        """Append the text of another document with its structure.

        Args:
            part: The document; its title and metadata are not taken.
            deeper: By how many levels its headings stand lower here.
        """
        begin = self._write(part.text.rstrip())
        self._headings += [
            Heading(begin + offset, min(level + deeper, 6), words)
            for offset, level, words in part.headings
        ]
        self._tables += [
            table._replace(start=begin + table.start, end=min(begin + table.end, self.length))
            for table in part.tables
        ]
        self.warnings += part.warnings

    def is_empty(self) -> bool:
        """Whether nothing was appended."""
        return not self._pieces

    def build(
        self,
        content_type: str,
        *,
        document_id: str = "",
        title: str = "",
        metadata: dict[str, JsonValue] | None = None,
        boxes: Sequence[LineBox] = (),
    ) -> LoadedDocument:
        """Return the document; its title is the given one, else its first heading, else its name.

        Raises:
            StepError: `document_unreadable`: it holds no text.
        """
        text = "".join(self._pieces)
        if not text.strip():
            more = f" ({'; '.join(self.warnings[:3])})" if self.warnings else ""
            unreadable(self.name, f"it is empty: it holds no text{more}")
        first = self._headings[0].text if self._headings else ""
        return LoadedDocument(
            document_id or self.name,
            tidy(title) or first or stem(self.name),
            self.name,
            check_text(self.name, text),
            content_type,
            pages=tuple(self._pages),
            metadata=metadata or {},
            breaks=tuple(self._breaks),
            headings=tuple(self._headings),
            tables=tuple(self._tables),
            boxes=tuple(boxes),
            warnings=first_warnings(self.warnings),
        )


def printable(text: str) -> str:
    r"""Return a text with `\n` for each line end and without control characters."""
    return UNPRINTABLE.sub("", LINES.sub("\n", text))


def _row(cells: Sequence[str]) -> str:
    escaped = [" ".join(printable(cell).split()).replace("|", "\\|") for cell in cells]
    line = PIPES.join(escaped)
    return line if escaped[0] and escaped[-1] and len(escaped) > 1 else f"| {line} |"
