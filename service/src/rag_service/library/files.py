"""Files that OpenAI clients upload before they attach them to a vector store, and what they attached.

Bytes are in a folder of RAG_HOME, everything else is in a small database beside it. A vector store is a
collection; one that was created and holds nothing yet is known here alone.
"""

from __future__ import annotations

import json
import re
import sqlite3
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from shutil import copyfileobj
from typing import TYPE_CHECKING, Any, BinaryIO

from pydantic import JsonValue

from rag_kit.errors import StepError

from .database import transaction

if TYPE_CHECKING:
    from rag_retrieve.documents import LoadedDocument

ATTACHED = re.compile(r"(file-[0-9a-f]{24})/")  # how ids of their documents begin
STALE_S = 3600.0  # an upload without an end is one of a service that was killed
TABLES = (
    """CREATE TABLE IF NOT EXISTS files (
  id TEXT PRIMARY KEY, owner TEXT, filename TEXT, purpose TEXT, bytes INTEGER, created INTEGER)""",
    """CREATE TABLE IF NOT EXISTS stores (
  id TEXT PRIMARY KEY, name TEXT, metadata TEXT, created INTEGER)""",
    """CREATE TABLE IF NOT EXISTS attachments (
  store TEXT, file TEXT, job TEXT, batch TEXT, attributes TEXT, created INTEGER,
  PRIMARY KEY (store, file))""",
)


@dataclass(frozen=True)
class StoredFile:
    """A file as it was uploaded.

    Args:
        id: `file-…`.
        owner: Name of the key it was uploaded with.
        filename: A relative path without `..`.
        purpose: As the client said.
        bytes: Its size.
        created: Seconds since the epoch.
    """

    id: str
    owner: str
    filename: str
    purpose: str
    bytes: int
    created: int


@dataclass(frozen=True)
class VectorStore:
    """A vector store that was created as one.

    Args:
        id: Name of the collection.
        name: As the client called it.
        metadata: As the client sent it.
        created: Seconds since the epoch.
    """

    id: str
    name: str
    metadata: dict[str, Any]
    created: int


@dataclass(frozen=True)
class Attachment:
    """A file in a vector store.

    Args:
        store: The collection.
        file: Id of the file.
        job: Id of the ingest.
        batch: Id of the batch it came with; may be empty.
        attributes: Metadata of its documents.
        created: Seconds since the epoch.
    """

    store: str
    file: str
    job: str
    batch: str
    attributes: dict[str, Any]
    created: int


@dataclass(frozen=True)
class FileToAttach:
    """A stored file as an ingest takes it; its documents are called `<file id>/<filename>`.

    Args:
        file: The file.
        path: Where its bytes are.
        attributes: Metadata of its documents, over their own.
    """

    file: StoredFile
    path: Path
    attributes: Mapping[str, JsonValue]

    @property
    def name(self) -> str:
        """Its id, and the prefix of its records' ids."""
        return f"{self.file.id}/{self.file.filename}"

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.file.bytes

    def load(self) -> list[LoadedDocument]:
        """Return its documents; raises `document_unreadable`."""
        from rag_retrieve.documents import load

        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            text = f"file '{self.file.id}' was deleted before it was read"
            raise StepError("document_unreadable", text) from None
        source = self.file.filename
        return [
            replace(one, source=source, metadata={**one.metadata, **self.attributes})
            for one in load(self.name, content)
        ]

    def original(self) -> None:
        """Return nothing: the file stays where it is."""

    def close(self) -> None:
        """Do nothing: the file stays."""


def is_supported(filename: str) -> bool:
    """Whether files of such a name are read, when nothing is wrong with them."""
    from rag_retrieve.documents import SUPPORTED_SUFFIXES

    return PurePosixPath(filename).suffix.lower() in SUPPORTED_SUFFIXES


