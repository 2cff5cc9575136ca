"""The library of documents: concurrent reads, and one change at a time.

Both have threads of their own, so that an ingest never takes one that answers questions.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pydantic import ValidationError

from rag_kit.errors import StepError, errors_of
from rag_kit.reports import (
    CollectionInfo,
    DocumentInfo,
    Failure,
    IngestReport,
    Progress,
    StoredDocument,
)
from rag_kit.settings import misconfigured
from rag_kit.workers import lower_priority
from rag_pipeline.settings import read_settings as rag_settings

from ..http.metrics import Metrics
from ..runners.base import Runner
from ..settings import ServiceSettings
from .idempotency import Replays
from .jobs import Job

if TYPE_CHECKING:
    from rag_retrieve.documents import LoadedDocument
    from rag_retrieve.retriever import Retriever

LOG = logging.getLogger(__name__)
READERS = 2  # threads that list and show
MAX_WAITING = 8  # queued changes; each may hold an upload
REMEMBERED = 100  # finished jobs that can be looked up
OUTCOMES = "idempotency.sqlite3"  # file in RAG_HOME
Result = TypeVar("Result")
OnProgress = Callable[["Progress"], None]
Work = Callable[["Retriever", OnProgress], "IngestReport"]


class Item(Protocol):
    """Something to ingest: a file, or a text."""

    @property
    def name(self) -> str:
        """Its id, or the prefix of its records' ids."""

    def load(self) -> list[LoadedDocument]:
        """Return its documents; raises `document_unreadable`."""

    def close(self) -> None:
        """Release what it holds."""


class _StoppedError(Exception):
    """Raised between two commits of a job that is to stop."""


def _threads(number: int, name: str) -> ThreadPoolExecutor:
    """Return threads with low priority, as those that answer have."""
    return ThreadPoolExecutor(number, thread_name_prefix=name, initializer=lower_priority)


class Library:
    """Documents and collections of one retriever, for an event loop.

    Args:
        retriever: Returns the retriever, and may block; raises while there is none.
        replays: Idempotency keys and their jobs.
        close: Called at the end, in a thread.
    """

    def __init__(
        self,
        retriever: Callable[[], Retriever],
        replays: Replays,
        close: Callable[[], object] = lambda: None,
    ) -> None:
        self.replays = replays
        self._retriever, self._close = retriever, close
        self._readers = _threads(READERS, "rag-documents")
        self._writer = _threads(1, "rag-ingest")  # its embedding threads inherit the priority
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._pending = 0  # changes, running or queued
        self._closing = False

    # -- reading --------------------------------------------------------------------------

    async def collections(self) -> list[CollectionInfo]:
        """Return the collections, by name."""
        return await self._read(lambda retriever: retriever.collections())

    async def documents(self, collection: str) -> list[DocumentInfo]:
        """Return the documents of a collection, by id; raises `collection_not_found`."""
        return await self._read(lambda retriever: retriever.documents(collection))

    async def document(self, collection: str, document_id: str) -> StoredDocument:
        """Return one document with its text; raises `document_not_found`."""
        return await self._read(lambda retriever: retriever.document(collection, document_id))

    async def _read(self, work: Callable[[Retriever], Result]) -> Result:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, self._do, work)

    def _do(self, work: Callable[[Retriever], Result]) -> Result:
        with errors_of("retrieve"):
            return work(self._retriever())

    # -- changing -------------------------------------------------------------------------

    async def delete_documents(self, collection: str, document_ids: Sequence[str]) -> IngestReport:
        """Delete documents; a call cancelled before its turn changes nothing.

        Raises:
            StepError: `collection_not_found`, `overloaded` and those of the store.
        """
        return await self._change(
            lambda retriever: retriever.delete_documents(collection, document_ids)
        )

    async def delete_collection(self, name: str) -> None:
        """Delete a collection and all it holds; as `delete_documents`."""
        await self._change(lambda retriever: retriever.delete_collection(name))

    async def _change(self, work: Callable[[Retriever], Result]) -> Result:
        with self._queued():
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._writer, self._do, work)

    @contextmanager
    def _queued(self) -> Iterator[None]:
        if self._closing:
            raise StepError("draining", "the service is shutting down; ask another one")
        if self._pending > MAX_WAITING:
            raise StepError(
                "overloaded",
                f"{self._pending} changes to documents are waiting already",
                retry_after=5,
            )
        self._pending += 1
        try:
            yield
        finally:
            self._pending -= 1

    def ingest(self, collection: str, items: Sequence[Item]) -> Job:
        """Start to ingest files and texts into a collection, which is created when it does not exist.

        When none of them can be read, nothing is created. The items are closed in any case.

        Raises:
            StepError: `overloaded`, `draining`.
        """

        def work(retriever: Retriever, progress: OnProgress) -> IngestReport:
            return _ingest(retriever, collection, items, progress)

        def close() -> None:
            for item in items:
                item.close()

        return self._start(Job(collection, len(items)), work, close)

    def reindex(self, collection: str) -> Job:
        """Start to rebuild a collection; errors as for `ingest`."""

        def work(retriever: Retriever, progress: OnProgress) -> IngestReport:
            return retriever.reindex(collection, progress=progress)

        return self._start(Job(collection, 0), work, lambda: None)

    def job(self, job_id: str) -> Job:
        """Return an unfinished job, or one of the last `REMEMBERED` finished ones.

        Raises:
            StepError: `not_found`.
        """
        if (job := self._jobs.get(job_id)) is None:
            raise StepError(
                "not_found",
                f"there is no ingest '{job_id[:80]}'; the last {REMEMBERED} are remembered until "
                "the service ends",
            )
        return job

    def _start(self, job: Job, work: Work, close: Callable[[], None]) -> Job:
        with ExitStack() as stack:
            stack.callback(close)
            stack.enter_context(self._queued())
            task = asyncio.get_running_loop().create_task(self._run(job, work, stack.pop_all()))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._jobs[job.id] = job
        old = [known.id for known in self._jobs.values() if known.finished][:-REMEMBERED]
        for known in old:
            del self._jobs[known]
        return job

    async def _run(self, job: Job, work: Work, held: AbstractContextManager[Any]) -> None:
        loop = asyncio.get_running_loop()

        def stoppable(retriever: Retriever) -> IngestReport:
            if job.stopped.is_set():
                raise _StoppedError
            loop.call_soon_threadsafe(job.begin)

            def progress(at: Progress) -> None:
                loop.call_soon_threadsafe(job.advance, at.done, at.total, at.document_id)
                if job.stopped.is_set():
                    raise _StoppedError

            report = work(retriever, progress)
            self.replays.record(job, report)
            return report

        with held:
            try:
                job.finish(await loop.run_in_executor(self._writer, self._do, stoppable))
            except StepError as error:
                job.finish(error)
            except _StoppedError:
                code = "draining" if self._closing else "client_cancelled"
                job.finish(StepError(code, "it was stopped; what was committed until then stays"))
            except Exception as error:
                LOG.exception("%s: unexpected error", job.id)
                text = f"it failed unexpectedly ({type(error).__name__}); the log has the details"
                job.finish(StepError("internal_error", text))

    async def close(self) -> None:
        """Stop the running job after its current commit, drop the queued ones, and close."""
        self._closing = True
        for job in self._jobs.values():
            job.stopped.set()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for pool in (self._readers, self._writer):
            pool.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._close)


