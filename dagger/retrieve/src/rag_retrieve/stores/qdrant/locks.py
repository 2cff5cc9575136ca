"""One process at a time makes, replaces or deletes the generations of a name.

The locks are points of the server's collection `rag~locks`, one for each name, which stays: it also
counts the generations, so that no number is used twice and a process that was given up for dead can
only touch generations that nobody has any more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any
from uuid import NAMESPACE_URL, uuid4, uuid5

from qdrant_client import models

from rag_kit.errors import StepError

from ...settings import RetrieveSettings
from ..base import Point
from ..shared import WAIT_S, Line, Watch, identity, patience
from .client import Server
from .collection import ServerStore

LOCKS = "rag~locks"  # "~" cannot stand in a collection's name
_HELD = ["token", "owner", "process", "doing"]


class NameLocks:
    """The locks of all names on one server."""

    def __init__(self, server: Server, settings: RetrieveSettings, watch: Watch) -> None:
        self._server = server
        self._replicas = settings.qdrant_replication_factor
        self._watch = watch

    @contextmanager
    def hold(self, name: str, doing: str) -> Iterator[HeldLock]:
        """Hold the lock of a name for the block.

        Raises:
            StepError: `in_progress`, another process has held it for too long.
        """
        store = ServerStore(self._server, name=name, remote=LOCKS, dim=0)
        held = HeldLock(store, name)
        self._open(held)
        held.take(doing, self._watch)
        try:
            yield held
        finally:
            with suppress(StepError):  # it is taken for dead soon, and the block has its own error
                held.release()

    def _open(self, held: HeldLock) -> None:
        try:
            held.make()
        except StepError as error:
            if error.code != "collection_not_found":
                raise
            self._create()
            held.make()

    def _create(self) -> None:
        """Make the collection of the locks, unless another process just did."""
        try:
            self._make()
        except StepError as error:
            if error.code != "collection_mismatch":
                raise

    def _make(self) -> None:
        self._server.write(
            lambda server: server.create_collection(
                LOCKS,
                vectors_config={},
                shard_number=1,
                replication_factor=self._replicas,
                optimizers_config=models.OptimizersConfigDiff(default_segment_number=1),
            ),
            LOCKS,
        )


class HeldLock:
    """The lock of one name, and its count of generations."""

    def __init__(self, store: ServerStore, name: str) -> None:
        self._store = store
        self._name = name
        self._id = str(uuid5(NAMESPACE_URL, f"rag:lock:{name}"))
        self._token = uuid4().hex

    def make(self) -> None:
        """Write the lock's point, held by nobody, unless it is there."""
        payload = {"kind": "lock", "name": self._name, "generation": 0}
        self._store.insert([Point(self._id, payload)])

    def take(self, doing: str, watch: Watch) -> None:
        """Wait for the lock and take it, also from a process that died with it."""
        line = Line(self._name)
        for _ in patience(WAIT_S):
            lock = self._read()
            holder = lock.get("token")
            if holder == self._token:
                return
            if holder is None or watch.dead(holder, lock):
                mine = {"token": self._token, **identity(), "doing": doing}
                self._store.set_fields([self._id], mine, {"token": holder})
            else:
                line.wait_for(holder, lock)
        raise line.refusal(watch.lease_s)

    def next_generation(self, taken: int) -> int:
        """Return a number that no generation of this name has had; `taken` is the highest seen."""
        number = max(taken, int(self._read().get("generation") or 0)) + 1
        self._store.set_fields([self._id], {"generation": number}, {"token": self._token})
        return number

    def release(self) -> None:
        """Let go of the lock, unless somebody else has it by now."""
        self._store.unset_fields([self._id], _HELD, {"token": self._token})

    def _read(self) -> Mapping[str, Any]:
        point = self._store.get([self._id]).get(self._id)
        return {} if point is None else point.payload
