"""EPUB: the chapters of a book in their reading order, each read as the HTML page that it is."""

from __future__ import annotations

import posixpath
from typing import Any
from urllib.parse import unquote

from pydantic import JsonValue

from rag_kit.errors import StepError

from .archive import Parts, check_office_file
from .builder import TextBuilder
from .document import LoadedDocument, tidy, unreadable
from .html.reader import read_html
from .safe_xml import attribute, children, first, local, parse_xml

EPUB = "application/epub+zip"
CONTAINER = "META-INF/container.xml"
ENCRYPTION = "META-INF/encryption.xml"
PAGES = ("application/xhtml+xml", "text/html")
FIELDS = {"creator": "author", "date": "date", "publisher": "publisher", "language": "language"}


def read_epub(name: str, data: bytes) -> list[LoadedDocument]:
    """Read a book; its table of contents is left out.

    Raises:
        StepError: `document_unreadable`: no book, damaged, protected, a zip bomb, or without text.
    """
    check_office_file(name, data, kind="EPUB book", suffix=".epub", mark=CONTAINER)
    parts = Parts(name, data)
    package = _package_path(name, parts)
    root = parse_xml(name, parts.read(package), package)
    locked = _locked(name, parts)
    builder = TextBuilder(name)
    for path in _chapters(root, posixpath.dirname(package)):
        if path in locked:
            builder.warnings.append(f"the chapter {path!r} is protected and left out")
            continue
        _write_chapter(path, parts, builder)
    title, metadata = _about(root)
    if builder.is_empty() and locked:
        unreadable(name, "it is protected (DRM); give a copy without protection")
    return [builder.build(EPUB, title=title, metadata=metadata)]


def _package_path(name: str, parts: Parts) -> str:
    root = parse_xml(name, parts.read(CONTAINER), CONTAINER)
    file = next(root.iter("{*}rootfile"), None)
    if file is None:
        unreadable(name, "it is damaged: it names no book; save it again as .epub")
    return attribute(file, "full-path")


def _locked(name: str, parts: Parts) -> set[str]:
    """Return the parts that are encrypted; fonts are in many books that are open."""
    if ENCRYPTION not in parts.names:
        return set()
    root = parse_xml(name, parts.read(ENCRYPTION), ENCRYPTION)
    return {unquote(attribute(one, "URI")) for one in root.iter("{*}CipherReference")}


def _chapters(root: Any, folder: str) -> list[str]:
    """Return the parts of the book that hold its text, in reading order."""
    items = {attribute(item, "id"): item for item in root.iter("{*}item")}
    found = []
    for listed in root.iter("{*}itemref"):
        item = items.get(attribute(listed, "idref"))
        if item is None or attribute(item, "media-type") not in PAGES:
            continue
        if "nav" not in attribute(item, "properties").split():
            found.append(
                posixpath.normpath(posixpath.join(folder, unquote(attribute(item, "href"))))
            )
    return found


def _write_chapter(path: str, parts: Parts, builder: TextBuilder) -> None:
    """Append a chapter; one that cannot be read is a warning, one without text nothing."""
    if path not in parts.names:
        builder.warnings.append(f"the chapter {path!r} is missing")
        return
    try:
        (page,) = read_html(path, parts.read(path))
    except StepError as error:
        if "no visible text" not in error.message:
            builder.warnings.append(error.message)
        return
    builder.document(page)


def _about(root: Any) -> tuple[str, dict[str, JsonValue]]:
    """Return title, and author, date, publisher and language as far as the book names them."""
    fields = first(root, "metadata")
    titles = [tidy(one.text) for one in children(fields, "title")] if fields is not None else []
    metadata: dict[str, JsonValue] = {}
    for field in children(fields) if fields is not None else ():
        key, value = FIELDS.get(local(field)), tidy(field.text)
        if key and value and not (key == "date" and value.startswith("0101")):
            metadata.setdefault(key, value)
    return next(iter(titles), ""), metadata
