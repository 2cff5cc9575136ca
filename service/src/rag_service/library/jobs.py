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
    """One change that takes its time; lives on the event loop.

    Args:
        collection: What it changes.
        total: Documents, as far as they are known.
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
        """Whether it came to its end, good or bad."""
        return self.status in ("done", "failed")

    def begin(self) -> None:
        """Note that its turn has come."""
        self.status = "running"
        self._tell()

    def advance(self, done: int, total: int, document_id: str) -> None:
        """Note how far it is."""
        self.total = total
        self.progress.append({"done": done, "total": total, "document_id": document_id})
        self._tell()

    def finish(self, result: IngestReport | StepError) -> None:
        """Note how it ended."""
        if isinstance(result, StepError):
            self.status, self.error = "failed", result
        else:
            self.status, self.report = "done", result
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait(self) -> IngestReport:
        """Return the report once there is one.

        Raises:
            StepError: What made it fail.
        """
        while not self.finished:
            await self._changed.wait()
        if self.report is None:
            assert self.error is not None
            raise self.error
        return self.report

    async def follow(self, seen: int) -> AsyncIterator[dict[str, Any]]:
        """Yield its progress from the entry `seen` on, until its end."""
        while True:
            while seen < len(self.progress):
                yield self.progress[seen]
                seen += 1
            if self.finished:
                return
            await self._changed.wait()
