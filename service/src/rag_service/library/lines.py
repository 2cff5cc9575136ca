"""Lines of jobs: the large ones of a tenant are done one after the other, in their order."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from .jobs import Job


class Lines:
    """A line for each tenant that has large jobs; on the event loop."""

    def __init__(self) -> None:
        self._lines: dict[str, deque[Job]] = {}

    def join(self, job: Job) -> None:
        """Put a job at the end of its tenant's line, and tell it how many go first."""
        line = self._lines.setdefault(job.tenant, deque())
        line.append(job)
        job.move(len(line) - 1)

    @asynccontextmanager
    async def head(self, job: Job) -> AsyncIterator[None]:
        """Hold the head of the line; a job that is to stop does not wait for it."""
        try:
            await job.wait_until(lambda: job.ahead == 0 or job.stopped.is_set())
            yield
        finally:
            self._leave(job)

    def _leave(self, job: Job) -> None:
        line = self._lines[job.tenant]
        line.remove(job)
        for ahead, other in enumerate(line):
            if other.ahead != ahead:
                other.move(ahead)
        if not line:
            del self._lines[job.tenant]
