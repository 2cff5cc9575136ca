"""Where ratings and reports are kept: folders in `RAG_HOME` that only their owner reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rag_kit.errors import StepError


@contextmanager
def keeping(what: str, folder: Path) -> Iterator[None]:
    """Make a folder for what is written within the block.

    Raises:
        StepError: `storage_full`: the folder cannot be made, or what is written does not fit.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise StepError(
            "storage_full", f"{what} cannot be stored in {folder}: {error.strerror}"
        ) from None
