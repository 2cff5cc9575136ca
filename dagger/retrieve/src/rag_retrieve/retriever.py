"""The resident parts of `retrieve`: one embedder and one store, loaded once for all requests."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from rag_kit.breaker import Breaker
from rag_kit.errors import StepError
from rag_kit.reports import (
    CollectionInfo,
    Counters,
    DocumentInfo,
    IngestReport,
    SourceInfo,
    StoredDocument,
    SyncPlan,
    SyncReport,
)

from .documents import LoadedDocument
from .index.analyzer import Analyzer
from .index.cache import EmbeddingCache
from .index.checkup import Checkup, examine, mend
from .index.collection import Collection, Draft, Pace
from .index.embedders import Embedder, load_tokenizer, open_embedder, tokenizer_path
from .index.ingest import Ingest, OnProgress, StopIngest
from .index.manifest import Manifest, Recipe, check_recipe, read_manifest
from .index.places import File, Places, covers, file_of, find_files, path_of
from .index.turns import Turns
from .models import RetrieveRequest, RetrieveResponse
from .settings import RetrieveSettings
from .step import __version__, retrieve
from .stores import open_stores
from .stores.base import Store, Stores

if TYPE_CHECKING:
    from .bulk import Run
    from .sources.source import Source
    from .sources.sync import Sync, SyncOptions
    from .superlinked import Superlinked

LOG = logging.getLogger(__name__)
EMBED_BATCH = 64  # texts in one turn at the embedder


class Embeddings(NamedTuple):
    """Texts as vectors.

    Args:
        vectors: One a text, of length 1.
        tokens: Of all texts, by the packaged tokenizer.
        model: Name of the embedder's model.
    """

    vectors: list[list[float]]
    tokens: int
    model: str


class Retriever:
    """Ingest, search, list and delete, over one embedder and one store; thread-safe.

    A collection is opened at its first use and stays open; only one process can have an embedded
    store's collection open.

    Args:
        settings: The configuration.
        embedder: A loaded one; None loads the configured one.
        on_step: Called with the name of each step of a commit; crash tests kill the process there.
    """

    def __init__(
        self,
        settings: RetrieveSettings,
        *,
        embedder: Embedder | None = None,
        on_step: Callable[[str], None] = lambda name: None,
    ) -> None:
        self.settings = settings
        self.counters = Counters()
        self._on_step = on_step
        self._own_embedder = embedder is None
        if embedder is None:
            embedder = open_embedder(settings)
            self.counters.model_loads += 1
        self._embedder = embedder
        self._tokenizer = load_tokenizer(tokenizer_path())
        self._recipe = Recipe.of(settings, self._embedder)
        self._stores: Stores = open_stores(settings)
        self._cache = (
            EmbeddingCache(
                settings.embedding_cache,
                identity=self._embedder.identity,
                dim=self._embedder.dim,
            )
            if settings.embedding_cache
            else None
        )
        self._superlinked: Superlinked | None = None
        if settings.retriever == "superlinked":  # it needs an HTTP client, which is slow to import
            from .superlinked import Superlinked

            self._superlinked = Superlinked(settings)
        self._collections: dict[str, Collection] = {}
        self._opening = threading.RLock()
        self._naming = threading.Lock()  # a run chooses the ids of its files
        self._turns = Turns()
        self._reindexing: set[str] = set()
        self._running: Counter[str] = Counter()  # runs of `ingest_documents` by collection

    @classmethod
    def open(cls, settings: RetrieveSettings | None = None) -> Self:
        """Load the configured embedder and store.

        Raises:
            StepError: `misconfigured`, `retriever_…` or `embedder_…`, with the way out.
        """
        return cls(settings or RetrieveSettings.read())

    @property
    def breakers(self) -> tuple[Breaker, ...]:
        """Return the circuit breakers of the dependencies behind a network."""
        found = [getattr(part, "breaker", None) for part in (self._stores, self._embedder)]
        return tuple(breaker for breaker in found if breaker is not None)

    def preload(self) -> None:
        """Open every collection now, so that no request has to; skip those of another recipe.

        If a Superlinked server is configured, wait until it has loaded and update it; when it does
        not answer, the first request updates it.
        """
        superlinked = self._superlinked
        if superlinked is not None:
            try:
                superlinked.wait()
            except StepError as error:
                LOG.warning("%s: %s", error.code, error.message)
                superlinked = None
        for name in self._stores.names():
            try:
                collection = self._collection(name)
            except StepError as error:
                if error.code not in ("collection_mismatch", "store_corrupt"):
                    raise
                continue
            if superlinked is not None:
                try:
                    superlinked.update(collection)
                except StepError as error:
                    LOG.warning("collection '%s': %s: %s", name, error.code, error.message)

    def check(self) -> None:
        """Check that the store's server answers; an embedded store always does.

        Raises:
            StepError: `retriever_…` or `deadline_exceeded`.
        """
        if self.settings.store != "embedded":
            self._stores.names()

    def retrieve(self, request: RetrieveRequest) -> RetrieveResponse:
        """Find the passages that fit the question; see `rag_retrieve.step.retrieve`."""
        collection = self._collection(request.collection)
        if self._superlinked is not None:
            return self._superlinked.retrieve(request, collection=collection, version=__version__)
        return retrieve(request, collection=collection, version=__version__)

    def embed(self, texts: Sequence[str], *, tenant: str = "") -> Embeddings:
        """Embed texts by the configured embedder, as passages are embedded.

        Args:
            texts: Any number.
            tenant: Whose they are; tenants have turns at the embedder.
        """
        rows: list[list[float]] = []
        for at in range(0, len(texts), EMBED_BATCH):
            with self._turns.turn(tenant):
                rows += self._embedder.embed(texts[at : at + EMBED_BATCH]).tolist()
        tokens = sum(self._count_tokens(text) for text in texts)
        return Embeddings(rows, tokens, self._recipe.embedding_model)

    # -- documents ------------------------------------------------------------------------

    def ingest(
        self,
        paths: Sequence[Path],
        *,
        collection: str = "default",
        prune: bool = False,
        progress: OnProgress | None = None,
        workers: int = 1,
    ) -> IngestReport:
        """Bring files and folders into a collection; unchanged documents cost no embedding.

        Args:
            paths: Files and folders; a folder `docs` gives document ids `docs/…`.
            collection: Its name; it is created when it does not exist.
            prune: Delete documents of these folders that are no longer in them.
            progress: Called after each commit.
            workers: More than one: processes on Ray that read, embed and write, see `bulk`.

        Returns:
            What happened to each document; all of it is durable.
        """
        self._check_workers(workers)
        with self._naming:
            opened, found = self._find_files(paths, collection)
            opened = opened or self._collection(collection, create=True)
            opened.keep_roots(found.roots)
        run = Ingest(opened, progress, self._pace())
        run.places(found, prune=prune, read=self._file_workers(run, workers))
        return run.report

    def plan_ingest(self, paths: Sequence[Path], *, collection: str = "default") -> SyncPlan:
        """Say which files an ingest of paths would read; nothing is read or changed."""
        opened, found = self._find_files(paths, collection)
        synced = opened.synced() if opened else {}
        stored = [one for one in opened.document_ids() if one not in synced] if opened else []
        names, there = {file.name for file in found.files}, {file_of(one) for one in stored}
        return SyncPlan(
            collection=collection,
            source=", ".join(map(str, paths)),
            added=sorted(names - there),
            changed=sorted(names & there),
            removed=[
                one
                for one in stored
                if file_of(one) not in names and any(covers(key, one) for key in found.prefixes)
            ],
            skipped=found.skipped,
        )

    def _find_files(
        self, paths: Sequence[Path], collection: str
    ) -> tuple[Collection | None, Places]:
        """Return the collection, if there is one, and the files with the ids they have there."""
        opened = self._existing(collection)
        roots, stored = (opened.manifest.roots, opened.document_ids()) if opened else ({}, [])
        return opened, find_files(paths, roots, stored)

    def _check_workers(self, workers: int) -> None:
        if workers > 1:
            from .bulk import check_workers

            check_workers(self.settings)

    def _on_ray(self, collection: str, workers: int) -> Run:
        """Return what sends work to workers on Ray, each with an embedder and a connection of its own."""
        from . import bulk

        threads = self.settings.threads or 1
        own = self.settings.model_copy(update={"threads": threads})
        return bulk.on_ray(partial(Retriever, own), collection, workers=workers, threads=threads)

    def _file_workers(self, run: Ingest, workers: int) -> Callable[[Sequence[File]], object] | None:
        """Return what reads files by several workers; None for one."""
        if workers == 1:
            return None
        from .bulk import file_parts, spread

        start = self._on_ray(run.report.collection, workers)
        return lambda files: spread(file_parts(files, workers), run, start, files=len(files))

    def ingest_documents(
        self,
        documents: Iterable[LoadedDocument],
        *,
        collection: str = "default",
        progress: OnProgress | None = None,
        tenant: str = "",
        check: Callable[[], None] = lambda: None,
    ) -> IngestReport:
        """Bring documents that are already text into a collection.

        Args:
            documents: They are read as the run goes on.
            collection: Its name; it is created when it does not exist.
            progress: Called after each batch of passages and each commit.
            tenant: Whose run it is; tenants have turns at the embedder.
            check: Called often. `StopIngest` ends the run and takes back what it has added, also
                the collection when it was made for it; another exception leaves what is committed.
        """
        with self._run_of(collection) as created:
            opened = self._collection(collection, create=True)
            run = Ingest(opened, progress, self._pace(tenant, check), undoable=True)
            try:
                run.documents(documents)
            except StopIngest as stop:
                stop.report = run.report
                run.take_back()
                self._drop_empty(collection, created=created)
                raise
        return run.report

    def plan_sync(
        self,
        source: Source,
        options: SyncOptions,
        *,
        collection: str = "default",
        progress: OnProgress = lambda progress: None,
    ) -> Sync:
        """Compare a source with a collection; nothing is changed.

        Args:
            source: Where the documents are; the caller closes it.
            options: How they are brought.
            collection: Its name; it need not exist.
            progress: Called while the source is listed.
        """
        from .sources.sync import Sync

        sync = Sync(source, options, collection, self._existing(collection))
        sync.make_plan(progress)
        return sync

    def sync(
        self, sync: Sync, *, progress: OnProgress | None = None, workers: int = 1
    ) -> SyncReport:
        """Bring a collection in step with a source as planned; what came from elsewhere stays.

        Args:
            sync: From `plan_sync`. The collection is created when it does not exist.
            progress: Called after each batch of passages and each commit.
            workers: More than one: processes on Ray that read, embed and write, see `bulk`.
        """
        self._check_workers(workers)
        opened = self._collection(sync.plan.collection, create=True)
        run = Ingest(opened, progress, self._pace())
        return sync.run(run, opened, self._sync_workers(sync, run, workers))

    def _sync_workers(self, sync: Sync, run: Ingest, workers: int) -> Callable[[], object] | None:
        """Return what reads a source by several workers; None for one."""
        if workers == 1:
            return None
        from .bulk import part_size, spread

        start = self._on_ray(run.report.collection, workers)

        def read() -> None:
            parts = sync.parts(part_size(sync.items, workers))
            for learned in spread(parts, run, start, files=sync.items):
                sync.learn(learned)

        return read

    def sources(self, collection: str) -> list[SourceInfo]:
        """List the sources that a collection has documents of."""
        synced = self._collection(collection, any_recipe=True).synced().values()
        counted = Counter((one.origin.source, one.origin.name) for one in synced)
        return [
            SourceInfo(collection=collection, source=source, name=name, documents=number)
            for (source, name), number in sorted(counted.items())
        ]

    def forget_source(self, collection: str, address: str, *, delete: bool = False) -> list[str]:
        """Forget a source: its documents stay as if they had come by hand, or are deleted.

        Returns:
            Their ids.
        """
        from .sources.sync import forget

        return forget(self._collection(collection), address, delete=delete)

    def _pace(self, tenant: str = "", check: Callable[[], None] = lambda: None) -> Pace:
        return Pace(turn=lambda: self._turns.turn(tenant), check=check)

    @contextmanager
    def _run_of(self, collection: str) -> Iterator[bool]:
        """Count a run while it goes on; tells whether the collection has to be made for it."""
        with self._opening:
            self._running[collection] += 1
            created = not self._stores.exists(collection)
        try:
            yield created
        finally:
            with self._opening:
                self._running -= Counter([collection])

    def _drop_empty(self, collection: str, *, created: bool) -> None:
        with self._opening:
            alone = self._running[collection] == 1
            if created and alone and not self._collection(collection).manifest.documents:
                self._delete(collection, only_unused=True)

    def documents(self, collection: str) -> list[DocumentInfo]:
        """List the documents of a collection, by id."""
        return list(self._collection(collection).documents())

    def document(self, collection: str, document_id: str) -> StoredDocument:
        """Return one document with its text; raises `document_not_found`."""
        return self._collection(collection).document(document_id)

    def path(self, collection: str, document_id: str) -> Path | None:
        """Return where a document's file was on disk when it was indexed; None for what came otherwise."""
        return path_of(document_id, self._collection(collection).manifest.roots)

    def delete_documents(self, collection: str, document_ids: Sequence[str]) -> IngestReport:
        """Delete documents; ids that are not there are reported as missing."""
        opened = self._collection(collection)
        with opened.checkpointed():
            changes = opened.commit(opened.removals(document_ids))
        deleted = [change.document_id for change in changes]
        missing = [item for item in document_ids if item not in deleted]
        return IngestReport(collection=collection, deleted=deleted, missing=missing)

    # -- collections ----------------------------------------------------------------------

    def collections(self) -> list[CollectionInfo]:
        """List the collections, by name, without opening them; a damaged one costs no other."""
        infos = []
        for name in sorted(self._stores.names()):
            try:
                manifest = self._manifest(name)
            except StepError as error:
                if error.code == "collection_not_found":
                    continue  # another process has deleted it since
                if error.code != "store_corrupt":
                    raise
                infos.append(CollectionInfo.damaged(name, error.message))
                continue
            infos.append(
                CollectionInfo(
                    name=name,
                    documents=manifest.documents,
                    chunks=manifest.chunks,
                    embedding_model=manifest.recipe.embedding_model,
                    corpus_digest=manifest.corpus_digest,
                )
            )
        return infos

    def delete_collection(self, name: str) -> None:
        """Delete a collection and all it holds; raises `collection_not_found`."""
        with self._opening:
            self._delete(name)

    def _delete(self, name: str, *, only_unused: bool = False) -> None:
        if opened := self._collections.pop(name, None):
            opened.close()
        self._stores.delete(name, only_unused=only_unused)

    def reindex(
        self,
        collection: str,
        *,
        progress: OnProgress | None = None,
        tenant: str = "",
        check: Callable[[], None] = lambda: None,
    ) -> IngestReport:
        """Rebuild a collection from its stored documents, with the present settings.

        Searches use the old index until the new one is complete and replaces it in one step. After
        a crash in between, or when `check` raises, the old one stays. What other threads change
        meanwhile is in the new one, too, and on a server what other processes change.

        Raises:
            StepError: `in_progress`, it is reindexed already, or others write to it for too long;
                `document_unreadable`, a stored document cannot be indexed again.
        """
        with self._rebuilding(collection):
            old = self._collection(collection, any_recipe=True)
            with old.rebuilding():
                return self._rebuild(old, progress, self._pace(tenant, check))

    def _rebuild(self, old: Collection, progress: OnProgress | None, pace: Pace) -> IngestReport:
        name = old.manifest.name
        manifest = Manifest.new(name, self._recipe, old.manifest.roots)
        generation, store = self._stores.begin_generation(name, self._recipe.dim)
        try:
            draft = self._draft_of(store, manifest)
            run = Ingest(draft, progress, pace)
            before = old.contents()
            run.documents(old.stored(list(before)))
            _require_all(run.report)
            with old.alone():
                self._catch_up(run, draft, old, before)
                self._publish(name, old, draft, generation)
        except BaseException:
            store.close()  # discards the unfinished generation
            raise
        return run.report

    def _catch_up(
        self, run: Ingest, draft: Collection, old: Collection, before: dict[str, str]
    ) -> None:
        """Bring a draft up to what has changed since `before` was the content of the old one."""
        old.refresh()
        draft.manifest = draft.manifest.model_copy(update={"roots": old.manifest.roots})
        now = old.contents()
        changed = [name for name, content in now.items() if before.get(name) != content]
        gone = [name for name in before if name not in now]
        later = Ingest(draft)
        later.documents(old.stored(changed))
        _require_all(later.report)
        draft.commit(draft.removals(gone))
        draft.checkpoint()
        run.report.added = [name for name in run.report.added if name not in set(gone)]
        run.report.added += [name for name in later.report.added if name not in before]
        run.report.chunks += later.report.chunks
        run.report.embeddings += later.report.embeddings

    def _publish(self, name: str, old: Collection, draft: Collection, generation: int) -> None:
        def publish() -> None:
            draft.finish()
            self._stores.publish_generation(name, generation, draft.manifest.model_dump())

        try:
            old.replace(draft, publish)
        except BaseException:
            self._collections.pop(name, None)  # the next use opens the published generation
            raise

    @contextmanager
    def _rebuilding(self, collection: str) -> Iterator[None]:
        with self._opening:
            if collection in self._reindexing:
                raise StepError(
                    "in_progress",
                    f"collection '{collection}' is being reindexed already; wait for it",
                    param="collection",
                )
            self._reindexing.add(collection)
        try:
            yield
        finally:
            self._reindexing.discard(collection)

    # -- health ---------------------------------------------------------------------------

    def checkup(self, name: str) -> Checkup:
        """Look at every point of a collection, and say what is wrong with it."""
        opened = self._collection(name, any_recipe=True)
        living, silent = opened.writers()
        problems = [f"{who} died while it wrote; its documents wait for it" for who in silent]
        if not living:  # else counts differ for moments
            problems += examine(opened).problems()
        notes = [f"{who} writes, or died elsewhere" for who in living]
        notes += [*opened.notes(), *opened.analyzer.notes_on(opened.manifest.languages)]
        return Checkup(problems, notes)

    def repair(self, name: str) -> list[str]:
        """Mend a collection; return what was done, one sentence each.

        Raises:
            StepError: `in_progress`, somebody writes to it; `collection_mismatch`, it was built with
                other settings.
        """
        opened = self._collection(name)
        return [f"cleaned up after {who}" for who in opened.settle_silent()] + mend(opened)

    def lost_collections(self) -> list[str]:
        """Return the collections on a server that have lost their alias, so that nobody finds them."""
        return self._stores.lost()

    def restore_collection(self, name: str) -> None:
        """Give a collection on a server its alias back."""
        self._stores.repair_alias(name)

    def foreign(self) -> list[str]:
        """Return what stands under names of ours on a server and was made by somebody else."""
        return self._stores.foreign()

    def close(self) -> None:
        """Close every collection after its running searches."""
        with self._opening:
            for collection in self._collections.values():
                collection.close()
            self._collections.clear()
            self._stores.close()
            if self._superlinked is not None:
                self._superlinked.close()
            if self._own_embedder:
                self._embedder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- opening --------------------------------------------------------------------------

    def _collection(
        self, name: str, *, create: bool = False, any_recipe: bool = False
    ) -> Collection:
        opened = self._opened(name, create)
        try:
            opened.refresh()
        except StepError as error:
            if error.code != "collection_not_found":
                raise
            self._collections.pop(name, None)  # another process deleted it
            if not create:
                raise
            opened = self._opened(name, create)
        if not any_recipe:
            check_recipe(opened.manifest, self._recipe)
        return opened

    def _opened(self, name: str, create: bool) -> Collection:
        opened = self._collections.get(name)
        if opened is None:
            with self._opening:
                opened = self._collections.get(name) or self._open(name, create=create)
                self._collections[name] = opened
        return opened

    def _existing(self, name: str) -> Collection | None:
        exists = name in self._collections or self._stores.exists(name)
        try:
            return self._collection(name) if exists else None
        except StepError as error:
            if error.code != "collection_not_found":
                raise
            return None

    def _open(self, name: str, *, create: bool) -> Collection:
        manifest = Manifest.new(name, self._recipe)
        store = self._create(manifest) if create and not self._stores.exists(name) else None
        if store is None:
            manifest = self._manifest(name)
            store = self._stores.open(name)
        self.counters.store_opens += 1
        return self._collection_of(store, manifest)

    def _create(self, manifest: Manifest) -> Store | None:
        """Create a collection; None when another process was faster."""
        name = manifest.name
        try:
            return self._stores.create(name, dim=self._recipe.dim, manifest=manifest.model_dump())
        except StepError:
            if not self._stores.exists(name):
                raise
            return None

    def _collection_of(self, store: Any, manifest: Manifest) -> Collection:
        collection: type[Any] = Collection
        if (
            not store.exclusive
        ):  # its import takes a second, which the embedded store need not wait for
            from .index.shared import SharedCollection

            collection = SharedCollection
        opened: Collection = collection(
            self._stores, store, manifest, self._analyzer(), on_step=self._on_step
        )
        return opened

    def _draft_of(self, store: Any, manifest: Manifest) -> Collection:
        draft: type[Any] = Collection
        if not store.exclusive:
            from .index.shared import SharedDraft

            draft = SharedDraft
        opened: Collection = draft(
            Draft(), store, manifest, self._analyzer(), on_step=self._on_step
        )
        return opened

    def _analyzer(self) -> Analyzer:
        return Analyzer(
            self._recipe, self._embedder, self._count_tokens, self.counters, self._cache
        )

    def _manifest(self, name: str) -> Manifest:
        return read_manifest(self._stores.read_manifest(name) or {}, name)

    def _count_tokens(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)


def _require_all(report: IngestReport) -> None:
    """Refuse to replace an index by one that lacks documents.

    Raises:
        StepError: `document_unreadable`, the first one that could not be indexed anew.
    """
    for failure in report.failed:
        raise StepError(
            "document_unreadable",
            f"document '{failure.document_id}' cannot be indexed again: {failure.message}. The collection "
            "stays as it was; add the document anew or delete it, then reindex",
        )
