"""Where the service of this installation runs: a file in RAG_HOME that `rag serve` keeps."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FILE = "service.json"


@contextmanager
def announced(home: Path, url: str) -> Iterator[None]:
    """Keep the file while the block runs; a folder that cannot be written gets none."""
    path = home / FILE
    entry = json.dumps({"url": url, "pid": os.getpid()})
    with suppress(OSError):
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(entry, encoding="utf-8")
    try:
        yield
    finally:
        with suppress(OSError):
            if path.read_text(encoding="utf-8") == entry:  # else another one has started since
                path.unlink()


def find_service(home: Path) -> str | None:
    """Return the URL in the file; None without one. The service may have been killed since."""
    try:
        return str(json.loads((home / FILE).read_text(encoding="utf-8"))["url"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
