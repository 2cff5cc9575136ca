"""The files inside of a file: each read by the loader of its ending, under `container/path`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import PurePosixPath

from rag_kit.errors import StepError

from . import SUPPORTED_SUFFIXES, load
from .budget import MAX_BYTES, MAX_DEPTH, MAX_MEMBERS, Budget
from .document import LoadedDocument


class Members:
    """Reads members, one after the other, and gathers what could not be read.

    Args:
        container: Id of the document that holds them.
        budget: What may still be unpacked.
    """

    def __init__(self, container: str, budget: Budget) -> None:
        self.container = container
        self.warnings: list[str] = []
        self._budget = budget
        self._skipped: Counter[str] = Counter()
        self._taken: set[str] = set()

    def is_read(self, path: str) -> bool:
        """Tell whether a member has a loader and is not hidden; one without a loader is counted."""
        parts = PurePosixPath(path).parts
        if parts[0] == "__MACOSX" or any(part.startswith(".") for part in parts):
            return False
        suffix = PurePosixPath(path).suffix.lower()
        if suffix not in SUPPORTED_SUFFIXES:
            self._skipped[suffix] += 1
            return False
        return True

    def room(self) -> int:
        """Return how many bytes the next member may have; 0 and a warning when no more is read."""
        why = ""
        if self._budget.depth <= 0:
            why = f"files are nested in more than {MAX_DEPTH} files; what is deeper is left out"
        elif self._budget.members <= 0:
            why = f"only the first {MAX_MEMBERS} files in it are read; split it"
        elif self._budget.bytes <= 0:
            why = f"only the first {MAX_BYTES} unpacked bytes in it are read; split it"
        if why and why not in self.warnings:
            self.warnings.append(why)
        return 0 if why else self._budget.bytes

    def load(self, path: str, data: bytes) -> list[LoadedDocument]:
        """Return the documents of a member, with its path in their ids; none of one that is refused."""
        self._budget.members -= 1
        self._budget.bytes -= len(data)
        name = self._own(f"{self.container}/{path}")
        with self._deeper():
            try:
                return load(name, data, self._budget)
            except StepError as error:
                self.warnings.append(error.message)
                return []

    def _own(self, name: str) -> str:
        """Return the name, with a number where another member has it."""
        own, repeats = name, 1
        while own in self._taken:
            repeats += 1
            path = PurePosixPath(name)
            own = str(path.with_name(f"{path.stem}-{repeats}{path.suffix}"))
        self._taken.add(own)
        return own

    @contextmanager
    def _deeper(self) -> Iterator[None]:
        self._budget.depth -= 1
        try:
            yield
        finally:
            self._budget.depth += 1

    def report(self) -> list[str]:
        """Return what was not read: the warnings, and the members without a loader by ending."""
        if not self._skipped:
            return self.warnings
        counts = ", ".join(
            f"{count} {suffix or 'without an ending'}"
            for suffix, count in sorted(self._skipped.items())
        )
        return [*self.warnings, f"files in it that are not read: {counts}"]


def with_warnings(documents: list[LoadedDocument], warnings: list[str]) -> list[LoadedDocument]:
    """Return the documents, the first one with these warnings before its own."""
    head, *others = documents
    return [replace(head, warnings=(*warnings, *head.warnings)), *others]
