"""XML: what its elements hold, each with its name, so that a value keeps what it is a value of."""

from __future__ import annotations

import re
from collections import Counter
from html import unescape
from typing import Any

from lxml import etree  # type: ignore[import-untyped]

from .builder import TextBuilder
from .document import LoadedDocument, kind_of, tidy, unreadable
from .html.reader import read_html
from .safe_xml import local, parse_xml

XML = "application/xml"
TITLES = frozenset({"title", "heading", "head", "h1", "h2", "h3", "caption"})
PROSE = frozenset(
    {"p", "para", "simpara", "text", "body", "quote", "li", "line", "l", "abstract", "ab"}
)
INLINE_CHARACTERS = 2  # of text beside child elements; with that much they are marks within prose
PAGE = re.compile(rb"<(?:!doctype\s+html|html[\s>])", re.IGNORECASE)
MAX_LEVEL = 6
MAX_NAME = 100


def read_xml(name: str, data: bytes) -> list[LoadedDocument]:
    """Read XML: records as lines `name: value`, prose as paragraphs, titles as headings.

    Raises:
        StepError: `document_unreadable`: not well-formed, nested too deep, or without text.
    """
    if kind := kind_of(data):
        unreadable(name, f"its content is {kind}, not XML; give it the extension of its format")
    if PAGE.search(data[:1000]):
        return read_html(name, data)
    root = parse_xml(name, data)
    builder = TextBuilder(name)
    if unknown := list(root.iter(etree.Entity)):
        builder.warnings.append(f"{len(unknown)} entities of its own are not resolved (&name;)")
    _Walker(builder).walk(root)
    return [builder.build(XML, title=_title(root))]


def _title(root: Any) -> str:
    found = (one for one in root.iter() if local(one) in TITLES and (one.text or "").strip())
    first = next(found, None)
    return tidy("".join(first.itertext())) if first is not None else ""


class _Walker:
    """Appends the elements of a tree, without recursion."""

    def __init__(self, builder: TextBuilder) -> None:
        self.builder = builder

    def walk(self, root: Any) -> None:
        """Append what stands under an element; names of the elements around a value stand before it."""
        pending: list[tuple[Any, int, str, bool]] = [(root, 0, "", False)]
        while pending:
            element, level, path, is_record = pending.pop()
            inner = [child for child in element if local(child)]
            if not inner or _is_prose(element):
                self._leaf(element, level, path)
                continue
            name = local(element)[:MAX_NAME]
            if is_record:
                self.builder.record()
            if pairs := _attributes(element):
                self.builder.line(f"{path}{name} {pairs}")
            within = "" if is_record or element is root else f"{path}{name}."
            repeated = {one for one, count in Counter(map(local, inner)).items() if count > 1}
            titled = local(inner[0]) in TITLES
            pending += [
                (child, level + titled, within, local(child) in repeated and len(child) > 0)
                for child in reversed(inner)
            ]

    def _leaf(self, element: Any, level: int, path: str) -> None:
        """Append an element without others in it: a heading, a paragraph, or `name: value`."""
        text = " ".join(unescape("".join(element.itertext())).split())
        name, parent = local(element)[:MAX_NAME], element.getparent()
        if name in TITLES and text and parent is not None and parent[0] is element:
            self.builder.heading(min(level, MAX_LEVEL), text)
        elif name in PROSE or _is_prose(element):
            self.builder.paragraph(text)
        else:
            pairs = _attributes(element)
            named = f"{path}{name} ({pairs})" if pairs and text else f"{path}{name} {pairs}".strip()
            if text or pairs:
                self.builder.line(f"{named}: {text}" if text else named)


def _is_prose(element: Any) -> bool:
    """Whether text stands beside the elements in an element: these are marks within a sentence."""
    around = [element.text or "", *(child.tail or "" for child in element)]
    return len(element) > 0 and sum(len(text.strip()) for text in around) > INLINE_CHARACTERS


def _attributes(element: Any) -> str:
    pairs = [
        f"{local(key)}: {tidy(value)}"
        for key, value in element.attrib.items()
        if value.strip() and not key.startswith("{http://www.w3.org/")
    ]
    return ", ".join(pairs)
