"""A collection of the embedded store, opened: a Qdrant shard that runs in this process.

`folders` has the collections and their files; this file has what happens inside a shard.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import qdrant_edge as q

from rag_kit.errors import StepError

from ...search.filters import And, Compare, Condition, Not, Or, is_exact_integer, is_number
from ..base import (
    INDEXED,
    PAGE,
    Hit,
    Leg,
    Point,
    Sparse,
    batches,
    check_sparse,
    check_vector,
    lacking_indexes,
    metadata_indexes,
    payload_key,
    search_settled,
    with_limit,
)
from .disk import MIB, explained, free_bytes, require_room, used_bytes
from .locks import SharedLock

RESERVE = 64 * MIB  # bytes kept free beside what a write needs, for other writers on the disk
DELETE_ROOM = 8 * MIB  # bytes that must be free to delete: log and flags
LOAD_ROOM = 8 * MIB  # bytes that must be free to load, beside what the log may hold
INDEX_TYPES = {"keyword": q.PayloadSchemaType.Keyword, "float": q.PayloadSchemaType.Float}
GROWTH = 4  # bytes on disk per byte written, at most: log, storage, index
# One thread: a search spends its time in one segment, and more threads only made searches that
# run side by side wait for each other (437, 382, 275 per second with 1, 2, 4 callers at 20 k).
SEARCH_THREADS = 1
NEVER = 10**9  # KB; a segment up to this size is one
# A search compares numbers of one byte instead of four from so many passages on, and scores what it
# finds by the vectors themselves: at 20 k passages 1.9 ms instead of 5.0, at 100 k 7 instead of 21.
QUANTISED_FROM = 4_000
OVERSAMPLING = 3.0  # candidates per hit; with 2 the first 58 of 100 k were those of an exact search
PENDING_SHARE = (
    3  # quantised anew when one passage in so many is not: it rewrites all, 3 s at 100 k
)
_ID = slice(len('ScoredPoint(id="'), len('ScoredPoint(id="') + 36)
PASSAGES = q.Filter(must=[q.FieldCondition("kind", match=q.MatchValue("chunk"))])
_EXACT = q.SearchParams(exact=True)
_QUANTISED = q.SearchParams(
    quantization=q.QuantizationSearchParams(rescore=True, oversampling=OVERSAMPLING)
)
# A term's passages are counted among those there are, whatever was deleted or replaced before.
_OF_PASSAGES = q.SearchParams(exact=True, idf=q.IdfParams(corpus=PASSAGES))


class EdgeStore:
    """One generation of a collection, opened. See `Store`.

    Every search looks at all vectors, of large collections at their quantised form first. Beyond a
    million passages use a server, which builds an HNSW graph.
    """

    exclusive = True

    def __init__(
        self,
        name: str,
        path: Path,
        dim: int,
        *,
        shard: Any = None,
        reserve: int,
        on_close: Callable[[], None],
    ) -> None:
        self.name = name
        self.dim = dim
        self._path = path
        self._reserve = reserve
        self._on_close = on_close
        self._indexed: set[str] | None = None  # payload paths with an index; None: not read yet
        self._indexing = threading.Lock()
        self._lock = SharedLock()  # exclusive: the shard itself is replaced or closed
        self._written = False  # since the last flush
        self._rewritten = (
            False  # a passage was deleted or replaced since the shard was last optimised
        )
        self._shard: Any = shard or self._load()

    def _load(self) -> Any:
        with explained(self._path):
            return q.EdgeShard.load(str(self._path), _config(self.dim))

    def _open(self) -> Any:
        if self._shard is None:
            raise StepError("not_ready", f"collection '{self.name}' has been closed; open it again")
        return self._shard

    def upsert(self, points: Sequence[Point]) -> None:
        """Write points; up to 256 are one operation."""
        for batch in batches(points):
            operation = q.UpdateOperation.upsert_points([self._native(point) for point in batch])
            room = self._reserve + GROWTH * sum(_size(point) for point in batch)
            self._update(operation, room, [p.id for p in batch if p.sparse is not None])
            self._index(batch)

    def _index(self, points: Sequence[Point]) -> None:
        """Index the metadata fields that are new."""
        if not (wanted := metadata_indexes(points)):
            return
        with self._lock.shared(), self._indexing, explained(self._path):
            shard = self._open()
            if self._indexed is None:
                self._indexed = set(shard.info().payload_schema)
            for key, kind in lacking_indexes(wanted, self._indexed).items():
                shard.update(q.UpdateOperation.create_field_index(key, INDEX_TYPES[kind]))
                self._indexed.add(key)

    def delete(self, ids: Sequence[str]) -> None:
        """Delete points; up to 256 are one operation."""
        for batch in batches(ids):
            self._update(q.UpdateOperation.delete_points(list(batch)), DELETE_ROOM, batch)

    def _update(self, operation: Any, room: int, touched: Sequence[str]) -> None:
        with self._lock.shared(), explained(self._path):
            require_room(self._path, room)
            shard = self._open()
            if not self._rewritten:
                self._rewritten = bool(shard.retrieve(list(touched), False, False))
            self._written = True
            shard.update(operation)

    def _native(self, point: Point) -> Any:
        vectors: dict[str, Any] = {}
        if point.dense is not None:
            vectors["dense"] = check_vector(point.dense, self.dim, self.name)
        if point.sparse is not None:
            vectors["sparse"] = _sparse(point.sparse)
        with explained(self._path):
            return q.Point(point.id, vectors, point.payload)

    def get(
        self,
        ids: Sequence[str],
        fields: Sequence[str] | None = None,
        *,
        with_vectors: bool = False,
    ) -> dict[str, Point]:
        """Return the points that exist, by id."""
        found: list[Any] = []
        with self._lock.shared(), explained(self._path):
            for batch in batches(ids):
                found += self._open().retrieve(list(batch), _selector(fields), with_vectors)
        return {str(record.id): _point(record) for record in found}

    def search(
        self,
        legs: Sequence[Leg],
        condition: Condition | None = None,
        fields: Sequence[str] | None = None,
    ) -> list[list[Hit]]:
        """Search all legs in one call."""
        native = None if condition is None else to_edge(condition)
        return search_settled(legs, lambda legs: self._fetch(legs, native, _selector(fields)))

    def _fetch(self, legs: Sequence[Leg], native: Any, payload: Any) -> list[list[Hit]]:
        request = q.QueryBatchRequest([self._request(leg, native, payload) for leg in legs])
        with self._lock.shared(), explained(self._path):
            answers = self._open().query_batch(request)
        return [
            [Hit(id_, p.score, p.payload or {}) for id_, p in zip(_ids(found), found, strict=True)]
            for found in answers
        ]

    def score(self, queries: Sequence[tuple[Leg, Sequence[str]]]) -> list[dict[str, float]]:
        """Score given points by each leg, in one call."""
        request = q.QueryBatchRequest([self._scoring(leg, ids) for leg, ids in queries])
        with self._lock.shared(), explained(self._path):
            answers = self._open().query_batch(request)
        return [
            {id_: p.score for id_, p in zip(_ids(found), found, strict=True)} for found in answers
        ]

    def _scoring(self, leg: Leg, ids: Sequence[str]) -> Any:
        chosen = q.Filter(must=[q.HasIdCondition(set(ids))])
        return self._request(with_limit(leg, max(1, len(ids))), chosen, False, _EXACT)

    def _request(
        self, leg: Leg, native: Any, payload: Any, dense: q.SearchParams = _QUANTISED
    ) -> Any:
        if leg[0] == "dense":
            nearest = q.Query.Nearest(check_vector(leg[1], self.dim, self.name), using="dense")
        else:
            nearest = q.Query.Nearest(_sparse(leg[1]), using="sparse")
        sparse = _OF_PASSAGES if leg[2] else _EXACT  # whether there is a hit asks for no weights
        params = dense if leg[0] == "dense" else sparse
        return q.QueryRequest(
            limit=leg[2], query=nearest, filter=native, with_payload=payload, params=params
        )

    def scroll(
        self, where: Mapping[str, str], fields: Sequence[str] | None = None
    ) -> Iterator[Point]:
        """Yield points by id, a page at a time."""
        offset = None
        while True:
            with self._lock.shared(), explained(self._path):
                request = q.ScrollRequest(
                    offset=offset,
                    limit=PAGE,
                    filter=_where(where),
                    with_payload=_selector(fields),
                    with_vector=False,
                )
                records, offset = self._open().scroll(request)
            yield from map(_point, records)
            if offset is None:
                return

    def count(self, kind: str) -> int:
        """Count the points of a kind."""
        with self._lock.shared(), explained(self._path):
            request = q.CountRequest(exact=True, filter=_where({"kind": kind}))
            return int(self._open().count(request))

    def flush(self) -> None:
        """Sync to disk, and quantise and drop deleted vectors when there are many.

        Without room on the disk, only the sync is done.
        """
        with self._lock.exclusive(), explained(self._path):
            shard = self._open()
            if not self._written:
                return
            room = free_bytes(self._path) - self._reserve
            if self._lags(shard) and room > 2 * used_bytes(self._path):
                shard.optimize()
                self._rewritten = False
            shard.flush()
            self._written = False

    def _lags(self, shard: Any) -> bool:
        """Tell whether vectors were deleted, or many are not quantised."""
        if self._rewritten:
            return True  # the engine acts when a fifth of the vectors is deleted
        passages = int(shard.count(q.CountRequest(exact=True, filter=PASSAGES)))
        # The engine counts the dense and the sparse vectors; the sparse ones are always indexed.
        pending = 2 * passages - shard.info().indexed_vectors_count
        return bool(pending >= max(QUANTISED_FROM, passages // PENDING_SHARE))

    def close(self) -> None:
        """Release the shard and, with the last one, the collection."""
        with self._lock.exclusive():
            if self._shard is None:
                return
            shard, self._shard = self._shard, None
            with explained(self._path):
                shard.close()  # flushes
        self._on_close()


def create_shard(path: Path, dim: int) -> Any:
    """Return a new, open shard for vectors of `dim` numbers, in a folder not there yet."""
    with explained(path):
        path.mkdir(mode=0o700)
        shard: Any = q.EdgeShard.create(str(path), _config(dim))
        for name in INDEXED:
            shard.update(q.UpdateOperation.create_field_index(name, q.PayloadSchemaType.Keyword))
        return shard


def room_to_load(path: Path) -> int:
    """Return the bytes that must be free to load a shard, which may rewrite all of its log."""
    return LOAD_ROOM + used_bytes(path / "wal")


def to_edge(condition: Condition) -> Any:
    """Translate a filter to the engine's; its meaning is defined in `rag_retrieve.search.filters`."""
    field: str
    value: Any
    match condition:
        case And(conditions):
            return q.Filter(must=[to_edge(one) for one in conditions])
        case Or(conditions):
            return q.Filter(should=[to_edge(one) for one in conditions])
        case Not(inner):
            return q.Filter(must_not=[to_edge(inner)])
        case Compare(field, "eq", value):
            return q.Filter(must=[_equals(payload_key(field), value)])
        case Compare(field, "exists", value):
            key = payload_key(field)
            there = q.Filter(must_not=[q.IsEmptyCondition(key)])
            known = q.Filter(should=[there, q.IsNullCondition(key)])
            return known if value else q.Filter(must_not=[known])
        case Compare(field, "in", tuple() as values) if all(isinstance(v, str) for v in values):
            return q.Filter(
                must=[q.FieldCondition(payload_key(field), match=q.MatchAny(list(values)))]
            )
        case Compare(field, "in", tuple() as values):
            return q.Filter(should=[_equals(payload_key(field), value) for value in values])
        case Compare(field, op, value):
            bounds = _range({op: value})
            return q.Filter(must=[q.FieldCondition(payload_key(field), range=bounds)])


