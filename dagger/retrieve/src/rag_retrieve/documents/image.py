"""Images: the text that is recognised in them, with the box of each line (extra `ocr`)."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np

from . import ocr
from .builder import TextBuilder, printable
from .document import LineBox, LoadedDocument, tidy, unreadable

TYPES = {"png": "image/png", "tif": "image/tiff", "tiff": "image/tiff", "bmp": "image/bmp"}


def read_image(name: str, data: bytes) -> list[LoadedDocument]:
    """Read the text in an image; the frames of a TIFF are pages.

    Raises:
        StepError: `document_unreadable`: no image, too large, or without text.
    """
    if not ocr.is_available():
        unreadable(name, f"it is an image; {ocr.HINT}")
    builder = TextBuilder(name)
    boxes: list[LineBox] = []
    for frame in _frames(name, data):
        builder.page()
        for line in ocr.recognise(frame):
            text = printable(line.text).strip()
            builder.paragraph(text, apart="\n")
            start = builder.length - len(text)
            boxes.append(LineBox(start, builder.length, *line[1:]))
    kind = TYPES.get(name.rpartition(".")[2].lower(), "image/jpeg")
    return [builder.build(kind, boxes=boxes)]


def _frames(name: str, data: bytes) -> Iterator[Any]:
    """Yield the frames as RGB arrays, turned as they are shown."""
    from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError

    try:
        image = Image.open(io.BytesIO(data))
        for number, frame in enumerate(ImageSequence.Iterator(image)):
            if number >= ocr.MAX_PAGES:
                return
            if frame.width * frame.height > ocr.MAX_PIXELS:
                size = f"{frame.width} x {frame.height}"
                unreadable(
                    name, f"it has {size} pixels; at most {ocr.MAX_PIXELS} are read: scale it down"
                )
            yield np.asarray(ImageOps.exif_transpose(frame).convert("RGB"))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError) as error:
        unreadable(name, f"the image is damaged ({tidy(str(error))}); save it again")
