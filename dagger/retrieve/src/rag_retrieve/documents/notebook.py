"""Jupyter notebooks: text cells as Markdown, code cells and their printed results as code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from pydantic import JsonValue

from rag_kit.errors import StepError

from .builder import TextBuilder
from .document import LoadedDocument, unreadable
from .encoding import decode
from .html.reader import read_page
from .text import read_markdown

NOTEBOOK = "application/x-ipynb+json"
OBJECT = re.compile(r"\s*<[\w.]+(?:\s[^<>]*)?>\s*")  # how Python prints what it has no text for
MAX_OUTPUT_CHARACTERS = 20_000  # of one cell; more is a log or data


def read_ipynb(name: str, data: bytes) -> list[LoadedDocument]:
    """Read a notebook; images and interactive parts among its results are left out.

    Raises:
        StepError: `document_unreadable`: no notebook, or without text.
    """
    text, warnings = decode(name, data)
    try:
        notebook = json.loads(text)
    except (ValueError, RecursionError) as error:
        unreadable(name, f"it is not valid JSON, as a notebook is ({error}); save it again")
    if not isinstance(notebook, dict) or not (cells := list(_cells(notebook))):
        unreadable(name, "it is empty: a notebook without cells")
    builder = TextBuilder(name)
    builder.warnings += warnings
    language = _language(notebook)
    for cell in cells:
        _write_cell(cell, language, builder)
    metadata: dict[str, JsonValue] = {"language": language} if language else {}
    return [builder.build(NOTEBOOK, metadata=metadata)]


def _cells(notebook: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the cells; those of format 3 stand in worksheets."""
    sheets = notebook.get("worksheets")
    for part in [notebook, *(sheets if isinstance(sheets, list) else [])]:
        cells = part.get("cells") if isinstance(part, dict) else None
        yield from (
            (cell for cell in cells if isinstance(cell, dict)) if isinstance(cells, list) else ()
        )


def _language(notebook: dict[str, Any]) -> str:
    about = notebook.get("metadata")
    for part in ("language_info", "kernelspec"):
        found = about.get(part) if isinstance(about, dict) else None
        name = (
            (found.get("name") if part == "language_info" else found.get("language"))
            if isinstance(found, dict)
            else None
        )
        if isinstance(name, str) and name.isidentifier():
            return name
    return ""


def _joined(value: Any) -> str:
    """Return a text that a notebook holds as one string, or as a list of lines."""
    if isinstance(value, list):
        return "".join(line for line in value if isinstance(line, str))
    return value if isinstance(value, str) else ""


def _write_cell(cell: dict[str, Any], language: str, builder: TextBuilder) -> None:
    source = _joined(cell.get("source") or cell.get("input"))
    kind = cell.get("cell_type")
    if kind == "code":
        builder.code(source, language)
        outputs = cell.get("outputs")
        for output in outputs if isinstance(outputs, list) else ():
            if isinstance(output, dict):
                _write_output(output, builder)
    elif kind == "heading":
        level = cell.get("level")
        builder.heading(level if isinstance(level, int) else 1, source)
    elif kind == "raw":
        builder.paragraph(source)
    elif source.strip():
        _write_markdown(source, builder)


def _write_markdown(source: str, builder: TextBuilder) -> None:
    try:
        (part,) = read_markdown(builder.name, source.encode("utf-8", "replace"))
    except StepError as error:
        builder.warnings.append(f"a cell is left out: {error.message}")
        return
    builder.document(part)


def _write_output(output: dict[str, Any], builder: TextBuilder) -> None:
    """Append what a cell has printed: a table of a page as such, else its text."""
    data = output.get("data")
    data = data if isinstance(data, dict) else output
    page = _joined(data.get("text/html") or data.get("html"))
    if "<table" in page:
        try:
            builder.document(read_page(builder.name, page))
            return
        except StepError:
            pass  # nothing visible in it: its text is read
    if markdown := _joined(data.get("text/markdown")):
        _write_markdown(markdown, builder)
        return
    text = _joined(data.get("text/plain") or data.get("text") or output.get("text"))
    if OBJECT.fullmatch(text):
        return
    builder.code(text[:MAX_OUTPUT_CHARACTERS])
    if len(text) > MAX_OUTPUT_CHARACTERS:
        builder.warnings.append(
            f"a result of {len(text)} characters is cut to {MAX_OUTPUT_CHARACTERS}"
        )
