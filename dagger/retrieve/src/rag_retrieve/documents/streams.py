"""Files that are read piece by piece: what is in memory does not grow with the file."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple, Self

from .document import MAX_DOCUMENT_BYTES, LoadedDocument, check_text, kind_of, stem, unreadable

BLOCK_BYTES = 2**18
PART_BYTES = 4 * 2**20  # of one document of a text that is too large for one
REPLACED = "\N{REPLACEMENT CHARACTER}"
MENDED = "windows-1252"  # name of an error handler
LINE_BYTES = MAX_DOCUMENT_BYTES  # of one line


class Reading(NamedTuple):
    """A file being read.

    Args:
        expected: Documents it may have, for the progress.
        documents: They are read as they are asked for; raises as `load` does.
    """

    expected: int
    documents: Iterator[LoadedDocument]

    @classmethod
    def whole(cls, documents: list[LoadedDocument]) -> Self:
        """Return the reading of a file that is in memory."""
        return cls(len(documents), iter(documents))


class Utf8File(NamedTuple):
    """What a first pass over a text file tells: how many lines it has, and what is not UTF-8 in it."""

    lines: int
    warnings: tuple[str, ...] = ()


class Part(NamedTuple):
    """A part of a text file: its number, where it begins, and its text.

    Args:
        number: From 1.
        line: The line of the file on which it begins, from 1.
        offset: Where it begins, in characters of the file.
        text: Its text, as it stands there.
    """

    number: int
    line: int
    offset: int
    text: str


def utf8_file(name: str, path: Path) -> Utf8File | None:
    """Look through a text file; None when it is small and not UTF-8: it is to be read whole.

    Raises:
        StepError: `document_unreadable`: another format, binary, blank, or large and in another encoding.
    """
    large = path.stat().st_size > MAX_DOCUMENT_BYTES
    lines, faults, strange, first = 1, 0, 0, 0
    blank = True
    with path.open("rb") as file:
        head = file.read(BLOCK_BYTES)
        if kind := kind_of(head):
            unreadable(
                name, f"its content is {kind}, not text; give it the extension of its format"
            )
        blocks = codecs.iterdecode(_blocks(file, head), "utf-8", "replace")
        for text in blocks:
            if "\0" in text:
                _check_small(name, large)
                return None
            if blank and (blank := not text.strip("\ufeff \t\r\n\f\v")) is False:
                check_text(name, text)
            if replaced := text.count(REPLACED):
                first = first or lines + text.count("\n", 0, text.index(REPLACED))
                faults += replaced
            strange += len(text) - len(text.encode("ascii", "ignore"))
            lines += text.count("\n")
    if blank:
        unreadable(name, "it is empty")
    if not faults:
        return Utf8File(lines)
    if not large or strange < 2 * faults:
        _check_small(name, large)
        return None
    why = f"not valid UTF-8 in {faults} places, read as windows-1252 or replaced there, first on line {first}"
    return Utf8File(lines, (why,))


def _blocks(file: IO[bytes], block: bytes) -> Iterator[bytes]:
    while block:
        yield block
        block = file.read(BLOCK_BYTES)


def _check_small(name: str, large: bool) -> None:
    """Refuse a large file in another encoding; a small one is read whole, and its encoding detected."""
    if large:
        unreadable(
            name,
            f"it is no text in UTF-8; a file of more than {MAX_DOCUMENT_BYTES} bytes has to be: "
            "convert it, or split it",
        )


def _as_windows(error: UnicodeError) -> tuple[str, int]:
    """Read a bad byte alone as Windows-1252, where it usually comes from; a torn character is replaced."""
    assert isinstance(error, UnicodeDecodeError)
    bad = error.object[error.start : error.end]
    return (bad.decode("cp1252", "replace") if len(bad) == 1 else REPLACED), error.end


codecs.register_error(MENDED, _as_windows)


def lines_in(path: Path, warnings: list[str]) -> Iterator[tuple[int, str]]:
    """Yield the lines of a file in UTF-8, numbered from 1; one that is too long is left out."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LINE_BYTES + 1):
            number += 1
            if len(line) <= LINE_BYTES:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8", MENDED)
                yield number, text.removesuffix("\n")
                continue
            warnings.append(f"line {number} has more than {LINE_BYTES} bytes; it was left out")
            while line and not line.endswith(b"\n"):
                line = file.readline(BLOCK_BYTES)


def parts_of(path: Path, *, quoted: bool = False) -> Iterator[Part]:
    """Yield the parts of a text file in UTF-8, of about `PART_BYTES` each; none cuts a line.

    A part ends at a blank line where there is one in its last quarter.

    Args:
        path: The file; together its parts are the whole of it.
        quoted: A part does not end between two quotes, as a cell of CSV may hold line ends.
    """
    number = line = 1
    offset = 0
    for text in _cut(path, quoted):
        yield Part(number, line, offset, text)
        number, line, offset = number + 1, line + text.count("\n"), offset + len(text)


def _cut(path: Path, quoted: bool) -> Iterator[str]:
    lines: list[str] = []
    size = 0
    inside = False
    for line in _pieces(path):
        lines.append(line)
        size += len(line)
        inside ^= quoted and line.count('"') % 2 == 1
        blank = not line.strip()
        enough = size >= PART_BYTES or (blank and not quoted and size >= PART_BYTES * 3 // 4)
        if (enough and not inside and line.endswith("\n")) or size >= 2 * PART_BYTES:
            yield "".join(lines)
            lines, size, inside = [], 0, False
    if lines:
        yield "".join(lines)


def _pieces(path: Path) -> Iterator[str]:
    """Yield the lines of a file; one that is very long comes in several pieces."""
    with path.open(encoding="utf-8-sig", errors=MENDED, newline="\n") as file:
        while piece := file.readline(PART_BYTES):
            yield piece


def part_document(
    name: str, part: Part, text: str, content_type: str, warnings: tuple[str, ...] = ()
) -> LoadedDocument:
    """Return the document of a part of a file; its metadata tell where the part begins there."""
    return LoadedDocument(
        f"{name}#part-{part.number}",
        f"{stem(name)} (part {part.number})",
        name,
        text,
        content_type,
        metadata={
            "part": part.number,
            "first_line": part.line,
            "first_character": part.offset,
        },
        warnings=warnings,
    )
