"""The embedded database: every collection is a folder, opened by one process at a time.

    <home>/collections/<name>/
        .lock           held while the collection is open; one process at a time
        manifest.json   {"generation", "dim", "manifest"}; replaced in one step: this is the swap
        journal.json    {"generation", "journal"}; counts only for the live generation
        g<generation>/  the shard

A collection exists when its manifest.json does. Whatever else a crash leaves is swept away when
the collection is next opened. Opening a collection twice is refused in one process as in two.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from rag_kit.errors import StepError

from ..base import already_there, not_found
from .collection import RESERVE, EdgeStore, create_shard, room_to_load
from .disk import (
    MIB,
    FolderLock,
    explained,
    read_json,
    require_own,
    require_room,
    sync_folder,
    write_json,
)

MANIFEST = "manifest.json"
JOURNAL = "journal.json"
TRASH = ".deleted-"
CREATE_ROOM = 16 * MIB  # bytes a new shard takes, with some to spare


class EdgeStores:
    """All collections under `<home>/collections`. See `Stores`.

    Args:
        home: Folder of the embedded store; made when first needed, readable by its owner only.
        reserve: Bytes on the disk that writes leave free.
    """

    def __init__(self, home: Path, *, reserve: int = RESERVE) -> None:
        self._root = home / "collections"
        self._reserve = reserve
        self._guard = threading.RLock()
        self._locks: dict[str, FolderLock] = {}
        self._opened: dict[str, dict[int, EdgeStore]] = {}

    def names(self) -> list[str]:
        """Return the names of all collections, sorted."""
        with explained(self._root):
            if not self._root.is_dir():
                return []
            return sorted(f.name for f in self._root.iterdir() if self.exists(f.name))

    def exists(self, name: str) -> bool:
        """Tell whether there is such a collection."""
        return not name.startswith(".") and (self._root / name / MANIFEST).is_file()

    def create(
        self, name: str, *, dim: int, manifest: Mapping[str, Any] | None = None
    ) -> EdgeStore:
        """Create and open an empty collection."""
        with self._guard, explained(self._root / name):
            if self.exists(name):
                raise already_there(name)
            self._root.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._root.mkdir(mode=0o700, exist_ok=True)
            (self._root / name).mkdir(mode=0o700, exist_ok=True)
            with _Owned(self, name):
                if self.exists(name):
                    raise already_there(name)
                self._sweep(name, live=None)
                require_room(self._root, self._reserve + CREATE_ROOM)
                shard = create_shard(self._root / name / "g1", dim)
                self._write_meta(name, 1, dim, manifest)
                sync_folder(self._root)
                return self._open(name, 1, dim, shard)

    def open(self, name: str) -> EdgeStore:
        """Open a collection; `store_locked` when it is open already, here or elsewhere."""
        with self._guard, explained(self._root / name):
            self._meta(name)
            if self._opened.get(name):
                raise StepError(
                    "store_locked",
                    f"collection '{name}' is open already in this process; share the opened one",
                    param="collection",
                )
            with _Owned(self, name):
                meta = self._meta(name)
                self._sweep(name, live=meta["generation"])
                path = self._root / name / f"g{meta['generation']}"
                require_room(self._root, room_to_load(path))
                return self._open(name, meta["generation"], meta["dim"])

    def delete(self, name: str, *, only_unused: bool = False) -> None:
        """Delete a collection; one that is open here is closed first, and no other process has it."""
        with self._guard, explained(self._root / name):
            if not self.exists(name):
                raise not_found(name)
            with _Owned(self, name):
                for store in list(self._opened.get(name, {}).values()):
                    store.close()
                trash = self._root / f"{TRASH}{name}-{uuid4().hex}"
                (self._root / name).rename(trash)
                sync_folder(self._root)
            for folder in self._root.glob(f"{TRASH}*"):
                shutil.rmtree(folder, ignore_errors=True)

    def read_manifest(self, name: str) -> dict[str, Any] | None:
        """Return the manifest; needs no lock."""
        manifest: dict[str, Any] | None = self._meta(name).get("manifest")
        return manifest

    def write_manifest(self, name: str, manifest: Mapping[str, Any]) -> None:
        """Replace the manifest in one step."""
        with self._guard, _Owned(self, name):
            meta = self._meta(name)
            self._write_meta(name, meta["generation"], meta["dim"], manifest)

    def read_journal(self, name: str) -> dict[str, Any] | None:
        """Return the journal of the live generation, or None."""
        live = self._meta(name)["generation"]
        entry = read_json(self._root / name / JOURNAL)
        if entry is None or entry.get("generation") != live:
            return None
        return entry.get("journal")

    def write_journal(self, name: str, journal: Mapping[str, Any] | None) -> None:
        """Replace the journal in one step."""
        with self._guard, _Owned(self, name):
            generation = self._meta(name)["generation"]
            value = None if journal is None else dict(journal)
            entry = {"generation": generation, "journal": value}
            write_json(self._root / name / JOURNAL, entry)

    def begin_generation(self, name: str, dim: int) -> tuple[int, EdgeStore]:
        """Make an empty generation beside the live one."""
        with self._guard, explained(self._root / name), _Owned(self, name):
            live = self._meta(name)["generation"]
            if set(self._opened.get(name, {})) - {live}:
                raise StepError(
                    "in_progress",
                    f"collection '{name}' is being reindexed already; wait for it",
                    param="collection",
                )
            self._sweep(name, live=live)
            require_room(self._root, self._reserve + CREATE_ROOM)
            shard = create_shard(self._root / name / f"g{live + 1}", dim)
            return live + 1, self._open(name, live + 1, dim, shard)

    def publish_generation(self, name: str, generation: int, manifest: Mapping[str, Any]) -> None:
        """Make a generation of `begin_generation` the live one; the old one is closed."""
        with self._guard, explained(self._root / name):
            old = self._meta(name)["generation"]
            store = self._opened.get(name, {}).get(generation)
            if store is None or generation == old:
                raise StepError(
                    "internal_error", f"generation {generation} of '{name}' is not being built"
                )
            store.flush()
            self._write_meta(name, generation, store.dim, manifest)
            if before := self._opened[name].get(old):
                before.close()
            self._sweep(name, live=generation)

    def lost(self) -> list[str]:
        """Return nothing: a collection here is its folder."""
        return []

    def repair_alias(self, name: str) -> bool:
        """Do nothing, for the same reason."""
        return False

    def foreign(self) -> list[str]:
        """Return nothing: folders of others are no collections."""
        return []

    def close(self) -> None:
        """Close every store opened here."""
        with self._guard:
            for stores in list(self._opened.values()):
                for store in list(stores.values()):
                    store.close()

    def _open(self, name: str, generation: int, dim: int, shard: Any = None) -> EdgeStore:
        def closed() -> None:
            with self._guard:
                self._opened[name].pop(generation, None)
                self.release(name)

        path = self._root / name / f"g{generation}"
        store = EdgeStore(name, path, dim, shard=shard, reserve=self._reserve, on_close=closed)
        self._opened.setdefault(name, {})[generation] = store
        return store

    def _meta(self, name: str) -> dict[str, Any]:
        path = self._root / name / MANIFEST
        meta = read_json(path)
        if meta is None:
            raise not_found(name)
        if not isinstance(meta.get("generation"), int) or not isinstance(meta.get("dim"), int):
            raise StepError(
                "store_corrupt",
                f"{path} names no generation; restore it from a copy, or "
                f"`rag collections delete {name}` and index its documents again",
            )
        return meta

    def _write_meta(
        self, name: str, generation: int, dim: int, manifest: Mapping[str, Any] | None
    ) -> None:
        value = None if manifest is None else dict(manifest)
        entry = {"generation": generation, "dim": dim, "manifest": value}
        write_json(self._root / name / MANIFEST, entry)

    def _sweep(self, name: str, *, live: int | None) -> None:
        """Remove generations that are neither live nor open: leftovers of a crash."""
        keep = {f"g{live}", *(f"g{generation}" for generation in self._opened.get(name, {}))}
        for folder in (self._root / name).glob("g*"):
            if folder.name not in keep:
                shutil.rmtree(folder)

    def acquire(self, name: str) -> None:
        """Take the collection's lock, unless it is held here already."""
        if name not in self._locks:
            for folder in (self._root, self._root / name):
                require_own(folder)
            self._locks[name] = FolderLock(self._root / name)

    def release(self, name: str) -> None:
        """Let go of the collection's lock, unless a store of it is still open."""
        if not self._opened.get(name) and name in self._locks:
            self._locks.pop(name).release()


class _Owned:
    """Hold a collection's lock at least for the block; an open store keeps it beyond."""

    def __init__(self, stores: EdgeStores, name: str) -> None:
        self._stores = stores
        self._name = name

    def __enter__(self) -> None:
        self._stores.acquire(self._name)

    def __exit__(self, *_: object) -> None:
        self._stores.release(self._name)
