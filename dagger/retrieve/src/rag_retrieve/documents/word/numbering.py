"""Automatic numbers of Word paragraphs, e.g. `3.2` or `(b)`: Word stores rules, not numbers."""

from __future__ import annotations

import re
from typing import Any

from docx.oxml.ns import qn

from ..numerals import numeral
from .styles import Styles, switched, value

PLACE = re.compile(r"%([1-9])")
NO_NUMBER = ("bullet", "none")


class Numbering:
    """Counts the numbered paragraphs of a document, in their order.

    Args:
        root: The numbering part, or None without one.
        styles: The document's styles, which may number too.
    """

    def __init__(self, root: Any | None, styles: Styles) -> None:
        found = () if root is None else root
        self._lists = {n.get(qn("w:abstractNumId")): n for n in found if _is(n, "abstractNum")}
        self._nums = {n.get(qn("w:numId")): n for n in found if _is(n, "num")}
        self._styles = styles
        self._counts: dict[str, dict[int, int]] = {}  # by list: the number reached on each level
        self._started: set[str] = set()

    def label(self, paragraph: Any) -> str:
        """Return the number in front of the next paragraph, "" of one that has none."""
        number, level = self._place(paragraph)
        if (num := self._nums.get(number)) is None:
            return ""
        name = value(num.find(qn("w:abstractNumId")))
        levels = self._levels(name, num)
        if level not in levels:
            return ""
        counts = self._count(name, number, level, levels)
        return self._written(level, levels, counts)

    def _place(self, paragraph: Any) -> tuple[str, int]:
        """Return the id of the list a paragraph belongs to ("" for none), and its level."""
        style = self._styles.of_paragraph(paragraph)
        own = paragraph.find(f"{qn('w:pPr')}/{qn('w:numPr')}")
        inherited = self._styles.numbering(style)
        number = level = ""
        for properties in (own, inherited):
            if properties is not None:
                number = number or value(properties.find(qn("w:numId")))
                level = level or value(properties.find(qn("w:ilvl")))
        return number, int(level) if level.isdigit() else self._level_of(number, style)

    def _level_of(self, number: str, style: str) -> int:
        """Return the level that a style is bound to in a list."""
        num = self._nums.get(number)
        if num is not None:
            levels = self._levels(value(num.find(qn("w:abstractNumId"))), num)
            for level, rule in levels.items():
                if style and value(rule.find(qn("w:pStyle"))) == style:
                    return level
        return 0

    def _levels(self, name: str, num: Any) -> dict[int, Any]:
        found = self._lists.get(name)
        levels = {} if found is None else {_level(each): each for each in found.iter(qn("w:lvl"))}
        return levels | {_level(each): each for each in num.iter(qn("w:lvl"))}

    def _count(self, name: str, number: str, level: int, levels: dict[int, Any]) -> dict[int, int]:
        counts = self._counts.setdefault(name, {})
        if number not in self._started:
            self._started.add(number)
            for override in self._nums[number].iter(qn("w:lvlOverride")):
                start = override.find(qn("w:startOverride"))
                if start is not None:
                    counts[_level(override)] = _number(start) - 1
        for upper in range(level):
            counts.setdefault(upper, _start(levels.get(upper)))
        counts[level] = counts.get(level, _start(levels[level]) - 1) + 1
        for lower in [each for each in counts if each > level]:
            del counts[lower]
        return counts

    def _written(self, level: int, levels: dict[int, Any], counts: dict[int, int]) -> str:
        rule = levels[level]
        if value(rule.find(qn("w:numFmt")), "decimal") in NO_NUMBER:
            return ""
        plain = bool(switched(rule, qn("w:isLgl")))

        def written(place: re.Match[str]) -> str:
            which = int(place[1]) - 1
            upper = levels.get(which)
            style = "decimal" if plain or upper is None else value(upper.find(qn("w:numFmt")))
            return numeral(counts.get(which, _start(upper)), style)

        return PLACE.sub(written, value(rule.find(qn("w:lvlText")))).strip()


def _is(element: Any, name: str) -> bool:
    return bool(element.tag == qn(f"w:{name}"))


def _level(element: Any) -> int:
    text = element.get(qn("w:ilvl"), "0")
    return int(text) if text.isdigit() else 0


def _start(rule: Any | None) -> int:
    return _number(None if rule is None else rule.find(qn("w:start")))


def _number(element: Any | None) -> int:
    text = value(element, "1")
    return int(text) if text.isdecimal() and len(text) < 7 else 1
