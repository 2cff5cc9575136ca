"""For tests of `rag sync`: small sources, and a sync in one call."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from rag_kit.reports import SyncPlan, SyncReport
from rag_retrieve import Retriever
from rag_retrieve.sources import Access, open_source
from rag_retrieve.sources.source import Source
from rag_retrieve.sources.sync import SyncOptions

DIRECT = Access()


def sync(
    retriever: Retriever, address: str, *, access: Access = DIRECT, **options: Any
) -> SyncReport:
    """Bring a source into the default collection."""
    with closing(open_source(address, access=access)) as source:
        return retriever.sync(retriever.plan_sync(source, SyncOptions(**options)))


def plan(
    retriever: Retriever, address: str, *, access: Access = DIRECT, **options: Any
) -> SyncPlan:
    """Return what a sync would do."""
    with closing(open_source(address, access=access)) as source:
        return retriever.plan_sync(source, SyncOptions(**options)).plan


def ids(retriever: Retriever) -> list[str]:
    """Return the documents of the default collection."""
    return [info.document_id for info in retriever.documents("default")]


def write(folder: Path, files: Mapping[str, str]) -> Path:
    """Write text files below a folder."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


class Interruption(Exception):  # noqa: N818, no error
    """Stands for Ctrl-C in the middle of a run."""


class Breaking:
    """A source that is interrupted after some of its items were read."""

    def __init__(self, source: Source, after: int) -> None:
        self.address, self.name = source.address, source.name
        self.list_items, self.close = source.list_items, source.close
        self._source, self._after = source, after

    def read(self, items: Sequence[Any]) -> Iterator[Any]:
        for number, read in enumerate(self._source.read(items)):
            if number == self._after:
                raise Interruption
            yield read


class Repository:
    """A git work tree and the bare repository it is pushed to."""

    def __init__(self, folder: Path) -> None:
        self.bare, self.tree = folder / "handbook.git", folder / "tree"
        self._git(folder, "init", "--quiet", "--bare", "--initial-branch=main", str(self.bare))
        self._git(folder, "clone", "--quiet", str(self.bare), str(self.tree))
        self._git(self.tree, "checkout", "--quiet", "-B", "main")

    def commit(self, files: Mapping[str, str | None]) -> str:
        """Write files, delete those that are None, commit and push; return the commit."""
        write(self.tree, {name: text for name, text in files.items() if text is not None})
        for name in (name for name, text in files.items() if text is None):
            (self.tree / name).unlink()
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "change")
        self.git("push", "--quiet", "--tags", "origin", "HEAD")
        return self.git("rev-parse", "HEAD").strip()

    def git(self, *arguments: str) -> str:
        """Run git in the work tree."""
        return self._git(self.tree, *arguments)

    def configure(self, name: str, value: str) -> None:
        """Set a variable of the bare repository."""
        self._git(self.bare, "config", name, value)

    @staticmethod
    def _git(folder: Path, *arguments: str) -> str:
        who = (
            "-c",
            "user.name=n",
            "-c",
            "user.email=n@example.com",
            "-c",
            "protocol.file.allow=always",
        )
        done = subprocess.run(
            ["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True
        )
        return done.stdout
