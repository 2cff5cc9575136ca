"""One collection: documents in, passages out; a document is visible completely or not at all.

A document is stored as passages (points with vectors) and one document point without vectors, which
names the published version of its content. A commit of a few documents is:

    journal what will change -> upsert new passages -> upsert document points (this publishes)
    -> delete the passages of replaced versions

and a checkpoint after some commits: sync -> manifest -> clear the journal. Whenever a
process dies, the document points name the versions that are complete, and the journal lists the
passages that belong to none; `recover` removes those. That is for a store that one process has alone;
`shared` is for a server's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from rag_kit.errors import StepError
from rag_kit.reports import DocumentInfo, StoredDocument

from ..documents import LoadedDocument, Origin
from ..documents.chunker import embedding_text
from ..documents.names import with_name
from ..search.filters import (
    Compare,
    Condition,
    fields_of,
    matches,
    text_fields,
    values_at,
    without_text,
)
from ..stores.base import Hit, Leg, Point, Sparse, Store, batches
from ..stores.embedded.locks import SharedLock
from .analyzer import Analyzer
from .embedders import Vectors
from .languages import language_of
from .manifest import Manifest
from .points import (
    Change,
    Version,
    chunk_point,
    content_hash,
    document_point,
    document_point_id,
    is_document,
    loaded_document,
    origin_of,
)
from .sentence_vectors import Span, at_end, packed, sentences_of

INFO_FIELDS = [
    "document_id", "title", "source", "content_type", "content_hash", "characters", "chunks", "metadata",
]  # fmt: skip
SYNC_FIELDS = ["document_id", "content_hash", "metadata", "origin"]
EMBEDDED_AT_ONCE = 64  # passages in one turn at the embedder: about a second of a processor
READ_ATTEMPTS = 3  # searches, when another process publishes in the middle of one


@dataclass(frozen=True)
class Found:
    """The hits of one leg, best first, and its scores for hits of the other legs only."""

    hits: list[Hit]
    completed: dict[str, float]


@dataclass(frozen=True)
class Ranked:
    """A passage chosen: its rank score and its scores by leg."""

    id: str
    score: float
    scores: dict[str, float]


@dataclass(frozen=True)
class Ahead:
    """What sparse legs found before the dense ones were known, and after how many changes."""

    hits: list[list[Hit]]
    writes: int


def _asked(legs: Sequence[Leg], lookup: Sequence[Sparse]) -> list[Leg]:
    return [*legs, *(("sparse", terms, 0) for terms in lookup)]


def _found(legs: list[list[Hit]], completed: list[dict[str, float]]) -> list[Found]:
    ids = {hit.id for leg in legs for hit in leg}
    return [
        Found(leg, {id_: score for id_, score in more.items() if id_ in ids})
        for leg, more in zip(legs, completed, strict=True)
    ]


@dataclass(frozen=True)
class Synced:
    """A document that a sync brought: where from, its content hash and its metadata."""

    origin: Origin
    content_hash: str
    metadata: dict[str, Any]


DocumentsOf = Callable[[Sequence[str]], list[str]]  # ids of passages found -> their documents
Pick = Callable[[list[Found], DocumentsOf], list[Ranked]]


def _noted(record: Point, noted: Mapping[str, tuple[str, Origin | None]]) -> Point:
    """Return a document's record with its new origin, or as it is if its content is another now."""
    content, origin = noted[record.payload["document_id"]]
    if record.payload["content_hash"] != content:
        return record
    payload = {name: value for name, value in record.payload.items() if name != "origin"}
    return Point(record.id, payload | ({"origin": asdict(origin)} if origin else {}))


class _Passages:
    """The payloads of what the legs found, each loaded at most once."""

    def __init__(self, store: Store, found: list[list[Hit]]) -> None:
        self._store = store
        self._hits = {hit.id: hit.payload for leg in found for hit in leg}
        self._points: dict[str, Point] = {}

    def documents_of(self, ids: Sequence[str]) -> list[str]:
        """Return the document of each passage; a passage that is gone counts as its own."""
        unknown = [id_ for id_ in ids if "document_id" not in self._hits[id_]]
        payloads = {id_: point.payload for id_, point in self.load(unknown).items()}
        return [
            str((self._hits[id_] | payloads.get(id_, {})).get("document_id", id_)) for id_ in ids
        ]

    def load(self, ids: Sequence[str]) -> dict[str, Point]:
        """Return the points that exist, by id."""
        if missing := [id_ for id_ in ids if id_ not in self._points]:
            self._points |= self._store.get(missing)
        return {id_: self._points[id_] for id_ in ids if id_ in self._points}


