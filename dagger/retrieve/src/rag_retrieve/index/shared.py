"""A collection that several processes write to at once: each document by one of them at a time.

A document's point is its lock. Beside what `collection` keeps there, it has

    claim     the writer that has the document now; no other touches it
    write     the commit that wrote this version; its passages have the same mark
    replaced  while claimed, after publishing: the version before, whose passages are to be swept

and a document that is not there yet, or no more, has a stub of kind "claim" while it is claimed. A
commit of a few documents is:

    journal the new versions -> claim the documents -> upsert passages -> publish where the claim
    still holds -> count in the manifest -> sweep what was replaced -> release

The counts of terms that the documents change (`term_counts`) are written with the passages, and the
state names them in the same step as the manifest counts the documents.

A writer that dies leaves its registration, its journal and its claims. Whoever needs one of its
documents, or the collection alone, settles them: the claims are taken first, so that nothing can be
published with them any more; what was published is swept and counted, what was not is removed.
Each step can be repeated, also by two processes at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from typing import Any, TypeAlias, TypeVar

from rag_kit.errors import StepError

from ..documents import LoadedDocument, Origin
from ..stores.base import Leg, Point, batches, json_bytes
from ..stores.qdrant.database import ServerStores
from ..stores.shared import (
    WAIT_S,
    Generation,
    Line,
    SharedStore,
    State,
    Writer,
    journal_id,
    patience,
    retire,
)
from .analyzer import Analyzer
from .collection import READ_ATTEMPTS, Collection, Draft
from .manifest import Manifest, check_recipe, read_manifest
from .points import Change, Version, document_point, document_point_id, is_document
from .term_counts import KIND, Named, TermCounts, named, part_id, small_parts, weighed

CLAIM_FIELDS = [
    "document_id", "kind", "claim", "content_hash", "chunks", "write", "replaced", "commit", "fenced",
]  # fmt: skip
COUNTED_AT_ONCE = 10_000  # passages whose terms are in memory while they are counted
SUMMED_AT_ONCE = 64  # commits of a draft whose counts of terms are summed up together
TURNS = 3  # times a writer that was given up for dead starts again

Result = TypeVar("Result")
Step: TypeAlias = tuple[Version | None, Version | None]  # a document from one version to another


class GivenUpError(Exception):
    """Others took this writer for dead; what it had claimed is theirs."""


class SharedCollection(Collection):
    """A collection on a server. Its commits are durable and acknowledged when they return."""

    def __init__(
        self,
        stores: ServerStores,
        store: SharedStore,
        manifest: Manifest,
        analyzer: Analyzer,
        *,
        on_step: Callable[[str], None] = lambda name: None,
    ) -> None:
        super().__init__(Draft(), store, manifest, analyzer, on_step=on_step)
        self._stores = stores
        self._rebuilder: Writer | None = None
        self._terms: list[Named] | None = None  # of the state that `manifest` is of
        self._parts: dict[str, TermCounts] = {}  # those read of the parts it names

    @property
    def _name(self) -> str:
        return self.manifest.name

    def refresh(self) -> None:
        """Read the manifest again: other processes change it."""
        self._follow(self._stores.state(self._name))

    def _follow(self, state: State) -> None:
        """Take over what a state says that was just read."""
        self.manifest = read_manifest(state.value or {}, self._name)
        self._terms = _named_in(state)

    # -- terms ----------------------------------------------------------------------------

    def _weighed(self, legs: Sequence[Leg]) -> list[Leg]:
        """Weigh the terms of sparse legs, unless the server does; reads what it has not read yet."""
        if self._terms is None or all(leg[0] == "dense" for leg in legs):
            return list(legs)
        parts = self._counts()
        return [
            leg if leg[0] == "dense" else ("sparse", weighed(leg[1], parts), leg[2]) for leg in legs
        ]

    def _counts(self) -> list[TermCounts]:
        """Return the parts of the counts of terms, in one round trip for those not read before.

        Raises:
            StepError: `store_corrupt`, one is not there.
        """
        for _ in range(READ_ATTEMPTS):
            ids = [id_ for id_, _ in self._terms or ()]
            known = {id_: part for id_, part in self._parts.items() if id_ in ids}
            if lacking := [id_ for id_ in ids if id_ not in known]:
                found = self._store.get(lacking)
                known |= {id_: TermCounts.read(point.payload) for id_, point in found.items()}
            self._parts = known
            if known.keys() == set(ids):
                return [known[id_] for id_ in ids]
            self.refresh()  # somebody summed up parts, or replaced the collection
        raise StepError(
            "store_corrupt",
            f"counts of the terms of collection '{self._name}' are gone; `rag doctor --repair` counts anew",
        )

    def miscounted_terms(self) -> str | None:
        """Return what is wrong with the counts of terms."""
        if self._shared.counts_terms():
            return None
        try:
            if self._terms is not None and _same(TermCounts.sum(self._counts()), self._recounted()):
                return None
        except StepError as error:
            if error.code != "store_corrupt":
                raise
        return "the counts of terms are not those of the passages, so scores of words are off"

    def _recounted(self) -> TermCounts:
        """Count the terms of all published passages."""
        live = self.contents()
        points = self._shared.scroll(
            {"kind": "chunk"}, ["document_id", "version"], with_vectors=["sparse"]
        )
        vectors = (
            point.sparse
            for point in points
            if point.sparse and live.get(point.payload["document_id"]) == point.payload["version"]
        )
        pages = iter(lambda: list(islice(vectors, COUNTED_AT_ONCE)), [])
        return TermCounts.sum(map(TermCounts.of, pages))

    def recount_terms(self) -> None:
        """Count the terms of all published passages anew, unless the server does; call it alone."""
        if self._shared.counts_terms():
            return
        points = [part.point() for part in self._recounted().split()]
        for point in points:
            self._store.upsert([point])
        terms = [list(named(point)) for point in points]
        state = self._open_generation().change(
            lambda state: None if state.terms == terms else replace(state, terms=terms)
        )
        there = [point.id for point in self._store.scroll({"kind": KIND}, ["kind"])]
        _discard(self._shared, there, state)
        self._follow(state)

    def notes(self) -> list[str]:
        """Return what a reindex would bring, where the server counts terms."""
        if self._terms is not None:
            return []
        return [
            "scores of words depend on how passages are spread over shards and on what was deleted; "
            f"`rag reindex --collection {self._name}` ends that"
        ]

    @property
    def _shared(self) -> SharedStore:
        store: Any = self._store
        shared: SharedStore = store
        return shared

    def replace(self, draft: Collection, publish: Callable[[], None]) -> None:
        """Replace this collection's content by a draft's, between two searches."""

        def published() -> None:
            publish()
            self._follow(self._stores.state(self._name))

        super().replace(draft, published)

    def recount(self) -> None:
        """Write the manifest anew, as the stored documents say; call it alone."""
        self.manifest = self.counted()
        self._stores.write_manifest(self._name, self.manifest.model_dump())

    def keep_roots(self, roots: Mapping[str, str]) -> None:
        """Remember durably from which folders and files the documents come; others may add theirs."""
        if roots != self.manifest.roots:
            self._keep(lambda manifest: {"roots": {**manifest.roots, **roots}})

    def keep_languages(self, languages: Iterable[str]) -> None:
        """Remember durably in which languages documents are; others may add theirs."""
        if not set(languages) <= set(self.manifest.languages):
            self._keep(lambda found: {"languages": sorted({*found.languages, *languages})})

    def _keep(self, merged: Callable[[Manifest], dict[str, Any]]) -> None:
        """Change fields of the manifest, over what is there at that moment."""

        def keep(state: State) -> State | None:
            manifest = read_manifest(state.value or {}, self._name)
            wanted = manifest.model_copy(update=merged(manifest))
            return None if wanted == manifest else replace(state, value=wanted.model_dump())

        self._follow(self._followed(lambda: self._open_generation().change(keep)))

    def too_large(self, document: LoadedDocument) -> str | None:
        """Return why a document does not fit into a request to the server; None when it does."""
        version = Version(document.document_id, "0" * 64, 0)  # a hash is as long as this
        size, most = json_bytes(document_point(document, version).payload), self._shared.most_bytes
        if size <= most:
            return None
        return (
            f"it takes {size / 2**20:.1f} MiB as it is stored, and the Qdrant server takes "
            f"{most / 2**20:.1f} at once; split the document, or raise service.max_request_size_mb there "
            "and RAG_QDRANT_MAX_REQUEST_MB here"
        )

    def note_origins(self, noted: Mapping[str, tuple[str, Origin | None]]) -> None:
        """Keep where documents came from; of one that others have changed meanwhile, nothing."""

        def note(document_id: str, content: str, origin: Origin | None) -> None:
            store, ids = self._open_generation().store, [document_point_id(document_id)]
            when = {"kind": "document", "content_hash": content}
            if origin is None:
                store.unset_fields(ids, ["origin"], when)
            else:
                store.set_fields(ids, {"origin": asdict(origin)}, when)

        for document_id, (content, origin) in noted.items():
            self._followed(partial(note, document_id, content, origin))

    def checkpoint(self) -> None:
        """Do nothing: each commit is durable by itself."""

    @contextmanager
    def checkpointed(self) -> Iterator[None]:
        """Write in the block.

        Writers that ended on this machine are settled first, also when there is nothing to commit.

        Raises:
            StepError: `in_progress`, another process has the collection alone for too long.
        """
        line = Line(self._name)
        for _ in patience(WAIT_S):
            if not self._followed(lambda: self._blocked(self._open_generation(), line)):
                break
        else:
            raise line.refusal(self._stores.watch.lease_s)
        yield

    def _followed(self, work: Callable[[], Result]) -> Result:
        """Do work on the live generation again when it was replaced and removed meanwhile."""
        for _ in patience(WAIT_S):
            try:
                return work()
            except StepError as error:
                if error.code != "collection_not_found" or not self._stores.exists(self._name):
                    raise
        raise StepError("in_progress", f"collection '{self._name}' keeps being replaced; try again")

    def _open_generation(self) -> Generation:
        """Return the live generation, after doing what a decided replacement has left to do."""
        for _ in patience(WAIT_S):
            generation = self._stores.generation(self._name, self.analyzer.recipe.dim)
            state = generation.state()
            if state is None or state.successor is None:
                return generation
            self._stores.finish(self._name, generation, state.successor)
        raise StepError("in_progress", f"collection '{self._name}' keeps being replaced; try again")

    # -- one commit -----------------------------------------------------------------------

    def commit(self, changes: Sequence[Change]) -> list[Change]:
        """Make the changes visible and durable, each document completely.

        A document that another writer has now is waited for; what that one wrote is then replaced.

        Returns:
            What was changed.

        Raises:
            StepError: `in_progress`, a document or the collection stays taken; `storage_full` and
                others from the store. What was visible before stays.
        """
        with self.changing():
            left, line = list(changes), Line(self._name)
            for _ in range(TURNS):
                try:
                    if self._commit_all(left, line):
                        return [change for change in changes if change.old != change.new]
                except GivenUpError:
                    continue
                raise line.refusal(self._stores.watch.lease_s)
            raise self._silent()

    def _commit_all(self, left: list[Change], line: Line) -> bool:
        """Commit round by round as documents become free, until none is left; False: some stay taken."""
        if not left:
            return True
        writer = self._join()
        try:
            for _ in patience(WAIT_S):
                left[:] = self._round(writer, left, line)
                if not left:
                    break
        except BaseException as error:  # Ctrl-C too
            self._abandon(writer)
            gone = isinstance(error, StepError) and error.code == "collection_not_found"
            if gone and self._stores.exists(self._name):  # replaced after this one was given up
                raise GivenUpError from error
            raise
        self._leave(writer)
        return not left

    def _leave(self, writer: Writer) -> None:
        try:
            writer.leave()
        except StepError:  # what it wrote is done; the next writer clears its registration
            self._stores.watch.give_up(writer.token)

    def _silent(self) -> StepError:
        lease = self._stores.watch.lease_s
        return StepError(
            "in_progress",
            f"this process gave no sign of life for {lease:g} s and others took its documents in "
            f"collection '{self._name}'; index again. RAG_QDRANT_LEASE_S allows for longer pauses",
            retry_after=1.0,
        )

    def _round(self, writer: Writer, changes: list[Change], line: Line) -> list[Change]:
        """Commit the changes whose documents are free; return the others, after looking at their owners."""
        writer.begin([_entry(change) for change in changes])
        self._on_step("journal")
        mine, taken = self._claim(writer, changes)
        self._on_step("claimed")
        if mine:
            self._apply_claimed(writer, mine)
        for token, document_ids in taken.items():
            self._settle_if_dead(writer.generation, token, line, document_ids)
        return [c for c in changes if any(c.document_id in ids for ids in taken.values())]

    def _join(self) -> Writer:
        """Become a writer of the live generation.

        Raises:
            StepError: `in_progress`, another process has had it alone for too long;
                `collection_mismatch`, it was reindexed with other settings meanwhile.
        """

        def enter(state: State, token: str) -> State | None:
            if token in state.writers or state.alone or not state.open:
                return None
            return replace(state, writers={**state.writers, token: 0})

        line = Line(self._name)
        for _ in patience(WAIT_S):
            writer, state = self._followed(lambda: self._entered("indexing", enter))
            if writer.token in state.writers:
                self._follow(state)
                try:
                    check_recipe(self.manifest, self.analyzer.recipe)
                except StepError:
                    self._leave(writer)
                    raise
                return writer
            self._leave(writer)
            self._followed(lambda: self._blocked(self._open_generation(), line))
        raise line.refusal(self._stores.watch.lease_s)

    def _entered(
        self, doing: str, enter: Callable[[State, str], State | None]
    ) -> tuple[Writer, State]:
        writer = self._announced(doing)
        return writer, self._register(writer, enter)

    def _announced(self, doing: str) -> Writer:
        writer = Writer(self._open_generation(), doing, self._stores.watch.lease_s)
        writer.announce()
        return writer

    def _register(self, writer: Writer, enter: Callable[[State, str], State | None]) -> State:
        """Change the state as `enter` says; a writer that cannot be registered leaves."""
        try:
            return writer.generation.change(lambda state: enter(state, writer.token))
        except BaseException:
            self._leave(writer)
            raise

    def _abandon(self, writer: Writer) -> None:
        """Undo the commit of a writer of this process; when that fails, the next writer does it."""
        writer.rest()
        self._stores.watch.give_up(writer.token)
        with suppress(StepError):
            self._settle(writer.generation, writer.token)

    def _claim(
        self, writer: Writer, changes: Sequence[Change]
    ) -> tuple[list[Change], dict[str, list[str]]]:
        """Claim the documents; return the changes that are ours, and what others have, by owner.

        The journal is read back with the claims: as long as it stood when they did, whoever settles
        this writer finds them.
        """
        store, token = writer.generation.store, writer.token
        ids = {document_point_id(change.document_id): change for change in changes}
        store.insert(
            [_stub(c.document_id, {"claim": token}) for c in ids.values() if c.new is not None]
        )
        store.set_fields(list(ids), {"claim": token}, {"claim": None})
        found = store.get([*ids, journal_id(token)], CLAIM_FIELDS)
        if not writer.begun(found.pop(journal_id(token), None)):
            _release(store, list(ids), token)
            raise GivenUpError
        mine: list[Change] = []
        taken: dict[str, list[str]] = {}
        for point_id, point in found.items():
            owner, change = str(point.payload.get("claim")), ids[point_id]
            if owner == token:
                before = _published(point)
                if change.exactly and before != change.old:
                    change.new = before  # somebody else has replaced it: it stays as it is
                change.old, change.old_write = before, point.payload.get("write")
                mine.append(change)
            else:
                taken.setdefault(owner.removeprefix(FENCED), []).append(change.document_id)
        return mine, taken

    def _apply_claimed(self, writer: Writer, changes: list[Change]) -> None:
        store = writer.generation.store
        new = [change for change in changes if change.new != change.old]
        points = [_marked(point, writer.write) for change in new for point in change.points]
        terms = (
            _changed_terms(store, new).point(part_id(writer.write))
            if self._terms is not None
            else None
        )
        for part in batches([*points, *([terms] if terms else [])]):
            self._on_step("upserting")
            store.upsert(part)
            self._on_step("upserted")
        with self._lock.exclusive():
            self._on_step("publishing")
            self._publish(writer, new)
            self._on_step("published")
            steps = [(change.old, change.new) for change in new]
            state = _count(writer.generation, writer.token, writer.commit, steps, terms)
            if writer.token not in state.writers:
                raise GivenUpError
            self._follow(state)
            self._on_step("manifest")
            swept = [(change.old, change.old_write) for change in new if change.old]
            for _ in _sweep(store, swept):
                self._on_step("sweeping")
            self._on_step("swept")
        _release(store, [document_point_id(c.document_id) for c in changes], writer.token)
        self._on_step("committed")
        with suppress(StepError):  # the documents are committed; the next commit sums up
            self._follow(_sum_up(writer.generation, state))

    def _publish(self, writer: Writer, changes: Sequence[Change]) -> None:
        """Write the document points, where the claims still hold.

        Raises:
            GivenUpError: One does not.
        """
        store, marks = writer.generation.store, {"claim": writer.token, "write": writer.write}
        points = []
        for change in changes:
            replaced = [*_version(change.old), change.old_write] if change.old else None
            fields = {**marks, "replaced": replaced}
            if change.record is not None:
                points.append(replace(change.record, payload={**change.record.payload, **fields}))
            else:
                points.append(_stub(change.document_id, fields))
        store.replace(points, {"claim": writer.token})
        found = store.get([point.id for point in points], ["claim", "write"])
        for point in points:
            there = found.get(point.id)
            if there is None or any(there.payload.get(name) != marks[name] for name in marks):
                ours = [(change.new, writer.write) for change in changes if change.new]
                for _ in _sweep(store, ours):  # passages written after others had cleaned up
                    pass
                store.delete([part_id(writer.write)])
                raise GivenUpError

    # -- for `rag doctor` -----------------------------------------------------------------

    def writers(self) -> tuple[list[str], list[str]]:
        """Return who writes now, and which writers gave no sign of life; settles none.

        A writer elsewhere counts as silent after a lease of watching, so a second look may find more.
        """
        generation = self._open_generation()
        state = generation.state()
        journals = generation.all_journals()
        living: list[str] = []
        silent: list[str] = []
        # A journal of somebody who is not registered and has claimed nothing keeps nobody waiting.
        for token in {*(state.tokens() if state else []), *self._claimants()}:
            journal = journals.get(token)
            who = (journal or {}).get("owner") or f"writer {token[:8]}"
            (silent if self._stores.watch.dead(token, journal) else living).append(str(who))
        return sorted(living), sorted(silent)

    def _claimants(self) -> dict[str, list[str]]:
        """Return the documents that are claimed, by writer."""
        found: dict[str, list[str]] = {}
        for kind in ("document", "claim"):
            for point in self._store.scroll({"kind": kind}, ["kind", "document_id", "claim"]):
                if claim := point.payload.get("claim"):
                    token = str(claim).removeprefix(FENCED)
                    found.setdefault(token, []).append(point.payload["document_id"])
        return found

    def settle_silent(self) -> list[str]:
        """Settle every writer that gives no sign of life for a lease; return who they were."""
        settled = []
        for _ in patience(self._stores.watch.lease_s + 1):
            generation = self._open_generation()
            state, journals = generation.state(), generation.all_journals()
            claimed = self._claimants()
            waiting = False
            for token in {*(state.tokens() if state else []), *journals, *claimed}:
                if self._stores.watch.dead(token, journals.get(token)):
                    self._settle(generation, token, claimed.get(token, []))
                    settled.append(str((journals.get(token) or {}).get("owner") or token[:8]))
                else:
                    waiting = True
            if not waiting:
                break
        return settled

    # -- other writers --------------------------------------------------------------------

    def _blocked(
        self, generation: Generation, line: Line, own: str | None = None, *, anyone: bool = False
    ) -> bool:
        """Settle the writers that are dead; tell whether another one keeps this one waiting.

        Args:
            generation: Where they write.
            line: Notes who is waited for.
            own: This writer.
            anyone: Every other writer does, not only one that has the collection alone.
        """
        state = generation.state()
        tokens = [token for token in state.tokens() if token != own] if state else []
        journals = generation.journals(tokens) if tokens else {}
        living = [
            token
            for token in tokens
            if not self._settle_if_dead(generation, token, None, journal=journals.get(token))
        ]
        waited = [token for token in living if state and (anyone or token == state.alone)]
        for token in waited:
            line.wait_for(token, journals.get(token))
        return bool(waited)

    def _settle_if_dead(
        self,
        generation: Generation,
        token: str,
        line: Line | None,
        document_ids: Sequence[str] = (),
        *,
        journal: dict[str, Any] | None = None,
    ) -> bool:
        """Settle a writer that has died; else wait in line for it. Tell whether it was dead."""
        journal = journal or generation.journals([token]).get(token)
        if self._stores.watch.dead(token, journal):
            self._settle(generation, token, document_ids)
            return True
        if line is not None:
            line.wait_for(token, journal)
        return False

    def _settle(self, generation: Generation, token: str, document_ids: Sequence[str] = ()) -> None:
        """Finish or undo what a dead writer began, then take it out.

        Args:
            generation: Where it wrote.
            token: The writer.
            document_ids: Documents it has claimed, in case its journal is gone.
        """
        settle(generation, token, document_ids)
        self._stores.watch.forget(token)

    def recover(self) -> None:
        """Settle every writer that has died."""
        self._followed(lambda: self._blocked(self._open_generation(), Line(self._name)))

    @contextmanager
    def rebuilding(self) -> Iterator[None]:
        """Rebuild the collection in the block; another process that does is waited for.

        Raises:
            StepError: `in_progress`, it takes too long.
        """

        def enter(state: State, token: str) -> State | None:
            return None if state.rebuilder or not state.open else replace(state, rebuilder=token)

        writer, _ = self._followed(lambda: self._entered("reindexing", enter))
        self._wait_until(writer, enter, lambda state: state.rebuilder == writer.token)
        self._rebuilder = writer
        try:
            yield
        finally:
            self._rebuilder = None
            self._leave(writer)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Have the collection alone for the block: writers that are there are waited for.

        Raises:
            StepError: `in_progress`, they stay for too long.
        """

        def enter(state: State, token: str) -> State | None:
            return None if state.alone or not state.open else replace(state, alone=token)

        with self.changing():
            writer = self._rebuilder or self._announced("changing all of it")
            self._wait_until(
                writer, enter, lambda state: state.alone == writer.token and not state.writers
            )
            self._stores.alone[self._name] = writer.token
            try:
                self._on_step("alone")
                yield
            finally:
                self._stores.alone.pop(self._name, None)
                self._leave(writer)

    def _wait_until(
        self,
        writer: Writer,
        enter: Callable[[State, str], State | None],
        entered: Callable[[State], bool],
    ) -> None:
        line = Line(self._name)
        for _ in patience(WAIT_S):
            state = self._register(writer, enter)
            if entered(state):
                return
            if not state.open:
                break
            self._blocked(writer.generation, line, writer.token, anyone=True)
        self._leave(writer)
        raise line.refusal(self._stores.watch.lease_s)


