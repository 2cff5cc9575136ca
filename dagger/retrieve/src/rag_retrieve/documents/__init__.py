"""From a file's bytes to documents: text with exact offsets, title, pages, metadata."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

from rag_kit.errors import StepError

from .budget import Budget
from .document import (
    MAX_DOCUMENT_BYTES,
    Heading,
    LineBox,
    LoadedDocument,
    Origin,
    Table,
    page_of,
    stem,
    unreadable,
)
from .streams import Reading

__all__ = [
    "MAX_DOCUMENT_BYTES",
    "SUPPORTED_SUFFIXES",
    "Heading",
    "LineBox",
    "LoadedDocument",
    "Origin",
    "Reading",
    "Table",
    "load",
    "load_file",
    "page_of",
    "stem",
]

SOURCE_SUFFIXES = (
    *(
        ".py",
        ".pyi",
        ".js",
        ".mjs",
        ".cjs",
        ".jsx",
        ".ts",
        ".tsx",
        ".java",
        ".kt",
        ".kts",
        ".scala",
    ),
    *(".groovy", ".go", ".rs", ".c", ".h", ".cc", ".cpp", ".cxx", ".hpp", ".hh", ".cs", ".swift"),
    *(
        ".dart",
        ".rb",
        ".php",
        ".pl",
        ".pm",
        ".r",
        ".jl",
        ".ex",
        ".exs",
        ".lua",
        ".sql",
        ".sh",
        ".bash",
    ),
    *(".ps1", ".bat", ".tf", ".proto", ".graphql", ".css", ".scss", ".hs", ".ml", ".fs", ".clj"),
    *(".el", ".erl", ".vb", ".pas", ".f90", ".zig", ".nim", ".sol"),
)


def _extras_read() -> frozenset[str]:
    """Return the endings of what is read by an extra that is installed."""
    images = frozenset(IMAGES) if find_spec("rapidocr") else frozenset()
    return images | (frozenset(PARQUET) if find_spec("pyarrow") else frozenset())


Reader = Callable[[str, bytes], list[LoadedDocument]]
ContainerReader = Callable[[str, bytes, Budget], list[LoadedDocument]]

# Loader of each extension, as module:function; imported when the first such file is read. Help texts
# list the formats in `rag_kit.formats`.
READERS = {
    ".txt": "text:read_plain",
    ".text": "text:read_plain",
    ".md": "text:read_markdown",
    ".markdown": "text:read_markdown",
    ".mdx": "text:read_markdown",
    ".log": "text:read_plain",
    ".rst": "text:read_rst",
    ".org": "markup:read_org",
    ".tex": "markup:read_tex",
    ".latex": "markup:read_tex",
    ".html": "html.reader:read_html",
    ".htm": "html.reader:read_html",
    ".xhtml": "html.reader:read_html",
    ".pdf": "pdf.reader:read_pdf",
    ".docx": "word.reader:read_docx",
    ".xlsx": "sheets.excel:read_xlsx",
    ".xlsm": "sheets.excel:read_xlsx",
    ".xls": "sheets.old_excel:read_xls",
    ".ods": "odf.spreadsheet:read_ods",
    ".pptx": "slides.reader:read_pptx",
    ".ppsx": "slides.reader:read_pptx",
    ".odt": "odf.text:read_odt",
    ".odp": "odf.text:read_odp",
    ".epub": "epub:read_epub",
    ".rtf": "rtf:read_rtf",
    ".ipynb": "notebook:read_ipynb",
    ".csv": "tabular:read_csv",
    ".tsv": "tabular:read_tsv",
    ".json": "records:read_json",
    ".jsonl": "records:read_jsonl",
    ".ndjson": "records:read_jsonl",
    ".xml": "xml_data:read_xml",
    ".yaml": "settings_files:read_yaml",
    ".yml": "settings_files:read_yaml",
    ".toml": "settings_files:read_toml",
    ".ini": "settings_files:read_ini",
    ".cfg": "settings_files:read_ini",
    ".conf": "settings_files:read_ini",
    ".properties": "settings_files:read_ini",
    **dict.fromkeys(SOURCE_SUFFIXES, "source:read_source"),
}
# The same of files that hold other files.
CONTAINERS = {
    ".eml": "mail:read_eml",
    ".mbox": "mail:read_mbox",
    ".mbx": "mail:read_mbox",
    ".zip": "archives:read_zip",
    ".tar": "archives:read_tar",
    ".tgz": "archives:read_tar",
    ".tbz2": "archives:read_tar",
    ".txz": "archives:read_tar",
    ".gz": "archives:read_compressed",
    ".bz2": "archives:read_compressed",
    ".xz": "archives:read_compressed",
}
# Read where the extra `ocr` is installed.
IMAGES = dict.fromkeys(
    (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"), "image:read_image"
)
# Read where the extra `parquet` is installed.
PARQUET = {".parquet": "parquet:read_parquet"}
OPTIONAL = IMAGES | PARQUET
SUPPORTED_SUFFIXES = frozenset(READERS) | frozenset(CONTAINERS) | _extras_read()
# What is read piece by piece: always, or where a file is too large for one document.
RECORD_STREAMS = {
    ".jsonl": "records:stream_jsonl",
    ".ndjson": "records:stream_jsonl",
    ".parquet": "parquet:stream_parquet",
}
PART_STREAMS = {
    ".txt": "text:stream_plain",
    ".text": "text:stream_plain",
    ".log": "text:stream_plain",
    ".csv": "tabular:stream_csv",
    ".tsv": "tabular:stream_tsv",
}


def load(name: str, data: bytes, budget: Budget | None = None) -> list[LoadedDocument]:
    """Read one file, by its extension.

    Args:
        name: Id of the document: its path relative to the ingested folder, with `/`.
        data: The file's content, at most `MAX_DOCUMENT_BYTES`.
        budget: What may still be unpacked, where the file is inside of another one.

    Returns:
        The document; of a file of records, mails or files, one for each of these.

    Raises:
        StepError: `document_unreadable`, with what is wrong with the file and what to do.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in SUPPORTED_SUFFIXES and suffix not in OPTIONAL:
        known = " ".join(sorted(SUPPORTED_SUFFIXES))
        unreadable(name, f"its extension {suffix!r} is not known; known are {known}")
    if len(data) > MAX_DOCUMENT_BYTES:
        unreadable(
            name, f"it has {len(data)} bytes; at most {MAX_DOCUMENT_BYTES} are accepted: split it"
        )
    if not data.strip():
        unreadable(name, "it is empty")
    if suffix in CONTAINERS:
        read: ContainerReader = _function(CONTAINERS[suffix])
        return read(name, data, budget or Budget())
    reader: Reader = _function((READERS | OPTIONAL)[suffix])
    return reader(name, data)


