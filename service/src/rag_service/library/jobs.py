"""An ingest as a job: how far it is, how it ended, and who waits for it."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rag_kit.errors import StepError
from rag_kit.reports import IngestReport, Progress


@dataclass
class Job:
    """An ingest or reindex under way; its methods run on the event loop.

    Args:
        collection: The collection it changes.
        total: Documents known so far.
        id: For `/v1/ingests/{id}`.
        tenant: Whose it is.
        ahead: Jobs that are done before it begins.
        status: Where it stands.
        progress: Every report of its progress so far.
        report: What it did, once it is done.
        error: Why it failed.
        stopped: Set by `stop`; the thread that does the work looks at it.
        recorded: Set when it is known after a restart, too.
    """

    collection: str
    total: int
    id: str = field(default_factory=lambda: f"ingest_{uuid.uuid4().hex}")
    tenant: str = ""
    ahead: int = 0
    status: Literal["queued", "running", "done", "failed"] = "queued"
    progress: list[dict[str, Any]] = field(default_factory=list)
    report: IngestReport | None = None
    error: StepError | None = None
    stopped: threading.Event = field(default_factory=threading.Event)
    recorded: asyncio.Event = field(default_factory=asyncio.Event)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.advance(Progress(0, self.total, ""))

    @property
    def finished(self) -> bool:
        """Whether it is done or failed."""
        return self.status in ("done", "failed")

    def begin(self) -> None:
        """Set it running."""
        self.status = "running"
        self._notify()

    def stop(self) -> None:
        """End it at the next batch of passages, or before it begins."""
        self.stopped.set()
        self._notify()

    def move(self, ahead: int) -> None:
        """Report how many jobs go first."""
        self.ahead = ahead
        self.progress.append({**self.progress[-1], "ahead": ahead})
        self._notify()

    def advance(self, progress: Progress) -> None:
        """Report progress."""
        self.total = progress.total
        self.progress.append({**asdict(progress), "ahead": self.ahead})
        self._notify()

    def finish(self, result: IngestReport | StepError) -> None:
        """Set its result."""
        if isinstance(result, StepError):
            self.status, self.error = "failed", result
        else:
            self.status, self.report = "done", result
        self.recorded.set()
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait(self) -> IngestReport:
        """Return the report when it is done.

        Raises:
            StepError: Why it failed.
        """
        await self.wait_until(lambda: self.finished)
        if self.report is None:
            assert self.error is not None
            raise self.error
        return self.report

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Return when a condition on this job holds."""
        while not condition():
            await self._changed.wait()

    async def follow(self, seen: int) -> AsyncIterator[dict[str, Any]]:
        """Yield its progress from entry `seen` on, until it has finished."""
        while True:
            while seen < len(self.progress):
                yield self.progress[seen]
                seen += 1
            if self.finished:
                return
            await self._changed.wait()
