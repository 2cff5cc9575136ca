"""What the processes that write to one collection of a server tell each other, through its points.

A generation has one *state* point: its manifest and, beside it, who writes. It changes by
compare-and-set on its random `revision`, so every change is made by one process, over what that
process has seen. Each writer has a *journal* point of its own: what it is about to write, and a
heartbeat. A document is written by whoever its point names as `claim`; claims are set, replaced
and taken back only where the field still has the value that was read.

Nothing compares clocks of two machines: a writer counts as dead when its heartbeat stood still
for a lease on the watcher's clock, or when its process has ended on this machine.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Protocol
from uuid import NAMESPACE_URL, uuid4, uuid5

from rag_kit.errors import StepError

from .base import Point, Store, When
from .embedded.locks import has_ended, this_process

LOG = logging.getLogger(__name__)

STATE_ID = str(uuid5(NAMESPACE_URL, "rag:manifest"))
WAIT_S = 30.0  # the longest a writer waits in line before it says `in_progress`
QUIET_S = 2.0  # a shorter wait is not worth a line
BEATS = 5  # heartbeats in a lease


class SharedStore(Store, Protocol):
    """A store that other processes write to, too: it can also write only where a field has a value."""

    def get(
        self,
        ids: Sequence[str],
        fields: Sequence[str] | None = None,
        *,
        with_vectors: bool | list[str] = False,
    ) -> dict[str, Point]:
        """Return the points that exist, by id; `with_vectors` may name those to load."""

    def scroll(
        self,
        where: Mapping[str, str],
        fields: Sequence[str] | None = None,
        *,
        with_vectors: bool | list[str] = False,
    ) -> Iterator[Point]:
        """Yield the points whose payload has these values; `with_vectors` may name those to load."""

    @property
    def most_bytes(self) -> int:
        """The JSON that the payload of a point may take."""

    def counts_terms(self) -> bool:
        """Tell whether the server counts terms itself, as it does for collections of earlier versions."""

    def insert(self, points: Sequence[Point]) -> None:
        """Write the points whose ids are free; the others stay as they are."""

    def replace(self, points: Sequence[Point], when: When) -> None:
        """Replace the points that exist and whose payload has these values."""

    def set_fields(self, ids: Sequence[str], values: Mapping[str, Any], when: When) -> None:
        """Set payload fields of the points whose payload has these values."""

    def unset_fields(self, ids: Sequence[str], names: Sequence[str], when: When) -> None:
        """Remove payload fields of the points whose payload has these values."""

    def delete_where(self, chosen: Sequence[tuple[Sequence[str], When]]) -> None:
        """Delete the points of each group whose payload has the values of that group."""


@dataclass(frozen=True)
class State:
    """The state of a generation.

    Args:
        value: The manifest.
        revision: Changes with every change of the state.
        writers: The number of the last commit counted in the manifest, by writer.
        rebuilder: The writer that builds another generation; others may write meanwhile.
        alone: The writer that must be the only one, as for the end of a rebuild.
        successor: The generation that replaces this one; once set, that is decided.
        deleted: The collection is being deleted.
        terms: The points with the counts of terms, each with its number of terms; None: the server
            counts the terms itself, as in collections of earlier versions.
    """

    value: dict[str, Any] | None
    revision: str | None = None
    writers: dict[str, int] = field(default_factory=dict)
    rebuilder: str | None = None
    alone: str | None = None
    successor: int | None = None
    deleted: bool = False
    terms: list[list[Any]] | None = None

    @property
    def open(self) -> bool:
        """Tell whether the generation takes documents."""
        return self.successor is None and not self.deleted

    def tokens(self) -> list[str]:
        """Return all that are registered, in whatever role."""
        return [*self.writers, *{one for one in (self.rebuilder, self.alone) if one}]

    def without(self, token: str) -> State:
        """Return the state without a writer."""
        writers = {one: count for one, count in self.writers.items() if one != token}
        return replace(
            self,
            writers=writers,
            rebuilder=None if self.rebuilder == token else self.rebuilder,
            alone=None if self.alone == token else self.alone,
        )

    def point(self) -> Point:
        """Return the state as the point that keeps it, with a new revision."""
        return Point(STATE_ID, {"kind": "manifest", **asdict(self), "revision": uuid4().hex})

    @classmethod
    def of(cls, point: Point) -> State:
        """Return what a point keeps; fields it lacks have their defaults."""
        known = {one.name for one in fields(cls)} & point.payload.keys()
        return cls(**{"value": None, **{name: point.payload[name] for name in known}})


class Generation:
    """One generation of a collection by its own name, which no swap moves, with its state."""

    def __init__(self, store: SharedStore, number: int) -> None:
        self.store = store
        self.number = number

    def state(self) -> State | None:
        """Return the state; None when there is none, as before the collection exists."""
        point = self.store.get([STATE_ID]).get(STATE_ID)
        return None if point is None else State.of(point)

    def change(self, change: Callable[[State], State | None]) -> State:
        """Change the state in one step, over what is there at that moment.

        Args:
            change: Returns the state as it should be, or None when nothing is left to do; it is
                called again when another process was faster, and to see that it is done.

        Returns:
            The state for which `change` gave None.
        """
        for _ in patience(WAIT_S):
            state = self.state()
            if state is None:
                raise StepError(
                    "store_corrupt",
                    f"collection '{self.store.name}' has no manifest on the server; "
                    "`rag doctor` says what is there",
                )
            wanted = change(state)
            if wanted is None:
                return state
            self.store.replace([wanted.point()], {"revision": state.revision})
        raise StepError("in_progress", f"collection '{self.store.name}' keeps changing; try again")

    def journals(self, tokens: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return the journals of these writers, where there is one."""
        ids = {journal_id(token): token for token in tokens}
        return {ids[id_]: point.payload for id_, point in self.store.get(list(ids)).items()}

    def all_journals(self) -> dict[str, dict[str, Any]]:
        """Return the journals of all writers there are."""
        return {
            str(point.payload.get("token")): point.payload
            for point in self.store.scroll({"kind": "writer"})
        }


