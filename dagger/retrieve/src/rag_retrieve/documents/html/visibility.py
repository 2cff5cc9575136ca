"""Which elements of a page its reader never sees: hidden, and opened by no control."""

from __future__ import annotations

import re
from collections.abc import Iterator

from selectolax.lexbor import LexborHTMLParser, LexborNode

HIDING = r"(?:display\s*:\s*none|visibility\s*:\s*hidden)"
HIDING_STYLE = re.compile(HIDING, re.IGNORECASE)
STRIKING_STYLE = re.compile(r"text-decoration(?:-line)?\s*:[^;]*line-through", re.IGNORECASE)
HIDING_RULE = re.compile(rf"([^{{}}]+)\{{[^{{}}]*{HIDING}[^{{}}]*\}}", re.IGNORECASE)
STRIKING_RULE = re.compile(r"([^{}]+)\{[^{}]*line-through[^{}]*\}", re.IGNORECASE)
AT_RULE = re.compile(r"@[^{};]*\{(?:[^{}]*\{[^{}]*\})*[^{}]*\}|/\*.*?\*/", re.DOTALL)
SIMPLE_SELECTOR = re.compile(r"[a-z]*[.#][\w-]+", re.IGNORECASE)
POINTING = ("aria-controls", "aria-owns", "data-target", "data-bs-target", "data-controls", "href")
POINTERS = ",".join(f"[{name}]" for name in POINTING[:-1]) + ',a[href^="#"]'
OPENING = frozenset({"aria-expanded", "aria-controls", "data-toggle", "data-bs-toggle"}) | {
    *("data-target", "data-bs-target")
}
TITLES = frozenset({"h1", "h2", "h3", "h4", "h5", "h6", "dt", "summary"})


class Visibility:
    """Tells of each element of one page whether a reader can see it."""

    def __init__(self, tree: LexborHTMLParser) -> None:
        self._ids = {node.attributes.get("id") or "" for node in tree.css("[id]")}
        self._pointed = set(_pointed_at(tree))
        self._hidden: set[int] = set()
        self._openers: set[int] = set()
        for node in _hidden(tree):
            if self._is_opened(node):
                self._openers.update(opener.mem_id for opener in _openers(node, self._ids))
            else:
                self._hidden.add(node.mem_id)
        self._hidden.update(node.mem_id for node in _struck(tree))

    def is_hidden(self, node: LexborNode) -> bool:
        """Tell whether an element is hidden or struck through, and no control of the page opens it."""
        return node.mem_id in self._hidden

    def is_title(self, button: LexborNode) -> bool:
        """Tell whether a button names what it opens, and is not there to do something."""
        if OPENING & button.attributes.keys() or button.mem_id in self._openers:
            return True
        parent = button.parent
        return parent is not None and parent.tag in TITLES

    def _is_opened(self, node: LexborNode) -> bool:
        attributes = node.attributes
        role = attributes.get("role") or ""
        if attributes.get("id") in self._pointed or attributes.get("hidden") == "until-found":
            return True
        if role == "tabpanel" or ("aria-labelledby" in attributes and "dialog" not in role):
            return True
        return bool(_openers(node, self._ids))


def _openers(node: LexborNode, ids: set[str]) -> list[LexborNode]:
    """Return the controls in the element right before a hidden one; `ids` are those of the page."""
    before = node.prev
    while before is not None and not before.is_element_node:
        before = before.prev
    if before is None:
        return []
    if before.tag in ("label", "summary", "button"):
        return [before] if _opens(before, ids) else []
    return [one for one in before.css("button,label,summary,[aria-expanded]") if _opens(one, ids)]


def _opens(control: LexborNode, ids: set[str]) -> bool:
    """Tell whether a control may open what follows it: one that names an element here opens only that."""
    if not ids.isdisjoint(_targets(control)):
        return False
    return control.tag != "button" or control.attributes.get("type") not in ("submit", "reset")


def _pointed_at(tree: LexborHTMLParser) -> Iterator[str]:
    """Yield the ids of the elements that a control or a link opens."""
    for node in tree.css(POINTERS):
        yield from _targets(node)


def _targets(control: LexborNode) -> Iterator[str]:
    """Yield the ids that a control or a link points at."""
    for name in POINTING:
        for word in (control.attributes.get(name) or "").split():
            yield word.removeprefix("#")


def _hidden(tree: LexborHTMLParser) -> Iterator[LexborNode]:
    yield from tree.css('[hidden],[aria-hidden="true"]')
    yield from _styled(tree, HIDING_STYLE, HIDING_RULE)


def _struck(tree: LexborHTMLParser) -> Iterator[LexborNode]:
    yield from tree.css("del,s,strike")
    yield from _styled(tree, STRIKING_STYLE, STRIKING_RULE)


def _styled(
    tree: LexborHTMLParser, style: re.Pattern[str], rule: re.Pattern[str]
) -> Iterator[LexborNode]:
    """Yield the elements with a style, their own or by a class or id in a style sheet of the page.

    Rules for some media or with other selectors are not looked at.
    """
    yield from (
        node for node in tree.css("[style]") if style.search(node.attributes.get("style") or "")
    )
    for sheet in tree.css("style"):
        for match in rule.finditer(AT_RULE.sub("", sheet.text())):
            for selector in match[1].split(","):
                if SIMPLE_SELECTOR.fullmatch(selector.strip()):
                    yield from tree.css(selector.strip())
