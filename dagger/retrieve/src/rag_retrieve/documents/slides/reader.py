"""PowerPoint: slides in their order, each a page with its title, texts, tables and speaker notes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from pydantic import JsonValue

from ..archive import check_office_file
from ..builder import TextBuilder
from ..document import LoadedDocument, tidy, unreadable
from ..ooxml import Package, Relation, relation_id
from ..safe_xml import attribute, children, first, local
from .shapes import text_of_paragraph, write_shapes

PPTX = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
PRESENTATION = "ppt/presentation.xml"
MAX_SLIDES = 5000
UNREAD = {
    "oleObject": "embedded objects",
    "package": "embedded files",
    "video": "videos",
    "audio": "sounds",
}


def read_pptx(name: str, data: bytes) -> list[LoadedDocument]:
    """Read a presentation; hidden slides are left out.

    Raises:
        StepError: `document_unreadable`: no presentation, damaged, encrypted, a zip bomb, or without
            text.
    """
    check_office_file(name, data, kind="PowerPoint presentation", suffix=".pptx", mark=PRESENTATION)
    deck = _Deck(name, data)
    builder = TextBuilder(name)
    for number, part in enumerate(deck.slides(), 1):
        builder.page()
        builder.record()
        deck.write_slide(number, part, builder)
    builder.warnings += deck.report()
    if builder.is_empty():
        why = "; ".join(builder.warnings) or "they are probably images"
        unreadable(name, f"it is empty: none of its slides has text ({why})")
    title, metadata = deck.about()
    return [builder.build(PPTX, title=title, metadata=metadata)]


class _Deck:
    """The parts of a presentation and how they are related."""

    def __init__(self, name: str, data: bytes) -> None:
        self._name = name
        self._parts = Package(name, data)
        self._footers: set[str] = set()
        self._blank: list[str] = []
        self._unread: Counter[str] = Counter()

    def slides(self) -> list[str]:
        """Return the slides' parts in the order in which they are shown."""
        related = self._parts.related(PRESENTATION)
        found = []
        for listed in self._parts.root(PRESENTATION).iter("{*}sldId"):
            key = relation_id(listed)
            if key in related:
                found.append(related[key].part)
        if len(found) > MAX_SLIDES:
            unreadable(self._name, f"it has {len(found)} slides; at most {MAX_SLIDES} are accepted")
        return found

    def write_slide(self, number: int, part: str, builder: TextBuilder) -> None:
        """Append a slide, its comments and the speaker's notes."""
        if part not in self._parts.names:
            builder.warnings.append(f"slide {number} is missing and left out")
            return
        root = self._parts.root(part)
        if attribute(root, "show", "1") in ("0", "false"):
            builder.warnings.append(f"slide {number} is hidden and is left out")
            return
        related = self._parts.related(part)
        length = builder.length
        write_shapes(root, builder, self._footers, lambda key: self._target(related, key))
        if builder.length == length and next(iter(root.iter("{*}pic")), None) is not None:
            self._blank.append(str(number))
        self._unread.update(UNREAD[kind] for kind, _ in related.values() if kind in UNREAD)
        for kind, target in related.values():
            if kind == "notesSlide":
                if notes := "\n".join(self._notes(target)):
                    builder.paragraph(f"Notes: {notes}")
            elif kind in ("comments", "comment"):
                for comment in self._comments(target):
                    builder.paragraph(f"Comment: {comment}")

    def report(self) -> list[str]:
        """Return what of the slides was left out."""
        lines = [f"{count} {what} were left out" for what, count in sorted(self._unread.items())]
        if self._blank:
            lines.append(f"no text on slide(s) {', '.join(self._blank)}, only images")
        return lines

    def about(self) -> tuple[str, dict[str, JsonValue]]:
        """Return the title of the presentation, and who changed it when."""
        if "docProps/core.xml" not in self._parts.names:
            return "", {}
        fields = {local(field): tidy(field.text) for field in self._parts.root("docProps/core.xml")}
        found: dict[str, JsonValue] = {
            "author": fields.get("creator", ""), "modified": fields.get("modified", "")[:10]
        }  # fmt: skip
        title = fields.get("title", "")
        generic = title.lower() in ("powerpoint presentation", "powerpoint-präsentation", "slide 1")
        return "" if generic else title, {key: value for key, value in found.items() if value}

    def _target(self, related: dict[str, Relation], key: str) -> Any | None:
        part = related[key].part if key in related else ""
        return (
            self._parts.root(part) if part in self._parts.names and part.endswith(".xml") else None
        )

    def _notes(self, part: str) -> Iterator[str]:
        if part not in self._parts.names:
            return
        for shape in self._parts.root(part).iter("{*}sp"):
            kind = next(iter(shape.iter("{*}ph")), None)
            if kind is not None and attribute(kind, "type") == "body":
                yield from filter(None, map(text_of_paragraph, shape.iter("{*}p")))

    def _comments(self, part: str) -> Iterator[str]:
        if part not in self._parts.names:
            return
        for comment in self._parts.root(part).iter("{*}cm", "{*}reply"):
            plain = first(comment, "text")
            rich = first(comment, "txBody")
            lines = [plain.text or ""] if plain is not None else []
            if rich is not None:
                lines += map(text_of_paragraph, children(rich, "p"))
            if text := " ".join(" ".join(lines).split()):
                yield text
