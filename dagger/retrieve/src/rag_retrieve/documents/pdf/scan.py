"""Scanned pages of a PDF: drawn, recognised, and given places as if they had text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import ocr
from ..document import LineBox
from .page import Piece

SCALE = 200 / 72  # pixels a point: 200 dots per inch
TYPE_SHARE = 0.75  # of a line's height, the size of its type
BASELINE_SHARE = 0.2  # of a line's height, from its lower edge to its baseline


def draw(page: Any) -> tuple[NDArray[np.uint8], float]:
    """Return a page of PDFium as an RGB image, and how many pixels a point has there."""
    width, height = page.get_size()
    scale = min(SCALE, math.sqrt(ocr.MAX_PIXELS / max(1.0, width * height)))
    return page.render(scale=scale, rev_byteorder=True).to_numpy()[:, :, :3].copy(), scale


def recognise(image: NDArray[np.uint8], scale: float) -> list[ocr.ScannedLine]:
    """Return the lines of a drawn page, their boxes in points."""
    return [
        ocr.ScannedLine(line.text.strip(), *(edge / scale for edge in line[1:]))
        for line in ocr.recognise(image)
    ]


def pieces_of(lines: Sequence[ocr.ScannedLine], height: float) -> list[Piece]:
    """Return recognised lines as the pieces of text of a page, which count upwards from its foot.

    Args:
        lines: Their boxes in points.
        height: Of the page, in points.
    """
    pieces = []
    for text, left, top, right, bottom in lines:
        tall = bottom - top
        baseline = height - bottom + BASELINE_SHARE * tall
        pieces.append(Piece(text, left, right, baseline, max(1.0, TYPE_SHARE * tall)))
    return pieces


def boxes_of(lines: Sequence[ocr.ScannedLine], text: str, start: int) -> list[LineBox]:
    """Return where recognised lines stand in the text of their page; without those that were changed.

    Args:
        lines: The lines.
        text: The text of their page.
        start: Where it begins in the document.
    """
    boxes: list[LineBox] = []
    taken: set[int] = set()
    for line, *box in lines:
        at = text.find(line)
        while at in taken:
            at = text.find(line, at + 1)
        if at >= 0:
            taken.add(at)
            boxes.append(LineBox(start + at, start + at + len(line), *box))
    return sorted(boxes)
