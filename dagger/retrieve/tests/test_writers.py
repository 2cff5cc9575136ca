"""Several processes that write to one collection of a Qdrant server: nothing acknowledged is lost.

Each `Retriever` here is a process of its own to the others: what they know of each other they read from
the server. `held` stops one at a named moment of its commit while the others work.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from crash_kit import HashedWords, whole
from qdrant_double import QdrantDouble
from qdrant_kit import Qdrant

from rag_retrieve import LoadedDocument, Retriever, RetrieveSettings, StepError
from rag_retrieve.index.embedders import Vectors
from rag_retrieve.index.shared import SharedCollection
from rag_retrieve.stores.embedded.locks import this_process
from rag_retrieve.stores.qdrant.database import ServerStores
from rag_retrieve.stores.shared import STATE_ID, WAIT_S, State, journal_id

WAIT = 60  # seconds after which a test that hangs fails


def texts(*names: str, text: str = "Text") -> list[LoadedDocument]:
    return [
        LoadedDocument(name, "", "d", f"{text} of {name}.\n\nAnd more of {name}.", "text/plain")
        for name in names
    ]


@contextmanager
def writer(qdrant: Qdrant, embedder: Any = None, **more: Any) -> Iterator[Retriever]:
    on_step = more.pop("on_step", lambda name: None)
    settings = qdrant.settings(**{"qdrant_lease_s": 5.0, **more})
    with Retriever(settings, embedder=embedder or HashedWords(), on_step=on_step) as opened:
        yield opened


def state(retriever: Retriever, name: str) -> State:
    stores = retriever._stores
    assert isinstance(stores, ServerStores)
    found = stores.generation(name).state()
    assert found is not None
    return found


def untouched(retriever: Retriever, name: str) -> None:
    """Nobody is registered, nothing is claimed, and the manifest and the counts of terms equal a count."""
    collection = retriever._collection(name)
    found = state(retriever, name)
    assert found.tokens() == []
    assert collection.miscounted_terms() is None
    kept = [point.id for point in collection._store.scroll({"kind": "terms"})]
    assert sorted(kept) == sorted(id_ for id_, _ in found.terms or [])
    for kind in ("writer", "claim"):
        assert list(collection._store.scroll({"kind": kind})) == []
    assert not [p for p in collection._store.scroll({"kind": "document"}) if "claim" in p.payload]
    assert collection.manifest == collection.counted()


class Held:
    """Stops whoever calls `on_step` at the first occurrence of a step, until it is let go."""

    def __init__(self, step: str, *, for_ever: bool = False) -> None:
        self._step = step
        self._for_ever = for_ever
        self._arrived, self._go = threading.Event(), threading.Event()
        self.active = False

    def on_step(self, name: str) -> None:
        if self.active and name == self._step:
            self.active = False
            self._arrived.set()
            assert self._go.wait(None if self._for_ever else WAIT)

    def wait(self) -> None:
        assert self._arrived.wait(WAIT), f"it never came to {self._step}"

    def let_go(self) -> None:
        self._go.set()


class Work:
    """Something done in a thread; `result` gives what came of it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._outcome: list[Any] = []
        self._work = work
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._outcome.append(self._work())
        except BaseException as error:
            self._outcome.append(error)

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def result(self) -> Any:
        self._thread.join(WAIT)
        assert self._outcome, "it hangs"
        if isinstance(self._outcome[0], BaseException):
            raise self._outcome[0]
        return self._outcome[0]


def held_at(
    qdrant: Qdrant, step: str, documents: Sequence[LoadedDocument]
) -> tuple[Retriever, Held, Work]:
    """Return a writer that stands at a step of the commit of documents."""
    held = Held(step)
    settings = qdrant.settings(qdrant_lease_s=5.0)
    retriever = Retriever(settings, embedder=HashedWords(), on_step=held.on_step)
    held.active = True
    work = Work(lambda: retriever.ingest_documents(documents, collection=qdrant.name))
    held.wait()
    return retriever, held, work


# -- reindexing beside writers ------------------------------------------------------------------


