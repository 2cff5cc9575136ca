"""Styles of OpenDocument texts: what is struck through or hidden, and how lists are numbered."""

from __future__ import annotations

from typing import Any

from ..numerals import numeral
from ..safe_xml import attribute, children, first, local

MAX_PARENTS = 20
NUMERALS = {"a": "lowerLetter", "A": "upperLetter", "i": "lowerRoman", "I": "upperRoman"}


class Styles:
    """Answers questions on styles, with what they inherit.

    Args:
        styles: The styles by name.
    """

    def __init__(self, styles: dict[str, Any]) -> None:
        self._styles = styles

    def is_unseen(self, name: str) -> bool:
        """Whether text of a style is struck through or hidden."""
        struck = self._property(name, "text-line-through-style") or self._property(
            name, "text-line-through-type"
        )
        return struck not in ("", "none") or self._property(name, "display") == "none"

    def is_title(self, name: str) -> bool:
        """Whether paragraphs of a style are the title of a document."""
        return any(attribute(style, "name") == "Title" for style in self._lineage(name))

    def number(self, name: str, level: int) -> tuple[str, str, str] | None:
        """Return prefix, format and suffix of the numbers of a list; None for one with bullets."""
        style = self._styles.get(name)
        for rule in children(style) if style is not None else ():
            if attribute(rule, "level") == str(level):
                if local(rule) != "list-level-style-number":
                    return None
                kind = attribute(rule, "num-format")
                return (
                    (attribute(rule, "num-prefix"), kind, attribute(rule, "num-suffix"))
                    if kind
                    else None
                )
        return None

    def _lineage(self, name: str) -> list[Any]:
        found: list[Any] = []
        while name in self._styles and len(found) < MAX_PARENTS:
            found.append(self._styles[name])
            name = attribute(found[-1], "parent-style-name")
        return found

    def _property(self, name: str, key: str) -> str:
        for style in self._lineage(name):
            properties = first(style, "text-properties")
            if properties is not None and (value := attribute(properties, key)):
                return value
        return ""


def written(number: int, kind: str) -> str:
    """Return the number of a list item in its format: 1, a, A, i or I."""
    return numeral(number, NUMERALS.get(kind, "decimal"))
