"""The server store: collections on a Qdrant server, laid out like the embedded ones.

A collection `docs` is the alias `rag_docs` of the server's collection `rag_docs~g<generation>`
("~" cannot stand in a name, so no two collections meet). Reads go through the alias; writes go to a
generation by its own name. A collection exists when its alias does.

A generation is replaced in three steps: its state names the successor, which decides it; the alias
moves, in one operation of the server, whose removal and making of an alias are saved one after the
other; the old generation is removed. Whoever finds a decided generation does what is left.

A generation is removed only if it was replaced or deleted, or never held a manifest: one with a
manifest and without an alias is a collection that lost its alias, and gets it back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from qdrant_client import models

from rag_kit.errors import StepError

from ...settings import RetrieveSettings
from ..base import CLAIMS, INDEXED, already_there, not_found
from ..shared import Generation, State, Watch
from .client import Server
from .collection import ServerStore
from .locks import NameLocks

EXACT_UP_TO = 100_000  # passages in a segment; up to here the server builds no graph
HNSW_M = 32  # edges per node
HNSW_EF_CONSTRUCT = 256  # candidates while building


class ServerStores:
    """All collections on one server whose alias starts with `rag_`. See `Stores`.

    Args:
        url: Where the server is, such as `http://localhost:6333`.
        settings: Its key, how long a read may take, when calls are refused because most fail, how new
            collections are spread over nodes, and when a silent writer counts as dead.
    """

    def __init__(self, url: str, settings: RetrieveSettings) -> None:
        self._server = Server(url, settings)
        self.breaker = self._server.breaker
        self.watch = Watch(settings.qdrant_lease_s)
        self._locks = NameLocks(self._server, settings, self.watch)
        self._spread = {
            "shard_number": settings.qdrant_shard_number,
            "replication_factor": settings.qdrant_replication_factor,
            "write_consistency_factor": settings.qdrant_write_consistency_factor,
        }
        self._drafts: dict[tuple[str, int], ServerStore] = {}
        self.alone: dict[str, str] = {}  # by name: the writer of this process that is alone there

    def names(self) -> list[str]:
        """Return the names of all collections, sorted."""
        return sorted(self._live())

    def exists(self, name: str) -> bool:
        """Tell whether there is such a collection."""
        return name in self._live()

    def _live(self) -> dict[str, str]:
        """Return the server's collection behind each name."""
        return {
            alias.removeprefix("rag_"): remote
            for alias, remote in self._aliases().items()
            if alias.startswith("rag_") and re.fullmatch(re.escape(alias) + r"~g\d+", remote)
        }

    def _aliases(self) -> dict[str, str]:
        answer = self._server.read(lambda server: server.get_aliases())
        return {one.alias_name: one.collection_name for one in answer.aliases}

    def _remotes(self) -> list[str]:
        answer = self._server.read(lambda server: server.get_collections())
        return [one.name for one in answer.collections]

    def generations(self, name: str) -> list[int]:
        """Return the numbers of all generations of a name, the live one and what a crash left."""
        prefix = f"rag_{name}~g"
        found = [one.removeprefix(prefix) for one in self._remotes() if one.startswith(prefix)]
        return sorted(int(number) for number in found if number.isdecimal())

    def generation(self, name: str, dim: int = 0) -> Generation:
        """Return the live generation, by its own name; raises `collection_not_found`.

        `dim` is the length of the dense vectors to be written, 0 if there are none.
        """
        remote = self._live().get(name)
        if remote is None:
            raise not_found(name)
        return self._generation(name, int(remote.rpartition("~g")[2]), dim)

    def _generation(self, name: str, number: int, dim: int = 0) -> Generation:
        return Generation(self._store(name, f"rag_{name}~g{number}", dim), number)

    def create(
        self, name: str, *, dim: int, manifest: Mapping[str, Any] | None = None
    ) -> ServerStore:
        """Create and open an empty collection."""
        self._refuse_foreign(name)
        with self._locks.hold(name, "making the collection") as lock:
            if self.exists(name) or self.restore_alias(name):
                raise already_there(name)
            found = self.generations(name)
            for number in found:
                self._remove(name, number)  # without a manifest, or deleted: else it were restored
            number = lock.next_generation(max(found, default=0))
            self._make(name, number, dim)
            self._write_state(name, number, manifest, [])
            self._point_alias(name, number)
        return self._store(name, f"rag_{name}", dim)

    def _refuse_foreign(self, name: str) -> None:
        """Refuse a name under which the server has something that this project did not make."""
        alias, live = f"rag_{name}", self._live()
        if name not in live and (alias in self._aliases() or alias in self._remotes()):
            raise StepError(
                "collection_mismatch",
                f"the Qdrant server has something named '{alias}' that rag did not make; it is left "
                "alone. Choose another name for the collection",
                param="collection",
            )

    def restore_alias(self, name: str) -> bool:
        """Give a collection that lost its alias the alias back; tell whether there was one.

        Call it under the lock of the name, when there is no alias.
        """
        for number in self._restorable(name):
            generation = self._generation(name, number)
            generation.change(
                lambda state: None if state.successor is None else replace(state, successor=None)
            )
            self._point_alias(name, number)
            return True
        return False

    def _restorable(self, name: str) -> list[int]:
        """Return the generations that hold a manifest and were neither deleted nor replaced."""
        numbers = self.generations(name)
        states = {number: self._generation(name, number).state() for number in numbers}
        return [
            number
            for number, state in states.items()
            if state is not None
            and state.value is not None
            and not state.deleted
            and state.successor not in numbers
        ]

    def repair_alias(self, name: str) -> bool:
        """Give a collection its alias back if it has none; tell whether it was mended."""
        with self._locks.hold(name, "mending the alias"):
            return not self.exists(name) and self.restore_alias(name)

    def lost(self) -> list[str]:
        """Return the names that have generations with a manifest and no alias."""
        live = self._live()
        pattern = re.compile(r"rag_(.+)~g\d+")
        names = {match[1] for match in map(pattern.fullmatch, self._remotes()) if match}
        return sorted(name for name in names - live.keys() if self._restorable(name))

    def foreign(self) -> list[str]:
        """Return what stands under a name of ours on the server and was not made by us."""
        live, aliases = self._live(), self._aliases()
        plain = {one for one in self._remotes() if one.startswith("rag_") and "~g" not in one}
        others = {one for one in aliases if one.startswith("rag_")}
        return sorted(one for one in plain | others if one.removeprefix("rag_") not in live)

    def open(self, name: str) -> ServerStore:
        """Open a collection."""
        remote = self._live().get(name)
        if remote is None:
            self._refuse_foreign(name)
            raise not_found(name)
        info = self._server.read(lambda server: server.get_collection(remote), name)
        vectors = info.config.params.vectors
        if not isinstance(vectors, dict) or "dense" not in vectors:
            raise StepError(
                "store_corrupt",
                f"the alias 'rag_{name}' names the Qdrant collection '{remote}', which has no vector "
                "'dense' and was not made by rag; move the alias to the right collection",
            )
        return self._store(name, f"rag_{name}", vectors["dense"].size)

    def delete(self, name: str, *, only_unused: bool = False) -> None:
        """Delete a collection: mark it, then remove its alias and its generations."""

        def mark(state: State) -> State | None:
            used = bool((state.value or {}).get("documents") or state.tokens())
            return None if state.deleted or (only_unused and used) else replace(state, deleted=True)

        with self._locks.hold(name, "deleting the collection"):
            live = self.generation(name)
            if live.state() is not None and not live.change(mark).deleted:
                return
            drop = models.DeleteAliasOperation(
                delete_alias=models.DeleteAlias(alias_name=f"rag_{name}")
            )
            self._server.write(lambda server: server.update_collection_aliases([drop]), name)
            for number in self.generations(name):
                self._remove(name, number)

    def read_manifest(self, name: str) -> dict[str, Any] | None:
        """Return the manifest."""
        return self.state(name).value

    def state(self, name: str) -> State:
        """Return the state of the live generation, found by the alias; an empty one if it has none."""
        state = Generation(self._store(name, f"rag_{name}", 0), 0).state()
        if state is None:
            self._refuse_foreign(name)
        return state or State(None)

    def write_manifest(self, name: str, manifest: Mapping[str, Any]) -> None:
        """Replace the manifest in one step."""
        live, value = self.generation(name), dict(manifest)
        if live.state() is None:
            self._write_state(name, live.number, value)
        live.change(lambda state: None if state.value == value else replace(state, value=value))

    def begin_generation(self, name: str, dim: int) -> tuple[int, ServerStore]:
        """Make an empty generation beside the live one; unfinished ones are removed."""
        with self._locks.hold(name, "making a generation") as lock:
            live = self.generation(name)
            found = self.generations(name)
            for number in found:
                if number != live.number:
                    self._remove(name, number)
            number = lock.next_generation(max(found))
            store = self._make(name, number, dim)
        self._drafts[name, number] = store
        return number, store

    def publish_generation(self, name: str, generation: int, manifest: Mapping[str, Any]) -> None:
        """Decide for the generation, move the alias to it, then remove the old one."""
        store, alone = self._drafts.pop((name, generation)), self.alone.get(name)
        counted = self._generation(name, generation).store.scroll({"kind": "terms"}, ["terms"])
        terms = [[point.id, point.payload["terms"]] for point in counted]
        self._write_state(name, generation, manifest, terms)
        live = self.generation(name)

        def decide(state: State) -> State | None:
            if state.successor == generation:
                return None
            if not state.open or state.alone != alone:
                raise StepError(
                    "in_progress",
                    f"collection '{name}' was deleted or changed by another process while it was "
                    "reindexed; nothing of the reindex is kept. Reindex it again",
                )
            return replace(state, successor=generation)

        try:
            live.change(decide)
            self.finish(name, live, generation)
        except StepError as error:
            # Whoever saw the decision may have carried it out before this process read it back.
            done = self._live().get(name) == f"rag_{name}~g{generation}"
            if error.code != "collection_not_found" or not done:
                raise
        store.follow(f"rag_{name}")

    def finish(self, name: str, old: Generation, successor: int) -> None:
        """Do what is left once it is decided that a generation replaces an old one."""
        self._point_alias(name, successor)
        self._remove(name, old.number)

    def close(self) -> None:
        """Close the connections."""
        self._server.close()

    def _store(self, name: str, remote: str, dim: int) -> ServerStore:
        return ServerStore(self._server, name=name, remote=remote, dim=dim)

    def _write_state(
        self,
        name: str,
        number: int,
        manifest: Mapping[str, Any] | None,
        terms: list[list[Any]] | None = None,
    ) -> None:
        value = None if manifest is None else dict(manifest)
        self._generation(name, number).store.upsert([State(value, terms=terms).point()])

    def _make(self, name: str, number: int, dim: int) -> ServerStore:
        remote = f"rag_{name}~g{number}"
        options = {**_layout(dim), **self._spread}
        self._server.write(lambda server: server.create_collection(remote, **options), name)
        for field in (*INDEXED, *CLAIMS):
            self._index(name, remote, field)
        return self._store(name, remote, dim)

    def _index(self, name: str, remote: str, field: str) -> None:
        kind = models.PayloadSchemaType.KEYWORD
        self._server.write(
            lambda server: server.create_payload_index(remote, field, kind, wait=True), name
        )

    def _point_alias(self, name: str, number: int) -> None:
        """Make or move the alias; making one that exists moves it, in one step."""
        alias = f"rag_{name}"
        make = models.CreateAliasOperation(
            create_alias=models.CreateAlias(collection_name=f"{alias}~g{number}", alias_name=alias)
        )
        self._server.write(lambda server: server.update_collection_aliases([make]), name)

    def _remove(self, name: str, number: int) -> None:
        remote = f"rag_{name}~g{number}"
        self._server.write(lambda server: server.delete_collection(remote), name)


def _layout(dim: int) -> dict[str, Any]:
    threshold_kb = EXACT_UP_TO * dim * 4 // 1024
    return {
        "vectors_config": {"dense": models.VectorParams(size=dim, distance=models.Distance.COSINE)},
        "sparse_vectors_config": {
            "sparse": models.SparseVectorParams()
        },  # weighed by `term_counts`
        "hnsw_config": models.HnswConfigDiff(
            m=HNSW_M, ef_construct=HNSW_EF_CONSTRUCT, full_scan_threshold=threshold_kb
        ),
        "optimizers_config": models.OptimizersConfigDiff(indexing_threshold=threshold_kb),
    }