@pytest.mark.parametrize("step", ["cut", "committed", "alone"])
def test_what_is_indexed_during_a_reindex_is_there_after_it(qdrant: Qdrant, step: str) -> None:
    """Nobody waits for the embedding, only for the swap: what is acknowledged is in the new index."""
    held = Held(step)
    with writer(qdrant, on_step=held.on_step) as reindexing, writer(qdrant) as indexing:
        reindexing.ingest_documents(texts("a", "b"), collection=qdrant.name)
        held.active = True
        rebuilt = Work(lambda: reindexing.reindex(qdrant.name))
        held.wait()
        indexed = Work(lambda: indexing.ingest_documents(texts("c"), collection=qdrant.name))
        if step == "alone":
            held.let_go()
        assert indexed.result().added == ["c"]
        held.let_go()
        rebuilt.result()

        assert set(whole(indexing, qdrant.name)) == {"a", "b", "c"}
        assert indexing.ingest_documents(texts("c"), collection=qdrant.name).unchanged == ["c"]
        untouched(indexing, qdrant.name)


@pytest.mark.parametrize(
    "step", ["journal", "claimed", "upserted", "published", "swept", "manifest"]
)
def test_a_reindex_waits_for_a_commit_that_has_begun(qdrant: Qdrant, step: str) -> None:
    """The swap never falls into somebody's commit: all of it is in the new index."""
    with writer(qdrant) as reindexing:
        reindexing.ingest_documents(texts("a", "b"), collection=qdrant.name)
        indexing, held, indexed = held_at(qdrant, step, texts("a", "c", text="New text"))
        rebuilt = Work(lambda: reindexing.reindex(qdrant.name))
        assert rebuilt.running
        held.let_go()
        assert (indexed.result().added, indexed.result().updated) == (["c"], ["a"])
        rebuilt.result()
        indexing.close()

        found = whole(reindexing, qdrant.name)
        assert found.keys() == {"a", "b", "c"}
        assert found["a"].startswith("New text")
        untouched(reindexing, qdrant.name)


def test_a_process_follows_each_reindex_of_another(qdrant: Qdrant) -> None:
    """Also one that has reindexed itself: it searches and writes where the alias points now."""
    with writer(qdrant) as here, writer(qdrant) as there:
        here.ingest_documents(texts("a"), collection=qdrant.name)
        for number, (one, other) in enumerate([(here, there), (there, here), (here, there)]):
            one.reindex(qdrant.name)
            assert other.ingest_documents(texts(f"d{number}"), collection=qdrant.name).added
            assert whole(one, qdrant.name) == whole(other, qdrant.name)
        assert set(whole(here, qdrant.name)) == {"a", "d0", "d1", "d2"}
        untouched(here, qdrant.name)


def test_a_collection_deleted_elsewhere_is_made_again_by_the_next_ingest(qdrant: Qdrant) -> None:
    """A process that has it open notices; what it indexes then is there."""
    with writer(qdrant) as here, writer(qdrant) as there:
        here.ingest_documents(texts("a"), collection=qdrant.name)
        there.delete_collection(qdrant.name)
        with pytest.raises(StepError) as caught:
            here.documents(qdrant.name)
        assert caught.value.code == "collection_not_found"
        assert here.ingest_documents(texts("b"), collection=qdrant.name).added == ["b"]
        assert set(whole(there, qdrant.name)) == {"b"}


def test_a_reindex_with_other_settings_stops_writers_of_the_old_ones(qdrant: Qdrant) -> None:
    """Their passages would not fit; the error names the setting and the way out."""
    held = Held("alone")
    with writer(qdrant, on_step=held.on_step, chunk_tokens=64) as new, writer(qdrant) as old:
        old.ingest_documents(texts("a"), collection=qdrant.name)
        held.active = True
        rebuilt = Work(lambda: new.reindex(qdrant.name))
        held.wait()
        indexed = Work(lambda: old.ingest_documents(texts("b"), collection=qdrant.name))
        held.let_go()
        rebuilt.result()
        with pytest.raises(StepError, match="chunk_tokens") as caught:
            indexed.result()
        assert caught.value.code == "collection_mismatch"
        assert set(whole(new, qdrant.name)) == {"a"}
        untouched(new, qdrant.name)


