"""The text of Word paragraphs: what counts as text, and what hangs on a paragraph."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from docx.oxml.ns import qn

from .equations import MATH, linear
from .styles import Styles

TEXT = {
    qn("w:tab"): "\t",
    qn("w:br"): "\n",
    qn("w:cr"): "\n",
    qn("w:noBreakHyphen"): "-",
}
FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
HIDDEN = {FALLBACK} | {
    qn(f"w:{name}")
    for name in (
        "del",
        "moveFrom",
        "pPr",
        "rPr",
        "tblPr",
        "tcPr",
        "trPr",
        "sdtPr",
        "instrText",
        "rt",
    )
}
BOX = qn("w:txbxContent")
REFERENCES = {
    qn("w:commentReference"): "comments",
    qn("w:footnoteReference"): "footnotes",
    qn("w:endnoteReference"): "endnotes",
}
SOFT_HYPHEN = "\u00ad"


@dataclass
class Paragraph:
    """The text of a paragraph and what hangs on it.

    Attributes:
        text: Runs, links, insertions, equations; nothing deleted, struck through or hidden.
        boxes: Contents of its text boxes.
        references: Kind (`comments`, `footnotes`, `endnotes`) and id of its notes.
    """

    text: str = ""
    boxes: list[Any] = field(default_factory=list)
    references: list[tuple[str, str]] = field(default_factory=list)


def read_paragraph(element: Any, styles: Styles) -> Paragraph:
    """Read a `w:p`."""
    found = Paragraph()
    pieces: list[str] = []
    _read(element, styles, styles.of_paragraph(element), found, pieces)
    found.text = "".join(pieces).replace(SOFT_HYPHEN, "").strip()
    return found


def _read(element: Any, styles: Styles, style: str, found: Paragraph, pieces: list[str]) -> None:
    for child in element:
        tag = child.tag
        if tag == qn("w:t"):
            pieces.append(child.text or "")
        elif tag in TEXT:
            pieces.append(TEXT[tag])
        elif tag == MATH:
            pieces.append(linear(child))
        elif tag == BOX:
            found.boxes.append(child)
        elif tag in REFERENCES:
            found.references.append((REFERENCES[tag], child.get(qn("w:id"))))
        elif isinstance(tag, str) and tag not in HIDDEN and not _left_out(child, styles, style):
            _read(child, styles, style, found, pieces)


def _left_out(element: Any, styles: Styles, style: str) -> bool:
    """Whether it is a hidden or struck run, or a content control nobody has filled in."""
    if element.tag == qn("w:r"):
        return styles.hides(element, style)
    return is_placeholder(element)


def is_placeholder(element: Any) -> bool:
    """Whether it is a content control that still shows its prompt."""
    prompt = element.find(f"{qn('w:sdtPr')}/{qn('w:showingPlcHdr')}")
    return element.tag == qn("w:sdt") and prompt is not None
