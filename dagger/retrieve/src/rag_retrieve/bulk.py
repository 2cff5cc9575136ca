"""Ingest by several processes on Ray: tasks read files, workers embed and write (extra `bulk`).

Ray Data runs it as a stream: a task reads its files one after the other and cuts what they hold into
commits; a worker holds the model and a connection to the store, and ingests one commit after the other as
`rag index` does. Ray stops reading while workers are behind, so memory does not grow with the files.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from rag_kit.errors import StepError
from rag_kit.reports import Failure, IngestReport

from .documents import LoadedDocument
from .index.ingest import Ingest, Reader, commits, read_files
from .index.places import File
from .settings import RetrieveSettings, ray_environment

PARTS_PER_WORKER = 8  # more spread the work more evenly, fewer cost less to plan
MAX_FILES = 64  # of one part
BLOCK_BYTES = 2**20  # what goes from a task to a worker at once: about ten commits
LOCAL_STORE_BYTES = 256 * 2**20  # what may wait between tasks and workers on this machine

Learned = TypeVar("Learned", covariant=True)


class Part(Protocol[Learned]):
    """Files that one task reads; it is sent there, so all of it can be pickled."""

    def documents(self, reader: Reader) -> Iterator[LoadedDocument]:
        """Yield the documents of the files."""

    def learned(self) -> Learned:
        """Return what whoever planned the run has to know when they are read."""

    def close(self) -> None:
        """Close what reading has opened."""


@dataclass(frozen=True)
class FilesPart:
    """Files on a disk that every machine sees under the same path."""

    files: Sequence[File]

    def documents(self, reader: Reader) -> Iterator[LoadedDocument]:
        """Yield the documents of the files."""
        return read_files(self.files, reader)

    def learned(self) -> None:
        """Nothing is learned besides the documents."""

    def close(self) -> None:
        """Nothing stays open."""


@dataclass(frozen=True)
class Batch:
    """Documents of one commit, on the way to a worker."""

    documents: list[LoadedDocument]


@dataclass
class PartRead(Generic[Learned]):
    """A part was read to its end: how many files and documents it had, and what failed."""

    files: int = 0
    documents: int = 0
    failed: list[Failure] = field(default_factory=list)
    learned: Learned | None = None

    def expect(self, documents: int, left: int) -> None:
        """Count documents; `left` files of the part are not read yet."""
        self.documents += documents
        self.files = max(self.files, left + 1)

    def fail(self, document_id: str, error: StepError) -> None:
        """Keep a file that could not be read for the report."""
        self.failed.append(Failure.of(document_id, error))


def read_part(part: Part[Learned]) -> Iterator[Batch | PartRead[Learned]]:
    """Yield the documents of a part in commits, then that it was read."""
    read: PartRead[Learned] = PartRead()
    with closing(part):
        yield from map(Batch, commits(part.documents(read)))
        read.learned = part.learned()
        yield read


Done: TypeAlias = IngestReport | StepError | PartRead[Any]
Run: TypeAlias = Callable[[Sequence[Part[Any]]], Iterator[Done]]


class Indexer(Protocol):
    """An open `Retriever`, as far as a worker needs it."""

    def ingest_documents(
        self, documents: Iterable[LoadedDocument], *, collection: str
    ) -> IngestReport:
        """Bring documents into a collection."""


class Worker:
    """Ingests commits, one after the other, with one model and one connection to the store.

    Args:
        opener: Loads the model and opens the store.
        collection: Where to.
    """

    def __init__(self, opener: Callable[[], Indexer], collection: str) -> None:
        self.indexer = opener()
        self._collection = collection

    def work(self, item: Batch | PartRead[Any]) -> Done:
        """Return the report of a commit, or why there is none; what is no commit as it is."""
        if not isinstance(item, Batch):
            return item
        try:
            return self.indexer.ingest_documents(item.documents, collection=self._collection)
        except StepError as error:
            return error

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Work on a row of Ray Data."""
        return _row(self.work(row["item"][0]))


def _row(item: object) -> dict[str, Any]:
    import numpy as np

    column = np.empty(1, dtype=object)
    column[0] = item
    return {"item": column}


