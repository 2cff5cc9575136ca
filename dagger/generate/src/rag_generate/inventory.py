"""Questions for all there is of a thing, `Which plans are there?`, and headings that are the answer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from .sentences import Sentence
from .structure import Echoes, Part

_THING = re.compile(
    r"^\W*(?:(?:what|which)(?: (?:kinds?|types?|sorts?) of)? (?:\w+ ){0,2}?(?P<what>[a-z]\w*s)"
    r" (?:exist|(?:do|does|can|could|may) .+"
    r"|(?:is|are|were) (?:there|available|offered|used|listed|supported|known)\b.*)"
    r"|(?:please )?(?:list|name|enumerate|show|give|tell)(?: (?:me|us|all|every|each|the))+"
    r" (?P<list>[a-z]\w*s)(?: there (?:is|are))?)\W*$",
    re.IGNORECASE,
)
VERSION = re.compile(
    r"\W*(?:(?:version|release|v)\W?)?([0-9]+(?:\.[0-9]+)+)(?![\w.])", re.IGNORECASE
)
VERSIONED = re.compile(r"\b(?:versions?|releases?)\b", re.IGNORECASE)


def thing_asked(query: str) -> str:
    """Return the thing of which all are asked for, as it is called; "" when none is."""
    match = _THING.match(query)
    return (match["what"] or match["list"]) if match else ""


def version_of(heading: str) -> float | None:
    """Return the version that a heading begins with as a number to compare; None without one."""
    match = VERSION.match(heading)
    if not match:
        return None
    parts = [min(int(part), 9999) for part in match[1].split(".")[:4]]
    return float(sum(part * 10000 ** (3 - at) for at, part in enumerate(parts)))


def heading_lists(parts: Sequence[Part], text: str, thing: str, echoes: Echoes) -> Iterator[Part]:
    """Yield the headings below one that names the thing, and those that are versions, as lists.

    Args:
        parts: The parts of a passage.
        text: The passage.
        thing: What is asked for.
        echoes: Whether a text has only words of the question.
    """
    headings = [part for part in parts if part.sentence.kind == "heading"]
    named = [text[slice(*one.sentence[:2])] for one in headings]
    groups = [
        [one for one in headings if one.titles[-1:] == (name,)] for name in named if echoes(name)
    ]
    if VERSIONED.fullmatch(thing):
        groups.append([one for one, name in zip(headings, named, strict=True) if version_of(name)])
    for group in groups:
        if len(group) > 1:
            span = Sentence(group[0].sentence.start, group[-1].sentence.end, "list")
            items = tuple(one.sentence for one in group)
            yield Part(span, group[0].titles, (thing,), items=items)
