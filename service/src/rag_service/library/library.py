"""The library of documents: reads, deletions and ingests side by side.

All have threads of their own, so that an ingest never takes one that answers questions. Ingests
take turns at the embedder, a batch of passages at a time; the large ones of a tenant are done one
after the other. Deletions wait for no ingest, only for a commit.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from itertools import chain
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, TypeVar

from pydantic import ValidationError

from rag_kit.errors import StepError, errors_of
from rag_kit.reports import (
    CollectionInfo,
    DocumentInfo,
    Failure,
    IngestReport,
    Progress,
    Skipped,
    StoredDocument,
)
from rag_kit.settings import misconfigured
from rag_kit.workers import lower_priority
from rag_pipeline.settings import read_settings as rag_settings

from ..http.metrics import Metrics
from ..runners.base import Runner
from ..settings import ServiceSettings
from .files import Files
from .idempotency import Replays
from .jobs import Job
from .ledger import Ledger
from .lines import Lines
from .originals import Originals
from .page_images import PageImages
from .uploads import FileItem

if TYPE_CHECKING:
    from rag_retrieve.documents import LoadedDocument
    from rag_retrieve.documents.pdf.drawn import Sheet
    from rag_retrieve.retriever import Embeddings, Retriever

LOG = logging.getLogger(__name__)
READERS = 2  # threads that list and show
DELETERS = 4  # threads that delete
MAX_INGESTS = 64  # of all tenants, at work or waiting; each may hold an upload
MAX_INGESTS_OF_TENANT = 9
MAX_DELETIONS_OF_TENANT = 64
SMALL_BYTES = 256 * 1024  # an upload up to this size waits for no other one: about 400 passages
REMEMBERED = 100  # finished jobs in memory
OUTCOMES = "idempotency.sqlite3"  # files in RAG_HOME
LEDGER = "ingests.sqlite3"
NAMED = 5  # documents named in a message
CLOSED = "the service ended before this was done; what was stored until then stays; send it again"
Result = TypeVar("Result")
OnProgress = Callable[["Progress"], None]
Check = Callable[[], None]
Work = Callable[["Retriever", OnProgress, Check], "IngestReport"]


class Item(Protocol):
    """Something to ingest: a file, or a text."""

    @property
    def name(self) -> str:
        """Its id, or the prefix of its records' ids."""

    @property
    def size(self) -> int:
        """Its bytes."""

    def load(self) -> list[LoadedDocument]:
        """Return its documents; raises `document_unreadable`."""

    def original(self) -> BinaryIO | None:
        """Return its file, from the start, where the file is to be kept; else None."""

    def close(self) -> None:
        """Release what it holds."""


class _ClosingError(Exception):
    """Raised in a job at work when the service ends."""


