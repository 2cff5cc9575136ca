"""Recognises the text of scans and images. Uses rapidocr with the models in its wheel (extra `ocr`)."""

from __future__ import annotations

import threading
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

HINT = "pip install 'rag-retrieve[ocr]' reads scans"
MAX_PIXELS = 40_000_000  # of one page; A4 at 600 dots per inch has 35 million
MAX_PAGES = 500  # of one file; a page takes a second or more
SAME_LINE = 0.5  # of a line's height; lines closer than that stand beside each other
RECOGNISING = threading.Lock()  # one page at a time uses all processors already


class ScannedLine(NamedTuple):
    """A line that was recognised, and its box in pixels from the top left of the page."""

    text: str
    left: float
    top: float
    right: float
    bottom: float


def is_available() -> bool:
    """Whether the extra is installed."""
    return find_spec("rapidocr") is not None


@cache
def _engine() -> Any:
    from rapidocr import RapidOCR

    return RapidOCR(params={"Global.log_level": "error"})


def recognise(image: NDArray[np.uint8]) -> list[ScannedLine]:
    """Return the lines of a page, from its top to its bottom, those beside each other from the left.

    Args:
        image: Height x width x 3, RGB.
    """
    with RECOGNISING:
        found = _engine()(image[:, :, ::-1])  # OpenCV has blue first
    if found.boxes is None:
        return []
    lines = [
        ScannedLine(text, *map(float, (*box.min(axis=0), *box.max(axis=0))))
        for text, box in zip(found.txts, found.boxes, strict=True)
        if text.strip()
    ]
    return _in_order(lines)


def _in_order(lines: list[ScannedLine]) -> list[ScannedLine]:
    rows: list[list[ScannedLine]] = []
    for line in sorted(lines, key=lambda line: line.top + line.bottom):
        above = rows[-1][-1] if rows else None
        height = line.bottom - line.top
        if above and abs(line.top + line.bottom - above.top - above.bottom) < SAME_LINE * height:
            rows[-1].append(line)
        else:
            rows.append([line])
    return [line for row in rows for line in sorted(row, key=lambda line: line.left)]
