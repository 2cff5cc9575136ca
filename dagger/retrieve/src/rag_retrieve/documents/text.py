"""Plain text, Markdown and reStructuredText: the decoded file, what is not valid in it blanked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from .document import Heading, LoadedDocument, fence_after, lines_of, stem, tidy
from .encoding import decode
from .front_matter import front_matter
from .streams import PART_BYTES, Reading, part_document, parts_of, utf8_file
from .tables import markdown_tables
from .withdrawn import blank_markdown, blank_rst

ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*))?$")
SETEXT = re.compile(r" {0,3}(=+|-{2,})[ \t]*$")
NO_SETEXT = re.compile(r"\s*(?:[-*+>|<]|\d+[.)]|:::|\s{4})")  # lists, quotes, tables, HTML, code
RST_UNDERLINE = re.compile(r"([=\-~^\"'`#*+.:_<>])\1{2,}$")
LINK = re.compile(r"!?\[([^\[\]]*)\]\([^()]*\)")
MARKUP = re.compile(r" #+$|\{#[^{}]*\}|<[^<>]*>|[`*]")


def read_plain(name: str, data: bytes) -> list[LoadedDocument]:
    """Read a text file; it has no structure but its lines."""
    text, warnings = decode(name, data)
    return [LoadedDocument(name, stem(name), name, text, "text/plain", warnings=warnings)]


def stream_plain(name: str, path: Path) -> Reading:
    """Read a text file that is too large for one document: a document for each part of it."""
    found = utf8_file(name, path)
    assert found is not None  # it is large
    return Reading(path.stat().st_size // PART_BYTES + 1, _parts(name, path, found.warnings))


def _parts(name: str, path: Path, warnings: tuple[str, ...]) -> Iterator[LoadedDocument]:
    for part in parts_of(path):
        if part.text.strip():
            yield part_document(name, part, part.text, "text/plain", warnings)
            warnings = ()


def read_markdown(name: str, data: bytes) -> list[LoadedDocument]:
    """Read Markdown: title and metadata from front matter, headings outside code blocks.

    The title is that of the front matter, else the first heading of level 1, else the first
    heading, else the stem of the name.
    """
    text, warnings = decode(name, data)
    metadata, start, unread = front_matter(text)
    text = blank_markdown(text, start)
    headings = tuple(markdown_headings(text, start))
    title = metadata.pop("title", None)
    title = tidy(title if title is None or isinstance(title, list | dict) else str(title))
    title = title or _first(headings) or stem(name)
    return [
        LoadedDocument(
            name,
            title,
            name,
            text,
            "text/markdown",
            metadata=metadata,
            headings=headings,
            tables=tuple(markdown_tables(text, start)),
            warnings=(*warnings, *unread),
        )
    ]


def read_rst(name: str, data: bytes) -> list[LoadedDocument]:
    """Read reStructuredText; a heading's level is the order in which its mark first appears."""
    text, warnings = decode(name, data)
    text = blank_rst(text)
    headings = tuple(_rst_headings(text))
    title = _first(headings) or stem(name)
    return [
        LoadedDocument(name, title, name, text, "text/x-rst", headings=headings, warnings=warnings)
    ]


def _first(headings: tuple[Heading, ...]) -> str:
    top = next((heading for heading in headings if heading.level == 1), None)
    top = top or next(iter(headings), None)
    return top.text if top else ""


def markdown_headings(text: str, start: int = 0) -> Iterator[Heading]:
    """Yield the headings of a Markdown text, `# so` and underlined, from offset `start` on."""
    fence, previous = "", (start, "")
    for begin, end in lines_of(text[start:]):
        line, offset = text[start + begin : start + end].rstrip("\r\n"), start + begin
        inside, fence = fence, fence_after(line, fence)
        if inside or fence:
            previous = (offset, "")
            continue
        if atx := ATX.match(line):
            if words := plain_heading(atx[2] or ""):
                yield Heading(offset, len(atx[1]), words)
            line = ""
        elif (under := SETEXT.match(line)) and previous[1]:
            yield Heading(previous[0], 1 if under[1][0] == "=" else 2, plain_heading(previous[1]))
            line = ""
        previous = (offset, "" if NO_SETEXT.match(line) else line.strip())


def plain_heading(text: str) -> str:
    """Return the words of a heading without links, emphasis, tags, anchors and closing marks."""
    return tidy(MARKUP.sub("", LINK.sub(r"\1", " ".join(text.split()))))


def _rst_headings(text: str) -> Iterator[Heading]:
    marks: list[str] = []
    before: tuple[int, str] = (0, "")
    over: tuple[int, str] | None = None
    for begin, end in lines_of(text):
        line = text[begin:end].rstrip()
        under = RST_UNDERLINE.match(line)
        if under and before[1] and len(line) >= len(before[1].rstrip()):
            framed = over is not None and over[1] == line
            mark = under[1] + ("/" if framed else "")
            if mark not in marks:
                marks.append(mark)
            offset = over[0] if over is not None and framed else before[0]
            yield Heading(offset, min(6, marks.index(mark) + 1), tidy(before[1]))
            before, over = (begin, ""), None
            continue
        if under:
            before, over = (begin, ""), (begin, line)
            continue
        if before[1]:  # a line of text between this one and the mark above
            over = None
        before = (begin, line)
