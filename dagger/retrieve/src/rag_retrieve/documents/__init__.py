"""From a file's bytes to documents: text with exact offsets, title, pages, metadata."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePosixPath

from .document import Heading, LoadedDocument, page_of, stem, unreadable
from .records import read_json, read_jsonl
from .tabular import read_csv, read_tsv
from .text import read_markdown, read_plain, read_rst

__all__ = [
    "MAX_DOCUMENT_BYTES",
    "SUPPORTED_SUFFIXES",
    "Heading",
    "LoadedDocument",
    "load",
    "page_of",
    "stem",
]

MAX_DOCUMENT_BYTES = 50 * 1024 * 1024


def _read_html(name: str, data: bytes) -> list[LoadedDocument]:
    from .html import read_html

    return read_html(name, data)


def _read_pdf(name: str, data: bytes) -> list[LoadedDocument]:
    from .pdf import read_pdf  # here and below: a search should not wait for these imports

    return read_pdf(name, data)


def _read_docx(name: str, data: bytes) -> list[LoadedDocument]:
    from .word import read_docx

    return read_docx(name, data)


READERS: dict[str, Callable[[str, bytes], list[LoadedDocument]]] = {
    ".txt": read_plain,
    ".text": read_plain,
    ".md": read_markdown,
    ".markdown": read_markdown,
    ".mdx": read_markdown,
    ".rst": read_rst,
    ".html": _read_html,
    ".htm": _read_html,
    ".pdf": _read_pdf,
    ".docx": _read_docx,
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".json": read_json,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
}
SUPPORTED_SUFFIXES = frozenset(READERS)


def load(name: str, data: bytes) -> list[LoadedDocument]:
    """Read one file, by its extension.

    Args:
        name: Id of the document: its path relative to what is ingested, with `/`.
        data: The file's content, at most `MAX_DOCUMENT_BYTES`.

    Returns:
        The document, or one for each record of a JSON or JSON Lines file.

    Raises:
        StepError: `document_unreadable`, saying what is wrong with the file and what to do.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in READERS:
        known = " ".join(sorted(READERS))
        unreadable(name, f"its extension {suffix!r} is not known; known are {known}")
    if len(data) > MAX_DOCUMENT_BYTES:
        unreadable(
            name, f"it has {len(data)} bytes; at most {MAX_DOCUMENT_BYTES} are accepted: split it"
        )
    if not data.strip():
        unreadable(name, "it is empty")
    return READERS[suffix](name, data)
