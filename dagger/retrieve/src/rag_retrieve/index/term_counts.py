"""In how many passages each term stands: what BM25 weighs a question's terms by, on a server.

A server that counts terms itself does it in each shard and each copy, so scores there depend on how
passages are spread and on what was deleted. Here each commit writes a *part*: what it adds to the
counts and takes from them. The counts of a collection are the sum of the parts that its state names.
A part never changes; when there are many, small ones are replaced by their sum.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias
from uuid import NAMESPACE_URL, uuid4, uuid5

import numpy as np
from numpy.typing import NDArray

from rag_kit.errors import StepError

from ..stores.base import Point, Sparse

KIND = "terms"  # of a part's point
MOST_PARTS = 16  # a commit that finds more of them sums up small ones
MOST_TERMS = 2_000_000  # in one part: about 16 MB of JSON, half of what a server takes at once

Named: TypeAlias = tuple[str, int]
"""A part as a state names it: the id of its point, and how many terms it has."""


@dataclass(frozen=True)
class TermCounts:
    """Counts of terms, or the difference of two.

    Args:
        passages: How many passages were counted.
        ids: The terms, rising; T numbers of unsigned 32 bit.
        counts: In how many passages each one stands; T numbers, none 0.
    """

    passages: int
    ids: NDArray[np.uint32]
    counts: NDArray[np.int32]

    @classmethod
    def of(cls, vectors: Iterable[Sparse]) -> TermCounts:
        """Count the terms of passages."""
        lists = [np.asarray(vector.indices, np.uint32) for vector in vectors]
        ids, counts = np.unique(np.concatenate([*lists, _NO_IDS]), return_counts=True)
        return cls(len(lists), ids, counts.astype(np.int32))

    @classmethod
    def sum(cls, parts: Iterable[TermCounts]) -> TermCounts:
        """Add counts up."""
        parts = list(parts)
        all_ids = np.concatenate([*(part.ids for part in parts), _NO_IDS])
        all_counts = np.concatenate([*(part.counts for part in parts), _NO_COUNTS])
        ids, places = np.unique(all_ids, return_inverse=True)
        counts = np.zeros(len(ids), np.int32)
        np.add.at(counts, places, all_counts)
        there = counts != 0
        return cls(sum(part.passages for part in parts), ids[there], counts[there])

    def __neg__(self) -> TermCounts:
        """Return what takes these counts away."""
        return replace(self, passages=-self.passages, counts=-self.counts)

    def counts_of(self, ids: NDArray[np.uint32]) -> NDArray[np.int32]:
        """Return the count of each term asked for; 0 for one that is not here."""
        if not len(self.ids):
            return np.zeros(len(ids), np.int32)
        places = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        return np.where(self.ids[places] == ids, self.counts[places], 0).astype(np.int32)

    def split(self) -> Iterator[TermCounts]:
        """Yield these counts in pieces that a point can hold; their sum is the whole."""
        for at in range(0, max(1, len(self.ids)), MOST_TERMS):
            some = slice(at, at + MOST_TERMS)
            passages = 0 if at else self.passages
            yield TermCounts(passages, self.ids[some], self.counts[some])

    def point(self, id_: str | None = None) -> Point:
        """Return the counts as the point that keeps them; without an id it gets a random one."""
        raw = self.ids.astype("<u4").tobytes() + self.counts.astype("<i4").tobytes()
        payload = {
            "kind": KIND,
            "passages": self.passages,
            "terms": len(self.ids),
            "counts": base64.b64encode(zlib.compress(raw, 1)).decode(),
        }
        return Point(id_ or str(uuid4()), payload)

    @classmethod
    def read(cls, payload: Mapping[str, Any]) -> TermCounts:
        """Return the counts that a point keeps.

        Raises:
            StepError: `store_corrupt`, they cannot be read.
        """
        try:
            raw = zlib.decompress(base64.b64decode(payload["counts"], validate=True))
            ids = np.frombuffer(raw[: len(raw) // 2], "<u4")
            counts = np.frombuffer(raw[len(raw) // 2 :], "<i4")
            if len(ids) != len(counts) or len(ids) != payload["terms"]:
                raise ValueError("its halves differ in length")
            return cls(int(payload["passages"]), ids.astype(np.uint32), counts.astype(np.int32))
        except (KeyError, TypeError, ValueError, zlib.error) as error:
            raise StepError(
                "store_corrupt",
                "counts of terms on the server cannot be read; `rag doctor --repair` counts anew",
            ) from error


_NO_IDS = np.empty(0, np.uint32)
_NO_COUNTS = np.empty(0, np.int32)


def named(point: Point) -> Named:
    """Return a part as a state names it."""
    return point.id, int(point.payload["terms"])


def part_id(write: str) -> str:
    """Return the id of the part that a commit writes."""
    return str(uuid5(NAMESPACE_URL, f"rag:terms:{write}"))


def small_parts(parts: Sequence[Named]) -> list[str]:
    """Return the ids of the parts to sum up now: small ones, until the next is larger than all of them.

    So each count is written anew only a logarithmic number of times. None while there are few parts.
    """
    if len(parts) <= MOST_PARTS:
        return []
    chosen: list[str] = []
    total = 0
    for id_, terms in sorted(parts, key=lambda part: part[1]):
        if len(chosen) > 1 and (terms > total or total + terms > MOST_TERMS):
            break
        chosen.append(id_)
        total += terms
    return chosen if len(chosen) > 1 and total <= MOST_TERMS else []


def weighed(query: Sparse, parts: Sequence[TermCounts]) -> Sparse:
    """Weigh a question's terms by how rare they are, in the numbers of 32 bit that Qdrant reckons in.

    Source: the IDF of BM25 as Lucene has it, `ln(1 + (n - df + 0.5) / (df + 0.5))`.
    """
    ids = np.asarray(query.indices, np.uint32)
    passages = np.float32(max(0, sum(part.passages for part in parts)))
    holders = sum((part.counts_of(ids) for part in parts), np.zeros(len(ids), np.int32))
    found = np.clip(holders.astype(np.float32), 0, passages)
    half, one = np.float32(0.5), np.float32(1)
    rarity = np.log((passages - found + half) / (found + half) + one)
    return Sparse(query.indices, (np.asarray(query.values, np.float32) * rarity).tolist())
