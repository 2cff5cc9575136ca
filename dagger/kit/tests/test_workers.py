"""The threads that steps work in: how many, with which priority."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rag_kit import workers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="affinity and cgroups are Linux's")


@pytest.mark.parametrize(
    ("text", "most"),
    [
        ("max 100000\n", 4),
        ("50000 100000\n", 1),
        ("200000 100000\n", 2),
        ("210000 100000\n", 3),
        ("900000 100000\n", 4),
        ("", 4),
        (None, 4),
    ],
)
def test_as_many_processors_as_affinity_and_quota_allow(
    text: str | None, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container with a part of one counts as one; without a quota the affinity counts."""
    file = tmp_path / "cpu.max"
    if text is not None:
        file.write_text(text, encoding="ascii")
    monkeypatch.setattr(workers, "CPU_QUOTA", file)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})

    assert workers.processors() == most


def priority() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.mark.parametrize("io_bound", [True, False])
def test_answers_have_the_priority_of_their_process(io_bound: bool) -> None:
    """One thread a processor, or many that wait; none behind other programs on the machine."""
    with workers.threads(io_bound=io_bound) as pool:
        inside = pool.submit(priority).result()
        at_once = pool._max_workers

    assert inside == priority()
    assert at_once == (workers.IO_THREADS if io_bound else workers.processors())


def test_work_in_the_background_goes_behind_with_the_threads_it_starts() -> None:
    """An ingest starts threads that embed; an answer has none of them."""

    def started() -> int:
        with ThreadPoolExecutor(1) as inner:
            return inner.submit(priority).result()

    with ThreadPoolExecutor(1, initializer=workers.lower_priority) as pool:
        found = {pool.submit(look).result() for look in (priority, started)}

    assert found == {max(priority(), workers.NICE)}


def two_processors(monkeypatch: pytest.MonkeyPatch) -> ThreadPoolExecutor:
    """Give `side_by_side` two helpers, whatever this machine has."""
    pool = ThreadPoolExecutor(2)
    monkeypatch.setattr(workers, "_helpers", lambda: pool)
    return pool


def test_two_pieces_of_work_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each waits until the other has begun; one after the other they would never end."""
    both = threading.Barrier(2, timeout=30)
    with two_processors(monkeypatch):
        first, second = workers.side_by_side(
            lambda: (both.wait(), threading.get_ident())[1],
            lambda: (both.wait(), threading.get_ident())[1],
        )

    assert first != second == threading.get_ident()


def test_work_that_no_helper_can_begin_is_done_by_the_caller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All helpers wait for something else, and the work is done all the same."""
    free = threading.Event()
    with two_processors(monkeypatch) as pool:
        busy = [pool.submit(free.wait, 30) for _ in range(2)]
        try:
            found = workers.side_by_side(threading.get_ident, lambda: "done")
        finally:
            free.set()

        assert found == (threading.get_ident(), "done")
        assert all(one.result() for one in busy)


@pytest.mark.parametrize("processors", [1, 2])
def test_an_error_of_either_piece_reaches_the_caller(
    monkeypatch: pytest.MonkeyPatch, processors: int
) -> None:
    """That of the work on the calling thread goes first, so that it is always the same one."""

    def fail(error: Exception) -> None:
        raise error

    with two_processors(monkeypatch):
        if processors == 1:
            monkeypatch.setattr(workers, "_helpers", lambda: None)
        with pytest.raises(KeyError):
            workers.side_by_side(lambda: fail(KeyError()), lambda: None)
        with pytest.raises(ValueError, match="second"):
            workers.side_by_side(lambda: fail(KeyError()), lambda: fail(ValueError("second")))
