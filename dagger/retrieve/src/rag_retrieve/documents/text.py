"""Plain text, Markdown and reStructuredText: the decoded file, what is not valid in it blanked."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pydantic import JsonValue

from .document import Heading, LoadedDocument, fence_after, lines_of, stem, tidy
from .encoding import decode
from .tables import markdown_tables
from .withdrawn import blank_markdown, blank_rst

ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*))?$")
SETEXT = re.compile(r" {0,3}(=+|-{2,})[ \t]*$")
NO_SETEXT = re.compile(r"\s*(?:[-*+>|<]|\d+[.)]|:::|\s{4})")  # lists, quotes, tables, HTML, code
RST_UNDERLINE = re.compile(r"([=\-~^\"'`#*+.:_<>])\1{2,}$")
LINK = re.compile(r"!?\[([^\[\]]*)\]\([^()]*\)")
MARKUP = re.compile(r" #+$|\{#[^{}]*\}|<[^<>]*>|[`*]")
MAX_FRONT_MATTER_LINES = 100
SCALAR = re.compile(r"([A-Za-z_][\w.-]*)[ \t]*:[ \t]+(\S.*)$")
NUMBER = re.compile(r"-?\d{1,15}(\.\d+)?$")


def read_plain(name: str, data: bytes) -> list[LoadedDocument]:
    """Read a text file; it has no structure but its lines."""
    text, warnings = decode(name, data)
    return [LoadedDocument(name, stem(name), name, text, "text/plain", warnings=warnings)]


def read_markdown(name: str, data: bytes) -> list[LoadedDocument]:
    """Read Markdown: title and metadata from front matter, headings outside code blocks.

    The title is that of the front matter, else the first heading of level 1, else the first
    heading, else the stem of the name.
    """
    text, warnings = decode(name, data)
    metadata, start = front_matter(text)
    text = blank_markdown(text, start)
    headings = tuple(markdown_headings(text, start))
    title = tidy(metadata.pop("title", None)) or _first(headings) or stem(name)
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
            warnings=warnings,
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


def front_matter(text: str) -> tuple[dict[str, JsonValue], int]:
    """Read the `key: scalar` lines between `---` marks at the top of a Markdown file.

    Returns:
        The values (numbers and booleans as such), and the offset at which the body starts;
        nothing and 0 if there is no closed front matter. Lists and nested values are left out.
    """
    values: dict[str, JsonValue] = {}
    for number, (begin, end) in enumerate(lines_of(text)):
        line = text[begin:end].rstrip()
        if number == 0:
            if line != "---":
                break
        elif line in ("---", "..."):
            return values, end
        elif number > MAX_FRONT_MATTER_LINES:
            break
        elif pair := SCALAR.match(line):
            value = _scalar(pair[2].strip())
            if value is not None:
                values[pair[1]] = value
    return {}, 0


def _scalar(value: str) -> JsonValue:
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1]
    if value[0] in "[{|>&*!#" or value in ("null", "~"):
        return None
    if value in ("true", "false"):
        return value == "true"
    if number := NUMBER.match(value):
        return float(value) if number[1] else int(value)
    return value


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