# -- writers side by side -------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["claimed", "published"])
def test_two_writers_of_different_documents_do_not_wait_for_each_other(
    qdrant: Qdrant, step: str
) -> None:
    """Both have the same host name and process id: only the random token tells them apart."""
    with writer(qdrant) as other:
        other.ingest_documents(texts("a", "b"), collection=qdrant.name)
        first, held, indexed = held_at(qdrant, step, texts("a", "new"))
        report = other.ingest_documents(texts("b", "c", text="Second"), collection=qdrant.name)
        assert (report.added, report.updated) == (["c"], ["b"])
        held.let_go()
        indexed.result()
        first.close()
        found = whole(other, qdrant.name)
        assert found.keys() == {"a", "b", "c", "new"}
        assert found["b"].startswith("Second")
        untouched(other, qdrant.name)


@pytest.mark.parametrize("step", ["claimed", "published"])
@pytest.mark.parametrize("action", ["same", "other", "delete"])
def test_a_document_is_written_by_one_at_a_time(qdrant: Qdrant, step: str, action: str) -> None:
    """The second waits for the first and then replaces what that one wrote, whole."""
    with writer(qdrant) as second:
        second.ingest_documents(texts("a"), collection=qdrant.name)
        first, held, indexed = held_at(qdrant, step, texts("a", "b", text="First"))
        text = "First" if action == "same" else "Second"

        def change() -> Any:
            if action == "delete":
                return second.delete_documents(qdrant.name, ["a"])
            return second.ingest_documents(texts("a", text=text), collection=qdrant.name)

        changed = Work(change)
        held.let_go()
        indexed.result()
        changed.result()
        first.close()
        found = whole(second, qdrant.name)
        assert found.keys() == ({"b"} if action == "delete" else {"a", "b"})
        assert action == "delete" or found["a"].startswith(text)
        untouched(second, qdrant.name)


def test_many_writers_of_the_same_documents_count_them_right(qdrant: Qdrant) -> None:
    """Six write, delete and reindex at once and unheld; each document is one whole version."""

    def work(number: int) -> None:
        with writer(qdrant) as own:
            for turn in range(4):
                names = [f"d{(number + turn + step) % 7}" for step in range(4)]
                text = f"Version {number}.{turn}"
                own.ingest_documents(texts(*names, text=text), collection=qdrant.name)
                if number == 0 and turn % 2:
                    own.reindex(qdrant.name)
                if number == 1:
                    own.delete_documents(qdrant.name, names[:1])

    for one in [Work(lambda number=number: work(number)) for number in range(6)]:  # type: ignore[misc]
        one.result()
    with writer(qdrant) as last:
        last.ingest_documents(texts(*(f"d{n}" for n in range(7))), collection=qdrant.name)
        assert set(whole(last, qdrant.name)) == {f"d{n}" for n in range(7)}
        untouched(last, qdrant.name)


def test_a_writer_that_fails_between_two_commits_keeps_no_other_waiting(qdrant: Qdrant) -> None:
    """What was committed is durable and counted, and the writer is gone."""
    names = [f"d{n}" for n in range(40)]
    documents = texts(*names)
    with writer(qdrant, Fails("d39")) as failing:
        with pytest.raises(StepError, match="gone"):
            failing.ingest_documents(documents, collection=qdrant.name)
        assert len(whole(failing, qdrant.name)) == 32
        untouched(failing, qdrant.name)
    with writer(qdrant) as other:
        assert len(other.ingest_documents(documents, collection=qdrant.name).added) == 8


class Fails(HashedWords):
    """`HashedWords`, but it fails at a text that holds a word."""

    def __init__(self, word: str) -> None:
        self.word = word

    def embed(self, texts: Sequence[str]) -> Vectors:
        if any(self.word in text for text in texts):
            raise StepError("embedder_unavailable", "gone")
        return super().embed(texts)