def load_file(name: str, path: Path) -> Reading:
    """Read a file from disk, by its extension; what can be is read piece by piece.

    Files of records are read so at any size, with the same documents as `load` gives. Plain text
    and tables of more than `MAX_DOCUMENT_BYTES` become a document for each part, `name#part-1` and on.

    Args:
        name: Id of the document, see `load`.
        path: The file.

    Raises:
        StepError: `document_unreadable`, as `load`; also while the documents are read.
        OSError: It cannot be read.
    """
    if not path.is_file():
        raise StepError("document_unreadable", "it is no regular file; give a file")
    suffix = PurePosixPath(name).suffix.lower()
    size = path.stat().st_size
    streams = RECORD_STREAMS if size <= MAX_DOCUMENT_BYTES else RECORD_STREAMS | PART_STREAMS
    if suffix in streams and size:
        reading: Reading = _function(streams[suffix])(name, path)
        return reading
    if size > MAX_DOCUMENT_BYTES:
        raise StepError(
            "document_unreadable",
            f"{size} bytes is over the limit of {MAX_DOCUMENT_BYTES}; split the file",
        )
    return Reading.whole(load(name, path.read_bytes()))


def _function(path: str) -> Any:
    module, _, function = path.partition(":")
    return getattr(import_module(f".{module}", __name__), function)
