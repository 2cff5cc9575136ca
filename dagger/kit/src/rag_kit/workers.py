"""Worker threads: how many a step has, and the priority of work in the background."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from math import ceil
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")

IO_THREADS = 32  # requests at once of a step that waits for a server; waiting costs little
NICE = 19  # of work in the background: at 10 it doubles the p95 of questions (bench/ingest.py)
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def threads(*, io_bound: bool) -> ThreadPoolExecutor:
    """Return threads for the work of steps: one a processor, or many where they wait for servers.

    More computing threads than processors slow each other down, and hold the interpreter's lock
    against the event loop.
    """
    number = IO_THREADS if io_bound else processors()
    return ThreadPoolExecutor(number, thread_name_prefix="rag")


def processors() -> int:
    """Return how many processors this process may use, by its affinity and its cgroup's quota."""
    if sys.platform != "linux":
        return os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0))
    try:
        quota, period = CPU_QUOTA.read_text(encoding="ascii").split()
        return min(allowed, ceil(int(quota) / int(period)))
    except (OSError, ValueError):  # no cgroup, or "max": no quota
        return allowed


def side_by_side(first: Callable[[], T], second: Callable[[], U]) -> tuple[T, U]:
    """Run two pieces of work at once: `first` on another thread, if there is a processor for it.

    Args:
        first: Work that needs nothing of the calling thread's context.
        second: Runs on the calling thread; what it raises goes before what `first` raises.
    """
    helpers = _helpers()
    if helpers is None:
        result = second()
        return first(), result
    ahead = helpers.submit(first)
    try:
        result = second()
    except BaseException:
        ahead.cancel()
        raise
    # What no helper has begun yet is done here, so that nobody waits for a free one.
    return (first() if ahead.cancel() else ahead.result()), result


@cache
def _helpers() -> ThreadPoolExecutor | None:
    """Return one thread a processor; None where there is one processor only."""
    number = processors()
    return ThreadPoolExecutor(number, thread_name_prefix="rag-helper") if number > 1 else None


def lower_priority() -> None:
    """Lower this thread's priority, for good, and that of the threads it starts.

    For work in the background, such as an ingest: answers go first. An answer itself keeps the
    priority of its process, or it would go behind everything else on the machine.
    """
    if sys.platform == "linux":  # elsewhere a priority is that of the process
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