@pytest.mark.parametrize(
    "moment", ["claimed", "upserted", "publishing", "published", "swept", "manifest"]
)
def test_a_commit_whose_undoing_fails_is_settled_by_the_next(
    double: QdrantDouble, moment: str
) -> None:
    """The server fails in the middle and for the undoing, too; later the same process goes on."""
    strike = threading.Event()

    def on_step(name: str) -> None:
        if name == moment and strike.is_set():
            double.faults.status = 503

    qdrant = Qdrant(double.url, None, "test", double)
    with writer(qdrant, on_step=on_step) as retriever:
        retriever.ingest_documents(texts("a", "b"), collection="test")
        strike.set()
        with pytest.raises(StepError, match=r"HTTP 503|most of the last calls"):
            retriever.ingest_documents(texts("a", "torn", text="New"), collection="test")
        strike.clear()
        double.faults.status = None
        retriever._stores.breaker.__init__("qdrant", retriever.settings)  # type: ignore[union-attr,misc]
        assert retriever.ingest_documents(texts("c"), collection="test").added == ["c"]
        found = whole(retriever, "test")
        published = moment in ("published", "swept", "manifest")
        assert found.keys() == {"a", "b", "c"} | ({"torn"} if published else set())
        untouched(retriever, "test")


# -- writers that die -----------------------------------------------------------------------------


def vanish(qdrant: Qdrant, step: str, action: str = "index", *, elsewhere: bool = False) -> None:
    """Let a writer come to a step and never go on, without a heartbeat, as one that was killed there.

    The processes that are really killed are in `tests/faults`; starting one takes seconds.

    Args:
        qdrant: Where it writes.
        step: The last it came to.
        action: What it did.
        elsewhere: Nobody on this machine knows its process; else its process has ended.
    """
    held = Held(step, for_ever=True)
    settings = qdrant.settings(qdrant_lease_s=300)  # a fifth of it is between two heartbeats
    retriever = Retriever(settings, embedder=HashedWords(), on_step=held.on_step)
    actions = {
        "delete": lambda: retriever.delete_documents(qdrant.name, ["a"]),
        "reindex": lambda: retriever.reindex(qdrant.name),
        "index": lambda: retriever.ingest_documents(
            texts("a", "x", text="Dying"), collection=qdrant.name
        ),
    }
    held.active = True
    Work(actions[action])
    held.wait()
    stores = retriever._stores
    assert isinstance(stores, ServerStores)
    generation = stores.generation(qdrant.name)
    place, _, started = this_process().rsplit(" ", 2)
    with subprocess.Popen(["true"]) as short:
        short.wait()
    process = "" if elsewhere else f"{place} {short.pid} {started}"
    for token in generation.all_journals():
        generation.store.set_fields([journal_id(token)], {"process": process}, {"token": token})


@pytest.mark.parametrize("action", ["index", "delete"])
@pytest.mark.parametrize("step", ["claimed", "published", "manifest"])
def test_what_a_dead_writer_of_this_machine_left_is_settled_at_once(
    qdrant: Qdrant, step: str, action: str
) -> None:
    """Also when there is nothing to write: nobody waits, each document is whole, counts are right."""
    with writer(qdrant, qdrant_lease_s=300) as retriever:
        retriever.ingest_documents(texts("a", "b"), collection=qdrant.name)
        vanish(qdrant, step, action)
        assert state(retriever, qdrant.name).tokens()
        assert retriever.ingest_documents(texts("b"), collection=qdrant.name).unchanged == ["b"]
        found = whole(retriever, qdrant.name)
        if step == "claimed":
            assert found.keys() == {"a", "b"} and found["a"].startswith("Text")
        else:
            assert found.keys() == ({"b"} if action == "delete" else {"a", "b", "x"})
        untouched(retriever, qdrant.name)


