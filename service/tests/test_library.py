"""One job at a time, bounded, stoppable; and requests that are sent twice."""

from __future__ import annotations

import asyncio
import io
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
from rag_service.library.ledger import LOST, MAX_ENTRIES_OF_TENANT, Ledger
from rag_service.library.library import MAX_INGESTS_OF_TENANT, REMEMBERED, SMALL_BYTES, Library
from rag_service.library.uploads import FileItem


class Text:
    """A text that can be made to wait for its turn."""

    def __init__(self, name: str, text: str, until: threading.Event | None = None) -> None:
        self.name, self._text, self._until = name, text, until
        self.reading = threading.Event()
        self.closed = False
        self.size = len(text)

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
        ledger = Ledger(home / "ingests.sqlite3")
        library = Library(lambda: retriever, Replays(CollectorRegistry()), ledger=ledger)
        yield library
        await library.close()


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


def large(name: str, until: threading.Event | None = None, passages: int = 0) -> Text:
    """A text that counts as a large upload; by `passages` it also is one."""
    text = " ".join(f"Sentence number {n} of {name} says something." for n in range(9 * passages))
    item = Text(name, text or "Short, but large.", until)
    item.size = SMALL_BYTES + 1
    return item


def test_small_uploads_and_deletions_do_not_wait_for_a_large_upload(tmp_path: Path) -> None:
    """Nor do other tenants' large ones; the same tenant's wait in their order, and are told so."""

    async def work() -> None:
        go = threading.Event()
        async with opened(tmp_path) as library:
            held = large("a.txt", go)
            first = library.ingest("c", [held], "ann")
            await asyncio.to_thread(held.reading.wait, 30)
            second, third = (library.ingest("c", [large(f"{n}.txt")], "ann") for n in "bc")
            assert [job.ahead for job in (first, second, third)] == [0, 1, 2]
            assert (await library.ingest("c", [Text("d.txt", "Small.")], "ann").wait()).added
            assert (await library.delete_documents("c", ["d.txt"], "ann")).deleted
            assert (await library.ingest("c", [large("e.txt")], "bob").wait()).added
            assert [job.status for job in (first, second, third)] == ["running", "queued", "queued"]
            go.set()
            for job in (first, second, third):
                await job.wait()
            assert [step["ahead"] for step in third.progress if not step["document_id"]] == [
                0,
                2,
                1,
                0,
            ]
            assert held.closed

    run(work)


def test_a_large_upload_that_is_stopped_in_the_line_lets_the_next_one_go(tmp_path: Path) -> None:
    async def work() -> None:
        go = threading.Event()
        async with opened(tmp_path) as library:
            held = large("a.txt", go)
            jobs = [library.ingest("c", [one]) for one in (held, large("b.txt"), large("c.txt"))]
            await asyncio.to_thread(held.reading.wait, 30)
            jobs[1].stop()
            with pytest.raises(StepError, match="before it began"):
                await jobs[1].wait()
            assert jobs[2].ahead == 1
            go.set()
            for job in (jobs[0], jobs[2]):
                await job.wait()
            assert [info.document_id for info in await library.documents("c")] == ["a.txt", "c.txt"]

    run(work)


def test_the_uploads_and_deletions_that_wait_are_bounded_for_each_tenant(tmp_path: Path) -> None:
    async def work() -> None:
        go = threading.Event()
        async with opened(tmp_path) as library:
            jobs = [
                library.ingest("c", [Text(f"{n}.txt", "More.", go)], "ann")
                for n in range(MAX_INGESTS_OF_TENANT)
            ]
            extra = Text("x.txt", "Too much.")
            with pytest.raises(StepError) as refused:
                library.ingest("c", [extra], "ann")
            assert refused.value.code == "overloaded" and refused.value.retry_after
            assert extra.closed
            await library.ingest("c", [Text("y.txt", "Another tenant's.")], "bob").wait()
            go.set()
            for job in jobs:
                assert (await job.wait()).added
            assert not library._ingests, "tenants without uploads are forgotten"
            assert not library._lines._lines

    run(work)


