"""An ingest as a job: how far it is, how it ended, and who waits for it."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Literal

from rag_kit.errors import StepError
from rag_kit.reports import IngestReport


@dataclass
class Job:
    """An ingest or reindex under way; its methods run on the event loop.

    Args:
        collection: The collection it changes.
        total: Documents known so far.
        id: For `/v1/ingests/{id}`.
        status: Where it stands.
        progress: Every report of its progress so far.
        report: What it did, once it is done.
        error: Why it failed.
        stopped: Set to stop it after its current commit.
    """

    collection: str
    total: int
    id: str = field(default_factory=lambda: f"ingest_{uuid.uuid4().hex}")
    status: Literal["queued", "running", "done", "failed"] = "queued"
    progress: list[dict[str, Any]] = field(default_factory=list)
    report: IngestReport | None = None
    error: StepError | None = None
    stopped: threading.Event = field(default_factory=threading.Event)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.advance(0, self.total, "")

    @property
    def finished(self) -> bool:
        """Whether it is done or failed."""
        return self.status in ("done", "failed")

    def begin(self) -> None:
        """Set it running."""
        self.status = "running"
        self._notify()

    def advance(self, done: int, total: int, document_id: str) -> None:
        """Report progress."""
        self.total = total
        self.progress.append({"done": done, "total": total, "document_id": document_id})
        self._notify()

    def finish(self, result: IngestReport | StepError) -> None:
        """Set its result."""
        if isinstance(result, StepError):
            self.status, self.error = "failed", result
        else:
            self.status, self.report = "done", result
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait(self) -> IngestReport:
        """Return the report when it is done.

        Raises:
            StepError: Why it failed.
        """
        while not self.finished:
            await self._changed.wait()
        if self.report is None:
            assert self.error is not None
            raise self.error
        return self.report

    async def follow(self, seen: int) -> AsyncIterator[dict[str, Any]]:
        """Yield its progress from entry `seen` on, until it has finished."""
        while True:
            while seen < len(self.progress):
                yield self.progress[seen]
                seen += 1
            if self.finished:
                return
            await self._changed.wait()
