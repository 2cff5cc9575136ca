"""How a document is kept as points: ids, versions, payloads."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..documents import Heading, LineBox, LoadedDocument, Origin, Table
from ..documents.chunker import Chunk
from ..documents.dated import date_of
from ..documents.tabular import row_values, sheets_of
from ..stores.base import Point, Sparse
from .embedders import Vectors

NAMESPACE = uuid.UUID("6b1d2c52-5f0e-5c3a-9d61-6f0a3c2b7e11")


def document_point_id(document_id: str) -> str:
    """Return the id of a document's point."""
    return str(uuid.uuid5(NAMESPACE, f"document\0{document_id}"))


def is_document(point: Point) -> bool:
    """Tell whether a point publishes a document; on a server, others may stand in its place."""
    return point.payload.get("kind") == "document"


def content_hash(document: LoadedDocument) -> str:
    """Return the digest of everything that is stored of a document."""
    content = [
        document.document_id, document.title, document.source, document.text,
        document.content_type, document.metadata, *_structure(document).values(),
    ]  # fmt: skip
    text = json.dumps(content, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _structure(document: LoadedDocument) -> dict[str, Any]:
    return {
        "pages": list(document.pages),
        "breaks": list(document.breaks),
        "headings": [list(heading) for heading in document.headings],
        **({"tables": _tables(document.tables)} if document.tables else {}),
        **({"boxes": [list(box) for box in document.boxes]} if document.boxes else {}),
        **({"file_digest": document.file_digest} if document.file_digest else {}),
    }


def _tables(tables: Sequence[Table]) -> list[list[Any]]:
    return [[table.start, table.end, list(table.columns), table.delimiter] for table in tables]


@dataclass(frozen=True)
class Version:
    """One version of a document: enough to find all its passages."""

    document_id: str
    content_hash: str
    chunks: int

    def chunk_ids(self) -> list[str]:
        """Return the ids of this version's passages; they follow from the content alone."""
        prefix = f"chunk\0{self.document_id}\0{self.content_hash}"
        return [str(uuid.uuid5(NAMESPACE, f"{prefix}\0{index}")) for index in range(self.chunks)]


@dataclass
class Change:
    """A document on its way in (`new`) or out (`new` is None), replacing `old` if there was one.

    `old_write` marks the passages of `old`, on a store with several writers. With `exactly`, nothing is
    changed unless `old` is what is published.
    """

    document_id: str
    old: Version | None
    new: Version | None
    points: list[Point] = field(default_factory=list)
    record: Point | None = None
    old_write: str | None = None
    exactly: bool = False


def chunk_point(
    document: LoadedDocument,
    piece: Chunk,
    point_id: str,
    version: Version,
    dense: Vectors,
    sentences: Mapping[str, Any],
    sparse: Sparse,
    language: str | None,
) -> Point:
    """Return the point of a passage; `sentences` are packed by `sentence_vectors`."""
    payload: dict[str, Any] = {
        "kind": "chunk",
        "document_id": document.document_id,
        "version": version.content_hash,
        "title": document.title,
        "source": document.source,
        "text": piece.text,
        "span": list(piece.span),
        "page": piece.page,
        "metadata": {
            **document.metadata,
            **sheets_of(document, piece.span),
            **row_values(document, piece.tables),
        },
    }
    if language:
        payload["language"] = language
    if date := date_of(document):
        payload["date"] = date
    if piece.headings:
        payload["headings"] = [heading.text for heading in piece.headings]
    if piece.tables:
        payload["tables"] = _tables(piece.tables)
    if piece.in_code:
        payload["in_code"] = True
    if sentences:
        payload["sentences"] = dict(sentences)
    return Point(point_id, payload, dense, sparse)


def document_point(document: LoadedDocument, version: Version) -> Point:
    """Return the payload-only point that publishes a version of a document."""
    payload: dict[str, Any] = {
        "kind": "document",
        "document_id": document.document_id,
        "content_hash": version.content_hash,
        "chunks": version.chunks,
        "title": document.title,
        "source": document.source,
        "content_type": document.content_type,
        "characters": len(document.text),
        "metadata": document.metadata,
        "text": document.text,
        **_structure(document),
    }
    if document.origin is not None:
        payload["origin"] = asdict(document.origin)
    return Point(document_point_id(document.document_id), payload)


def loaded_document(payload: Mapping[str, Any]) -> LoadedDocument:
    """Return the document of a document point as it was loaded."""
    return LoadedDocument(
        document_id=payload["document_id"],
        title=payload["title"],
        source=payload["source"],
        text=payload["text"],
        content_type=payload["content_type"],
        pages=tuple(payload["pages"]),
        metadata=payload["metadata"],
        breaks=tuple(payload["breaks"]),
        headings=tuple(Heading(*heading) for heading in payload["headings"]),
        tables=tuple(
            Table(start, end, tuple(columns), delimiter)
            for start, end, columns, delimiter in payload.get("tables", ())
        ),
        boxes=tuple(LineBox(*box) for box in payload.get("boxes", ())),
        origin=origin_of(payload),
        file_digest=payload.get("file_digest", ""),
    )


def origin_of(payload: Mapping[str, Any]) -> Origin | None:
    """Return where a sync brought a document from; None for what came by hand."""
    stored = payload.get("origin")
    lists = {name: tuple(stored[name]) for name in ("validators", "links")} if stored else {}
    return Origin(**{**stored, **lists}) if stored else None