FENCED = "dead "  # before the token in a claim that was taken from a dead writer


def settle(generation: Generation, token: str, document_ids: Sequence[str] = ()) -> None:
    """Finish or undo what a writer began that is surely dead, then take it out; repeatable."""
    store, fenced = generation.store, FENCED + token
    store.set_fields([journal_id(token)], {"fenced": "yes"}, {"token": token})
    journal = generation.journals([token]).get(token) or {}
    commit = int(journal.get("commit") or 0)
    new = {entry[0]: _entered(entry) for entry in journal.get("versions") or []}
    ids = {document_point_id(one): one for one in {*new, *document_ids}}
    store.set_fields(list(ids), {"claim": fenced}, {"claim": token})
    found = {
        ids[id_]: point
        for id_, point in store.get(list(ids), CLAIM_FIELDS).items()
        if point.payload.get("claim") == fenced
    }
    write = f"{token}-{commit}"
    published = [one for one, point in found.items() if point.payload.get("write") == write]
    replaced = {one: found[one].payload.get("replaced") or [] for one in published}
    old = {one: Version(*entry[:3]) for one, entry in replaced.items() if entry}
    swept = [(old[one], replaced[one][3]) for one in old]
    torn = [(version, write) for one in found.keys() - set(published) if (version := new.get(one))]
    steps = [(old.get(one), new.get(one)) for one in published]
    terms = _terms_between(generation, token, commit, steps)
    state = _count(generation, token, commit, steps, terms)
    _discard(store, [part_id(write), *([terms.id] if terms else [])], state)
    for _ in _sweep(store, [*swept, *torn]):
        pass
    _release(store, list(ids), fenced)
    retire(generation, token)


