"""A collection on a Qdrant server, opened; `database` has the collections themselves."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from qdrant_client import AsyncQdrantClient, models

from ...search.filters import And, Compare, Condition, Not, Or, is_exact_integer, is_number
from ..base import (
    PAGE,
    Hit,
    Leg,
    Point,
    Sparse,
    When,
    batches,
    check_sparse,
    check_vector,
    json_bytes,
    lacking_indexes,
    metadata_indexes,
    payload_key,
    search_settled,
    with_limit,
)
from .client import Server, bad_response

# Payload fields that every point has if they were requested, and their types.
NEEDED = {"document_id": str, "version": str, "content_hash": str, "chunks": int}
# Waited for, and applied to all copies in the order of the first of them that is alive: without that
# two copies can decide differently which of two conditional writes came first.
DURABLE = {"wait": True, "ordering": models.WriteOrdering.MEDIUM}
_upsert, _delete = AsyncQdrantClient.upsert, AsyncQdrantClient.delete
_create_index = AsyncQdrantClient.create_payload_index
_set, _unset = AsyncQdrantClient.set_payload, AsyncQdrantClient.delete_payload
SPARE_BYTES = 64 * 1024  # of a request, beside its points: filters, marks of the writer
NUMBER_BYTES = 25  # of a number with its comma, at most
POINT_BYTES = 200  # of a point beside its vectors and payload
HNSW_EF = 512  # candidates while searching a graph, where the server has built one


class ServerStore:
    """One collection on the server, by its alias or one generation's own name. See `SharedStore`."""

    exclusive = False

    def __init__(self, server: Server, *, name: str, remote: str, dim: int) -> None:
        self.name = name
        self.dim = dim
        self._server = server
        self._remote = remote
        self._indexed: set[str] | None = None  # payload paths with an index; None: not read yet

    def follow(self, remote: str) -> None:
        """Be the collection of this alias from now on, whatever it names."""
        self._remote, self._indexed = remote, None

    @property
    def most_bytes(self) -> int:
        """The JSON that the payload of a point may take, so that the point fits into a request."""
        return self._server.most_bytes - SPARE_BYTES - NUMBER_BYTES * self.dim

    def upsert(self, points: Sequence[Point]) -> None:
        """Write points; up to 256 are one operation, fewer where they do not fit into a request."""
        self._upsert(points)

    def insert(self, points: Sequence[Point]) -> None:
        """Write the points whose ids are free."""
        self._upsert(points, update_mode=models.UpdateMode.INSERT_ONLY)

    def replace(self, points: Sequence[Point], when: When) -> None:
        """Replace the points that exist and have these values."""
        mode = models.UpdateMode.UPDATE_ONLY
        self._upsert(points, update_mode=mode, update_filter=_where(when))

    def _upsert(self, points: Sequence[Point], **options: Any) -> None:
        for batch in self._portions(points):
            natives = [self._native(point) for point in batch]
            self._change(partial(_upsert, points=natives, **options))
            self._index(batch)

    def _portions(self, points: Sequence[Point]) -> Iterator[Sequence[Point]]:
        """Yield the points in slices that fit into a request; a point that does not is alone."""
        room = self._server.most_bytes - SPARE_BYTES
        for batch in batches(points):
            start, size = 0, 0
            for at, more in enumerate(map(_size, batch)):
                if size + more > room and at > start:
                    yield batch[start:at]
                    start, size = at, 0
                size += more
            yield batch[start:]

    def _index(self, points: Sequence[Point]) -> None:
        """Index the metadata fields that are new; making an index again changes nothing."""
        if not (wanted := metadata_indexes(points)):
            return
        if self._indexed is None:
            info = self._server.read(lambda server: server.get_collection(self._remote), self.name)
            self._indexed = set(info.payload_schema)
        for key, kind in lacking_indexes(wanted, self._indexed).items():
            schema = models.PayloadSchemaType(kind)
            self._change(partial(_create_index, field_name=key, field_schema=schema))
            self._indexed.add(key)

    def delete(self, ids: Sequence[str]) -> None:
        """Delete points; up to 256 are one operation."""
        for batch in batches(ids):
            chosen = models.PointIdsList(points=list(batch))
            self._change(partial(_delete, points_selector=chosen))

    def delete_where(self, chosen: Sequence[tuple[Sequence[str], When]]) -> None:
        """Delete the points of each group that have the group's values, in one operation."""
        groups: list[Any] = [_which(ids, when) for ids, when in chosen if ids]
        if groups:
            selected = models.FilterSelector(filter=models.Filter(should=groups))
            self._change(partial(_delete, points_selector=selected))

    def set_fields(self, ids: Sequence[str], values: Mapping[str, Any], when: When) -> None:
        """Set payload fields of the points that have these values."""
        if ids:
            self._change(partial(_set, payload=dict(values), points=_which(ids, when)))

    def unset_fields(self, ids: Sequence[str], names: Sequence[str], when: When) -> None:
        """Remove payload fields of the points that have these values."""
        if ids:
            self._change(partial(_unset, keys=list(names), points=_which(ids, when)))

    def _change(self, call: Callable[..., Awaitable[Any]]) -> None:
        """Change points; a change that is made twice is the same as once, so it may be repeated."""
        self._server.write(
            lambda server: call(server, collection_name=self._remote, **DURABLE),
            self.name,
            repeatable=True,
        )

    def _native(self, point: Point) -> models.PointStruct:
        vectors: dict[str, Any] = {}
        if point.dense is not None:
            vectors["dense"] = check_vector(point.dense, self.dim, self.name)
        if point.sparse is not None:
            vectors["sparse"] = _sparse(point.sparse)
        return models.PointStruct(id=point.id, vector=vectors, payload=point.payload)

    def get(
        self,
        ids: Sequence[str],
        fields: Sequence[str] | None = None,
        *,
        with_vectors: bool | list[str] = False,
    ) -> dict[str, Point]:
        """Return the points that exist, by id; `with_vectors` may name those to load."""
        found: dict[str, Point] = {}
        for batch in batches(ids):
            for record in self._retrieve(batch, fields, with_vectors):
                point = self._point(record, fields)
                if point.id not in batch:
                    raise bad_response("a point that was not asked for")
                found[point.id] = point
        return found

    def _retrieve(
        self, ids: Sequence[str], fields: Sequence[str] | None, with_vectors: bool | list[str]
    ) -> list[models.Record]:
        return self._server.read(
            lambda server: server.retrieve(
                self._remote, list(ids), with_payload=_selector(fields), with_vectors=with_vectors
            ),
            self.name,
        )

    def search(
        self,
        legs: Sequence[Leg],
        condition: Condition | None = None,
        fields: Sequence[str] | None = None,
    ) -> list[list[Hit]]:
        """Search all legs in one round trip."""
        native = None if condition is None else to_client(condition)
        return search_settled(legs, lambda legs: self._fetch(legs, native, fields))

    def _fetch(
        self, legs: Sequence[Leg], native: models.Filter | None, fields: Sequence[str] | None
    ) -> list[list[Hit]]:
        """Search; where others put points of their own into the collection, search without those."""
        found = self._query(legs, native, fields)
        if not any(map(_is_foreign, (point for points in found for point in points))):
            return [[_hit(point, fields) for point in points] for points in found]
        ours = models.Filter(must=[_has("kind", "chunk"), *([native] if native else [])])
        return [
            [_hit(point, fields) for point in points] for points in self._query(legs, ours, fields)
        ]

    def _query(
        self, legs: Sequence[Leg], native: models.Filter | None, fields: Sequence[str] | None
    ) -> list[list[models.ScoredPoint]]:
        wanted = None if fields is None else [*fields, "kind"]
        requests = [self._request(leg, native, _selector(wanted)) for leg in legs]
        answers = self._server.read(
            lambda server: server.query_batch_points(self._remote, requests), self.name
        )
        if len(answers) != len(legs):
            raise bad_response(f"{len(answers)} answers to {len(legs)} searches")
        return [answer.points for answer in answers]

    def score(self, queries: Sequence[tuple[Leg, Sequence[str]]]) -> list[dict[str, float]]:
        """Score given points by each leg, in one round trip."""
        requests = [self._scoring(leg, ids) for leg, ids in queries]
        answers = self._server.read(
            lambda server: server.query_batch_points(self._remote, requests), self.name
        )
        if len(answers) != len(queries):
            raise bad_response(f"{len(answers)} answers to {len(queries)} searches")
        return [{str(p.id): _finite(p.score) for p in answer.points} for answer in answers]

    def _scoring(self, leg: Leg, ids: Sequence[str]) -> models.QueryRequest:
        chosen = models.Filter(must=[models.HasIdCondition(has_id=list(ids))])
        return self._request(with_limit(leg, max(1, len(ids))), chosen, False)

    def _request(self, leg: Leg, native: models.Filter | None, payload: Any) -> models.QueryRequest:
        vector: Any
        vector = check_vector(leg[1], self.dim, self.name) if leg[0] == "dense" else _sparse(leg[1])
        # A filter may leave few passages, which a walk through the graph can miss.
        params = models.SearchParams(hnsw_ef=HNSW_EF, exact=native is not None)
        return models.QueryRequest(
            query=vector,
            using=leg[0],
            limit=leg[2],
            filter=native,
            params=params,
            with_payload=payload,
        )

    def scroll(
        self,
        where: Mapping[str, str],
        fields: Sequence[str] | None = None,
        *,
        with_vectors: bool | list[str] = False,
    ) -> Iterator[Point]:
        """Yield points by id, a page at a time; `with_vectors` may name those to load."""
        offset: Any = None
        while True:
            records, offset = self._page(where, fields, offset, with_vectors)
            for record in records:
                yield self._point(record, fields)
            if offset is None:
                return

    def _point(self, record: models.Record, fields: Sequence[str] | None) -> Point:
        vectors = record.vector if isinstance(record.vector, dict) else {}
        dense: Any = vectors.get("dense")
        if dense is not None and len(dense) != self.dim:
            raise bad_response(f"a vector of {len(dense)} numbers in place of {self.dim}")
        sparse = vectors.get("sparse")
        return Point(
            str(record.id),
            _whole(record.payload, fields),
            dense,
            Sparse(sparse.indices, sparse.values)
            if isinstance(sparse, models.SparseVector)
            else None,
        )

    def _page(
        self,
        where: Mapping[str, str],
        fields: Sequence[str] | None,
        offset: Any,
        with_vectors: bool | list[str],
    ) -> tuple[list[models.Record], Any]:
        return self._server.read(
            lambda server: server.scroll(
                self._remote,
                scroll_filter=_where(where),
                limit=PAGE,
                offset=offset,
                with_payload=_selector(fields),
                with_vectors=with_vectors,
            ),
            self.name,
        )

    def counts_terms(self) -> bool:
        """Tell whether the server counts terms itself, as it does for collections of earlier versions."""
        info = self._server.read(lambda server: server.get_collection(self._remote), self.name)
        vectors = info.config.params.sparse_vectors or {}
        return "sparse" in vectors and vectors["sparse"].modifier == models.Modifier.IDF

    def count(self, kind: str) -> int:
        """Count the points of a kind."""
        where = _where({"kind": kind})
        answer = self._server.read(
            lambda server: server.count(self._remote, count_filter=where, exact=True), self.name
        )
        return answer.count

    def flush(self) -> None:
        """Do nothing: writes were waited for, and the server optimises on its own."""

    def close(self) -> None:
        """Do nothing: the connection belongs to `ServerStores`."""


