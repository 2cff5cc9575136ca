"""Checks before an Office file, which is a zip archive, is unpacked: kind, size, no zip bomb."""

from __future__ import annotations

import io
import zipfile

from .document import unreadable

MAX_UNPACKED_BYTES = 200 * 1024 * 1024
MAX_RATIO = 200  # unpacked to packed size of one part; XML of prose packs about 1:10
SMALL_BYTES = 1024 * 1024  # the ratio of smaller parts is not checked
MAX_PARTS = 10_000
OLD_OFFICE = b"\xd0\xcf\x11\xe0"  # OLE: .doc, .xls, .ppt, and encrypted files


def check_office_file(name: str, data: bytes, *, kind: str, suffix: str) -> None:
    """Refuse a file that is no Office file, or unpacks to more than is accepted.

    Args:
        name: The file's name.
        data: Its content.
        kind: What it should be, for people, e.g. `Word document`.
        suffix: Its extension, e.g. `.docx`.

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
        unreadable(name, f"it is not a {kind} ({error}); save it again as {suffix}")
    _check_sizes(name, archive.infolist(), suffix)
    if "[Content_Types].xml" not in archive.namelist():
        unreadable(name, f"it is a zip archive, but no {kind}; unpack it and add its files")


def _check_sizes(name: str, parts: list[zipfile.ZipInfo], suffix: str) -> None:
    unpacked = sum(part.file_size for part in parts)
    if unpacked > MAX_UNPACKED_BYTES or len(parts) > MAX_PARTS:
        unreadable(
            name,
            f"it unpacks to {unpacked} bytes in {len(parts)} parts; at most {MAX_UNPACKED_BYTES} "
            f"in {MAX_PARTS} are accepted: split the document",
        )
    for part in parts:
        if part.file_size > SMALL_BYTES and part.file_size > MAX_RATIO * part.compress_size:
            unreadable(
                name,
                f"its part {part.filename!r} unpacks from {part.compress_size} to "
                f"{part.file_size} bytes, as a zip bomb does; save it again as {suffix}",
            )
