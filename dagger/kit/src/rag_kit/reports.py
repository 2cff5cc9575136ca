"""Results of ingest, delete and list: plain data for the command line and the service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from pydantic import BaseModel, Field, JsonValue

from .errors import StepError


class Failure(BaseModel):
    """A document that could not be ingested; its stored version stays."""

    document_id: str
    code: str
    message: str

    @classmethod
    def of(cls, document_id: str, error: StepError) -> Self:
        """Return why a document failed."""
        return cls(document_id=document_id, code=error.code, message=error.message)


class FileWarning(BaseModel):
    """Something in a file that was read otherwise than it stands there, or left out."""

    document_id: str = Field(description="The file; for its records, too.")
    message: str = Field(description="What and where, and what was done about it.")


class Skipped(BaseModel):
    """Files of a folder or an upload that were not read, counted by ending."""

    reason: str = Field(
        description="`format`: not one that is read; `hidden`: files and whole folders whose name "
        "begins with a dot; `store`: of the store itself; `no file`; `link out of the folder`."
    )
    ending: str = Field(description='Of their names, like `.png`; "" without one.')
    files: int = Field(description="How many.")


class IngestReport(BaseModel):
    """What an ingest did, by document id."""

    collection: str
    added: list[str] = Field(default_factory=list)
    updated: list[str] = Field(default_factory=list)
    unchanged: list[str] = Field(default_factory=list)
    deleted: list[str] = Field(default_factory=list)
    missing: list[str] = Field(
        default_factory=list, description="In the collection, gone from the folder, and not pruned."
    )
    failed: list[Failure] = Field(default_factory=list)
    warnings: list[FileWarning] = Field(
        default_factory=list, description="Parts of files that were read otherwise, or left out."
    )
    skipped: list[Skipped] = Field(
        default_factory=list, description="Files that were not read, and why, by their endings."
    )
    chunks: int = Field(0, description="Passages written.")
    embeddings: int = Field(0, description="Texts embedded.")


class SyncPlan(BaseModel):
    """What a sync of a source would do, by document id; of a file with many records, the file."""

    collection: str
    source: str = Field(description="Address of the source.")
    added: list[str] = Field(default_factory=list)
    changed: list[str] = Field(
        default_factory=list, description="To be read again; what turns out the same is kept."
    )
    unchanged: list[str] = Field(default_factory=list)
    removed: list[str] = Field(
        default_factory=list, description="Brought by an earlier sync and gone from the source."
    )
    prune: bool = Field(False, description="Whether those are deleted.")
    refused: list[Failure] = Field(
        default_factory=list, description="There, but not read; what is stored of it stays."
    )
    skipped: list[Skipped] = Field(
        default_factory=list, description="Files of other formats and the like, counted."
    )
    warnings: list[str] = Field(default_factory=list, description="Of the whole source.")


class SyncReport(IngestReport):
    """What a sync did, by document id."""

    source: str = Field("", description="Address of the source.")
    notes: list[str] = Field(default_factory=list, description="Warnings of the whole source.")


class SourceInfo(BaseModel):
    """A source that a collection has documents of."""

    collection: str
    source: str = Field(description="Its address.")
    name: str = Field(description="First part of the ids of its documents.")
    documents: int


class DocumentInfo(BaseModel):
    """A document in a collection."""

    document_id: str
    title: str
    source: str
    content_type: str
    content_hash: str
    characters: int
    chunks: int
    metadata: dict[str, JsonValue]


class StoredDocument(DocumentInfo):
    """A document with its text."""

    text: str
    pages: list[int] = Field(description="Offset at which each page starts; empty without pages.")
    boxes: list[tuple[int, int, float, float, float, float]] = Field(
        default_factory=list,
        exclude_if=lambda boxes: not boxes,
        description="Lines that were recognised in scanned pages: start and end in the text, and left, "
        "top, right and bottom from the top left of the page, in points; in pixels for an image.",
    )
    file_digest: str = Field(
        "",
        exclude_if=lambda digest: not digest,
        description="SHA-256 of the file, in hexadecimal, of a PDF; it tells whether a file is still the one "
        "that was read.",
    )


class CollectionInfo(BaseModel):
    """A collection and what it was built with."""

    name: str
    documents: int
    chunks: int
    embedding_model: str
    corpus_digest: str
    problem: str | None = Field(
        None, description="Why it cannot be read; nothing else is known of it then."
    )

    @classmethod
    def damaged(cls, name: str, problem: str) -> Self:
        """Return a collection that cannot be read."""
        return cls(
            name=name, documents=0, chunks=0, embedding_model="", corpus_digest="", problem=problem
        )


@dataclass(frozen=True)
class Progress:
    """Progress of an ingest; the totals count what is known so far.

    Args:
        done: Documents stored, or found unchanged.
        total: Documents.
        document_id: The last one.
        passages: Passages embedded.
        passages_total: Passages cut.
    """

    done: int
    total: int
    document_id: str
    passages: int = 0
    passages_total: int = 0


@dataclass
class Counters:
    """How often expensive operations ran since the retriever was opened."""

    model_loads: int = 0
    store_opens: int = 0
    texts_embedded: int = 0
    queries_embedded: int = 0