def _size(point: Point) -> int:
    """Return the bytes of a point in a request, at most."""
    dense = 0 if point.dense is None else len(point.dense)
    sparse = 0 if point.sparse is None else 2 * len(point.sparse.indices)
    return json_bytes(point.payload) + NUMBER_BYTES * (dense + sparse) + POINT_BYTES


def to_client(condition: Condition) -> models.Filter:
    """Translate a filter to the client's; its meaning is defined in `rag_retrieve.search.filters`."""
    field: str
    value: Any
    match condition:
        case And(conditions):
            return models.Filter(must=[to_client(one) for one in conditions])
        case Or(conditions):
            return models.Filter(should=[to_client(one) for one in conditions])
        case Not(inner):
            return models.Filter(must_not=[to_client(inner)])
        case Compare(field, "eq", value):
            return models.Filter(must=[_equals(payload_key(field), value)])
        case Compare(field, "exists", value):
            known = _exists(payload_key(field))
            return known if value else models.Filter(must_not=[known])
        case Compare(field, "in", tuple() as values) if all(isinstance(v, str) for v in values):
            among = models.MatchAny.model_validate({"any": list(values)})
            return models.Filter(must=[models.FieldCondition(key=payload_key(field), match=among)])
        case Compare(field, "in", tuple() as values):
            return models.Filter(should=[_equals(payload_key(field), value) for value in values])
        case Compare(field, op, value):
            bounds = models.Range.model_validate({op: value})
            return models.Filter(must=[models.FieldCondition(key=payload_key(field), range=bounds)])