@dataclass
class _Facts:
    """What is known of the metadata of one content of a collection, as far as filters asked."""

    digest: str = ""
    texts: dict[str, set[str]] = field(default_factory=dict)
    known: dict[str, bool] = field(default_factory=dict)

    def of(self, digest: str) -> _Facts:
        """Return what is known of this content; of another one, nothing."""
        if digest != self.digest:
            self.digest, self.texts, self.known = digest, {}, {}
        return self


@dataclass(frozen=True)
class Pace:
    """How a run shares the embedder, and what it does between two batches of passages.

    Args:
        turn: Held while a batch is embedded.
        check: Called often, with nothing held; raises to end the run.
        embedded: Called after each batch: how many of the passages that were cut are done, how many
            there are, and how many of the batch had to be computed.
    """

    turn: Callable[[], AbstractContextManager[None]] = nullcontext
    check: Callable[[], None] = lambda: None
    embedded: Callable[[int, int, int], None] = lambda done, total, computed: None


ALONE = Pace()


@dataclass(frozen=True)
class Snapshot:
    """Passages with their payloads, best first, and the manifest they were found under."""

    passages: list[tuple[Ranked, dict[str, Any]]]
    manifest: Manifest
    absent: list[int] = field(default_factory=list)  # which of the terms looked up no passage has


class Ledger(Protocol):
    """Where a collection's journal and manifest are kept."""

    def read_journal(self, name: str) -> dict[str, Any] | None:
        """Return the journal of a commit under way or torn, or None."""

    def write_journal(self, name: str, journal: dict[str, Any] | None) -> None:
        """Keep the journal durably, or clear it."""

    def read_manifest(self, name: str) -> dict[str, Any] | None:
        """Return the manifest."""

    def write_manifest(self, name: str, manifest: dict[str, Any]) -> None:
        """Keep the manifest durably."""


class Draft:
    """Ledger of an unpublished collection: no reader sees it, so there is nothing to recover."""

    def read_journal(self, name: str) -> None:
        """There is none."""

    def write_journal(self, name: str, journal: dict[str, Any] | None) -> None:
        """Nothing is kept."""

    def read_manifest(self, name: str) -> None:
        """There is none."""

    def write_manifest(self, name: str, manifest: dict[str, Any]) -> None:
        """Publishing the draft writes it."""


