"""Checks before a file that is a zip archive is unpacked: kind, size, no zip bomb; reads its parts."""

from __future__ import annotations

import io
import zipfile
import zlib

from .document import unreadable

DAMAGES = (
    zipfile.BadZipFile,
    OSError,
    EOFError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    zlib.error,
)

MAX_UNPACKED_BYTES = 200 * 1024 * 1024
MAX_RATIO = 200  # unpacked to packed size of one part of XML; prose packs about 1:10
SMALL_BYTES = 1024 * 1024  # the ratio of smaller parts is not checked
MAX_PARTS = 10_000
OLD_OFFICE = b"\xd0\xcf\x11\xe0"  # OLE: .doc, .xls, .ppt, and encrypted files


def check_office_file(
    name: str, data: bytes, *, kind: str, suffix: str, mark: str = "[Content_Types].xml"
) -> None:
    """Refuse a file that is no Office file, or unpacks to more than is accepted.

    Args:
        name: The file's name.
        data: Its content.
        kind: What it should be, for people, e.g. `Word document`.
        suffix: Its extension, e.g. `.docx`.
        mark: A part that each file of its kind has.

    Raises:
        StepError: `document_unreadable`, with what to do.
    """
    if data.startswith(OLD_OFFICE):
        old = suffix.removesuffix("x")
        unreadable(
            name, f"it is an old {old} or is encrypted; save a copy as {suffix}, no password"
        )
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        unreadable(name, f"it is not {article(kind)} ({error}); save it again as {suffix}")
    _check_sizes(name, archive.infolist(), suffix)
    if mark not in archive.namelist():
        unreadable(name, f"it is a zip archive, but no {kind}; unpack it and add its files")


def article(kind: str) -> str:
    """Return a kind of file with its article: a Word document, an Excel workbook."""
    return f"{'an' if kind[0] in 'AEIOU' else 'a'} {kind}"


class Parts:
    """The parts of an Office file that was checked.

    Args:
        name: The file's name.
        data: Its content.
    """

    def __init__(self, name: str, data: bytes) -> None:
        self.name = name
        self._archive = zipfile.ZipFile(io.BytesIO(data))
        self.names = self._archive.namelist()

    def read(self, part: str) -> bytes:
        """Return the content of a part.

        Raises:
            StepError: `document_unreadable`: there is none, or it is damaged or encrypted.
        """
        try:
            return self._archive.read(part)
        except KeyError:
            unreadable(self.name, f"it is damaged: its part {part!r} is missing; save it again")
        except DAMAGES as error:
            unreadable(self.name, f"its part {part!r} is damaged ({error}); save it again")


def _check_sizes(name: str, parts: list[zipfile.ZipInfo], suffix: str) -> None:
    unpacked = sum(part.file_size for part in parts)
    if unpacked > MAX_UNPACKED_BYTES or len(parts) > MAX_PARTS:
        unreadable(
            name,
            f"it unpacks to {unpacked} bytes in {len(parts)} parts; at most {MAX_UNPACKED_BYTES} "
            f"in {MAX_PARTS} are accepted: split the document",
        )
    for part in parts:
        is_text = part.filename.endswith((".xml", ".rels", ".html", ".xhtml", ".htm"))
        if is_text and part.file_size > max(SMALL_BYTES, MAX_RATIO * part.compress_size):
            unreadable(
                name,
                f"its part {part.filename!r} unpacks from {part.compress_size} to "
                f"{part.file_size} bytes, as a zip bomb does; save it again as {suffix}",
            )
