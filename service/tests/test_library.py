"""One job at a time, bounded, stoppable; and requests that are sent twice."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from service_kit import environment

from rag_kit.errors import StepError
from rag_kit.workers import NICE
from rag_pipeline.steps.local import open_retriever
from rag_retrieve.documents import LoadedDocument, load
from rag_service.library.idempotency import KEPT_S, MAX_KEYS, Replays
from rag_service.library.jobs import Job
from rag_service.library.library import MAX_WAITING, REMEMBERED, Library


class Text:
    """A text that can be made to wait for its turn."""

    def __init__(self, name: str, text: str, until: threading.Event | None = None) -> None:
        self.name, self._text, self._until = name, text, until
        self.reading = threading.Event()
        self.closed = False

    def load(self) -> list[LoadedDocument]:
        self.reading.set()
        if self._until is not None:
            assert self._until.wait(30)
        return load(self.name, self._text.encode())

    def close(self) -> None:
        self.closed = True


@asynccontextmanager
async def opened(home: Path) -> AsyncIterator[Library]:
    with (
        environment({"RAG_HOME": str(home / "store"), "RAG_CHUNK_TOKENS": "64"}),
        open_retriever() as retriever,
    ):
        library = Library(lambda: retriever, Replays(CollectorRegistry()))
        yield library
        await library.close()


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


def test_one_job_at_a_time_and_the_queue_is_bounded(tmp_path: Path) -> None:
    async def work() -> None:
        go = threading.Event()
        async with opened(tmp_path) as library:
            held = Text("a.txt", "The first text.", go)
            first = library.ingest("c", [held])
            await asyncio.to_thread(held.reading.wait, 30)
            others = [library.ingest("c", [Text(f"{n}.txt", "More.")]) for n in range(MAX_WAITING)]
            extra = Text("x.txt", "Too much.")
            with pytest.raises(StepError) as refused:
                library.ingest("c", [extra])
            assert refused.value.code == "overloaded" and refused.value.retry_after
            assert extra.closed
            with pytest.raises(StepError, match="waiting already"):
                await library.delete_documents("c", ["a.txt"])
            assert first.status == "running"
            assert {job.status for job in others} == {"queued"}
            go.set()
            await first.wait()
            for job in others:
                assert (await job.wait()).added
            assert held.closed
            assert len(await library.documents("c")) == 1 + MAX_WAITING

    run(work)


def test_reading_goes_on_during_an_ingest_and_a_deletion_given_up_changes_nothing(
    tmp_path: Path,
) -> None:
    async def work() -> None:
        go = threading.Event()
        async with opened(tmp_path) as library:
            await library.ingest("c", [Text("a.txt", "The first text.")]).wait()
            held = Text("b.txt", "The second text.", go)
            job = library.ingest("c", [held])
            await asyncio.to_thread(held.reading.wait, 30)
            assert [info.document_id for info in await library.documents("c")] == ["a.txt"]
            assert [info.name for info in await library.collections()] == ["c"]
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await library.delete_documents("c", ["a.txt"])
            go.set()
            await job.wait()
            assert len(await library.documents("c")) == 2

    run(work)


def test_a_job_is_stopped_between_two_commits_and_what_was_committed_stays(tmp_path: Path) -> None:
    async def work() -> None:
        go = threading.Event()
        async with opened(tmp_path) as library:
            before = [Text(f"{n:02}.txt", f"Text number {n}.") for n in range(32)]  # one commit
            held = Text("held.txt", "It waits.", go)
            after = [Text(f"late{n:02}.txt", f"Late {n}.") for n in range(40)]
            job = library.ingest("c", [*before, held, *after])
            await asyncio.to_thread(held.reading.wait, 30)
            job.stopped.set()
            go.set()
            with pytest.raises(StepError) as stopped:
                await job.wait()
            assert stopped.value.code == "client_cancelled"
            assert [step["done"] for step in job.progress] == [0, 32, 64]
            assert len(await library.documents("c")) == 64
        async with opened(tmp_path) as library:
            assert len(await library.documents("c")) == 64

    run(work)


def test_closing_ends_the_job_at_work_and_refuses_new_ones(tmp_path: Path) -> None:
    async def work() -> None:
        go = threading.Event()
        async with opened(tmp_path) as library:
            held = Text("a.txt", "The first text.", go)
            job, waiting = library.ingest("c", [held]), library.ingest("c", [Text("b.txt", "B")])
            await asyncio.to_thread(held.reading.wait, 30)
            closing = asyncio.ensure_future(library.close())
            go.set()
            await closing
            for one in (job, waiting):
                assert one.error is not None and one.error.code == "draining"
            with pytest.raises(StepError) as refused:
                library.ingest("c", [Text("b.txt", "B")])
            assert refused.value.code == "draining"

    run(work)


def test_an_unexpected_failure_of_a_job_is_an_internal_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Text):
        def load(self) -> list[LoadedDocument]:
            raise RuntimeError("secret detail")

    async def work() -> None:
        async with opened(tmp_path) as library:
            broken = Broken("a.txt", "")
            with pytest.raises(StepError) as failed:
                await library.ingest("c", [broken]).wait()
            assert failed.value.code == "internal_error"
            assert "secret" not in failed.value.message
            assert broken.closed

    run(work)
    assert "secret detail" in caplog.text


def test_the_last_finished_jobs_are_remembered(tmp_path: Path) -> None:
    async def work() -> None:
        async with opened(tmp_path) as library:
            jobs = []
            for _ in range(REMEMBERED + 3):
                jobs.append(library.ingest("c", [Text("a.bin", "Not read at all.")]))
                assert (await jobs[-1].wait()).failed
            assert library.job(jobs[-1].id) is jobs[-1]
            with pytest.raises(StepError) as unknown:
                library.job(jobs[0].id)
            assert unknown.value.code == "not_found"
            assert await library.collections() == [], "nothing could be read, so nothing is made"

    run(work)


def test_followers_of_a_job_get_every_step_whenever_they_come(tmp_path: Path) -> None:
    async def work() -> None:
        async with opened(tmp_path) as library:
            job = library.ingest("c", [Text(f"{n}.txt", f"Text {n}.") for n in range(70)])
            early = [step async for step in job.follow(0)]
            late = [step async for step in job.follow(0)]
            assert early == late
            assert [step["done"] for step in early] == [0, 32, 64, 70]
            assert {step["total"] for step in early} == {70}

    run(work)


# -- Idempotency-Key ------------------------------------------------------------------------


def outcome(replays: Replays, who: str, key: str, digest: bytes) -> Job | str | None:
    try:
        return replays.find(who, key, digest)
    except StepError as error:
        return error.code


def test_a_key_belongs_to_one_request_of_one_client_for_a_day() -> None:
    now = 0.0
    replays = Replays(CollectorRegistry(), clock=lambda: now)
    assert replays.find("ann", "k", b"1") is None
    job = Job("c", 1)
    replays.keep("ann", "k", b"1", job)
    assert outcome(replays, "ann", "k", b"1") == "in_progress"
    assert outcome(replays, "ann", "k", b"2") == "idempotency_mismatch"
    assert replays.find("bob", "k", b"2") is None
    from rag_kit.reports import IngestReport

    job.finish(IngestReport(collection="c"))
    assert replays.find("ann", "k", b"1") is job
    assert outcome(replays, "ann", "k", b"2") == "idempotency_mismatch"
    now = KEPT_S
    assert replays.find("ann", "k", b"2") is None


def test_a_failed_job_may_be_tried_again_with_its_key() -> None:
    replays = Replays(CollectorRegistry())
    job = Job("c", 1)
    replays.keep("ann", "k", b"1", job)
    job.finish(StepError("storage_full", "no room"))
    assert replays.find("ann", "k", b"1") is None


def test_the_number_of_keys_is_bounded() -> None:
    replays = Replays(CollectorRegistry())
    for n in range(MAX_KEYS + 2):
        replays.keep("ann", str(n), b"1", Job("c", 1))
    assert replays.find("ann", "0", b"2") is None
    assert outcome(replays, "ann", str(MAX_KEYS), b"1") == "in_progress"


@pytest.mark.parametrize("key", ["", "a" * 256, "tab\t"])
def test_a_key_that_is_none_is_refused(key: str) -> None:
    assert outcome(Replays(CollectorRegistry()), "", key, b"") == "invalid_request"


@pytest.mark.skipif(sys.platform != "linux", reason="a thread has a priority of its own on Linux")
def test_an_ingest_has_no_more_right_to_the_processor_than_an_answer(tmp_path: Path) -> None:
    """Reading, writing, and the threads that embed for a writer: all behind the event loop."""

    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def embeds() -> int:
        with ThreadPoolExecutor(1) as made_in_it:
            return made_in_it.submit(priority).result()

    async def work() -> None:
        async with opened(tmp_path) as library:
            found = {
                pool.submit(look).result()
                for pool in (library._readers, library._writer)
                for look in (priority, embeds)
            }
        assert found == {max(priority(), NICE)}

    run(work)