def _count(
    generation: Generation, token: str, commit: int, steps: Iterable[Step], terms: Point | None
) -> State:
    """Count a commit of a writer in the manifest, once, whoever does it; `terms` is its part."""
    steps = list(steps)

    def counted(state: State) -> State | None:
        if _is_counted(state, token, commit):
            return None
        writers = {**state.writers, token: commit}
        manifest = read_manifest(state.value or {}, generation.store.name).after(steps)
        parts = state.terms
        if parts is not None and terms is not None:
            parts = [*parts, list(named(terms))]
        return replace(state, value=manifest.model_dump(), writers=writers, terms=parts)

    return generation.change(counted)


def _is_counted(state: State, token: str, commit: int) -> bool:
    """Tell whether a commit was counted, by whomever, or its writer was taken out."""
    return state.writers.get(token, commit) >= commit


def _named_in(state: State) -> list[Named] | None:
    return None if state.terms is None else [(str(id_), int(size)) for id_, size in state.terms]


def _changed_terms(store: SharedStore, changes: Iterable[Change]) -> TermCounts:
    """Return what changes add to the counts of terms; reads the passages that they replace."""
    changes = list(changes)
    new = TermCounts.of(
        point.sparse for change in changes for point in change.points if point.sparse
    )
    old = [change.old for change in changes if change.old]
    return TermCounts.sum([new, -_terms_of(store, old)])