class Files:
    """Keeps files and vector stores. Its methods block.

    Args:
        home: The folder of the installation.
        most: Bytes that the files of one key may have.
    """

    def __init__(self, home: Path, most: int) -> None:
        self._database, self._folder, self._most = home / "files.sqlite3", home / "files", most

    # -- files ----------------------------------------------------------------------------

    def add(
        self, owner: str, filename: str, purpose: str, content: BinaryIO, size: int
    ) -> StoredFile:
        """Keep a file.

        Raises:
            StepError: `body_too_large`, the key has too many bytes already; `storage_full`.
        """
        used = sum(file.bytes for file in self.files(owner))
        if used + size > self._most:
            raise StepError(
                "body_too_large",
                f"your files would have {used + size} bytes, and {self._most} are kept "
                "(RAG_MAX_FILES_BYTES); delete some",
                param="file",
            )
        file = StoredFile(
            f"file-{uuid.uuid4().hex[:24]}", owner, filename, purpose, size, int(time.time())
        )
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._sweep()
        part = self._folder / f"{file.id}.part"
        try:
            with part.open("xb") as target:
                part.chmod(0o600)
                copyfileobj(content, target)
            part.replace(self._folder / file.id)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise StepError("storage_full", f"the file cannot be kept: {error.strerror}") from None
        row = (file.id, owner, filename, purpose, size, file.created)
        self._write("INSERT INTO files VALUES (?, ?, ?, ?, ?, ?)", row)
        return file

    def _sweep(self) -> None:
        """Remove what a service that was killed left of uploads."""
        for part in self._folder.glob("*.part"):
            with suppress(FileNotFoundError):
                if time.time() - part.stat().st_mtime > STALE_S:
                    part.unlink()

    def files(self, owner: str) -> list[StoredFile]:
        """Return the files of a key, oldest first."""
        query = "SELECT * FROM files WHERE owner = ? ORDER BY created, rowid"
        return [StoredFile(*row) for row in self._rows(query, owner)]

    def file(self, owner: str, file_id: str, where: str = "file_id") -> StoredFile:
        """Return a file of a key; raises `not_found`, naming the field `where`."""
        query = "SELECT * FROM files WHERE owner = ? AND id = ?"
        for row in self._rows(query, owner, file_id):
            return StoredFile(*row)
        text = f"{where}: there is no file {file_id[:80]!r}; see GET /v1/files"
        raise StepError("not_found", text, param=where)

    def path(self, file: StoredFile) -> Path:
        """Return where a file's bytes are."""
        return self._folder / file.id

    def path_of(self, document_id: str) -> Path | None:
        """Return where the file of an attached document is, if it is kept; None for other documents."""
        found = ATTACHED.match(document_id)
        return self._folder / found[1] if found else None

    def delete(self, file: StoredFile) -> None:
        """Forget a file and its bytes; what it was attached to keeps its documents."""
        self._write("DELETE FROM files WHERE id = ?", (file.id,))
        self.path(file).unlink(missing_ok=True)

    # -- vector stores --------------------------------------------------------------------

    def create_store(self, store: VectorStore) -> bool:
        """Remember a vector store; returns whether its id was free."""
        row = (store.id, store.name, json.dumps(store.metadata), store.created)
        return self._write("INSERT OR IGNORE INTO stores VALUES (?, ?, ?, ?)", row) == 1

    def update_store(self, store: VectorStore) -> None:
        """Remember a vector store as it is now."""
        row = (store.id, store.name, json.dumps(store.metadata), store.created)
        self._write("INSERT OR REPLACE INTO stores VALUES (?, ?, ?, ?)", row)

    def stores(self) -> dict[str, VectorStore]:
        """Return the vector stores that were created as such, by id."""
        rows = self._rows("SELECT * FROM stores")
        return {row[0]: VectorStore(row[0], row[1], json.loads(row[2]), row[3]) for row in rows}

    def delete_store(self, store: str) -> None:
        """Forget a vector store and what was attached to it."""
        self._write("DELETE FROM stores WHERE id = ?", (store,))
        self._write("DELETE FROM attachments WHERE store = ?", (store,))

    # -- attachments ----------------------------------------------------------------------

    def attach(self, attachments: Iterable[Attachment]) -> None:
        """Remember what is attached; a file attached again has the newer ingest."""
        for one in attachments:
            row = (one.store, one.file, one.job, one.batch, json.dumps(one.attributes), one.created)
            self._write("INSERT OR REPLACE INTO attachments VALUES (?, ?, ?, ?, ?, ?)", row)

    def attachments(self, store: str) -> list[Attachment]:
        """Return what is attached to a vector store, oldest first."""
        order = "SELECT * FROM attachments WHERE store = ? ORDER BY created, rowid"
        return self._attachments(order, store)

    def attachments_of(self, file_id: str) -> list[Attachment]:
        """Return where a file is attached."""
        return self._attachments("SELECT * FROM attachments WHERE file = ?", file_id)

    def _attachments(self, query: str, value: str) -> list[Attachment]:
        return [
            Attachment(store, file, job, batch, json.loads(attributes), created)
            for store, file, job, batch, attributes, created in self._rows(query, value)
        ]

    def detach(self, store: str, file_id: str) -> None:
        """Forget that a file is attached."""
        self._write("DELETE FROM attachments WHERE store = ? AND file = ?", (store, file_id))

    # -- database -------------------------------------------------------------------------

    def _rows(self, query: str, *values: str) -> list[Any]:
        if not self._database.exists():
            return []
        with self._open() as database:
            return database.execute(query, values).fetchall()

    def _write(self, statement: str, values: Sequence[object]) -> int:
        with self._open() as database:
            return database.execute(statement, values).rowcount

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with transaction(self._database, *TABLES) as database:
                yield database
        except (OSError, sqlite3.Error) as error:
            text = f"the list of files cannot be read or written: {error}"
            raise StepError("storage_full", text) from None
