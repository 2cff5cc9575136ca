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
        found, computed = self._fill(
            texts, [1] * len(texts), lambda new: list(embed([texts[at] for at in new]))
        )
        rows = np.stack(found) if found else np.empty((0, self._dim), np.float32)
        return rows.reshape(-1, self._dim), computed

    def fill_parts(
        self,
        texts: Sequence[str],
        parts: Sequence[Sequence[tuple[int, int]]],
        embed: Callable[[Sequence[str], Sequence[Sequence[tuple[int, int]]]], list[Vectors]],
    ) -> tuple[list[Vectors], int]:
        """Return for each text (1 + parts) × dim vectors, and how many texts `embed` computed."""
        keys = [f"{text}\0{list(spans)}" for text, spans in zip(texts, parts, strict=True)]
        found, computed = self._fill(
            keys,
            [1 + len(spans) for spans in parts],
            lambda new: embed([texts[at] for at in new], [parts[at] for at in new]),
        )
        return [row.reshape(-1, self._dim) for row in found], computed

    def _fill(
        self,
        keys: Sequence[str],
        counts: Sequence[int],
        compute: Callable[[Sequence[int]], list[Vectors]],
    ) -> tuple[list[Vectors], int]:
        paths = [self._path(key) for key in keys]
        rows = [self._read(path, count) for path, count in zip(paths, counts, strict=True)]
        new = [at for at, row in enumerate(rows) if row is None]
        for at, row in zip(new, compute(new) if new else (), strict=True):
            rows[at] = row
            self._write(paths[at], row)
        return [row for row in rows if row is not None], len(new)

    def _path(self, text: str) -> Path:
        return self._folder / hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def _read(self, path: Path, count: int) -> Vectors | None:
        """Return `count` vectors in one row, or None when there are not as many (a torn file)."""
        try:
            row = np.frombuffer(path.read_bytes(), dtype="<f4")
        except (FileNotFoundError, ValueError):
            return None
        return row.astype(np.float32) if len(row) == count * self._dim else None

    def _write(self, path: Path, row: Vectors) -> None:
        descriptor, temporary = tempfile.mkstemp(dir=self._folder, prefix=".new")
        with os.fdopen(descriptor, "wb") as file:
            file.write(row.astype("<f4").tobytes())
        Path(temporary).replace(path)