def _terms_of(store: SharedStore, versions: Iterable[Version]) -> TermCounts:
    """Count the terms of stored passages."""
    ids = [id_ for version in versions for id_ in version.chunk_ids()]
    points = store.get(ids, ["kind"], with_vectors=["sparse"]).values()
    return TermCounts.of(point.sparse for point in points if point.sparse)


def _terms_between(
    generation: Generation, token: str, commit: int, steps: Sequence[Step]
) -> Point | None:
    """Write the part of a dead writer's commit, from the passages; None when there is nothing to count.

    Nothing is swept before it is counted, so all the passages are there.
    """
    state, store = generation.state(), generation.store
    if not steps or state is None or state.terms is None or _is_counted(state, token, commit):
        return None
    new = _terms_of(store, [version for _, version in steps if version])
    old = _terms_of(store, [version for version, _ in steps if version])
    point = TermCounts.sum([new, -old]).point()
    store.upsert([point])
    return point


def _discard(store: SharedStore, ids: Iterable[str], state: State) -> None:
    """Delete parts that a state does not name; no later one will."""
    kept = {id_ for id_, _ in _named_in(state) or ()}
    store.delete([id_ for id_ in ids if id_ not in kept])


def _sum_up(generation: Generation, state: State) -> State:
    """Replace small parts of the counts of terms by their sum, when there are many; return the state."""
    store, ids = generation.store, small_parts(_named_in(state) or [])
    found = store.get(ids) if ids else {}
    if not ids or len(found) < len(ids):  # somebody else is summing up
        return state
    point = TermCounts.sum(TermCounts.read(one.payload) for one in found.values()).point()
    store.upsert([point])

    def summed(state: State) -> State | None:
        parts = _named_in(state) or []
        if not set(ids) <= {id_ for id_, _ in parts}:
            return None
        kept = [list(part) for part in parts if part[0] not in ids]
        return replace(state, terms=[*kept, list(named(point))])

    state = generation.change(summed)
    _discard(store, [*ids, point.id], state)
    return state


