"""Small SQLite databases in RAG_HOME, which only their owner may read."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path


@contextmanager
def transaction(path: Path, table: str) -> Iterator[sqlite3.Connection]:
    """Open a database, made with its table where there is none, and commit at the end."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.touch(mode=0o600)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(table)
        yield database