def test_reading_goes_on_during_an_ingest(
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
            go.set()
            await job.wait()
            assert len(await library.documents("c")) == 2

    run(work)


async def embedded(job: Job) -> None:
    """Return when the first passages of a job are embedded."""
    await job.wait_until(lambda: job.progress[-1]["passages"] > 0)


def test_a_job_stopped_inside_a_document_leaves_nothing(tmp_path: Path) -> None:
    """Neither the document nor the collection that was made for it; progress is in passages."""

    async def work() -> None:
        async with opened(tmp_path) as library:
            job = library.ingest("c", [large("a.txt", passages=300)])
            await embedded(job)
            job.stop()
            with pytest.raises(StepError) as stopped:
                await job.wait()
            assert stopped.value.code == "client_cancelled"
            last = job.progress[-1]
            assert 0 < last["passages"] < last["passages_total"]
            assert last["done"] == 0
            assert await library.collections() == []

    run(work)


def test_a_job_that_is_stopped_takes_back_what_it_added_and_names_what_it_replaced(
    tmp_path: Path,
) -> None:
    async def work() -> None:
        go = threading.Event()
        async with opened(tmp_path) as library:
            await library.ingest("c", [Text("old.txt", "The old text."), Text("z", "")]).wait()
            before = [Text("old.txt", "The new text.")]
            before += [Text(f"{n:02}.txt", f"Text number {n}.") for n in range(31)]  # one commit
            held = Text("held.txt", "It waits.", go)
            job = library.ingest("c", [*before, held])
            await asyncio.to_thread(held.reading.wait, 30)
            assert len(await library.documents("c")) == 32
            job.stop()
            go.set()
            with pytest.raises(StepError, match=r"left so: old\.txt"):
                await job.wait()
            assert [info.document_id for info in await library.documents("c")] == ["old.txt"]
        async with opened(tmp_path) as library:
            assert (await library.document("c", "old.txt")).text == "The new text."

    run(work)


def test_a_job_that_is_stopped_leaves_what_others_have_put_in_its_place(tmp_path: Path) -> None:
    async def work() -> None:
        go = threading.Event()
        async with opened(tmp_path) as library:
            mine = [Text(f"{n:02}.txt", f"Text number {n}.") for n in range(32)]
            held = Text("held.txt", "It waits.", go)
            job = library.ingest("c", [*mine, held])
            await asyncio.to_thread(held.reading.wait, 30)
            await library.ingest("c", [Text("07.txt", "Another text.")]).wait()
            job.stop()
            go.set()
            with pytest.raises(StepError):
                await job.wait()
            assert [info.document_id for info in await library.documents("c")] == ["07.txt"]

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
            assert await library.job(jobs[-1].id) is jobs[-1]
            found = await library.job(jobs[0].id)
            assert found is not jobs[0], "it is out of memory, but in the ledger"
            assert found is not None and found.report == jobs[0].report
            assert await library.job("ingest_0") is None
            assert await library.collections() == [], "nothing could be read, so nothing is made"

    run(work)


def test_followers_of_a_job_get_every_step_whenever_they_come(tmp_path: Path) -> None:
    async def work() -> None:
        async with opened(tmp_path) as library:
            job = library.ingest("c", [Text(f"{n}.txt", f"Text {n}.") for n in range(70)])
            early = [step async for step in job.follow(0)]
            late = [step async for step in job.follow(0)]
            assert early == late
            done = [step["done"] for step in early]
            assert done == sorted(done)
            assert set(done) == {0, 32, 64, 70}
            assert {step["total"] for step in early} == {70}

    run(work)


# -- a restart ------------------------------------------------------------------------------


def test_how_an_ingest_ended_is_known_after_a_restart(tmp_path: Path) -> None:
    """A report, a failure, and one that was under way when the process died."""

    async def work() -> None:
        async with opened(tmp_path) as library:
            done = library.ingest("c", [Text("a.txt", "The first text.")], "ann")
            await done.wait()
            go = threading.Event()
            held = Text("b.txt", "The second text.", go)
            ended = library.ingest("c", [held], "ann")
            await asyncio.to_thread(held.reading.wait, 30)
            closing = asyncio.ensure_future(library.close())
            go.set()
            await closing
            killed = Job("c", 1, tenant="ann")
            await asyncio.to_thread(library._ledger.begin, killed)
        async with opened(tmp_path) as library:
            found = [await library.job(job.id) for job in (done, ended, killed)]
            assert [job and (job.tenant, job.collection) for job in found] == [("ann", "c")] * 3
            assert found[0] is not None and found[0].report == done.report
            assert found[1] is not None and found[1].error is not None
            assert found[1].error.code == "draining"
            assert found[2] is not None and found[2].error is not None
            assert found[2].error.message == LOST

    run(work)


def test_the_ledger_is_bounded_and_one_tenant_does_not_push_out_another(tmp_path: Path) -> None:
    now = 0.0
    ledger = Ledger(tmp_path / "ingests.sqlite3", clock=lambda: now)
    bobs = Job("c", 1, tenant="bob")
    ledger.begin(bobs)
    jobs = [Job("c", 1, tenant="ann") for _ in range(MAX_ENTRIES_OF_TENANT + 2)]
    for job in jobs:
        now += 1
        ledger.begin(job)
    assert [ledger.find(job.id) is None for job in jobs[:3]] == [True, True, False]
    assert ledger.find(bobs.id) is not None
    now += KEPT_S
    ledger.begin(Job("c", 1))
    assert ledger.find(bobs.id) is None


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
                for look in (priority, embeds)
                for pool in (library._writers,)
            }
        assert found == {max(priority(), NICE)}

    run(work)


def test_the_report_of_an_upload_counts_the_files_that_are_not_read(tmp_path: Path) -> None:
    """By their endings, as that of a folder does; each is a failure with its reason, too."""

    async def work() -> None:
        names = ["a.txt", "b.exe", "c.EXE", "d"]
        items = [FileItem(name, io.BytesIO(b"Tea is hot.")) for name in names]
        async with opened(tmp_path) as library:
            report = await library.ingest("c", items).wait()

        assert [(one.reason, one.ending, one.files) for one in report.skipped] == [
            ("format", "", 1),
            ("format", ".exe", 2),
        ]
        assert [failure.document_id for failure in report.failed] == names[1:]

    run(work)
