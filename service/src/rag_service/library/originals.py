"""The files of uploaded PDFs, kept so that their pages can be shown; within a number of bytes.

What is missing costs the page images of a document, never its text: it was evicted, came before files were
kept, or is on another replica.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

LOG = logging.getLogger(__name__)
KEPT = ".pdf"  # the format whose pages are drawn


class Originals:
    """Keeps one file a document, in a folder for each collection. Its methods block.

    Args:
        folder: Where to.
        most: Bytes of all files; those that were read longest ago make room.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self._folder, self._most = folder, most

    def keep(self, collection: str, document_id: str, content: BinaryIO) -> None:
        """Keep the file of a document; one that cannot be written is logged and left out."""
        target = self.path(collection, document_id)
        part = target.with_suffix(".part")
        try:
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with part.open("wb") as file:
                part.chmod(0o600)
                shutil.copyfileobj(content, file)
            part.replace(target)
        except OSError as error:
            with suppress(OSError):
                part.unlink()
            LOG.warning("a file is not kept, its pages are shown as text: %s", error.strerror)

    def path(self, collection: str, document_id: str) -> Path:
        """Return where the file of a document is, if it is kept."""
        name = hashlib.sha256(document_id.encode(errors="surrogateescape")).hexdigest()
        return self._folder / collection / f"{name}{KEPT}"

    def evict(self) -> None:
        """Delete the files that were read longest ago until the others have room."""
        files = []
        for path in self._folder.glob(f"*/*{KEPT}"):
            with suppress(FileNotFoundError):
                files.append((path.stat(), path))
        used = sum(found.st_size for found, _ in files)
        for found, path in sorted(files, key=lambda file: file[0].st_mtime_ns):
            if used <= self._most:
                return
            path.unlink(missing_ok=True)
            used -= found.st_size

    def read(self, collection: str, document_id: str, digest: str) -> bytes | None:
        """Return a document's file if it has this SHA-256, else None; it counts as read now."""
        path = self.path(collection, document_id)
        content = read_same(path, digest)
        if content is not None:
            with suppress(OSError):
                os.utime(path)
        return content

    def forget(self, collection: str, document_ids: Iterable[str]) -> None:
        """Delete the files of documents."""
        for document_id in document_ids:
            self.path(collection, document_id).unlink(missing_ok=True)

    def forget_collection(self, collection: str) -> None:
        """Delete the files of a collection."""
        shutil.rmtree(self._folder / collection, ignore_errors=True)

    def forget_others(self, documents_of: Callable[[str], Iterable[str]]) -> None:
        """Delete the files of documents that were deleted by others, for example by `rag documents delete`.

        Args:
            documents_of: Returns the ids of a collection's documents; none of one that is gone.
        """
        for folder in self._folder.glob("*/"):
            files = set(folder.glob(f"*{KEPT}"))  # listed first: a file is kept after its document
            for path in files - {self.path(folder.name, one) for one in documents_of(folder.name)}:
                path.unlink(missing_ok=True)


def read_same(path: Path, digest: str) -> bytes | None:
    """Return a file's bytes if they have this SHA-256, else None."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    return content if hashlib.sha256(content).hexdigest() == digest else None
