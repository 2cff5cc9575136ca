"""A lock for one store: many searches at once, or one commit; and whether a process has ended."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROC = Path("/proc")


class SharedLock:
    """Readers share it, a writer has it alone; a waiting writer goes before new readers.

    `writes` counts how often it was held alone: between two readers that see the same number,
    nothing was written.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._readers = 0
        self._writing = False
        self._waiting = 0
        self.writes = 0

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Hold the lock together with other readers; not reentrant."""
        with self._condition:
            while self._writing or self._waiting:
                self._condition.wait()
            self._readers += 1
        try:
            yield
        finally:
            with self._condition:
                self._readers -= 1
                self._condition.notify_all()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the lock alone; not reentrant."""
        with self._condition:
            self._waiting += 1
            while self._writing or self._readers:
                self._condition.wait()
            self._waiting -= 1
            self._writing = True
            self.writes += 1
        try:
            yield
        finally:
            with self._condition:
                self._writing = False
                self._condition.notify_all()


def this_process() -> str:
    """Return what names this process among all that ever ran here; empty where that is unknown."""
    try:
        return f"{_place()} {os.getpid()} {_state(os.getpid())[1]}"
    except OSError:
        return ""


def has_ended(process: str) -> bool:
    """Tell whether a process named by `this_process` is surely over; False for one elsewhere."""
    try:
        place, pid, started = process.rsplit(" ", 2)
        if place != _place():
            return False
        os.kill(int(pid), 0)
        state, now_started = _state(int(pid))
    except ProcessLookupError:
        return True
    except (OSError, ValueError):  # another user's process, or no such name
        return False
    return state in "ZX" or now_started != started


def _place() -> str:
    """Return the boot and the process namespace: only there does a process id mean something."""
    boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {(PROC / 'self/ns/pid').readlink()}"


def _state(pid: int) -> tuple[str, str]:
    """Return a process's state letter and its start, in clock ticks since the boot."""
    fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return fields[0], fields[19]
