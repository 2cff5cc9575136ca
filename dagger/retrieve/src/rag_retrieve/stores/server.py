"""A collection on a Qdrant server, opened. `aliases` has the collections themselves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qdrant_client import QdrantClient, models

from ..filters import And, Compare, Condition, Not, Or, is_exact_integer, is_number
from . import (
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
from .client import bad_response, explained, read

HNSW_EF = 512  # candidates while searching a graph, where the server has built one


class ServerStore:
    """One collection on the server, by its alias or one generation's own name. See `Store`."""

    exclusive = False

    def __init__(
        self, reader: QdrantClient, writer: QdrantClient, *, name: str, remote: str, dim: int
    ) -> None:
        self.name = name
        self.dim = dim
        self._reader = reader
        self._writer = writer
        self._remote = remote

    def upsert(self, points: Sequence[Point]) -> None:
        """Write points; up to 256 are one operation."""
        for batch in batches(points):
            natives = [self._native(point) for point in batch]
            with explained(self.name):
                self._writer.upsert(self._remote, natives, wait=True)

    def delete(self, ids: Sequence[str]) -> None:
        """Delete points; up to 256 are one operation."""
        for batch in batches(ids):
            with explained(self.name):
                self._writer.delete(
                    self._remote, models.PointIdsList(points=list(batch)), wait=True
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
        with_vectors: bool = False,
    ) -> dict[str, Point]:
        """Return the points that exist, by id."""
        found: dict[str, Point] = {}
        for batch in batches(ids):
            records = self._retrieve(batch, fields, with_vectors)
            found.update({str(record.id): _point(record) for record in records})
        return found

    def _retrieve(
        self, ids: Sequence[str], fields: Sequence[str] | None, with_vectors: bool
    ) -> list[models.Record]:
        return read(
            lambda: self._reader.retrieve(
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
        return search_settled(legs, lambda asked: self._fetch(asked, native, _selector(fields)))

    def _fetch(
        self, legs: Sequence[Leg], native: models.Filter | None, payload: Any
    ) -> list[list[Hit]]:
        requests = [self._request(leg, native, payload) for leg in legs]
        answers = read(lambda: self._reader.query_batch_points(self._remote, requests), self.name)
        if len(answers) != len(legs):
            raise bad_response(f"{len(answers)} answers to {len(legs)} searches")
        return [[_hit(point) for point in answer.points] for answer in answers]

    def score(self, asked: Sequence[tuple[Leg, Sequence[str]]]) -> list[dict[str, float]]:
        """Score given points by each leg, in one round trip."""
        requests = [self._scoring(leg, ids) for leg, ids in asked]
        answers = read(lambda: self._reader.query_batch_points(self._remote, requests), self.name)
        if len(answers) != len(asked):
            raise bad_response(f"{len(answers)} answers to {len(asked)} searches")
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
            yield from map(_point, records)
            if offset is None:
                return

    def _page(
        self, where: Mapping[str, str], fields: Sequence[str] | None, offset: Any
    ) -> tuple[list[models.Record], Any]:
        return read(
            lambda: self._reader.scroll(
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
        answer = read(
            lambda: self._reader.count(self._remote, count_filter=where, exact=True), self.name
        )
        return answer.count

    def flush(self) -> None:
        """Do nothing: writes were waited for, and the server optimises on its own."""

    def close(self) -> None:
        """Do nothing: the connection belongs to `ServerStores`."""


def to_client(condition: Condition) -> models.Filter:
    """Translate a filter to the client's; `rag_retrieve.filters` says what it must mean."""
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
        case Compare(field, "in", tuple() as values):
            return models.Filter(should=[_equals(payload_key(field), value) for value in values])
        case Compare(field, op, value):
            bounds = models.Range.model_validate({op: value})
            return models.Filter(must=[models.FieldCondition(key=payload_key(field), range=bounds)])


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


def _hit(point: models.ScoredPoint) -> Hit:
    return Hit(str(point.id), _finite(point.score), point.payload or {})


def _finite(score: float) -> float:
    if not math.isfinite(score):
        raise bad_response(f"a score of {score}")
    return score


def _point(record: models.Record) -> Point:
    vectors = record.vector if isinstance(record.vector, dict) else {}
    dense: Any = vectors.get("dense")
    sparse = vectors.get("sparse")
    return Point(
        str(record.id),
        record.payload or {},
        dense,
        Sparse(sparse.indices, sparse.values) if isinstance(sparse, models.SparseVector) else None,
    )
