"""The styles of a Word document: their names, what they hide, how they number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from docx.oxml.ns import qn

HIDING = (qn("w:strike"), qn("w:dstrike"), qn("w:vanish"))
OFF = ("0", "false", "off")


def value(element: Any | None, default: str = "") -> str:
    """Return the `w:val` of an element, the default without one."""
    return default if element is None else str(element.get(qn("w:val"), default))


def switched(properties: Any | None, tag: str) -> bool | None:
    """Return whether a property is switched on or off; None where it is not set."""
    found = None if properties is None else properties.find(tag)
    return None if found is None else value(found, "1").lower() not in OFF


class Styles:
    """The styles by id; a style has what it does not set from the one it is based on."""

    def __init__(self, root: Any) -> None:
        self._styles = {style.get(qn("w:styleId")): style for style in root.iter(qn("w:style"))}

    def name(self, style: str) -> str:
        """Return the name of a style, "" of an unknown one."""
        found = self._styles.get(style)
        return "" if found is None else value(found.find(qn("w:name")))

    def of_paragraph(self, paragraph: Any) -> str:
        """Return the id of a paragraph's style, "" without one."""
        return value(paragraph.find(f"{qn('w:pPr')}/{qn('w:pStyle')}"))

    def hides(self, run: Any, paragraph_style: str) -> bool:
        """Whether a run is struck through or hidden, by itself or by a style."""
        properties = run.find(qn("w:rPr"))
        style = "" if properties is None else value(properties.find(qn("w:rStyle")))
        return any(self._hides(properties, (style, paragraph_style), tag) for tag in HIDING)

    def numbering(self, style: str) -> Any | None:
        """Return the `w:numPr` of a paragraph style, or None."""
        found = (each.find(f"{qn('w:pPr')}/{qn('w:numPr')}") for each in self._chain(style))
        return next((each for each in found if each is not None), None)

    def _hides(self, properties: Any | None, styles: tuple[str, ...], tag: str) -> bool:
        settings = [switched(properties, tag)]
        for style in styles:
            settings += [switched(each.find(qn("w:rPr")), tag) for each in self._chain(style)]
        return next((each for each in settings if each is not None), False)

    def _chain(self, style: str) -> Iterator[Any]:
        seen: set[str] = set()
        while style in self._styles and style not in seen:
            seen.add(style)
            yield self._styles[style]
            style = value(self._styles[style].find(qn("w:basedOn")))
