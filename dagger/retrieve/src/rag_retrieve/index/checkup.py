"""What is wrong with a stored collection, and how it is mended: for `rag doctor`.

Nothing here deletes a document. A passage is removed only if no document names its version, and only
while nobody else writes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ..stores.base import Point
from .collection import Collection
from .points import document_point_id, loaded_document


@dataclass(frozen=True)
class Checkup:
    """What is wrong with a collection, and what is only worth knowing; one sentence each."""

    problems: list[str]
    notes: list[str]


@dataclass(frozen=True)
class Damage:
    """What a look at all points found.

    Args:
        torn: Documents that lack passages.
        stray: Ids of passages of no published document.
        miscounted: What the manifest says, and what was counted; None when they are equal.
        miscounted_terms: What is wrong with the counts of terms; not looked at where passages lack.
    """

    torn: list[str]
    stray: list[str]
    miscounted: str | None
    miscounted_terms: str | None

    def problems(self) -> list[str]:
        """Return one sentence for each kind of damage."""
        told = []
        if self.torn:
            told.append(f"{len(self.torn)} documents lack passages ({_some(self.torn)})")
        if self.stray:
            told.append(f"{len(self.stray)} passages belong to no document")
        if self.miscounted:
            told.append(self.miscounted)
        if self.miscounted_terms:
            told.append(self.miscounted_terms)
        return told


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def examine(collection: Collection) -> Damage:
    """Count all documents and passages of a collection, and compare them with each other."""
    points = list(collection.store.scroll({"kind": "chunk"}, ["document_id", "version"]))
    documents = collection.store.scroll(
        {"kind": "document"}, ["document_id", "content_hash", "chunks"]
    )
    expected = {_version(one): one.payload["chunks"] for one in documents}
    found = Counter(_passage(point) for point in points)
    torn = sorted(str(key[0]) for key, chunks in expected.items() if found[key] < chunks)
    stray = [point.id for point in points if _passage(point) not in expected]
    miscounted_terms = None if torn else collection.miscounted_terms()
    return Damage(torn, stray, _miscounted(collection), miscounted_terms)


def _version(document: Point) -> tuple[str, str]:
    return document.payload["document_id"], document.payload["content_hash"]


def _passage(point: Point) -> tuple[str, str]:
    return point.payload["document_id"], point.payload["version"]


def _miscounted(collection: Collection) -> str | None:
    says, counted = collection.manifest, collection.counted()
    if says == counted:
        return None
    return (
        f"the manifest says {says.documents} documents with {says.chunks} passages, but "
        f"{counted.documents} with {counted.chunks} are stored"
    )


def mend(collection: Collection) -> list[str]:
    """Mend what can be mended without other writers; return what was done, one sentence each."""
    with collection.alone():
        collection.refresh()
        damage = examine(collection)
        if damage.torn:
            _complete(collection, damage.torn)
        if damage.stray:
            collection.store.delete(damage.stray)
        if damage.miscounted:
            collection.recount()
        if damage.torn or damage.miscounted_terms:
            collection.recount_terms()
    return [f"mended: {problem}" for problem in damage.problems()]


def _complete(collection: Collection, document_ids: list[str]) -> None:
    """Make the passages of documents anew from their stored texts, and write them again."""
    records = collection.store.get([document_point_id(one) for one in document_ids])
    for record in records.values():
        (change,) = collection.changes([loaded_document(record.payload)], {})
        mark = {name: record.payload[name] for name in ("write",) if name in record.payload}
        points = [Point(p.id, {**p.payload, **mark}, p.dense, p.sparse) for p in change.points]
        collection.store.upsert(points)
