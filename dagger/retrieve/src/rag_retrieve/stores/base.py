"""The interface of a store of passages, and what its implementations share.

All hold a collection the same way, so all find the same: points with a uuid, a JSON payload
and, for passages, the named vectors `dense` (cosine) and `sparse` (BM25). The embedded store weighs
a question's terms by how rare they are; a server is given weights that do, from counts that do not
depend on its shards (`index.term_counts`). Payload-only points (documents) have no vectors and change
no score. A filter applies to the payload's `metadata` object.

`Stores` opens collections by name; `Store` is one collection opened. A collection's points live
in a *generation*; `begin_generation` makes a new, empty one beside the live one and
`publish_generation` swaps them in one atomic step.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rag_kit.errors import StepError
from rag_kit.passages import ALLOWED_GROUPS

from ..search.filters import Condition

BATCH = 256  # points in one write; a call of `upsert` with no more is one atomic operation
SPARE = 16  # hits fetched beyond the limit, to see whether the cut falls among equal scores
TIE_ROUNDS = 4  # times a search is widened for that
PAGE = 1000  # points read at once while scrolling
INDEXED = ("kind", "document_id")  # payload fields with a keyword index
MAX_INDEXED = 32  # metadata fields with an index; others are filtered passage by passage
MAX_KEYWORD = 256  # characters of a text that says its field is worth a keyword index
CLAIMS = ("claim", "write", "token", "fenced", "revision")  # and those of writers side by side

_PLAIN = re.compile(r"[A-Za-z0-9_-]+")

Vector: TypeAlias = Sequence[float] | NDArray[np.float32]


@dataclass(frozen=True)
class Sparse:
    """A sparse vector: distinct term ids (unsigned 32 bit) and their weights, same length."""

    indices: list[int]
    values: list[float]


@dataclass(frozen=True)
class Point:
    """What a collection holds: `id` is a uuid; the vectors are None for payload-only points."""

    id: str
    payload: dict[str, Any] = field(default_factory=dict)
    dense: Vector | None = None
    sparse: Sparse | None = None


class Hit(NamedTuple):
    """A point found by one leg: `score` is a cosine (dense) or BM25 (sparse); higher is better."""

    id: str
    score: float
    payload: dict[str, Any]


When: TypeAlias = Mapping[str, str | None]
"""Values that fields of a payload must have for a write to happen; None: the field is not there."""

Leg: TypeAlias = tuple[Literal["dense"], Vector, int] | tuple[Literal["sparse"], Sparse, int]


class Store(Protocol):
    """One collection, opened. Methods may be called from several threads."""

    name: str
    dim: int
    exclusive: bool  # no other process can write: what this process knows of the store holds

    def upsert(self, points: Sequence[Point]) -> None:
        """Write points, replacing those with the same id; durable against a kill on return.

        Up to `BATCH` points are one operation: all of them are written, or none.
        """

    def delete(self, ids: Sequence[str]) -> None:
        """Delete points; ids that are not there are ignored. Up to `BATCH` are one operation."""

    def get(
        self,
        ids: Sequence[str],
        fields: Sequence[str] | None = None,
        *,
        with_vectors: bool = False,
    ) -> dict[str, Point]:
        """Return the points that exist, by id.

        `fields` names the payload fields to load; None loads all. Dense vectors come back
        normalised to length 1.
        """

    def search(
        self,
        legs: Sequence[Leg],
        condition: Condition | None = None,
        fields: Sequence[str] | None = None,
    ) -> list[list[Hit]]:
        """Search all legs in one call; each list is best first, ties by id.

        The condition, if any, is tested on the payload's `metadata`. `fields` names the payload
        fields to load; None loads all, an empty list none.
        """

    def score(self, queries: Sequence[tuple[Leg, Sequence[str]]]) -> list[dict[str, float]]:
        """Score given points by each leg, in one call; the leg's limit does not count.

        A sparse leg gives no score to a point that shares no term with it.
        """

    def scroll(
        self, where: Mapping[str, str], fields: Sequence[str] | None = None
    ) -> Iterator[Point]:
        """Yield the points whose payload has these values, by id, without vectors.

        `fields` names the payload fields to load; None loads all. Pages are read as needed.
        """

    def count(self, kind: str) -> int:
        """Count the points whose payload has this `kind`."""

    def flush(self) -> None:
        """Call after a run of writes: syncs to disk and brings index statistics up to date."""

    def close(self) -> None:
        """Release the collection; closing twice is fine."""


class Stores(Protocol):
    """All collections of one database."""

    def names(self) -> list[str]:
        """Return the names of all collections, sorted."""

    def exists(self, name: str) -> bool:
        """Tell whether there is such a collection."""

    def create(self, name: str, *, dim: int, manifest: Mapping[str, Any] | None = None) -> Store:
        """Create and open an empty collection for vectors of `dim` numbers, in one step.

        It exists, with its manifest, once everything is in place; a crash before leaves nothing.
        """

    def open(self, name: str) -> Store:
        """Open a collection; StepError `collection_not_found` when there is none."""

    def delete(self, name: str, *, only_unused: bool = False) -> None:
        """Delete a collection; StepError `collection_not_found` when there is none.

        With `only_unused` it stays if another process has put a document into it or is about to.
        """

    def read_manifest(self, name: str) -> dict[str, Any] | None:
        """Return what `write_manifest` or `publish_generation` stored, or None."""

    def write_manifest(self, name: str, manifest: Mapping[str, Any]) -> None:
        """Store the manifest (JSON), replacing the one before in one step."""

    def begin_generation(self, name: str, dim: int) -> tuple[int, Store]:
        """Make an empty generation beside the live one, invisible until it is published.

        Leftovers of an unfinished one are removed. Closing the store before it is published
        gives it up.
        """

    def publish_generation(self, name: str, generation: int, manifest: Mapping[str, Any]) -> None:
        """Make the generation the live one, with its manifest, in one step; remove the old one.

        The store of `begin_generation` is then the live store. A journal is removed, and stores
        opened before must be opened again (an embedded one is closed).

        Raises:
            StepError: `in_progress`, the collection was deleted or replaced meanwhile.
        """

    def lost(self) -> list[str]:
        """Return the names of collections that are whole, but that nobody finds."""

    def repair_alias(self, name: str) -> bool:
        """Let such a collection be found again; tell whether it was mended."""

    def foreign(self) -> list[str]:
        """Return what stands under names of ours and was made by somebody else."""

    def close(self) -> None:
        """Close every store opened here."""


def check_vector(vector: Vector, dim: int, name: str) -> list[float]:
    """Return a dense vector as a list; refuse a wrong length, NaN and infinity (a store would
    take NaN and answer nonsense ever after).
    """
    array = np.asarray(vector, dtype=np.float32)
    if array.shape != (dim,):
        raise StepError(
            "collection_mismatch",
            f"a vector of shape {array.shape} does not fit collection '{name}', whose vectors have "
            f"{dim} numbers; use the embedding model it was built with, or reindex it",
        )
    if not np.isfinite(array).all():
        raise StepError("embedder_bad_response", "the embedding holds NaN or infinity")
    return array.tolist()  # type: ignore[no-any-return]


def check_sparse(sparse: Sparse) -> Sparse:
    """Return a sparse vector as it is; refuse lengths that differ, NaN and infinity."""
    if len(sparse.indices) != len(sparse.values) or not all(map(math.isfinite, sparse.values)):
        raise StepError("internal_error", "a sparse vector is malformed (lengths, NaN or infinity)")
    return sparse


def payload_key(field: str) -> str:
    """Return the payload path of a metadata field; parts that are not plain words are quoted."""
    parts = ["metadata", *field.split(".")]
    return ".".join(part if _PLAIN.fullmatch(part) else f'"{part}"' for part in parts)


IndexKind: TypeAlias = Literal["keyword", "float"]


def metadata_indexes(points: Sequence[Point]) -> dict[str, IndexKind]:
    """Return the payload paths of metadata that deserve an index: of short texts, or of numbers.

    Points without metadata want none. A filter on a field with an index costs less than the search
    itself; without one every payload is read, 50 ms at 20 k passages. What an index cannot serve is
    tested on the payload, so it changes no answer.
    """
    described = [point.payload["metadata"] for point in points if "metadata" in point.payload]
    found: dict[str, IndexKind] = {payload_key(ALLOWED_GROUPS): "keyword"} if described else {}
    for metadata in described:
        for name, value in metadata.items():
            first = value[0] if isinstance(value, list) and value else value
            if isinstance(first, str) and len(first) <= MAX_KEYWORD:
                kind: IndexKind = "keyword"
            elif isinstance(first, int | float) and not isinstance(first, bool):
                kind = "float"
            else:
                continue
            if not re.search(r'[."]', name):
                found.setdefault(payload_key(name), kind)
    return found


def lacking_indexes(
    wanted: Mapping[str, IndexKind], known: Collection[str]
) -> dict[str, IndexKind]:
    """Return the indexes wanted that a collection lacks, at most `MAX_INDEXED` of metadata in all."""
    lacking = {key: kind for key, kind in wanted.items() if key not in known}
    room = MAX_INDEXED - sum(key.startswith("metadata.") for key in known)
    return dict(islice(lacking.items(), max(0, room)))


def search_settled(
    legs: Sequence[Leg], fetch: Callable[[Sequence[Leg]], list[list[Hit]]]
) -> list[list[Hit]]:
    """Search with a deterministic choice among equal scores at the limit.

    Args:
        legs: What to search.
        fetch: Runs legs as one request.

    Returns:
        One list per leg, by descending score, ties by id, at most the leg's limit. A leg asks
        for a few more hits than its limit; one that still ends among equal scores is searched
        again for four times as many hits, at most `TIE_ROUNDS` times. A leg with the limit 0 only
        asks whether there is a hit, and gets one at most.
    """
    wider = [with_limit(leg, leg[2] + SPARE if leg[2] else 1) for leg in legs]
    found = fetch(wider)
    for _ in range(TIE_ROUNDS):
        open_legs = [
            at
            for at, (leg, hits) in enumerate(zip(legs, found, strict=True))
            if leg[2] and len(hits) == wider[at][2] and hits[leg[2] - 1].score == hits[-1].score
        ]
        if not open_legs:
            break
        for at in open_legs:
            wider[at] = with_limit(legs[at], 4 * wider[at][2])
        for at, hits in zip(open_legs, fetch([wider[at] for at in open_legs]), strict=True):
            found[at] = hits
    return [
        sorted(hits, key=lambda hit: (-hit.score, hit.id))[: leg[2] or 1]
        for leg, hits in zip(legs, found, strict=True)
    ]


def with_limit(leg: Leg, limit: int) -> Leg:
    """Return the same leg with another limit."""
    if leg[0] == "dense":
        return ("dense", leg[1], limit)
    return ("sparse", leg[1], limit)


def json_bytes(payload: Mapping[str, Any]) -> int:
    """Return how many bytes a payload takes as JSON."""
    text = json.dumps(payload, ensure_ascii=False, separators=(",", ":"))
    return len(text.encode("utf-8", "surrogatepass"))


def batches(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Yield the items in slices of at most `BATCH`."""
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]


def not_found(name: str) -> StepError:
    """Return the error for a collection that does not exist."""
    return StepError(
        "collection_not_found",
        f"collection '{name}' does not exist; adding documents to it makes it",
        param="collection",
    )


def already_there(name: str) -> StepError:
    """Return the error for creating a collection that exists."""
    return StepError(
        "collection_mismatch",
        f"collection '{name}' exists already; use it, or choose another name",
        param="collection",
    )