class Library:
    """Documents and collections of one retriever, for an event loop.

    Args:
        retriever: Returns the retriever, and may block; raises while there is none.
        replays: Idempotency keys and their jobs.
        ledger: Remembers jobs over a restart; None: nothing does.
        close: Called at the end, in a thread.
        originals: Keeps the files of uploads whose pages are shown; None: nothing does.
        images: Draws pages; None: documents are shown as text.
    """

    def __init__(
        self,
        retriever: Callable[[], Retriever],
        replays: Replays,
        close: Callable[[], object] = lambda: None,
        ledger: Ledger | None = None,
        originals: Originals | None = None,
        images: PageImages | None = None,
    ) -> None:
        self.replays = replays
        self._originals, self._images = originals, images
        self._ledger = ledger or Ledger(None)
        self._retriever, self._close = retriever, close
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="rag-documents")
        self._drawers = ThreadPoolExecutor(1, thread_name_prefix="rag-pages")  # PDFium has one turn
        self._deleters = ThreadPoolExecutor(DELETERS, thread_name_prefix="rag-delete")
        self._writers = ThreadPoolExecutor(  # their embedding threads inherit the priority
            MAX_INGESTS, thread_name_prefix="rag-ingest", initializer=lower_priority
        )
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._lines = Lines()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ingests: Counter[str] = Counter()  # at work or waiting, by tenant
        self._deletions: Counter[str] = Counter()
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

    async def embed(self, texts: Sequence[str], tenant: str = "") -> Embeddings:
        """Return texts as vectors of the embedder; raises `embedder_…`."""
        return await self._read(lambda retriever: retriever.embed(texts, tenant=tenant))

    async def sheets(
        self,
        collection: str,
        document: StoredDocument,
        numbers: Sequence[int],
        spans: Sequence[tuple[int, int]],
    ) -> dict[int, Sheet] | None:
        """Return pages of a document with marks, as `PageImages.sheets`; None: it is shown as text."""
        images = self._images
        if images is None or not (document.file_digest and document.pages):
            return None
        return await self._read(
            lambda retriever: images.sheets(retriever, collection, document, numbers, spans),
            self._drawers,
        )

    async def page_image(
        self, collection: str, document: StoredDocument, number: int
    ) -> bytes | None:
        """Return a page as PNG; None where there is no file to draw it from."""
        images = self._images
        if images is None or not document.file_digest:
            return None
        return await self._read(
            lambda retriever: images.draw(retriever, collection, document, number), self._drawers
        )

    async def _read(
        self, work: Callable[[Retriever], Result], threads: ThreadPoolExecutor | None = None
    ) -> Result:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(threads or self._readers, self._do, work)

    def _do(self, work: Callable[[Retriever], Result]) -> Result:
        with errors_of("retrieve"):
            return work(self._retriever())

    # -- changing -------------------------------------------------------------------------

    async def delete_documents(
        self, collection: str, document_ids: Sequence[str], tenant: str = ""
    ) -> IngestReport:
        """Delete documents; a call cancelled before its turn changes nothing.

        Raises:
            StepError: `collection_not_found`, `overloaded` and those of the store.
        """

        def delete(retriever: Retriever) -> IngestReport:
            report = retriever.delete_documents(collection, document_ids)
            if self._originals is not None:
                self._originals.forget(collection, report.deleted)
            return report

        return await self._delete(tenant, delete)

    async def delete_collection(self, name: str, tenant: str = "") -> None:
        """Delete a collection and all it holds; as `delete_documents`."""

        def delete(retriever: Retriever) -> None:
            retriever.delete_collection(name)
            if self._originals is not None:
                self._originals.forget_collection(name)

        await self._delete(tenant, delete)

    async def forget_files(self) -> None:
        """Delete the files of documents that were deleted while the service was not running."""
        originals = self._originals
        if originals is None:
            return

        def forget(retriever: Retriever) -> None:
            originals.forget_others(lambda name: _ids(retriever, name))

        try:
            await self._read(forget)
        except StepError as error:
            LOG.warning("files of deleted documents stay for now: %s", error.message)

    async def _delete(self, tenant: str, work: Callable[[Retriever], Result]) -> Result:
        with self._counted(self._deletions, tenant, MAX_DELETIONS_OF_TENANT, "deletions"):
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._deleters, self._do, work)

    @contextmanager
    def _counted(self, counts: Counter[str], tenant: str, most: int, what: str) -> Iterator[None]:
        """Count a change of a tenant while it waits or is at work.

        Raises:
            StepError: `overloaded`, `draining`.
        """
        if self._closing:
            raise StepError("draining", "the service is shutting down; ask another one")
        if counts[tenant] >= most:
            raise StepError(
                "overloaded", f"{most} of your {what} are waiting already", retry_after=5
            )
        if counts.total() >= MAX_INGESTS and counts is self._ingests:
            raise StepError(
                "overloaded", f"{MAX_INGESTS} {what} are waiting already", retry_after=5
            )
        counts[tenant] += 1
        try:
            yield
        finally:
            counts[tenant] -= 1
            if not counts[tenant]:
                del counts[tenant]

    def ingest(self, collection: str, items: Sequence[Item], tenant: str = "") -> Job:
        """Start to ingest files and texts into a collection, which is created when it does not exist.

        When none of them can be read, nothing is created. The items are closed in any case.

        Args:
            collection: Its name.
            items: Files and texts.
            tenant: Whose they are.

        Raises:
            StepError: `overloaded`, `draining`.
        """

        def work(retriever: Retriever, progress: OnProgress, check: Check) -> IngestReport:
            report = _ingest(retriever, collection, items, tenant, progress, check)
            if self._originals is not None:
                _keep_files(self._originals, collection, items, report)
            return report

        def close() -> None:
            for item in items:
                item.close()

        large = sum(item.size for item in items) > SMALL_BYTES
        return self._start(Job(collection, len(items), tenant=tenant), work, close, large=large)

    def reindex(self, collection: str, tenant: str = "") -> Job:
        """Start to rebuild a collection; errors as for `ingest`."""

        def work(retriever: Retriever, progress: OnProgress, check: Check) -> IngestReport:
            return retriever.reindex(collection, progress=progress, tenant=tenant, check=check)

        return self._start(Job(collection, 0, tenant=tenant), work, lambda: None, large=True)

    async def job(self, job_id: str) -> Job | None:
        """Return a job of the last day, or None."""
        return self._jobs.get(job_id) or await asyncio.to_thread(self._ledger.find, job_id)

    def _start(self, job: Job, work: Work, close: Callable[[], None], *, large: bool) -> Job:
        with ExitStack() as stack:
            stack.callback(close)
            most = MAX_INGESTS_OF_TENANT
            stack.enter_context(self._counted(self._ingests, job.tenant, most, "uploads"))
            if large:
                self._lines.join(job)
            running = self._run(job, work, stack.pop_all(), large=large)
            task = asyncio.get_running_loop().create_task(running)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._jobs[job.id] = job
        old = [known.id for known in self._jobs.values() if known.finished][:-REMEMBERED]
        for known in old:
            del self._jobs[known]
        return job

    async def _run(
        self, job: Job, work: Work, held: AbstractContextManager[Any], *, large: bool
    ) -> None:
        with held:
            await asyncio.to_thread(self._ledger.begin, job)
            job.recorded.set()
            async with self._lines.head(job) if large else nullcontext():
                result = await self._result(job, work)
            await asyncio.to_thread(self._record, job, result)
            job.finish(result)

    def _record(self, job: Job, result: IngestReport | StepError) -> None:
        """Make the outcome durable, before any client learns of it."""
        self._ledger.end(job, result)
        if isinstance(result, IngestReport):
            self.replays.record(job, result)

    async def _result(self, job: Job, work: Work) -> IngestReport | StepError:
        loop = asyncio.get_running_loop()

        def stoppable(retriever: Retriever) -> IngestReport | StepError:
            from rag_retrieve.index.ingest import StopIngest

            def check() -> None:
                if job.stopped.is_set():
                    raise _ClosingError if self._closing else StopIngest

            def progress(at: Progress) -> None:
                loop.call_soon_threadsafe(job.advance, at)

            try:
                check()
                loop.call_soon_threadsafe(job.begin)
                return work(retriever, progress, check)
            except StopIngest as stop:
                return _stopped(stop.report)
            except _ClosingError:
                return StepError("draining", CLOSED)

        try:
            return await loop.run_in_executor(self._writers, self._do, stoppable)
        except StepError as error:
            return error
        except Exception as error:
            LOG.exception("%s: unexpected error", job.id)
            text = f"it failed unexpectedly ({type(error).__name__}); the log has the details"
            return StepError("internal_error", text)

    async def close(self) -> None:
        """Stop the jobs after their current batch of passages, drop those that wait, and close."""
        self._closing = True
        for job in self._jobs.values():
            job.stop()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for pool in (self._readers, self._drawers, self._deleters, self._writers):
            pool.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._close)


