"""A folder on this machine as a source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from datetime import UTC, datetime
from pathlib import Path

from rag_kit.errors import StepError

from ..documents import MAX_DOCUMENT_BYTES, Origin
from ..index.places import readable, skipped_of, walk
from .source import Item, Listing, OnProgress, too_large


class FolderSource:
    """The files of a folder; a file counts as changed when its size or its time of change is another."""

    def __init__(self, path: Path) -> None:
        self._root = path.resolve()
        if not self._root.is_dir():
            raise StepError(
                "invalid_request", f"there is no folder '{path}'; give one", param="source"
            )
        self.address = self._root.as_uri()
        self.name = readable(self._root.name) or "root"
        self._paths: dict[str, Path] = {}

    def list_items(self, known: Mapping[str, Origin], progress: OnProgress) -> Listing:
        """List the files that are read; hidden ones and links out of the folder are not."""
        skipped: Counter[tuple[str, str]] = Counter()
        self._paths = {
            readable(path.relative_to(self._root).as_posix()): path
            for path in walk(self._root, skipped)
        }
        items = [self._item(key, path) for key, path in sorted(self._paths.items())]
        return Listing(items, skipped=skipped_of(skipped))

    def _item(self, key: str, path: Path) -> Item:
        state = path.stat()
        changed = datetime.fromtimestamp(state.st_mtime, UTC)
        return Item(
            key=key,
            path=key,
            version=f"{state.st_size}-{state.st_mtime_ns}-{state.st_ino}",
            url=path.as_uri(),
            revision=changed.isoformat(timespec="seconds"),
        )

    def read(self, items: Sequence[Item]) -> Iterator[tuple[Item, bytes | StepError]]:
        """Yield the content of files."""
        for item in items:
            yield item, _content(self._paths[item.key])

    def only(self, items: Sequence[Item]) -> FolderSource:
        """Return the folder to read these files elsewhere, where it has the same path."""
        part = copy(self)
        part._paths = {item.key: self._paths[item.key] for item in items}
        return part

    def close(self) -> None:
        """Nothing is kept."""


def _content(path: Path) -> bytes | StepError:
    try:
        size = path.stat().st_size
        return too_large(size) if size > MAX_DOCUMENT_BYTES else path.read_bytes()
    except OSError as error:
        return StepError("document_unreadable", f"cannot read it: {error.strerror}")
