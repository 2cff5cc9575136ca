"""Cached vectors of texts in a folder: rebuilding a store embeds only new texts."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


class EmbeddingCache:
    """One file per text, named by the digest of model and text; safe to share between processes.

    Args:
        folder: Where the files are; made when it is not there. Nothing is ever removed from it.
        identity: Identity of the embedder: another one never meets these vectors.
        dim: Length of a vector.
    """

    def __init__(self, folder: Path, *, identity: str, dim: int) -> None:
        self._folder = folder / hashlib.sha256(identity.encode()).hexdigest()[:16]
        self._folder.mkdir(parents=True, exist_ok=True)
        self._dim = dim

    def fill(
        self, texts: Sequence[str], embed: Callable[[Sequence[str]], Vectors]
    ) -> tuple[Vectors, int]:
        """Return N × dim vectors, and how many texts `embed` computed."""
        paths = [self._path(text) for text in texts]
        rows = [self._read(path) for path in paths]
        new = [at for at, row in enumerate(rows) if row is None]
        computed = embed([texts[at] for at in new]) if new else ()
        for at, row in zip(new, computed, strict=True):
            rows[at] = row
            self._write(paths[at], row)
        found = [row for row in rows if row is not None]
        return (np.stack(found) if found else np.empty((0, self._dim), np.float32)), len(new)

    def _path(self, text: str) -> Path:
        return self._folder / hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def _read(self, path: Path) -> Vectors | None:
        """Return the vector, or None when there is none of the right size (a torn file is none)."""
        try:
            row = np.frombuffer(path.read_bytes(), dtype="<f4")
        except (FileNotFoundError, ValueError):
            return None
        return row.astype(np.float32) if len(row) == self._dim else None

    def _write(self, path: Path, row: Vectors) -> None:
        descriptor, temporary = tempfile.mkstemp(dir=self._folder, prefix=".new")
        with os.fdopen(descriptor, "wb") as file:
            file.write(row.astype("<f4").tobytes())
        Path(temporary).replace(path)
