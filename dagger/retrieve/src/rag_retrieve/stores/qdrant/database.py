"""The server store: collections on a Qdrant server, laid out like the embedded ones.

A collection `docs` is the alias `rag_docs` of the server's collection `rag_docs~g<generation>`
("~" cannot stand in a name, so no two collections meet). Moving the alias is the swap. Manifest
and journal are points without vectors, with fixed ids, in the live generation. A collection
exists when its alias does; what a crash leaves behind is removed by the next writer that creates
a generation of that name. Any number of processes may search; the caller sees to it that one
writes at a time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from qdrant_client import models

from rag_kit.errors import StepError

from ...settings import RetrieveSettings
from ..base import INDEXED, Point, already_there, not_found
from .client import Server
from .collection import ServerStore

EXACT_UP_TO = 100_000  # passages in a segment; up to here the server builds no graph
HNSW_M = 32  # edges per node
HNSW_EF_CONSTRUCT = 256  # candidates while building
MANIFEST_ID = str(uuid5(NAMESPACE_URL, "rag:manifest"))
JOURNAL_ID = str(uuid5(NAMESPACE_URL, "rag:journal"))


class ServerStores:
    """All collections on one server whose alias starts with `rag_`. See `Stores`.

    Args:
        url: Where the server is, such as `http://localhost:6333`.
        settings: Its key, how long a read may take, and when calls are refused because most fail.
    """

    def __init__(self, url: str, settings: RetrieveSettings) -> None:
        self._server = Server(url, settings)
        self.breaker = self._server.breaker

    def names(self) -> list[str]:
        """Return the names of all collections, sorted."""
        return sorted(self._live())

    def exists(self, name: str) -> bool:
        """Tell whether there is such a collection."""
        return name in self._live()

    def _live(self) -> dict[str, str]:
        """Return the server's collection behind each name."""
        answer = self._server.read(lambda server: server.get_aliases())
        pairs = [(one.alias_name, one.collection_name) for one in answer.aliases]
        return {
            alias.removeprefix("rag_"): remote
            for alias, remote in pairs
            if alias.startswith("rag_") and re.fullmatch(re.escape(alias) + r"~g\d+", remote)
        }

    def create(
        self, name: str, *, dim: int, manifest: Mapping[str, Any] | None = None
    ) -> ServerStore:
        """Create and open an empty collection."""
        if self.exists(name):
            raise already_there(name)
        self._sweep(name, None)
        store = self._make(name, 1, dim)
        if manifest is not None:
            _write_note(store, MANIFEST_ID, "manifest", manifest)
        self._point_alias(name, 1, replace=False)
        return self._store(name, f"rag_{name}", dim)

    def open(self, name: str) -> ServerStore:
        """Open a collection."""
        remote = self._live().get(name)
        if remote is None:
            raise not_found(name)
        info = self._server.read(lambda server: server.get_collection(remote), name)
        vectors = info.config.params.vectors
        if not isinstance(vectors, dict) or "dense" not in vectors:
            raise StepError(
                "store_corrupt",
                f"collection '{name}' on the server has no vector named 'dense'; "
                f"`rag collections delete {name}` and index its documents again",
            )
        return self._store(name, f"rag_{name}", vectors["dense"].size)

    def delete(self, name: str) -> None:
        """Delete a collection: first its alias, then its generation."""
        if not self.exists(name):
            raise not_found(name)
        drop = models.DeleteAliasOperation(
            delete_alias=models.DeleteAlias(alias_name=f"rag_{name}")
        )
        self._server.write(lambda server: server.update_collection_aliases([drop]), name)
        self._sweep(name, None)

    def read_manifest(self, name: str) -> dict[str, Any] | None:
        """Return the manifest."""
        return _read_note(self._note_store(name), MANIFEST_ID)

    def write_manifest(self, name: str, manifest: Mapping[str, Any]) -> None:
        """Replace the manifest in one step."""
        _write_note(self._note_store(name), MANIFEST_ID, "manifest", manifest)

    def read_journal(self, name: str) -> dict[str, Any] | None:
        """Return the journal of the live generation, or None."""
        return _read_note(self._note_store(name), JOURNAL_ID)

    def write_journal(self, name: str, journal: Mapping[str, Any] | None) -> None:
        """Replace the journal in one step."""
        store = self._note_store(name)
        if journal is None:
            store.delete([JOURNAL_ID])
        else:
            _write_note(store, JOURNAL_ID, "journal", journal)

    def begin_generation(self, name: str, dim: int) -> tuple[int, ServerStore]:
        """Make an empty generation beside the live one; an unfinished one is removed."""
        live = self._live().get(name)
        if live is None:
            raise not_found(name)
        self._sweep(name, live)
        generation = _generation(live) + 1
        return generation, self._make(name, generation, dim)

    def publish_generation(self, name: str, generation: int, manifest: Mapping[str, Any]) -> None:
        """Move the alias to the generation in one step, then remove the old one."""
        remote = f"rag_{name}~g{generation}"
        _write_note(self._store(name, remote, 0), MANIFEST_ID, "manifest", manifest)
        self._point_alias(name, generation, replace=True)
        self._sweep(name, remote)

    def close(self) -> None:
        """Close the connections."""
        self._server.close()

    def _store(self, name: str, remote: str, dim: int) -> ServerStore:
        return ServerStore(self._server, name=name, remote=remote, dim=dim)

    def _note_store(self, name: str) -> ServerStore:
        return self._store(name, f"rag_{name}", 0)

    def _make(self, name: str, generation: int, dim: int) -> ServerStore:
        remote = f"rag_{name}~g{generation}"
        self._server.write(lambda server: server.create_collection(remote, **_layout(dim)), name)
        for field in INDEXED:
            self._index(name, remote, field)
        return self._store(name, remote, dim)

    def _index(self, name: str, remote: str, field: str) -> None:
        kind = models.PayloadSchemaType.KEYWORD
        self._server.write(
            lambda server: server.create_payload_index(remote, field, kind, wait=True), name
        )

    def _point_alias(self, name: str, generation: int, *, replace: bool) -> None:
        alias = f"rag_{name}"
        drop = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias))
        make = models.CreateAliasOperation(
            create_alias=models.CreateAlias(
                collection_name=f"{alias}~g{generation}", alias_name=alias
            )
        )
        changes: list[Any] = [drop, make] if replace else [make]
        self._server.write(lambda server: server.update_collection_aliases(changes), name)

    def _sweep(self, name: str, live: str | None) -> None:
        """Remove generations of a name other than the live one."""
        found = self._server.read(lambda server: server.get_collections())
        for remote in (one.name for one in found.collections):
            if remote.startswith(f"rag_{name}~g") and remote != live:
                self._remove(name, remote)

    def _remove(self, name: str, remote: str) -> None:
        self._server.write(lambda server: server.delete_collection(remote), name)


def _layout(dim: int) -> dict[str, Any]:
    threshold_kb = EXACT_UP_TO * dim * 4 // 1024
    return {
        "vectors_config": {"dense": models.VectorParams(size=dim, distance=models.Distance.COSINE)},
        "sparse_vectors_config": {
            "sparse": models.SparseVectorParams(modifier=models.Modifier.IDF)
        },
        "hnsw_config": models.HnswConfigDiff(
            m=HNSW_M, ef_construct=HNSW_EF_CONSTRUCT, full_scan_threshold=threshold_kb
        ),
        "optimizers_config": models.OptimizersConfigDiff(indexing_threshold=threshold_kb),
    }


def _generation(remote: str) -> int:
    return int(remote.rpartition("~g")[2])


def _read_note(store: ServerStore, note_id: str) -> dict[str, Any] | None:
    point = store.get([note_id]).get(note_id)
    return None if point is None else point.payload.get("value")


def _write_note(store: ServerStore, note_id: str, kind: str, value: Mapping[str, Any]) -> None:
    store.upsert([Point(note_id, {"kind": kind, "value": dict(value)})])
