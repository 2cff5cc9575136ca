"""Archives: every file in a zip or tar by the loader of its ending, bounded in count, size and depth."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO, Any, NamedTuple

from .archive import DAMAGES
from .budget import Budget
from .document import MAX_DOCUMENT_BYTES, LoadedDocument, tidy, unreadable
from .members import Members, with_warnings

MAX_ENTRIES = 100_000  # of an archive, those that are not read counted
BROKEN = (*DAMAGES, tarfile.TarError, lzma.LZMAError, zlib.error)
ENCRYPTED = 1  # flag of a member of a zip archive


class _Member(NamedTuple):
    """A file of an archive: its path, its size as the archive says, and how it is opened."""

    path: str
    size: int
    open: Any


def read_zip(name: str, data: bytes, budget: Budget) -> list[LoadedDocument]:
    """Read the files of a zip archive, as documents `archive.zip/path`.

    Raises:
        StepError: `document_unreadable`: no zip archive, or no file of it can be read.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except BROKEN as error:
        unreadable(name, f"it is not a zip archive ({tidy(str(error))}); check the file")
    if len(archive.infolist()) > MAX_ENTRIES:
        unreadable(name, f"it holds over {MAX_ENTRIES} files; split it")
    return _documents(name, _zipped(archive), budget)


def _zipped(archive: zipfile.ZipFile) -> Iterator[_Member]:
    for entry in archive.infolist():
        if not entry.is_dir():
            size = -1 if entry.flag_bits & ENCRYPTED else entry.file_size
            yield _Member(entry.filename, size, lambda entry=entry: archive.open(entry))


def read_tar(name: str, data: bytes, budget: Budget) -> list[LoadedDocument]:
    """Read the files of a tar archive, compressed or not, as documents `archive.tar/path`.

    Raises:
        StepError: `document_unreadable`: no tar archive, or no file of it can be read.
    """
    try:
        archive = tarfile.open(fileobj=io.BytesIO(data), mode="r|*")  # noqa: SIM115, closed below
    except BROKEN as error:
        unreadable(name, f"it is not a tar archive ({tidy(str(error))}); check the file")
    with archive:
        return _documents(name, _tarred(archive), budget)


def _tarred(archive: tarfile.TarFile) -> Iterator[_Member]:
    """Yield the files in their order; links and devices are no files."""
    for number, entry in enumerate(archive):
        if number >= MAX_ENTRIES:
            return
        if entry.isfile():
            yield _Member(entry.name, entry.size, lambda entry=entry: archive.extractfile(entry))


def read_compressed(name: str, data: bytes, budget: Budget) -> list[LoadedDocument]:
    """Read a file that is compressed alone, `notes.txt.gz`; a compressed tar archive as such.

    Raises:
        StepError: `document_unreadable`: damaged, too large, or its content cannot be read.
    """
    path = PurePosixPath(name)
    if PurePosixPath(path.stem).suffix.lower() == ".tar":
        return read_tar(name, data, budget)
    openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    file: Any = openers[path.suffix.lower()](io.BytesIO(data))
    return _documents(name, iter([_Member(path.stem, 0, lambda: file)]), budget)


def _documents(name: str, members: Iterator[_Member], budget: Budget) -> list[LoadedDocument]:
    reader = Members(name, budget)
    documents: list[LoadedDocument] = []
    try:
        for member in members:
            documents += _read(member, reader)
    except BROKEN as error:
        reader.warnings.append(f"it breaks off ({tidy(str(error))}); what follows is left out")
    warnings = reader.report()
    if not documents:
        unreadable(name, f"no file in it can be read: {'; '.join(warnings[:5]) or 'it is empty'}")
    return with_warnings(documents, warnings)


def _read(member: _Member, reader: Members) -> list[LoadedDocument]:
    path = _safe(member.path)
    if not reader.is_read(path):
        return []
    if member.size < 0:
        reader.warnings.append(f"{path}: it is encrypted; unpack the archive and add its files")
        return []
    room = min(reader.room(), MAX_DOCUMENT_BYTES)
    if not room:
        return []
    if member.size > room:
        reader.warnings.append(f"{path}: it has {member.size} bytes; at most {room} are read")
        return []
    try:
        content = _limited(member.open(), room)
    except BROKEN as error:
        reader.warnings.append(f"{path}: it is damaged ({tidy(str(error))})")
        return []
    if len(content) > room:
        reader.warnings.append(f"{path}: it unpacks to more than {room} bytes; it is left out")
        return []
    return reader.load(path, content)


def _limited(file: IO[bytes] | None, room: int) -> bytes:
    """Return the content, or one byte more than there is room for."""
    return file.read(room + 1) if file is not None else b""


def _safe(path: str) -> str:
    """Return a member's path without a root, a drive and steps upwards."""
    parts = path.replace("\\", "/").encode("utf-8", "replace").decode().split("/")
    return "/".join(part for part in parts if part not in ("", ".", "..")) or "unnamed"
