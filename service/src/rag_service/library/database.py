"""Small SQLite databases in RAG_HOME, which only their owner may read."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path


@contextmanager
def transaction(path: Path, *tables: str) -> Iterator[sqlite3.Connection]:
    """Open a database, made with its tables where there are none, and commit at the end."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.touch(mode=0o600)
    with closing(sqlite3.connect(path)) as database, database:
        for table in tables:
            database.execute(table)
        yield database
