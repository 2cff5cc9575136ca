"""A collection on a Qdrant server, opened. `aliases` has the collections themselves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qdrant_client import models

from ...search.filters import And, Compare, Condition, Not, Or, is_exact_integer, is_number
from ..base import (
    PAGE,
    Hit,
    Leg,
    Point,
    Sparse,
    batches,
    check_sparse,
    check_vector,
    payload_key,
    search_settled,
    with_limit,
)
from .client import Server, bad_response

# Payload fields that every point has if they were requested, and their types.
NEEDED = {"document_id": str, "version": str, "content_hash": str, "chunks": int}
HNSW_EF = 512  # candidates while searching a graph, where the server has built one


class ServerStore:
    """One collection on the server, by its alias or one generation's own name. See `Store`."""

    exclusive = False

    def __init__(self, server: Server, *, name: str, remote: str, dim: int) -> None:
        self.name = name
        self.dim = dim
        self._server = server
        self._remote = remote

    def upsert(self, points: Sequence[Point]) -> None:
        """Write points; up to 256 are one operation."""
        for batch in batches(points):
            self._write_points([self._native(point) for point in batch])

    def _write_points(self, natives: list[models.PointStruct]) -> None:
        self._server.write(
            lambda server: server.upsert(self._remote, natives, wait=True), self.name
        )

    def delete(self, ids: Sequence[str]) -> None:
        """Delete points; up to 256 are one operation."""
        for batch in batches(ids):
            self._delete_points(models.PointIdsList(points=list(batch)))

    def _delete_points(self, chosen: models.PointIdsList) -> None:
        self._server.write(lambda server: server.delete(self._remote, chosen, wait=True), self.name)

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
        with_vectors: bool = False,
    ) -> dict[str, Point]:
        """Return the points that exist, by id."""
        found: dict[str, Point] = {}
        for batch in batches(ids):
            for record in self._retrieve(batch, fields, with_vectors):
                point = self._point(record, fields)
                if point.id not in batch:
                    raise bad_response("a point that was not asked for")
                found[point.id] = point
        return found

    def _retrieve(
        self, ids: Sequence[str], fields: Sequence[str] | None, with_vectors: bool
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
        requests = [self._request(leg, native, _selector(fields)) for leg in legs]
        answers = self._server.read(
            lambda server: server.query_batch_points(self._remote, requests), self.name
        )
        if len(answers) != len(legs):
            raise bad_response(f"{len(answers)} answers to {len(legs)} searches")
        return [[_hit(point, fields) for point in answer.points] for answer in answers]

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
        self, where: Mapping[str, str], fields: Sequence[str] | None = None
    ) -> Iterator[Point]:
        """Yield points by id, a page at a time."""
        offset: Any = None
        while True:
            records, offset = self._page(where, fields, offset)
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
        self, where: Mapping[str, str], fields: Sequence[str] | None, offset: Any
    ) -> tuple[list[models.Record], Any]:
        return self._server.read(
            lambda server: server.scroll(
                self._remote,
                scroll_filter=_where(where),
                limit=PAGE,
                offset=offset,
                with_payload=_selector(fields),
                with_vectors=False,
            ),
            self.name,
        )

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


def _equals(key: str, value: Any) -> models.FieldCondition | models.IsNullCondition:
    if value is None:
        return models.IsNullCondition(is_null=models.PayloadField(key=key))
    if is_number(value) and not is_exact_integer(value):
        return models.FieldCondition(key=key, range=models.Range(gte=value, lte=value))
    return models.FieldCondition(key=key, match=models.MatchValue(value=value))


def _where(where: Mapping[str, str]) -> models.Filter:
    return models.Filter(
        must=[
            models.FieldCondition(key=key, match=models.MatchValue(value=value))
            for key, value in where.items()
        ]
    )


def _selector(fields: Sequence[str] | None) -> bool | list[str]:
    return True if fields is None else list(fields) or False


def _sparse(sparse: Sparse) -> models.SparseVector:
    checked = check_sparse(sparse)
    return models.SparseVector(indices=checked.indices, values=checked.values)


def _hit(point: models.ScoredPoint, fields: Sequence[str] | None) -> Hit:
    return Hit(str(point.id), _finite(point.score), _whole(point.payload, fields))


def _finite(score: float) -> float:
    if not math.isfinite(score):
        raise bad_response(f"a score of {score}")
    return score


def _whole(payload: dict[str, Any] | None, fields: Sequence[str] | None) -> dict[str, Any]:
    """Return the payload when it has the requested fields that every point has."""
    payload = payload or {}
    for name in NEEDED.keys() & (fields or ()):
        if not isinstance(payload.get(name), NEEDED[name]):
            raise bad_response(f"a point without a valid field '{name}'")
    return payload
