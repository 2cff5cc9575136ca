"""Ingest: files to documents to commits, a few documents at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from rag_kit.errors import StepError
from rag_kit.passages import ALLOWED_GROUPS
from rag_kit.reports import Failure, FileWarning, IngestReport, Progress

from ..documents import LoadedDocument, load_file
from .collection import ALONE, Collection, Pace
from .places import File, Places, covers, file_of
from .points import Change, Version

COMMIT_DOCUMENTS = 32  # documents in one commit
CHECKPOINT_COMMITS = 16  # syncing costs 0.1 s and more
COMMIT_CHARACTERS = 64_000  # text in one commit: about 100 passages, seconds of embedding

OnProgress = Callable[[Progress], None]


class StopIngest(Exception):  # noqa: N818, a request and no failure
    """Raised by a run's `check` to end it and take back the documents it has added.

    `report` then tells what had been done; None when the run had not begun.
    """

    report: IngestReport | None = None


class Reader(Protocol):
    """Who reads files and is told about them; the documents of a file go on to a run of ingest."""

    def expect(self, documents: int, left: int) -> None:
        """Count documents that a file may have, for the progress; `left` files are not read yet."""

    def fail(self, document_id: str, error: StepError) -> None:
        """Report a document or file that could not be read."""


def read_files(files: Sequence[File], reader: Reader) -> Iterator[LoadedDocument]:
    """Yield the documents of files; an unreadable file is reported."""
    for left, file in zip(range(len(files) - 1, -1, -1), files, strict=True):
        expected = done = 0
        try:
            expected, documents = load_file(file.name, file.path)
            reader.expect(expected, left)
            for document in documents:
                done += 1
                yield document
        except OSError as error:
            why = f"cannot read it: {error.strerror}"
            reader.fail(file.name, StepError("document_unreadable", why))
        except StepError as error:
            reader.fail(file.name, error)
        reader.expect(done - expected, left)


def commits(documents: Iterable[LoadedDocument]) -> Iterator[list[LoadedDocument]]:
    """Yield documents in commits of at most 32 documents or 64,000 characters."""
    batch: list[LoadedDocument] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if len(batch) >= COMMIT_DOCUMENTS or size >= COMMIT_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class Ingest:
    """One run of ingest into a collection; gathers the report as commits succeed.

    Args:
        collection: Where to.
        on_progress: Called after each batch of passages and each commit.
        pace: Its turns at the embedder, and its end before all is done.
        undoable: Remember what was added, for `take_back`.
    """

    def __init__(
        self,
        collection: Collection,
        on_progress: OnProgress | None = None,
        pace: Pace = ALONE,
        *,
        undoable: bool = False,
    ) -> None:
        self._undoable = undoable
        self._collection = collection
        self._pace = replace(pace, embedded=self._embedded)
        self._on_progress = on_progress or (lambda progress: None)
        self.report = IngestReport(collection=collection.manifest.name)
        self._seen: set[str] = set()
        self._total = 0  # documents of the files read so far
        self._left = 0  # files not read yet
        self._commits = 0
        self._done = 0  # documents committed or found unchanged
        self._passages = 0  # of them, those that were embedded
        self._last = ""
        self._added: dict[str, Version] = {}

    def places(
        self,
        found: Places,
        *,
        prune: bool,
        read: Callable[[Sequence[File]], object] | None = None,
    ) -> None:
        """Ingest what paths hold, then report or delete what is gone from them.

        Args:
            found: The files.
            prune: Delete what is gone.
            read: Ingests the files, in place of `files`.
        """
        self.report.skipped = found.skipped
        (read or self.files)(found.files)
        sure = [prefix for prefix in found.prefixes if prefix not in found.adopted]
        self.missing(found.adopted, prune=False)
        self.missing(sure, prune=prune)

    def files(self, files: Sequence[File]) -> None:
        """Ingest files; an unreadable one is reported, and its stored version stays."""
        self.documents(read_files(files, self))

    def expect(self, documents: int, left: int) -> None:
        """Count documents that a file may have, for the progress; `left` files are not read yet."""
        self._total += documents
        self._left = left

    def documents(self, documents: Iterable[LoadedDocument]) -> None:
        """Ingest documents, a few in one commit."""
        with self._collection.checkpointed():
            for batch in commits(self._accepted(documents)):
                self._commit(batch)

    def _accepted(self, documents: Iterable[LoadedDocument]) -> Iterator[LoadedDocument]:
        for document in documents:
            self._pace.check()
            self.report.warnings += [
                FileWarning(document_id=document.source, message=message)
                for message in document.warnings
            ]
            if (fault := self._fault(document)) is not None:
                self.fail(document.document_id, StepError("document_unreadable", fault))
                continue
            self._seen.add(document.document_id)
            yield document

    def _fault(self, document: LoadedDocument) -> str | None:
        if document.document_id in self._seen:
            return f"a second document has the id '{document.document_id}'"
        allowed = document.metadata.get(ALLOWED_GROUPS, "")
        names = allowed if isinstance(allowed, list) else [allowed]
        if names and all(isinstance(name, str) for name in names):
            return self._collection.too_large(document)
        return (
            f"its {ALLOWED_GROUPS} is {str(allowed)[:80]!r}; write names of groups, or leave it out "
            "when everybody may read it"
        )

    def absorb(self, report: IngestReport) -> None:
        """Take over what another process has done of this run; each document is reported once."""
        for document_id in (*report.added, *report.updated, *report.unchanged):
            if document_id in self._seen:
                why = f"a second document has the id '{document_id}'; one of them is stored"
                self.fail(document_id, StepError("document_unreadable", why))
            self._seen.add(document_id)
            self._last = document_id
        self.report.added += report.added
        self.report.updated += report.updated
        self.report.unchanged += report.unchanged
        self.report.failed += report.failed
        self.report.warnings += report.warnings
        self.report.chunks += report.chunks
        self.report.embeddings += report.embeddings
        self._done = len(self._seen)
        self._passages += report.chunks
        self._advance(0, 0)

    def take_back(self) -> None:
        """Delete the documents that this run has added and nobody has replaced since."""
        with self._collection.checkpointed(), self._collection.changing():
            for at in range(0, len(self._added), COMMIT_DOCUMENTS):
                mine = list(self._added.values())[at : at + COMMIT_DOCUMENTS]
                published = self._collection.versions([version.document_id for version in mine])
                self._collection.commit(
                    [
                        Change(version.document_id, version, None, exactly=True)
                        for version in mine
                        if published.get(version.document_id) == version
                    ]
                )

    def missing(self, prefixes: Sequence[str], *, prune: bool) -> None:
        """Report, or with `prune` delete, documents under the prefixes that were not seen.

        What a sync brought stays: it is gone when its source says so.
        """
        synced = self._collection.synced()
        missing = [
            document_id
            for document_id in self._collection.document_ids()
            if any(covers(prefix, document_id) for prefix in prefixes) and document_id not in synced
        ]
        self.gone(missing, prune=prune)

    def gone(self, document_ids: Iterable[str], *, prune: bool) -> None:
        """Report, or with `prune` delete, those of the documents that were not seen.

        Those of a file that was read with a warning stay: a record may be broken, not gone.
        """
        failed = {file_of(failure.document_id) for failure in self.report.failed}
        failed |= {file_of(warning.document_id) for warning in self.report.warnings}
        missing = [
            document_id
            for document_id in document_ids
            if document_id not in self._seen and file_of(document_id) not in failed
        ]
        if not prune:
            self.report.missing += missing
            return
        with self._collection.checkpointed():
            for at in range(0, len(missing), COMMIT_DOCUMENTS):
                batch = missing[at : at + COMMIT_DOCUMENTS]
                self._collection.commit(self._collection.removals(batch))
                self.report.deleted += batch

    def fail(self, document_id: str, error: StepError) -> None:
        """Report a document or file that could not be read."""
        self.report.failed.append(Failure.of(document_id, error))

    def _commit(self, batch: Sequence[LoadedDocument]) -> None:
        self._last = batch[-1].document_id
        prepared = self._collection.prepare(batch, self._pace)
        self._pace.check()
        changes = {change.document_id: change for change in self._collection.commit(prepared)}
        self._commits += 1
        if self._commits % CHECKPOINT_COMMITS == 0:
            self._collection.checkpoint()
        for document in batch:
            self._note(document.document_id, changes.get(document.document_id))
        self._done = len(self._seen)
        self._passages += sum(len(change.points) for change in prepared)
        self._advance(0, 0)

    def _note(self, document_id: str, change: Change | None) -> None:
        if change is None:
            self.report.unchanged.append(document_id)
            return
        assert change.new is not None
        self.report.chunks += len(change.points)
        if change.old is None:
            self.report.added.append(document_id)
            if self._undoable:
                self._added[document_id] = change.new
        else:
            self.report.updated.append(document_id)

    def _embedded(self, done: int, total: int, computed: int) -> None:
        self.report.embeddings += computed
        self._advance(done, total)

    def _advance(self, embedded: int, cut: int) -> None:
        """Report progress; the passages are those since the last commit."""
        self._on_progress(
            Progress(
                self._done,
                max(self._done, self._total + self._left),
                self._last,
                self._passages + embedded,
                self._passages + cut,
            )
        )