def _stopped(report: IngestReport | None) -> StepError:
    """Return the error of a job that its client stopped."""
    if report is None:
        return StepError("client_cancelled", "it was stopped before it began")
    text = "it was stopped, and what it had added was taken back"
    if report.updated:
        names = ", ".join(report.updated[:NAMED])
        more = f" and {len(report.updated) - NAMED} more" if len(report.updated) > NAMED else ""
        text += f"; already replaced, and left so: {names}{more}"
    return StepError("client_cancelled", text)


def _ingest(
    retriever: Retriever,
    collection: str,
    items: Sequence[Item],
    tenant: str,
    progress: OnProgress,
    check: Check,
) -> IngestReport:
    reading = _Reading(items)
    documents = reading.documents()
    first = next(documents, None)
    if first is None:
        return IngestReport(collection=collection, failed=reading.failed, skipped=reading.skipped())

    def with_total(at: Progress) -> None:
        total = max(at.done, reading.loaded + reading.left)
        progress(replace(at, total=total))

    report = retriever.ingest_documents(
        chain((first,), documents),
        collection=collection,
        progress=with_total,
        tenant=tenant,
        check=check,
    )
    report.failed = [*reading.failed, *report.failed]
    report.skipped = reading.skipped()
    return report


def _keep_files(
    originals: Originals, collection: str, items: Sequence[Item], report: IngestReport
) -> None:
    """Keep the files of documents that are stored now, so that their pages can be shown."""
    stored = {*report.added, *report.updated, *report.unchanged}
    for item in reversed(items):  # of two with one name the first one is stored
        if item.name not in stored:
            continue
        if (content := item.original()) is not None:
            originals.keep(collection, item.name, content)
        else:
            originals.forget(collection, [item.name])
    originals.evict()