def journal_id(token: str) -> str:
    """Return the id of a writer's journal point."""
    return str(uuid5(NAMESPACE_URL, f"rag:writer:{token}"))


def identity() -> dict[str, str]:
    """Return how this process is named to others, and what tells whether it has ended."""
    return {
        "owner": f"process {os.getpid()} on {socket.gethostname()}",
        "process": this_process(),
    }


class Writer:
    """This process as a writer of a generation, from `announce` to `leave`.

    Args:
        generation: Where it writes.
        doing: What it does, for others that wait for it, such as "indexing".
        lease_s: After how many seconds without a heartbeat others take it for dead.
    """

    def __init__(self, generation: Generation, doing: str, lease_s: float) -> None:
        self.token = uuid4().hex
        self.generation = generation
        self.commit = 0
        self._who = {"kind": "writer", "token": self.token, **identity(), "doing": doing}
        self._beats = 0
        self._every = lease_s / BEATS
        self._left = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="rag-retrieve-beat", daemon=True)

    @property
    def write(self) -> str:
        """The mark of what the present commit writes; no other commit ever has the same."""
        return f"{self.token}-{self.commit}"

    def announce(self) -> None:
        """Write the journal point and keep its heartbeat going."""
        self.generation.store.upsert([self._journal([])])
        self._heart.start()

    def begin(self, versions: list[list[Any]]) -> None:
        """Journal the versions that the next commit writes, unless this writer was given up."""
        self.commit += 1
        alive = {"token": self.token, "fenced": None}
        self.generation.store.replace([self._journal(versions)], alive)

    def _journal(self, versions: list[list[Any]]) -> Point:
        progress = {"beat": self._beats, "commit": self.commit, "versions": versions}
        return Point(journal_id(self.token), {**self._who, **progress})

    def begun(self, journal: Point | None) -> bool:
        """Tell whether a journal read back is that of the present commit, and not given up."""
        return (
            journal is not None
            and journal.payload.get("commit") == self.commit
            and not journal.payload.get("fenced")
        )

    def _beat(self) -> None:
        while not self._left.wait(self._every):
            self._beats += 1
            with suppress(StepError):  # the next one may get through
                self.generation.store.set_fields(
                    [journal_id(self.token)], {"beat": self._beats}, {"token": self.token}
                )

    def rest(self) -> None:
        """Stop the heartbeat; the others will take this writer for dead."""
        self._left.set()
        if self._heart.ident is not None:
            self._heart.join()

    def leave(self) -> None:
        """Take this writer out of the state, then remove its journal."""
        self.rest()
        retire(self.generation, self.token)