@pytest.mark.parametrize("step", ["claimed", "published"])
def test_a_dead_writer_elsewhere_blocks_nobody_for_longer_than_its_lease(
    qdrant: Qdrant, step: str
) -> None:
    """Other documents are written at once; its own after the lease, which is 20 s, within 30 s."""
    assert RetrieveSettings().qdrant_lease_s < WAIT_S <= 30
    with writer(qdrant, qdrant_lease_s=1.0) as retriever:
        retriever.ingest_documents(texts("a"), collection=qdrant.name)
        vanish(qdrant, step, elsewhere=True)
        assert retriever.ingest_documents(texts("b"), collection=qdrant.name).added == ["b"]
        assert state(retriever, qdrant.name).tokens(), "nobody knows yet that it is dead"
        retriever.ingest_documents(texts("a", text="Again"), collection=qdrant.name)
        found = whole(retriever, qdrant.name)
        assert found.keys() == {"a", "b"} | ({"x"} if step == "published" else set())
        assert found["a"].startswith("Again")
        untouched(retriever, qdrant.name)


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("step", ["cut", "alone"])
def test_a_reindex_that_died_is_given_up(qdrant: Qdrant, step: str, elsewhere: bool) -> None:
    """The old index stays, whoever comes next writes to it, and the draft is swept."""
    with writer(qdrant, qdrant_lease_s=1.0) as retriever:
        retriever.ingest_documents(texts("a", "b"), collection=qdrant.name)
        vanish(qdrant, step, "reindex", elsewhere=elsewhere)
        assert retriever.ingest_documents(texts("c"), collection=qdrant.name).added == ["c"]
        retriever.reindex(qdrant.name)
        assert set(whole(retriever, qdrant.name)) == {"a", "b", "c"}
        assert len(retriever._stores.generations(qdrant.name)) == 1  # type: ignore[attr-defined]
        untouched(retriever, qdrant.name)


@pytest.mark.parametrize(
    "step", ["journal", "claimed", "upserting", "upserted", "publishing", "published", "swept"]
)
@pytest.mark.parametrize("rewritten", [False, pytest.param(True, marks=pytest.mark.full)])
def test_a_writer_that_was_given_up_while_it_stood_still_tears_nothing(
    qdrant: Qdrant, step: str, rewritten: bool
) -> None:
    """It wakes up after others have settled it, and have written its documents: it starts again."""
    with writer(qdrant) as other:
        other.ingest_documents(texts("a", "b"), collection=qdrant.name)
        asleep, held, indexed = held_at(qdrant, step, texts("a", "c", text="Late"))
        (token,) = state(other, qdrant.name).tokens()
        collection = other._collection(qdrant.name)
        assert isinstance(collection, SharedCollection)
        collection._stores.watch.give_up(token)
        collection.recover()
        if rewritten:
            other.ingest_documents(texts("a", "c", text="Between"), collection=qdrant.name)
            other.ingest_documents(texts("a"), collection=qdrant.name)
        held.let_go()
        indexed.result()
        asleep.close()
        found = whole(other, qdrant.name)
        assert found.keys() == {"a", "b", "c"}
        late = {name for name, text in found.items() if text.startswith("Late")}
        assert late == {"a", "c"} or (rewritten and step in ("published", "swept"))
        untouched(other, qdrant.name)


# -- making, losing and finding collections ---------------------------------------------------------


def test_of_many_that_create_a_collection_at_once_each_writes_to_the_same(qdrant: Qdrant) -> None:
    """One makes it, nobody sweeps it, and what each indexes is there."""
    ready = threading.Barrier(6)

    def work(number: int) -> None:
        with writer(qdrant) as own:
            ready.wait(WAIT)
            own.ingest_documents(texts(f"d{number}"), collection=qdrant.name)

    for one in [Work(lambda number=number: work(number)) for number in range(6)]:  # type: ignore[misc]
        one.result()
    with writer(qdrant) as last:
        assert set(whole(last, qdrant.name)) == {f"d{n}" for n in range(6)}
        assert last._stores.generations(qdrant.name) == [1]  # type: ignore[attr-defined]


