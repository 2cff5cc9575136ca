"""Parses XML from files nobody vouches for: no entities, no network, no endless depth."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lxml import etree  # type: ignore[import-untyped]

from .document import tidy, unreadable


def parse_xml(name: str, data: bytes, part: str = "") -> Any:
    """Return the root element of an XML text.

    Args:
        name: The file, for refusals.
        data: The XML.
        part: The part of the file that it is, "" for the whole.

    Raises:
        StepError: `document_unreadable`: not well-formed, nested too deep, or with entities of its own.
    """
    what = f"its part {part!r}" if part else "it"
    parser = etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        remove_pis=True,
        remove_comments=True,
    )
    try:
        root = etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        unreadable(name, f"{what} is not well-formed XML ({tidy(str(error))})")
    if root is None:
        unreadable(name, f"{what} is empty: it holds no element")
    return root


def local(element: Any) -> str:
    """Return the name of an element or attribute without its namespace; "" for what is no element."""
    tag = element if isinstance(element, str) else element.tag
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def attribute(element: Any, name: str, default: str = "") -> str:
    """Return an attribute by its name without namespace."""
    return next((value for key, value in element.attrib.items() if local(key) == name), default)


def children(element: Any, *names: str) -> Iterator[Any]:
    """Yield the child elements with one of these names; all without names."""
    for child in element:
        if (name := local(child)) and (not names or name in names):
            yield child


def first(element: Any, *path: str) -> Any | None:
    """Return the first descendant by a path of names without namespaces, or None."""
    for name in path:
        element = next(children(element, name), None)
        if element is None:
            return None
    return element