class Collection:
    """An open collection; searches run side by side, commits of all threads one at a time."""

    def __init__(
        self,
        ledger: Ledger,
        store: Store,
        manifest: Manifest,
        analyzer: Analyzer,
        *,
        on_step: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._lock = SharedLock()
        self._changing = threading.RLock()  # taken before `_lock`
        self._closed = False
        self._on_step = on_step
        self._uncertain: list[Version] = []  # in commits since the last checkpoint
        self._facts = _Facts()
        self.manifest = manifest
        self.analyzer = analyzer
        if store.exclusive:
            self.recover()

    @property
    def store(self) -> Store:
        """The store that holds the points; swapped by a reindex."""
        return self._store

    # -- search ---------------------------------------------------------------------------

    @property
    def languages(self) -> list[str] | None:
        """In which languages a question's words are looked for; None: as earlier versions did."""
        return self.manifest.searched_languages

    def search_ahead(
        self, legs: Sequence[Leg], condition: Condition | None, lookup: Sequence[Sparse]
    ) -> Ahead | None:
        """Search the sparse legs of a `search` to come, while the question is embedded for the others.

        Returns:
            None where one request for all legs costs less: over a network.
        """
        if not self._store.exclusive:
            return None
        with self._lock.shared():
            hits = self._store.search(_asked(legs, lookup), self._native(condition), [])
            return Ahead(hits, self._lock.writes)

    def search(
        self,
        legs: Sequence[Leg],
        condition: Condition | None,
        pick: Pick,
        *,
        complete: bool = False,
        lookup: Sequence[Sparse] = (),
        ahead: Ahead | None = None,
    ) -> Snapshot:
        """Search all legs and load the passages `pick` chooses, from one state of the collection.

        Args:
            legs: What to search, as one request.
            condition: Filter on metadata, or None.
            pick: Ranks and cuts what the legs found; asks for the documents of as few as it needs.
            complete: Score in each leg also what only another leg found; costs one more request.
            lookup: Terms of which is told whether a passage that passes the filter has one.
            ahead: From `search_ahead` for the same question; where the collection has changed since,
                all legs are searched.

        Raises:
            StepError: `retriever_…`, from the store.
        """
        # In this process a payload costs more than a search; over a network a request does.
        fields = [] if self._store.exclusive else ["document_id", "version"]
        for _ in range(READ_ATTEMPTS):
            with self._lock.shared():
                weighed = self._weighed(legs)
                hits = self._hits(_asked(weighed, lookup), condition, fields, ahead)
                hits, looked_up = hits[: len(legs)], hits[len(legs) :]
                completed = self._complete(weighed, hits) if complete else [{} for _ in legs]
                kept = hits if self._store.exclusive else self._published_only(hits)
                passages = _Passages(self._store, kept)
                ranking = pick(_found(kept, completed), passages.documents_of)
                points = passages.load([ranked.id for ranked in ranking])
                manifest = self.manifest
            if kept == hits and len(points) == len(ranking):
                break
        self._check(points, kept, condition)
        found = [(ranked, points[ranked.id].payload) for ranked in ranking if ranked.id in points]
        return Snapshot(found, manifest, [at for at, hit in enumerate(looked_up) if not hit])

    def _hits(
        self,
        asked: Sequence[Leg],
        condition: Condition | None,
        fields: Sequence[str],
        ahead: Ahead | None,
    ) -> list[list[Hit]]:
        native = self._native(condition)
        if ahead is None or ahead.writes != self._lock.writes:
            return self._store.search(asked, native, fields)
        sparse = iter(ahead.hits)
        dense = iter(
            self._store.search([leg for leg in asked if leg[0] == "dense"], native, fields)
        )
        return [next(dense if leg[0] == "dense" else sparse) for leg in asked]

    def _weighed(self, legs: Sequence[Leg]) -> list[Leg]:
        """Return the legs with the weights that the store does not add to a question's terms itself."""
        return list(legs)

    def unknown_fields(self, condition: Condition) -> list[str]:
        """Return the fields of a filter that no passage has, sorted."""
        anywhere: Leg = ("dense", np.eye(1, self.manifest.recipe.dim, dtype=np.float32)[0], 1)
        with self._lock.shared():
            known = self._facts.of(self.manifest.corpus_digest).known
            for field in fields_of(condition) - known.keys():
                (hits,) = self._store.search([anywhere], Compare(field, "exists", True), [])
                known[field] = bool(hits)
        return sorted(field for field in fields_of(condition) if not known[field])

    def _native(self, condition: Condition | None) -> Condition | None:
        """Return the filter as stores can test it; a field's texts are read once a content."""
        if condition is None or not (fields := text_fields(condition)):
            return condition
        texts = self._facts.of(self.manifest.corpus_digest).texts
        if new := fields - texts.keys():
            found: dict[str, set[str]] = {field: set() for field in new}
            for point in self._store.scroll({"kind": "chunk"}, ["metadata"]):
                for field, values in found.items():
                    there = values_at(point.payload["metadata"], field)
                    values.update(value for value in there if isinstance(value, str))
            texts.update(found)
        return without_text(condition, texts)

    def _complete(self, legs: Sequence[Leg], found: list[list[Hit]]) -> list[dict[str, float]]:
        everything = {hit.id for leg in found for hit in leg}
        lacking = [sorted(everything - {hit.id for hit in leg}) for leg in found]
        if not any(lacking):
            return [{} for _ in legs]
        scores = self._store.score(list(zip(legs, lacking, strict=True)))
        return [
            {id_: leg_scores.get(id_, 0.0) for id_ in ids}
            for leg_scores, ids in zip(scores, lacking, strict=True)
        ]

    def _published_only(self, found: list[list[Hit]]) -> list[list[Hit]]:
        """Leave out passages of no published document: of unfinished, old or foreign versions."""
        names = {str(hit.payload.get("document_id")) for leg in found for hit in leg}
        ids = {document_point_id(name): name for name in names}
        points = self._store.get(list(ids), fields=["kind", "document_id", "content_hash"])
        live = {
            (point.payload.get("document_id"), point.payload.get("content_hash"))
            for point_id, point in points.items()
            if point.payload.get("document_id") == ids.get(point_id) and is_document(point)
        }
        return [
            [
                hit
                for hit in leg
                if (hit.payload.get("document_id"), hit.payload.get("version")) in live
            ]
            for leg in found
        ]

    def _check(
        self, points: dict[str, Point], found: list[list[Hit]], condition: Condition | None
    ) -> None:
        """Refuse an answer with passages that the filter excludes or that were not found.

        Raises:
            StepError: `retriever_bad_response`.
        """
        hits = {hit.id: hit.payload for leg in found for hit in leg}
        for point_id, point in points.items():
            payload, expected = point.payload, hits[point_id]
            metadata = payload.get("metadata")
            if payload.get("kind") != "chunk" or not isinstance(metadata, dict):
                why = "a point that is no passage"
            elif any(payload.get(name) != value for name, value in expected.items()):
                why = "another passage than the one it found"
            elif condition is not None and not matches(condition, metadata):
                why = "a passage that the request's filter excludes"
            else:
                continue
            raise StepError(
                "retriever_bad_response",
                f"the store gave {why}; nothing of its answer is used",
            )

    def score(self, leg: Leg, ids: Sequence[str]) -> dict[str, float]:
        """Score given passages by one leg; missing ones get no score."""
        if not ids:
            return {}
        with self._lock.shared():
            (weighed,) = self._weighed([leg])
            (scores,) = self._store.score([(weighed, ids)])
        return scores

    # -- documents ------------------------------------------------------------------------

    def passages(self, size: int) -> Iterator[list[Point]]:
        """Yield every published passage with its payload and dense vector, at most `size` at a time.

        Each list is of one state of the collection; when `manifest.corpus_digest` is the same
        before and after, all of them are of the same.
        """
        with self._lock.shared():
            points = list(self._store.scroll({"kind": "chunk"}, ["document_id", "version"]))
            documents = self._store.scroll({"kind": "document"}, ["document_id", "content_hash"])
            live = {one.payload["document_id"]: one.payload["content_hash"] for one in documents}
        ids = [
            point.id
            for point in points
            if live.get(point.payload["document_id"]) == point.payload["version"]
        ]
        for at in range(0, len(ids), size):
            with self._lock.shared():
                found = self._store.get(ids[at : at + size], with_vectors=True)
            yield [found[id_] for id_ in ids[at : at + size] if id_ in found]

    def document_ids(self) -> list[str]:
        """Return the ids of the documents, sorted."""
        with self._lock.shared():
            points = list(self._store.scroll({"kind": "document"}, ["document_id"]))
        return sorted(point.payload["document_id"] for point in points)

    def documents(self) -> Iterator[DocumentInfo]:
        """Yield the documents, ordered by id."""
        with self._lock.shared():
            points = list(self._store.scroll({"kind": "document"}, INFO_FIELDS))
        infos = [DocumentInfo.model_validate(point.payload) for point in points]
        return iter(sorted(infos, key=lambda info: info.document_id))

    def document(self, document_id: str) -> StoredDocument:
        """Return one document with its text.

        Raises:
            StepError: `document_not_found`.
        """
        return StoredDocument.model_validate(self._record_of(document_id).payload)

    def _record_of(self, document_id: str) -> Point:
        point = self._find_record(document_id)
        if point is None:
            raise StepError(
                "document_not_found",
                f"collection '{self.manifest.name}' has no document '{document_id}'",
                param="document_id",
            )
        return point

    def _find_record(self, document_id: str) -> Point | None:
        point_id = document_point_id(document_id)
        with self._lock.shared():
            point = self._store.get([point_id]).get(point_id)
        return point if point is not None and is_document(point) else None

    def contents(self) -> dict[str, str]:
        """Return the content hash of each document, by id."""
        return {info.document_id: info.content_hash for info in self.documents()}

    def synced(self) -> dict[str, Synced]:
        """Return the documents that a sync brought, by id."""
        with self._lock.shared():
            points = list(self._store.scroll({"kind": "document"}, SYNC_FIELDS))
        return {
            point.payload["document_id"]: Synced(
                origin, point.payload["content_hash"], point.payload["metadata"]
            )
            for point in points
            if (origin := origin_of(point.payload)) is not None
        }

    def stored(self, document_ids: Sequence[str]) -> Iterator[LoadedDocument]:
        """Yield documents as they were loaded, to rebuild the collection; deleted ones are skipped."""
        for document_id in document_ids:
            if (record := self._find_record(document_id)) is not None:
                yield loaded_document(record.payload)

    def versions(self, document_ids: Sequence[str]) -> dict[str, Version]:
        """Return the published version of each document that exists."""
        ids = {document_point_id(document_id): document_id for document_id in document_ids}
        points = self._store.get(list(ids), fields=["kind", "content_hash", "chunks"])
        return {
            ids[point_id]: Version(
                ids[point_id], point.payload["content_hash"], point.payload["chunks"]
            )
            for point_id, point in points.items()
            if is_document(point)
        }

    # -- writing --------------------------------------------------------------------------

    def too_large(self, document: LoadedDocument) -> str | None:
        """Return why a document cannot be stored for its size, with the way out; None when it can."""
        return None

    def prepare(self, documents: Sequence[LoadedDocument], pace: Pace = ALONE) -> list[Change]:
        """Chunk and embed the documents whose content is new; unchanged ones need no change.

        Other threads may commit meanwhile.
        """
        hashes = {document.document_id: content_hash(document) for document in documents}
        old = self.versions(list(hashes))
        fresh = [
            document
            for document in documents
            if (before := old.get(document.document_id)) is None
            or before.content_hash != hashes[document.document_id]
        ]
        return self.changes(fresh, old, pace)

    def changes(
        self, fresh: Sequence[LoadedDocument], old: Mapping[str, Version], pace: Pace = ALONE
    ) -> list[Change]:
        """Chunk and embed documents, whether they are stored or not; `old` has what they replace."""
        hashes = {document.document_id: content_hash(document) for document in fresh}
        cuts = [self.analyzer.cut(document, pace.check) for document in fresh]
        self._on_step("cut")
        texts = [
            embedding_text(document, piece)
            for document, pieces in zip(fresh, cuts, strict=True)
            for piece in pieces
        ]
        spans = [
            found
            for document, pieces in zip(fresh, cuts, strict=True)
            for found in sentences_of(document, [piece.span for piece in pieces])
        ]
        vectors = iter(self._embed(texts, spans, pace))
        owners = [document for document, pieces in zip(fresh, cuts, strict=True) for _ in pieces]
        languages = self._languages_of(fresh)
        sparse = (
            self.analyzer.terms.document(
                with_name(document.source, text), languages[document.document_id]
            )
            for document, text in zip(owners, texts, strict=True)
        )
        changes = []
        for document, pieces in zip(fresh, cuts, strict=True):
            language = languages[document.document_id]
            new = Version(document.document_id, hashes[document.document_id], len(pieces))
            points = [
                chunk_point(document, piece, point_id, new, *next(vectors), next(sparse), language)
                for piece, point_id in zip(pieces, new.chunk_ids(), strict=True)
            ]
            before = old.get(document.document_id)
            record = document_point(document, new)
            changes.append(Change(document.document_id, before, new, points, record))
        return changes

    def _languages_of(self, documents: Sequence[LoadedDocument]) -> dict[str, str | None]:
        """Return the language of each document, by id; None where the collection knows none."""
        if self.manifest.searched_languages is None:
            return {document.document_id: None for document in documents}
        default = self.manifest.recipe.language
        found = {one.document_id: language_of(one.text, default) for one in documents}
        self.keep_languages(set(found.values()))
        return dict(found)

    def _embed(
        self, texts: Sequence[str], spans: Sequence[Sequence[Span]], pace: Pace
    ) -> list[tuple[Vectors, dict[str, Any]]]:
        """Return the vector of each passage, and its sentences as the payload keeps them.

        Args:
            texts: What is embedded of each passage; the passage stands at its end.
            spans: Its sentences, in the document.
            pace: When to go on.
        """
        found: list[tuple[Vectors, dict[str, Any]]] = []
        for at in range(0, len(texts), EMBEDDED_AT_ONCE):
            pace.check()
            batch = slice(at, at + EMBEDDED_AT_ONCE)
            with pace.turn():
                before = self.analyzer.counters.texts_embedded
                found += self._embed_batch(texts[batch], spans[batch])
                computed = self.analyzer.counters.texts_embedded - before
            self._on_step("embedded")
            pace.embedded(len(found), len(texts), computed)
        return found

    def _embed_batch(
        self, texts: Sequence[str], spans: Sequence[Sequence[Span]]
    ) -> Iterator[tuple[Vectors, dict[str, Any]]]:
        inside = [at_end(text, own) for text, own in zip(texts, spans, strict=True)]
        rows = self.analyzer.embed_parts(texts, inside)
        if rows is None:
            yield from ((row, {}) for row in self.analyzer.embed(texts))
            return
        for row, own in zip(rows, spans, strict=True):
            yield row[0], packed(own, row[1:]) if len(row) > 1 else {}

    def removals(self, document_ids: Sequence[str]) -> list[Change]:
        """Return the changes that delete documents; unknown ids need none."""
        return [
            Change(document_id, version, None)
            for document_id, version in self.versions(document_ids).items()
        ]

    def commit(self, changes: Sequence[Change]) -> list[Change]:
        """Make the changes visible, each document completely; `checkpoint` makes them durable.

        Returns:
            What was changed: other threads may have committed since the changes were prepared.

        Raises:
            StepError: `storage_full` and others from the store; what was visible before stays.
                `collection_not_found`, it was deleted meanwhile.
        """
        with self.changing():
            current = self._current(changes)
            self._commit(current)
        return current

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Keep other threads from changing this collection; reentrant.

        Raises:
            StepError: `collection_not_found`, it was deleted meanwhile.
        """
        with self._changing:
            if self._closed:
                raise StepError(
                    "collection_not_found",
                    f"collection '{self.manifest.name}' was deleted meanwhile",
                    param="collection",
                )
            yield

    def _current(self, changes: Sequence[Change]) -> list[Change]:
        """Return the changes over the versions published now, without those already made."""
        published = self.versions([change.document_id for change in changes])
        current = [replace(each, old=published.get(each.document_id)) for each in changes]
        return [each for each in current if each.old != each.new]

    def _commit(self, changes: Sequence[Change]) -> None:
        if not changes:
            return
        if not self._uncertain:
            self.recover()
        self._uncertain += [v for change in changes for v in (change.old, change.new) if v]
        self._ledger.write_journal(self.manifest.name, self._journal())
        self._on_step("journal")
        try:
            self._apply(changes)
        except BaseException:
            # Ctrl-C too: a checkpoint may follow, and must find no unfinished document
            self._undo()
            raise

    def checkpoint(self) -> None:
        """Make all commits so far durable; they are acknowledged when this returns."""
        with self._changing:
            if self._uncertain and not self._closed:
                self._checkpoint()

    def _checkpoint(self) -> None:
        self._store.flush()
        self._on_step("flushed")
        self._ledger.write_manifest(self.manifest.name, self.manifest.model_dump())
        self._on_step("manifest")
        self._ledger.write_journal(self.manifest.name, None)
        self._uncertain = []
        self._on_step("committed")

    @contextmanager
    def checkpointed(self) -> Iterator[None]:
        """Make the commits of the block durable at its end, also when it fails between two."""
        with self.changing():
            if not self._uncertain:
                self.recover()
        try:
            yield
        except BaseException:
            with suppress(StepError):
                self.checkpoint()
            raise
        self.checkpoint()

    def keep_roots(self, roots: Mapping[str, str]) -> None:
        """Remember durably from which folders and files the documents come."""
        if roots == self.manifest.roots:
            return
        with self.changing():
            if not self._uncertain:
                self.recover()
            self.manifest = self.manifest.model_copy(update={"roots": dict(roots)})
            if not self._uncertain:  # otherwise the next checkpoint writes it
                self._ledger.write_manifest(self.manifest.name, self.manifest.model_dump())

    def note_origins(self, noted: Mapping[str, tuple[str, Origin | None]]) -> None:
        """Keep durably where documents came from, and change nothing else of them.

        Args:
            noted: By id, the content hash that the document must still have, and its origin; None
                makes it a document that came by hand.
        """
        if not noted:
            return
        with self.changing(), self._lock.exclusive():
            for ids in batches(list(noted)):
                records = self._store.get([document_point_id(one) for one in ids]).values()
                self._store.upsert([_noted(record, noted) for record in records])
            self._store.flush()

    def keep_languages(self, languages: Iterable[str]) -> None:
        """Remember durably in which languages documents are, before they can be found."""
        if set(languages) <= set(self.manifest.languages):
            return
        with self.changing():
            merged = sorted({*self.manifest.languages, *languages})
            self.manifest = self.manifest.model_copy(update={"languages": merged})
            self._ledger.write_manifest(self.manifest.name, self.manifest.model_dump())

    @contextmanager
    def rebuilding(self) -> Iterator[None]:
        """Rebuild the collection in the block, as the only one who does; others may write meanwhile."""
        yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep every other writer out for the block."""
        with self.changing():
            yield

    def writers(self) -> tuple[list[str], list[str]]:
        """Return which other processes write now, and which died while they wrote."""
        return [], []

    def settle_silent(self) -> list[str]:
        """Finish or undo what processes began that died; return which they were."""
        return []

    def _apply(self, changes: Sequence[Change]) -> None:
        with self._lock.exclusive():
            for change in changes:
                self._on_step("upserting")
                self._store.upsert(change.points)
                self._on_step("upserted")
            self._on_step("publishing")
            self._store.upsert([change.record for change in changes if change.record])
            self._store.delete([document_point_id(c.document_id) for c in changes if c.new is None])
            self._on_step("published")
            for part in batches([id_ for c in changes if c.old for id_ in c.old.chunk_ids()]):
                self._store.delete(part)
                self._on_step("sweeping")
            self._on_step("swept")
            self.manifest = self.manifest.after((c.old, c.new) for c in changes)

    def _undo(self) -> None:
        """Clean up after a failed commit; when that fails too, the journal stays for `recover`."""
        self._uncertain = []  # else the next checkpoint would clear the journal of unfinished documents
        with suppress(StepError):
            self.recover()

    def recover(self) -> None:
        """Finish or undo the commit in the journal, and recount the corpus."""
        journal = self._ledger.read_journal(self.manifest.name)
        if not journal:
            return
        versions = [Version(*entry) for entry in journal["versions"]]
        self._uncertain = []
        live = self.versions(list({version.document_id for version in versions}))
        torn = [version for version in versions if live.get(version.document_id) != version]
        with self._lock.exclusive():
            self._store.delete([chunk_id for version in torn for chunk_id in version.chunk_ids()])
            self._store.flush()
        self.recount()
        self._ledger.write_journal(self.manifest.name, None)

    def recount(self) -> None:
        """Write the manifest anew, as the stored documents say."""
        self.manifest = self.counted()
        self._ledger.write_manifest(self.manifest.name, self.manifest.model_dump())

    def counted(self) -> Manifest:
        """Return the manifest as the stored documents say it should be."""
        manifest = self.manifest.model_copy(update={"corpus_sum": "0", "documents": 0, "chunks": 0})
        for info in self.documents():
            manifest.add(info.document_id, info.content_hash, info.chunks)
        return manifest

    def _journal(self) -> dict[str, Any]:
        return {"versions": [[v.document_id, v.content_hash, v.chunks] for v in self._uncertain]}

    def miscounted_terms(self) -> str | None:
        """Return what is wrong with the counts of terms that are kept beside the passages."""
        return None

    def recount_terms(self) -> None:
        """Count the terms of the passages anew, where this project does; call it alone."""

    def notes(self) -> list[str]:
        """Return what is worth knowing of how the collection is stored, one sentence each."""
        return []

    def finish(self) -> None:
        """Do what a draft needs before it is published."""

    def refresh(self) -> None:
        """Read the manifest again if other processes may have changed it."""

    def replace(self, draft: Collection, publish: Callable[[], None]) -> None:
        """Replace this collection's content by a draft's, between two searches."""
        with self.changing(), self._lock.exclusive():
            self._store.close()
            publish()
            self._store, self.manifest, self.analyzer = draft._store, draft.manifest, draft.analyzer

    def close(self) -> None:
        """Wait for running searches and a commit, then close the store."""
        with self._changing, self._lock.exclusive():
            self._closed = True
            self._store.close()
