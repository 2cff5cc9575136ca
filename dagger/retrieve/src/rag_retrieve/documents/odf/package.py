"""The package of an OpenDocument file: its content, styles and metadata."""

from __future__ import annotations

from typing import Any, NamedTuple

from pydantic import JsonValue

from ..archive import Parts, check_office_file
from ..document import tidy, unreadable
from ..safe_xml import attribute, children, first, local, parse_xml

ENCRYPTED = b"encryption-data"


class Package(NamedTuple):
    """What is read of a file: the body of its content, the styles by name, title and metadata."""

    body: Any
    styles: dict[str, Any]
    masters: list[Any]
    title: str
    metadata: dict[str, JsonValue]


def open_package(name: str, data: bytes, *, kind: str, suffix: str) -> Package:
    """Open an OpenDocument file.

    Raises:
        StepError: `document_unreadable`: not one, damaged, encrypted, or a zip bomb.
    """
    check_office_file(name, data, kind=kind, suffix=suffix, mark="content.xml")
    parts = Parts(name, data)
    if "META-INF/manifest.xml" in parts.names and ENCRYPTED in parts.read("META-INF/manifest.xml"):
        unreadable(name, "it is encrypted; save a copy without a password")
    content = parse_xml(name, parts.read("content.xml"), "content.xml")
    body = first(content, "body")
    if body is None or len(body) == 0:
        unreadable(name, "it is damaged: it has no body; save it again")
    roots = [content]
    if "styles.xml" in parts.names:
        roots.append(parse_xml(name, parts.read("styles.xml"), "styles.xml"))
    styles = {
        attribute(style, "name"): style
        for root in roots
        for group in children(root, "styles", "automatic-styles")
        for style in children(group)
    }
    masters = [master for root in roots for master in root.iter("{*}master-page")]
    title, metadata = _about(name, parts)
    return Package(body[0], styles, masters, title, metadata)


def _about(name: str, parts: Parts) -> tuple[str, dict[str, JsonValue]]:
    if "meta.xml" not in parts.names:
        return "", {}
    fields = {
        local(field): tidy(field.text) for field in parse_xml(name, parts.read("meta.xml")).iter()
    }
    author = fields.get("creator") or fields.get("initial-creator") or ""
    found: dict[str, JsonValue] = {"author": author, "modified": fields.get("date", "")[:10]}
    return fields.get("title", ""), {key: value for key, value in found.items() if value}
