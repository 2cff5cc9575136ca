"""From a file's bytes to documents: text with exact offsets, title, pages, metadata."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import PurePosixPath

from .document import Heading, LoadedDocument, Origin, Table, page_of, stem, unreadable

__all__ = [
    "MAX_DOCUMENT_BYTES",
    "SUPPORTED_SUFFIXES",
    "Heading",
    "LoadedDocument",
    "Origin",
    "Table",
    "load",
    "page_of",
    "stem",
]

MAX_DOCUMENT_BYTES = 50 * 1024 * 1024


Reader = Callable[[str, bytes], list[LoadedDocument]]

# Loader of each extension, as module:function; imported when the first such file is read. Help texts
# list the formats in `rag_kit.formats`.
READERS = {
    ".txt": "text:read_plain",
    ".text": "text:read_plain",
    ".md": "text:read_markdown",
    ".markdown": "text:read_markdown",
    ".mdx": "text:read_markdown",
    ".rst": "text:read_rst",
    ".html": "html.reader:read_html",
    ".htm": "html.reader:read_html",
    ".pdf": "pdf.reader:read_pdf",
    ".docx": "word.reader:read_docx",
    ".csv": "tabular:read_csv",
    ".tsv": "tabular:read_tsv",
    ".json": "records:read_json",
    ".jsonl": "records:read_jsonl",
    ".ndjson": "records:read_jsonl",
}
SUPPORTED_SUFFIXES = frozenset(READERS)


def load(name: str, data: bytes) -> list[LoadedDocument]:
    """Read one file, by its extension.

    Args:
        name: Id of the document: its path relative to the ingested folder, with `/`.
        data: The file's content, at most `MAX_DOCUMENT_BYTES`.

    Returns:
        The document, or one for each record of a JSON or JSON Lines file.

    Raises:
        StepError: `document_unreadable`, with what is wrong with the file and what to do.
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
    return _reader(suffix)(name, data)


def _reader(suffix: str) -> Reader:
    module, _, function = READERS[suffix].partition(":")
    reader: Reader = getattr(import_module(f".{module}", __name__), function)
    return reader
