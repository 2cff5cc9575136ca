"""Packages of Office Open XML: parts, and how they are related."""

from __future__ import annotations

import posixpath
from typing import Any, NamedTuple

from .archive import Parts
from .safe_xml import attribute, parse_xml


class Relation(NamedTuple):
    """What a part is related to: the last word of the relation's type, and the other part."""

    kind: str
    part: str


class Package(Parts):
    """The parts of an Office Open XML file that was checked."""

    def root(self, part: str) -> Any:
        """Return the root element of a part; raises `document_unreadable`."""
        return parse_xml(self.name, self.read(part), part)

    def related(self, part: str) -> dict[str, Relation]:
        """Return what a part is related to, by id; nothing outside of the file."""
        folder, base = posixpath.split(part)
        listing = posixpath.join(folder, "_rels", f"{base}.rels")
        if listing not in self.names:
            return {}
        return {
            attribute(one, "Id"): Relation(
                attribute(one, "Type").rpartition("/")[2],
                posixpath.normpath(posixpath.join("/", folder, attribute(one, "Target"))).lstrip(
                    "/"
                ),
            )
            for one in self.root(listing)
            if attribute(one, "TargetMode") != "External"
        }


def relation_id(element: Any) -> str:
    """Return the id of the relation that an element names (`r:id`), "" without one."""
    return next((value for key, value in element.attrib.items() if key.endswith("}id")), "")