def _same(one: TermCounts, other: TermCounts) -> bool:
    difference = TermCounts.sum([one, -other])
    return not difference.passages and not len(difference.ids)


class SharedDraft(Collection):
    """A collection on a server that is built before it is published: it counts terms as it goes."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._terms: list[TermCounts] = []

    def _apply(self, changes: Sequence[Change]) -> None:
        store: Any = self._store
        self._terms.append(_changed_terms(store, changes))
        if len(self._terms) > SUMMED_AT_ONCE:
            self._terms = [TermCounts.sum(self._terms)]
        super()._apply(changes)

    def finish(self) -> None:
        """Write the counts of terms, before the collection is published."""
        for part in TermCounts.sum(self._terms).split():
            self._store.upsert([part.point()])


def _sweep(store: SharedStore, versions: Iterable[tuple[Version, str | None]]) -> Iterator[None]:
    """Delete the passages of versions, as far as the same commit wrote them; yield after each part."""
    pairs = [(id_, write) for version, write in versions for id_ in version.chunk_ids()]
    for part in batches(pairs):
        groups: dict[str | None, list[str]] = {}
        for id_, write in part:
            groups.setdefault(write, []).append(id_)
        store.delete_where([(ids, {"write": write}) for write, ids in groups.items()])
        yield


def _release(store: SharedStore, ids: Sequence[str], claim: str) -> None:
    """Give documents back that are claimed so; those that are not there lose their stub."""
    store.delete_where([(ids, {"claim": claim, "kind": "claim"})])
    store.unset_fields(ids, ["claim", "replaced"], {"claim": claim})


def _stub(document_id: str, fields: dict[str, Any]) -> Point:
    payload = {"kind": "claim", "document_id": document_id, **fields}
    return Point(document_point_id(document_id), payload)


def _marked(point: Point, write: str) -> Point:
    return replace(point, payload={**point.payload, "write": write})


def _version(version: Version | None) -> list[Any]:
    return [version.document_id, version.content_hash, version.chunks] if version else []


def _entry(change: Change) -> list[Any]:
    return _version(change.new) or [change.document_id, None, 0]


def _entered(entry: Sequence[Any]) -> Version | None:
    return Version(*entry) if entry[1] is not None else None


def _published(point: Point) -> Version | None:
    payload = point.payload
    if not is_document(point):
        return None
    return Version(payload["document_id"], payload["content_hash"], payload["chunks"])
