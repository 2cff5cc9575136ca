"""Worker threads of a step: how many, and with which priority."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from pathlib import Path

WAITING = 32  # a step's requests at once that wait for a server, which costs little
NICE = 10  # of 19
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def threads(*, waiting: bool) -> ThreadPoolExecutor:
    """Return threads for the work of steps: one a processor, or many where they wait for servers.

    More that compute at once make all slower, and the event loop wait for the interpreter's lock.
    """
    number = WAITING if waiting else processors()
    return ThreadPoolExecutor(number, thread_name_prefix="rag", initializer=stand_back)


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


def stand_back() -> None:
    """Let this thread have the processor only when nobody with more right to it wants it.

    Steps compute for milliseconds; the event loop, which refuses, reads and tells that it lives,
    needs microseconds, but at once.
    """
    if sys.platform == "linux":  # elsewhere a priority is the whole process's
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