def _read_row(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from map(_row, read_part(row["item"][0]))


def check_workers(settings: RetrieveSettings) -> None:
    """Refuse several workers where there can be one only.

    Raises:
        StepError: `invalid_request`, the store has one writer; `misconfigured`, Ray is not installed.
    """
    if settings.store == "embedded":
        raise StepError(
            "invalid_request",
            "the embedded store is written by one process: leave --workers out, or set RAG_STORE=qdrant "
            "and RAG_QDRANT_URL",
            param="workers",
        )
    if find_spec("ray") is None:
        raise StepError(
            "misconfigured",
            "several workers need Ray, which is not installed: pip install 'rag-retrieve[bulk]', or leave "
            "--workers out",
            param="workers",
        )


def file_parts(files: Sequence[File], workers: int) -> list[FilesPart]:
    """Return files in parts of about the same number."""
    size = part_size(len(files), workers)
    return [FilesPart(files[at : at + size]) for at in range(0, len(files), size)]


def part_size(files: int, workers: int) -> int:
    """Return how many of the files one part has."""
    return max(1, min(MAX_FILES, files // (workers * PARTS_PER_WORKER)))


def spread(
    parts: Sequence[Part[Learned]], ingest: Ingest, run: Run, *, files: int
) -> list[Learned]:
    """Read parts and ingest what they hold, by several workers; the report is that of `ingest`.

    Args:
        parts: What to read.
        ingest: The run, into a collection that exists.
        run: Sends the parts through tasks and workers.
        files: In all parts, for the progress.

    Returns:
        What the parts have learned.

    Raises:
        StepError: From the store, or `internal_error`: Ray could not go on. What is reported is stored.
    """
    learned: list[Learned] = []
    for item in run(parts):
        if isinstance(item, StepError):
            raise item
        if isinstance(item, IngestReport):
            ingest.absorb(item)
            continue
        files -= item.files
        ingest.expect(item.documents, files)
        ingest.report.failed += item.failed
        if item.learned is not None:
            learned.append(item.learned)
    return learned


def on_ray(opener: Callable[[], Indexer], collection: str, *, workers: int, threads: int) -> Run:
    """Return what sends parts through tasks and workers on Ray.

    Args:
        opener: Opens what a worker writes with; it is sent there.
        collection: Where to.
        workers: How many; each is a process.
        threads: Processors that each of them takes.
    """

    def run(parts: Sequence[Part[Any]]) -> Iterator[Done]:
        if not parts:
            return
        with _ray(workers * threads):
            from ray.data import ActorPoolStrategy, TaskPoolStrategy, from_items
            from ray.exceptions import RayError

            readers = TaskPoolStrategy(size=min(workers, len(parts)))
            items = from_items([{"item": part} for part in parts], override_num_blocks=len(parts))
            read = items.map_batches(_read_row, batch_size=1, num_cpus=0, compute=readers)
            done = read.map_batches(
                Worker,
                fn_constructor_args=(opener, collection),
                batch_size=1,
                num_cpus=threads,
                compute=ActorPoolStrategy(size=workers),
            )
            try:
                yield from (row["item"] for row in done.iter_rows())
            except RayError as error:
                raise _broken(error) from error

    return run


def _broken(error: Exception) -> StepError:
    why = (str(error).strip() or type(error).__name__).splitlines()[-1]
    return StepError(
        "internal_error",
        f"Ray could not go on: {why}. Run it again: what is stored is not embedded again",
    )


@contextmanager
def _ray(cpus: int) -> Iterator[None]:
    """Run Ray for the block: on the cluster that RAY_ADDRESS names, else on this machine."""
    address = ray_environment()
    logging.getLogger("ray").setLevel(logging.ERROR)
    import ray
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = BLOCK_BYTES
    if ray.is_initialized():
        yield
        return
    local: dict[str, Any] = {"num_cpus": cpus, "object_store_memory": LOCAL_STORE_BYTES}
    try:
        ray.init(
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({} if address else local),
        )
    except Exception as error:  # Ray raises no class of its own here
        raise _broken(error) from error
    try:
        yield
    finally:
        ray.shutdown()