def _ingest(
    retriever: Retriever, collection: str, items: Sequence[Item], progress: OnProgress
) -> IngestReport:
    reading = _Reading(items)
    documents = reading.documents()
    first = next(documents, None)
    if first is None:
        return IngestReport(collection=collection, failed=reading.failed)

    def with_total(at: Progress) -> None:
        total = max(at.done, reading.loaded + reading.left)
        progress(Progress(at.done, total, at.document_id))

    report = retriever.ingest_documents(
        chain((first,), documents), collection=collection, progress=with_total
    )
    report.failed = [*reading.failed, *report.failed]
    return report


class _Reading:
    """Loads items one at a time, and collects the failures of those that cannot be read."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items
        self.failed: list[Failure] = []
        self.loaded = 0
        self.left = len(items)

    def documents(self) -> Iterator[LoadedDocument]:
        names: set[str] = set()
        for item in self._items:
            self.left -= 1
            try:
                if item.name in names:
                    raise StepError(
                        "document_unreadable",
                        f"two files of this upload are called '{item.name}', and the first one "
                        "was taken; give them different names or folders",
                    )
                names.add(item.name)
                loaded = item.load()
            except StepError as error:
                self.failed.append(
                    Failure(document_id=item.name, code=error.code, message=error.message)
                )
                continue
            self.loaded += len(loaded)
            yield from loaded


def open_library(settings: ServiceSettings, runner: Runner, metrics: Metrics) -> Library | None:
    """Return the library of the documents that the runner answers from, not opened yet.

    None when they cannot be managed here: they came with the runner's build.
    """
    if (retriever := runner.documents()) is not None:
        return Library(retriever, _replays(metrics))
    if settings.qdrant_url:
        server = _ServerRetriever(settings)
        return Library(server.get, _replays(metrics), server.close)
    return None


def _replays(metrics: Metrics) -> Replays:
    return Replays(metrics.registry, path=rag_settings().home / OUTCOMES)


class _ServerRetriever:
    """A retriever over the Qdrant server, opened at its first use."""

    def __init__(self, settings: ServiceSettings) -> None:
        key = settings.qdrant_api_key
        self._options: dict[str, Any] = {"store": "qdrant", "qdrant_url": settings.qdrant_url}
        self._options |= {"qdrant_api_key": key} if key else {}
        self._lock = threading.Lock()
        self._opened: Retriever | None = None

    def get(self) -> Retriever:
        with self._lock:
            if self._opened is None:
                self._opened = self._open()
            return self._opened

    def _open(self) -> Retriever:
        try:
            from rag_retrieve.retriever import Retriever
            from rag_retrieve.settings import RetrieveSettings
        except ModuleNotFoundError as error:
            raise StepError(
                "not_supported",
                f"managing documents here needs the package {error.name}; install "
                "rag-service[local], or manage them with `rag index` elsewhere",
            ) from None
        try:
            return Retriever.open(RetrieveSettings(**self._options))
        except ValidationError as error:
            raise misconfigured(error) from None

    def close(self) -> None:
        with self._lock:
            if self._opened is not None:
                self._opened.close()