def _range(bounds: dict[Any, Any]) -> Any:
    return q.RangeFloat(**bounds)


def _equals(key: str, value: Any) -> Any:
    if value is None:
        return q.IsNullCondition(key)
    if isinstance(value, bool):
        # The binding takes True for the integer 1; only numpy's boolean reaches it as one.
        native: Any = np.bool_(value)
        return q.FieldCondition(key, match=q.MatchValue(native))
    if is_number(value) and not is_exact_integer(value):
        return q.FieldCondition(key, range=_range({"gte": value, "lte": value}))
    return q.FieldCondition(key, match=q.MatchValue(value))


def _where(where: Mapping[str, str]) -> Any:
    return q.Filter(
        must=[q.FieldCondition(key, match=q.MatchValue(value)) for key, value in where.items()]
    )


def _config(dim: int) -> Any:
    return q.EdgeConfig(
        vectors={"dense": q.EdgeVectorParams(dim, q.Distance.Cosine, memory=q.Memory.Cold)},
        sparse_vectors={"sparse": q.EdgeSparseVectorParams(modifier=q.Modifier.Idf)},
        hnsw_config=q.HnswIndexConfig(m=0, ef_construct=4, full_scan_threshold=NEVER),  # no graph
        quantization_config=q.ScalarQuantizationConfig(
            q.ScalarType.Int8, quantile=0.99, memory=q.Memory.Pinned
        ),
        optimizers=q.EdgeOptimizersConfig(
            default_segment_number=1,
            max_segment_size=NEVER,
            indexing_threshold=QUANTISED_FROM * dim * 4 // 1024,
        ),
        payload_memory=q.Memory.Cold,
        max_search_threads=SEARCH_THREADS,
    )


def _ids(found: Sequence[Any]) -> list[str]:
    """Return the ids of scored points.

    `point.id` makes a `uuid.UUID`, which costs more than a search; the text of a point begins with
    its id. Where it does not, as in another version of the engine, `point.id` is taken.
    """
    ids = [repr(point)[_ID] for point in found] if found and found[0].payload is None else []
    if ids and ids[0] == str(found[0].id):
        return ids
    return [str(point.id) for point in found]


def _selector(fields: Sequence[str] | None) -> Any:
    return True if fields is None else list(fields) or False


def _sparse(sparse: Sparse) -> Any:
    checked = check_sparse(sparse)
    return q.SparseVector(checked.indices, checked.values)


def _point(record: Any) -> Point:
    vectors = record.vector or {}
    sparse = vectors.get("sparse")
    return Point(
        str(record.id),
        record.payload or {},
        vectors.get("dense"),
        None if sparse is None else Sparse(list(sparse.indices), list(sparse.values)),
    )


def _size(point: Point) -> int:
    dense = 0 if point.dense is None else 4 * len(point.dense)
    sparse = 0 if point.sparse is None else 8 * len(point.sparse.indices)
    return 200 + dense + sparse + len(repr(point.payload))