def _ids(retriever: Retriever, collection: str) -> list[str]:
    """Return the ids of a collection's documents; none of one that is gone."""
    try:
        return [one.document_id for one in retriever.documents(collection)]
    except StepError as error:
        if error.code != "collection_not_found":
            raise
        return []


class _Reading:
    """Loads items one at a time, and collects the failures of those that cannot be read."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items
        self.failed: list[Failure] = []
        self.loaded = 0
        self.left = len(items)

    def skipped(self) -> list[Skipped]:
        """Count the files whose format is not one that is read, by ending; each is a failure, too."""
        from rag_retrieve.documents import SUPPORTED_SUFFIXES

        endings = (
            PurePosixPath(item.name).suffix.lower()
            for item in self._items
            if isinstance(item, FileItem)
        )
        counts = Counter(ending for ending in endings if ending not in SUPPORTED_SUFFIXES)
        return [
            Skipped(reason="format", ending=ending, files=count)
            for ending, count in sorted(counts.items())
        ]

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
                self.failed.append(Failure.of(item.name, error))
                continue
            self.loaded += len(loaded)
            yield from loaded


def open_library(
    settings: ServiceSettings, runner: Runner, metrics: Metrics, files: Files
) -> Library | None:
    """Return the library of the documents that the runner answers from, not opened yet.

    None when they cannot be managed here: they came with the runner's build.
    """
    originals = Originals(rag_settings().home / "originals", settings.max_originals_bytes)
    images = PageImages(originals, files)
    if (retriever := runner.documents()) is not None:
        return Library(
            retriever, _replays(metrics), ledger=_ledger(), originals=originals, images=images
        )
    if settings.qdrant_url:
        server = _ServerRetriever(settings)
        return Library(server.get, _replays(metrics), server.close, _ledger(), originals, images)
    return None


def _replays(metrics: Metrics) -> Replays:
    return Replays(metrics.registry, path=rag_settings().home / OUTCOMES)


def _ledger() -> Ledger:
    return Ledger(rag_settings().home / LEDGER)


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
                "rag-service[local]",
            ) from None
        try:
            return Retriever.open(RetrieveSettings(**self._options))
        except ValidationError as error:
            raise misconfigured(error) from None

    def close(self) -> None:
        with self._lock:
            if self._opened is not None:
                self._opened.close()