def _exists(key: str) -> models.Filter:
    field = models.PayloadField(key=key)
    there = models.Filter(must_not=[models.IsEmptyCondition(is_empty=field)])
    return models.Filter(should=[there, models.IsNullCondition(is_null=field)])


def _equals(key: str, value: Any) -> models.FieldCondition | models.Filter:
    if value is None:  # a null in a list is found by the path of its elements only
        paths = (models.PayloadField(key=key), models.PayloadField(key=f"{key}[]"))
        return models.Filter(should=[models.IsNullCondition(is_null=path) for path in paths])
    if is_number(value) and not is_exact_integer(value):
        return models.FieldCondition(key=key, range=models.Range(gte=value, lte=value))
    return models.FieldCondition(key=key, match=models.MatchValue(value=value))


def _where(where: When) -> models.Filter:
    return models.Filter(must=[_has(key, value) for key, value in where.items()])


def _has(key: str, value: str | None) -> models.FieldCondition | models.IsEmptyCondition:
    if value is None:
        return models.IsEmptyCondition(is_empty=models.PayloadField(key=key))
    return models.FieldCondition(key=key, match=models.MatchValue(value=value))


def _which(ids: Sequence[str], when: When) -> models.Filter:
    chosen: list[Any] = [models.HasIdCondition(has_id=list(ids))]
    return models.Filter(must=[*chosen, *(_has(key, value) for key, value in when.items())])


def _selector(fields: Sequence[str] | None) -> bool | list[str]:
    return True if fields is None else list(fields) or False


def _sparse(sparse: Sparse) -> models.SparseVector:
    checked = check_sparse(sparse)
    return models.SparseVector(indices=checked.indices, values=checked.values)


def _is_foreign(point: models.ScoredPoint) -> bool:
    return (point.payload or {}).get("kind") != "chunk"


def _hit(point: models.ScoredPoint, fields: Sequence[str] | None) -> Hit:
    payload = _whole(point.payload, fields)
    if fields is not None:
        payload = {name: payload[name] for name in fields if name in payload}
    return Hit(str(point.id), _finite(point.score), payload)


def _finite(score: float) -> float:
    if not math.isfinite(score):
        raise bad_response(f"a score of {score}")
    return score


def _whole(payload: dict[str, Any] | None, fields: Sequence[str] | None) -> dict[str, Any]:
    """Return the payload when it has the requested fields that documents and passages have."""
    payload = payload or {}
    if payload.get("kind", "chunk") not in ("chunk", "document"):
        return payload
    for name in NEEDED.keys() & (fields or ()):
        if not isinstance(payload.get(name), NEEDED[name]):
            raise bad_response(f"a point without a valid field '{name}'")
    return payload