def retire(generation: Generation, token: str) -> None:
    """Take a writer whose commits are settled out of a generation; a removed generation is fine."""
    try:
        generation.change(lambda state: state.without(token) if token in state.tokens() else None)
        generation.store.delete([journal_id(token)])
    except StepError as error:
        if error.code != "collection_not_found":
            raise


class Watch:
    """Tells which writers have died, from the heartbeats this process has seen.

    Args:
        lease_s: Seconds a heartbeat may stand still.
    """

    def __init__(self, lease_s: float) -> None:
        self.lease_s = lease_s
        self._seen: dict[str, tuple[Any, float]] = {}
        self._given_up: set[str] = set()

    def give_up(self, token: str) -> None:
        """Take a writer of this process for dead from now on."""
        self._given_up.add(token)

    def dead(self, token: str, journal: Mapping[str, Any] | None) -> bool:
        """Tell whether a writer has surely ended, or been silent for a lease.

        Args:
            token: The writer.
            journal: What it wrote last; None when it has no journal.
        """
        journal = journal or {}
        if token in self._given_up or has_ended(str(journal.get("process", ""))):
            return True
        beat, now = (journal.get("beat"), journal.get("commit")), time.monotonic()
        last, since = self._seen.get(token, (None, now))
        if last != beat:
            since = now
        self._seen[token] = (beat, since)
        return now - since > self.lease_s

    def forget(self, token: str) -> None:
        """Drop what was seen of a writer that is gone."""
        self._seen.pop(token, None)
        self._given_up.discard(token)


def patience(seconds: float) -> Iterator[float]:
    """Yield at once, then again and again after a short random pause, for so many seconds.

    Yields: The seconds that are left.
    """
    end, pause = time.monotonic() + seconds, 0.01
    while (left := end - time.monotonic()) > 0:
        yield left
        time.sleep(min(left, pause * random.uniform(0.5, 1.5)))  # noqa: S311  # no secret
        pause = min(0.5, 1.6 * pause)


class Line:
    """A writer's place in line: says in the log, once and when it takes long, whom it waits for."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._since = time.monotonic()
        self._told: set[str] = set()
        self._last: str | None = None

    def wait_for(self, token: str, journal: Mapping[str, Any] | None) -> None:
        """Note that somebody has to be waited for."""
        who = (journal or {}).get("owner") or "another process"
        self._last = f"{who} is {(journal or {}).get('doing') or 'writing'}"
        if token not in self._told and time.monotonic() - self._since > QUIET_S:
            self._told.add(token)
            LOG.warning("collection '%s': waiting, %s there", self._name, self._last)

    def refusal(self, lease_s: float) -> StepError:
        """Return the error for a wait that took too long."""
        return StepError(
            "in_progress",
            f"{self._last or 'another process is writing'} in collection '{self._name}' for more than "
            f"{WAIT_S:.0f} s; try again when it is done. If it died, it is cleaned up "
            f"{lease_s:.0f} s after its last sign of life",
            retry_after=lease_s,
        )