def test_deleting_and_creating_at_once_leaves_a_whole_collection_or_none(qdrant: Qdrant) -> None:
    """What is indexed after the last deletion is there; nobody gets an error that is none."""

    def work(number: int) -> None:
        with writer(qdrant) as own:
            for turn in range(3):
                try:
                    if number % 2:
                        own.delete_collection(qdrant.name)
                    else:
                        own.ingest_documents(texts(f"d{number}.{turn}"), collection=qdrant.name)
                except StepError as error:
                    assert error.code == "collection_not_found", error

    for one in [Work(lambda number=number: work(number)) for number in range(4)]:  # type: ignore[misc]
        one.result()
    with writer(qdrant) as last:
        last.ingest_documents(texts("last"), collection=qdrant.name)
        assert "last" in whole(last, qdrant.name)
        assert len(last._stores.generations(qdrant.name)) == 1  # type: ignore[attr-defined]
        untouched(last, qdrant.name)


@pytest.mark.parametrize("saves", [0, 1])
def test_a_server_killed_in_the_swap_of_a_reindex_loses_nothing(
    double: QdrantDouble, saves: int
) -> None:
    """Whatever it had saved of the swap, the collection is there, and the next writer finishes it."""
    qdrant = Qdrant(double.url, None, "test", double)
    with writer(qdrant) as retriever:
        retriever.ingest_documents(texts("a", "b"), collection="test")
        double.faults.alias_saves = saves
        if saves == 0:
            with pytest.raises(StepError, match="cannot be used"):
                retriever.reindex("test")
        else:
            retriever.reindex("test")
        double.faults.alias_saves = None
        assert set(whole(retriever, "test")) == {"a", "b"}
        assert retriever.ingest_documents(texts("c"), collection="test").added == ["c"]
        assert set(whole(retriever, "test")) == {"a", "b", "c"}
        assert list(double.aliases.values()) == [one for one in double.collections if "~g" in one]
        untouched(retriever, "test")


def test_a_collection_that_lost_its_alias_gets_it_back_and_is_not_swept(qdrant: Qdrant) -> None:
    """As after a server of an older version was killed between two saves: the next ingest mends it."""
    with writer(qdrant) as retriever:
        retriever.ingest_documents(texts("a", "b"), collection=qdrant.name)
        stores = retriever._stores
        assert isinstance(stores, ServerStores)
        drop_alias(stores, qdrant.name)
        assert stores.lost() == [qdrant.name]
        assert not stores.exists(qdrant.name)
    with writer(qdrant) as fresh:
        assert fresh.ingest_documents(texts("a", "c"), collection=qdrant.name).added == ["c"]
        assert set(whole(fresh, qdrant.name)) == {"a", "b", "c"}
        assert fresh._stores.lost() == []  # type: ignore[attr-defined]


def drop_alias(stores: ServerStores, name: str) -> None:
    from qdrant_client import models

    drop = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=f"rag_{name}"))
    stores._server.write(lambda server: server.update_collection_aliases([drop]), name)


def test_a_generation_of_a_creation_that_died_is_swept(qdrant: Qdrant) -> None:
    """It has no manifest and never had a document."""
    stores = qdrant.stores()
    assert isinstance(stores, ServerStores)
    stores._make(qdrant.name, 1, 16)
    with writer(qdrant) as retriever:
        assert retriever.ingest_documents(texts("a"), collection=qdrant.name).added == ["a"]
        assert len(stores.generations(qdrant.name)) == 1
    stores.close()


def test_a_manifest_of_an_older_version_is_taken_over(qdrant: Qdrant) -> None:
    """A collection whose points know nothing of several writers is indexed, replaced and swept."""
    with writer(qdrant) as retriever:
        retriever.ingest_documents(texts("a", "b"), collection=qdrant.name)
        stores = retriever._stores
        assert isinstance(stores, ServerStores)
        store = stores.generation(qdrant.name).store
        new = ["writers", "rebuilder", "alone", "successor", "deleted", "revision"]
        store.unset_fields([STATE_ID], new, {})
        points = [p.id for kind in ("chunk", "document") for p in store.scroll({"kind": kind})]
        store.unset_fields(points, ["write"], {})
        report = retriever.ingest_documents(texts("a", text="New"), collection=qdrant.name)
        assert report.updated == ["a"]
        retriever.delete_documents(qdrant.name, ["b"])
        assert set(whole(retriever, qdrant.name)) == {"a"}
        untouched(retriever, qdrant.name)
