"""One suite for both stores, then what only the embedded or only the server one can suffer.

The server store runs against `qdrant_double` always, and against a real server where
RAG_TEST_QDRANT_URL is set.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest
from qdrant_double import QdrantDouble
from qdrant_kit import SERVERS, real_qdrant

from rag_kit.errors import StepError
from rag_retrieve.index.term_counts import TermCounts, weighed
from rag_retrieve.search.filters import parse_filters
from rag_retrieve.settings import RetrieveSettings
from rag_retrieve.stores import open_stores
from rag_retrieve.stores.base import CLAIMS, INDEXED, MAX_INDEXED, Hit, Point, Sparse, Store, Stores
from rag_retrieve.stores.embedded import collection as edge
from rag_retrieve.stores.embedded.collection import EdgeStore
from rag_retrieve.stores.embedded.database import EdgeStores
from rag_retrieve.stores.qdrant.collection import ServerStore
from rag_retrieve.stores.qdrant.database import ServerStores


def server(url: str, **settings: Any) -> ServerStores:
    """Return the collections of a server that has time enough, unless the settings differ."""
    return ServerStores(url, RetrieveSettings(**{"qdrant_timeout_s": 20, **settings}))


@pytest.fixture(params=["edge", *SERVERS])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stores]:
    """The collections of each store; on a real server under names of the test's own."""
    if request.param == "edge":
        opened: Stores = EdgeStores(tmp_path)
        yield opened
    elif request.param == "double":
        opened = server(request.getfixturevalue("double").url)
        yield opened
    else:
        real = real_qdrant()
        opened = Renamed(real.stores(), real.name)
        yield opened
        real.clean()
    opened.close()


class Renamed:
    """Collections of a server that others use as well: `test-…` has a prefix of this test's own."""

    def __init__(self, stores: ServerStores, prefix: str) -> None:
        self._stores = stores
        self._prefix = f"{prefix}-"

    def names(self) -> list[str]:
        ours = [name for name in self._stores.names() if name.startswith(self._prefix)]
        return [name.removeprefix(self._prefix) for name in ours]

    def __getattr__(self, method: str) -> Any:
        called = getattr(self._stores, method)
        if method == "close":
            return called
        return lambda name, *rest, **options: called(self._prefix + name, *rest, **options)


def uid(number: int) -> str:
    return str(UUID(int=number))


def chunk(number: int, dense: list[float], terms: list[int], **metadata: Any) -> Point:
    payload = {"kind": "chunk", "document_id": f"d{number % 2}", "metadata": metadata}
    return Point(uid(number), payload, dense, Sparse(terms, [1.0] * len(terms)))


def document(number: int) -> Point:
    return Point(uid(1000 + number), {"kind": "document", "document_id": f"d{number}"})


def ids(hits: list[Hit]) -> list[int]:
    return [UUID(hit.id).int for hit in hits]


SIX = [
    chunk(1, [1.0, 0.0], [1, 2], year=2020, dept="hr"),
    chunk(2, [0.0, 2.0], [2, 3], year=2021, dept="it"),
    chunk(3, [3.0, 3.0], [3], year=2022, tags=["a", "b"]),
    chunk(4, [-1.0, 0.0], [4], year=None),
    chunk(5, [1.0, 0.5], [1, 1000000007], dept="hr"),
    chunk(6, [0.5, 1.0], [2]),
]


# -- conformance ------------------------------------------------------------------------------


def test_a_collection_exists_from_create_to_delete(stores: Stores) -> None:
    """Names, existence, manifest; creating twice and opening none are refused."""
    assert "test-a" not in stores.names()
    stores.create("test-a", dim=2, manifest={"v": 1}).close()
    stores.create("test-b.1_x", dim=3).close()
    assert [name for name in stores.names() if name.startswith("test-")] == ["test-a", "test-b.1_x"]
    assert stores.read_manifest("test-a") == {"v": 1}
    assert stores.read_manifest("test-b.1_x") is None
    with pytest.raises(StepError) as twice:
        stores.create("test-a", dim=2)
    assert twice.value.code == "collection_mismatch"
    stores.delete("test-a")
    assert not stores.exists("test-a")
    assert stores.exists("test-b.1_x")
    for call in (stores.open, stores.delete, stores.read_manifest):
        with pytest.raises(StepError) as none:
            call("test-a")
        assert none.value.code == "collection_not_found"


def test_points_come_back_as_written(stores: Stores) -> None:
    """Payloads are equal, vectors too (dense normalised); a second write replaces the first."""
    store = stores.create("test-a", dim=2)
    payload = {"kind": "chunk", "text": "ü\n\u2028", "n": [1, 2.5, None, {"a": True}], "big": 2**62}
    both = Point(
        uid(7), payload, np.array([3.0, 4.0], dtype=np.float32), Sparse([5, 1], [0.5, 2.0])
    )
    store.upsert([both, document(1)])
    found = store.get([uid(7), uid(1001), uid(99)], with_vectors=True)
    assert set(found) == {uid(7), uid(1001)}
    assert found[uid(7)].payload == payload
    assert found[uid(7)].dense == pytest.approx([0.6, 0.8])
    sparse = found[uid(7)].sparse
    assert sparse is not None
    assert dict(zip(sparse.indices, sparse.values, strict=True)) == {5: 0.5, 1: 2.0}
    assert (found[uid(1001)].dense, found[uid(1001)].sparse) == (None, None)
    assert store.get([uid(7)], ["text", "nope"])[uid(7)].payload == {"text": "ü\n\u2028"}
    store.upsert([Point(uid(7), {"kind": "chunk"})])
    again = store.get([uid(7)], with_vectors=True)[uid(7)]
    assert (again.payload, again.dense, again.sparse) == ({"kind": "chunk"}, None, None)


def test_both_legs_are_searched_in_one_call(stores: Stores) -> None:
    """Cosines and BM25-style scores are right; payload-only points are never found."""
    store = stores.create("test-a", dim=2)
    store.upsert([*SIX, document(1), document(2)])
    dense, sparse = store.search(
        [("dense", [2.0, 1.0], 3), ("sparse", Sparse([1, 3], [1.0, 1.0]), 10)]
    )
    assert ids(dense) == [5, 3, 1]
    assert [hit.score for hit in dense] == pytest.approx([1.0, 0.948683, 0.894427], abs=1e-5)
    assert dense[0].payload == SIX[4].payload
    rarity = np.log((6 - 2 + 0.5) / (2 + 0.5) + 1)  # each term is in 2 of 6 passages
    idf = rarity if store.exclusive else 1.0  # a server is given weights that have it
    assert ids(sparse) == [1, 2, 3, 5]
    assert [hit.score for hit in sparse] == pytest.approx([idf] * 4, abs=1e-5)


def test_given_points_are_scored_by_each_leg(stores: Stores) -> None:
    """The scores equal those of a search; a point without a shared term has no sparse score."""
    store = stores.create("test-a", dim=2)
    store.upsert(SIX)
    legs: list[Any] = [("dense", [2.0, 1.0], 1), ("sparse", Sparse([1], [1.0]), 1)]
    dense, sparse = store.score([(legs[0], [uid(4), uid(3)]), (legs[1], [uid(5), uid(6)])])
    assert dense == pytest.approx({uid(4): -0.894427, uid(3): 0.948683}, abs=1e-5)
    [found] = store.search([("sparse", Sparse([1], [1.0]), 5)])
    assert sparse == {hit.id: hit.score for hit in found if hit.id == uid(5)}
    assert store.score([(legs[0], []), (legs[1], [uid(1)])])[0] == {}


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"dept": "hr"}, [1, 5]),
        ({"year": {"$gte": 2021}}, [2, 3]),
        ({"year": None}, [4]),
        ({"tags": {"$in": ["b", "z"]}}, [3]),
        ({"$not": {"dept": "hr"}}, [2, 3, 4, 6]),
    ],
)
def test_a_filter_applies_to_metadata(
    stores: Stores, raw: dict[str, Any], expected: list[int]
) -> None:
    """Filters reach the store; their meaning is tested in `test_filters`."""
    store = stores.create("test-a", dim=2)
    store.upsert(SIX)
    [dense] = store.search([("dense", [1.0, 1.0], 10)], parse_filters(raw))
    assert sorted(ids(dense)) == expected


def test_metadata_fields_get_an_index_when_they_come(stores: Stores) -> None:
    """Texts and numbers, what access lists ask always; kept when opened again, and bounded."""
    store = stores.create("test-indexed", dim=2)
    store.upsert([chunk(1, [1, 0], [1], dept="hr", tags=["a"], long="x" * 300, flag=True)])
    store.upsert([chunk(2, [1, 0], [1], year=2024, **{"a.b": "x", "of two": "y"})])
    first = indexes(store)
    store.close()
    store = stores.open("test-indexed")
    store.upsert([chunk(3, [1, 0], [1], **{f"column {at}": "x" for at in range(MAX_INDEXED)})])

    assert first == {"allowed_groups", "dept", "tags", "year", '"of two"'}
    assert len(indexes(store)) == MAX_INDEXED
    assert ids(store.search([("dense", [1.0, 0.0], 5)], parse_filters({"column 31": "x"}))[0]) == [
        3
    ]
    store.close()


def indexes(store: Store) -> set[str]:
    """Return the metadata fields of a collection with an index, from the store itself."""
    if isinstance(store, EdgeStore):
        schema = store._shard.info().payload_schema
    else:
        of: Any = store
        info = of._server.read(lambda server: server.get_collection(of._remote), store.name)
        schema = info.payload_schema
    return {key.removeprefix("metadata.") for key in schema if key.startswith("metadata.")}


def test_equal_scores_are_cut_by_id(stores: Stores) -> None:
    """Which of many equal hits make the cut does not depend on the order of writing."""
    store = stores.create("test-a", dim=2)
    order = [*range(50, 300), *range(1, 50)]
    store.upsert([chunk(number, [1.0, 1.0], [7]) for number in order])
    dense, sparse = store.search([("dense", [1.0, 0.0], 10), ("sparse", Sparse([7], [1.0]), 5)])
    assert ids(dense) == list(range(1, 11))
    assert ids(sparse) == [1, 2, 3, 4, 5]


def test_scroll_gives_all_of_a_kind_by_id(stores: Stores) -> None:
    """More than a page, in order, with only the fields asked for."""
    store = stores.create("test-a", dim=2)
    numbers = list(np.random.default_rng(0).permutation(1100))
    store.upsert([document(int(number)) for number in numbers])
    store.upsert(SIX)
    points = list(store.scroll({"kind": "document"}, ["document_id"]))
    assert [point.id for point in points] == [uid(1000 + number) for number in range(1100)]
    assert points[3].payload == {"document_id": "d3"}
    assert [p.id for p in store.scroll({"kind": "chunk", "document_id": "d1"})] == [
        uid(number) for number in (1, 3, 5)
    ]
    assert (store.count("document"), store.count("chunk"), store.count("none")) == (1100, 6, 0)


def test_deleted_points_are_gone(stores: Stores) -> None:
    """Deleting is by id, repeatable, in any number; empty calls do nothing."""
    store = stores.create("test-a", dim=2)
    store.upsert([])
    store.delete([])
    store.upsert([document(number) for number in range(600)])
    store.delete([uid(1000 + number) for number in range(599)])
    store.delete([uid(1000), uid(5)])
    assert store.count("document") == 1
    assert store.get([]) == {}


@pytest.mark.parametrize(
    ("dense", "sparse", "code"),
    [
        ([1.0, 2.0, 3.0], None, "collection_mismatch"),
        ([[1.0, 2.0]], None, "collection_mismatch"),
        ([1.0, float("nan")], None, "embedder_bad_response"),
        ([1.0, float("inf")], None, "embedder_bad_response"),
        (None, Sparse([1, 2], [1.0]), "internal_error"),
        (None, Sparse([1], [float("nan")]), "internal_error"),
    ],
)
def test_a_bad_vector_is_refused_before_anything_is_written(
    stores: Stores, dense: Any, sparse: Sparse | None, code: str
) -> None:
    """Wrong length, NaN and infinity never reach the store, nor does the batch they are in."""
    store = stores.create("test-a", dim=2)
    with pytest.raises(StepError) as caught:
        store.upsert([document(1), Point(uid(1), {}, dense, sparse)])
    assert caught.value.code == code
    assert store.count("document") == 0


def test_the_manifest_is_replaced_and_survives(stores: Stores) -> None:
    """What was written last is read; reopening keeps it, and it is no document."""
    store = stores.create("test-a", dim=2)
    stores.write_manifest("test-a", {"v": 1, "old": True})
    stores.write_manifest("test-a", {"v": 2, "deep": {"ü": [1, None]}})
    store.close()
    store = stores.open("test-a")
    assert stores.read_manifest("test-a") == {"v": 2, "deep": {"ü": [1, None]}}
    assert list(store.scroll({"kind": "document"})) == []


def test_the_journal_survives_until_it_is_cleared_or_a_generation_published(
    tmp_path: Path,
) -> None:
    """An embedded collection has one, of the live generation."""
    stores = EdgeStores(tmp_path)
    store = stores.create("test-a", dim=2)
    assert stores.read_journal("test-a") is None
    stores.write_journal("test-a", {"torn": ["d1"]})
    store.close()
    store = stores.open("test-a")
    assert stores.read_journal("test-a") == {"torn": ["d1"]}
    stores.write_journal("test-a", None)
    assert stores.read_journal("test-a") is None
    stores.write_journal("test-a", {"x": 1})
    generation, _ = stores.begin_generation("test-a", 2)
    stores.publish_generation("test-a", generation, {"v": 2})
    assert stores.read_journal("test-a") is None
    stores.close()


def test_a_generation_is_invisible_until_published(stores: Stores) -> None:
    """Then it is the collection, with its manifest and its own dimension."""
    old = stores.create("test-a", dim=2, manifest={"v": 1})
    old.upsert(SIX)
    generation, new = stores.begin_generation("test-a", 3)
    new.upsert([Point(uid(50), {"kind": "chunk"}, [1.0, 2.0, 3.0])])
    assert (old.count("chunk"), new.count("chunk")) == (6, 1)
    assert stores.read_manifest("test-a") == {"v": 1}
    stores.publish_generation("test-a", generation, {"v": 2})
    assert stores.read_manifest("test-a") == {"v": 2}
    new.upsert([Point(uid(51), {"kind": "chunk"}, [1.0, 2.0, 3.0])])
    assert new.count("chunk") == 2
    new.close()
    old.close()
    again = stores.open("test-a")
    assert (again.dim, again.count("chunk")) == (3, 2)


def test_an_abandoned_generation_leaves_no_trace(stores: Stores) -> None:
    """Closed unpublished, it is swept away by the next; the live one was never touched."""
    old = stores.create("test-a", dim=2)
    old.upsert(SIX)
    _, given_up = stores.begin_generation("test-a", 2)
    given_up.upsert(SIX[:2])
    given_up.close()
    _, fresh = stores.begin_generation("test-a", 2)
    assert (old.count("chunk"), fresh.count("chunk")) == (6, 0)


def test_both_stores_find_the_same(tmp_path: Path, double: QdrantDouble) -> None:
    """The same points and questions give the same hits, scores equal to 1e-5.

    The embedded store weighs terms by how rare they are; a server is given weights that say so.
    """
    rng = np.random.default_rng(1)
    points = [
        Point(
            uid(number),
            {"kind": "chunk", "metadata": {"n": number % 7}},
            rng.standard_normal(32).astype(np.float32),
            _terms(rng),
        )
        for number in range(500)
    ]
    counts = [
        TermCounts.of(point.sparse for point in some if point.sparse)
        for some in (points[:100], points[100:])
    ]
    answers = []
    for stores in (EdgeStores(tmp_path), server(double.url)):
        store = stores.create("test-a", dim=32)
        store.upsert(points)
        store.flush()
        question = np.random.default_rng(2)
        legs: list[Any] = [
            leg
            for _ in range(10)
            for leg in (
                ("dense", question.standard_normal(32), 20),
                ("sparse", _terms(question), 20),
            )
        ]
        if not store.exclusive:
            legs = [
                ("sparse", weighed(leg[1], counts), leg[2]) if leg[0] == "sparse" else leg
                for leg in legs
            ]
        answers.append(store.search(legs, parse_filters({"n": {"$lt": 5}})))
        stores.close()
    for left, right in zip(*answers, strict=True):
        assert ids(left) == ids(right)
        assert [h.score for h in left] == pytest.approx([h.score for h in right], abs=1e-5)


def _terms(rng: np.random.Generator) -> Sparse:
    terms = sorted({int(term) for term in rng.integers(0, 200, 20)})
    return Sparse(terms, [float(weight) for weight in rng.uniform(0.1, 2.0, len(terms))])


# -- the embedded store -----------------------------------------------------------------------


def run(script: str, *args: object, **kwargs: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **kwargs)


HOLD = """
import sys
from pathlib import Path
from rag_retrieve.stores.embedded import collection as edge
from rag_retrieve.stores.embedded.collection import EdgeStore
from rag_retrieve.stores.embedded.database import EdgeStores
store = EdgeStores(Path(sys.argv[1])).create("docs", dim=2)
print("open", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_dies(tmp_path: Path) -> None:
    """The refusal names the process and the way out; a killed owner leaves no stale lock."""
    owner = run(HOLD, tmp_path, stdin=subprocess.PIPE)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "open\n"
    stores = EdgeStores(tmp_path)
    for call in (
        lambda: stores.open("docs"),
        lambda: stores.delete("docs"),
        lambda: stores.write_manifest("docs", {}),
        lambda: stores.begin_generation("docs", 2),
    ):
        with pytest.raises(StepError) as caught:
            call()
        assert caught.value.code == "store_locked"
        assert f"process {owner.pid}" in caught.value.message
        assert "RAG_STORE=qdrant" in caught.value.message
    assert stores.names() == ["docs"]
    owner.kill()
    owner.communicate()
    assert stores.open("docs").count("chunk") == 0
    with pytest.raises(StepError, match="already in this process"):
        stores.open("docs")
    stores.close()


WRITER = """
import sys
from pathlib import Path
from uuid import UUID
from rag_retrieve.stores.base import Point, Sparse
from rag_retrieve.stores.embedded import collection as edge
from rag_retrieve.stores.embedded.collection import EdgeStore
from rag_retrieve.stores.embedded.database import EdgeStores
store = EdgeStores(Path(sys.argv[1])).create("docs", dim=4)
for batch in range(10**6):
    numbers = range(batch * 20, batch * 20 + 20)
    store.upsert(
        [
            Point(str(UUID(int=n)), {"kind": "chunk", "n": n}, [1.0, n, 0, 0], Sparse([n % 9], [1.0]))
            for n in numbers
        ]
    )
    print(batch, flush=True)
"""


@pytest.mark.parametrize("batches", [1, 40, 300])
def test_what_was_acknowledged_survives_a_kill(tmp_path: Path, batches: int) -> None:
    """After kill -9 in the middle of writing, every acknowledged batch is whole."""
    writer = run(WRITER, tmp_path)
    assert writer.stdout is not None
    acknowledged = -1
    for line in writer.stdout:
        acknowledged = int(line)
        if acknowledged == batches:
            writer.send_signal(signal.SIGKILL)
    writer.communicate()
    stores = EdgeStores(tmp_path)
    store = stores.open("docs")
    wanted = [uid(number) for number in range((acknowledged + 1) * 20)]
    found = store.get(wanted, with_vectors=True)
    assert set(found) == set(wanted)
    assert all(point.dense is not None and point.sparse is not None for point in found.values())
    assert store.count("chunk") % 20 == 0
    [hits] = store.search([("sparse", Sparse([1], [1.0]), 5)])
    assert len(hits) == 5
    stores.close()


DIE = """
import os, signal, sys
from pathlib import Path
from uuid import UUID
from rag_retrieve.stores.base import Point
from rag_retrieve.stores.embedded import collection as edge
from rag_retrieve.stores.embedded.collection import EdgeStore
from rag_retrieve.stores.embedded.database import EdgeStores
stores = EdgeStores(Path(sys.argv[1]))
live = stores.open("docs")
left = int(sys.argv[2])
def die(event, args):
    global left
    if event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree") or (
        event == "open" and str(args[0]).endswith(".partial")
    ):
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
sys.addaudithook(die)
if sys.argv[3] == "publish":
    generation, new = stores.begin_generation("docs", 2)
    new.upsert([Point(str(UUID(int=n)), {"kind": "chunk"}, [1.0, n]) for n in range(3)])
    stores.publish_generation("docs", generation, {"v": "new"})
elif sys.argv[3] == "delete":
    stores.delete("docs")
else:
    stores.create("other", dim=2, manifest={"v": "new"})
"""


@pytest.mark.parametrize("action", ["publish", "delete", "create"])
def test_dying_before_any_change_of_files_leaves_all_or_nothing(
    tmp_path: Path, action: str
) -> None:
    """Killed before its first, second, ... change of the folder, an action is whole or undone."""
    outcomes = set()
    for left in (0, 1, 2, 3, 4, 1000):
        home = tmp_path / str(left)
        first = EdgeStores(home)
        first.create("docs", dim=2, manifest={"v": "old"}).upsert(SIX)
        first.close()
        died = run(DIE, home, left, action)
        died.communicate()
        stores = EdgeStores(home)
        seen: list[tuple[Any, int]] = []
        for name in stores.names():
            store: Store = stores.open(name)
            seen.append((stores.read_manifest(name), store.count("chunk")))
            folder = home / "collections" / name
            assert len(list(folder.glob("g*"))) == 1
        stores.close()
        outcomes.add(json.dumps(seen))
        if died.returncode == 0:
            break
    old, new = [{"v": "old"}, 6], [{"v": "new"}, 3]
    after = {"publish": [new], "delete": [], "create": [old, [{"v": "new"}, 0]]}
    assert outcomes == {json.dumps([old]), json.dumps(after[action])}


def test_term_statistics_forget_deleted_passages(tmp_path: Path) -> None:
    """Scores are those of a collection that never held what was deleted."""
    stores = EdgeStores(tmp_path)
    store = stores.create("docs", dim=2)
    store.upsert(SIX)
    store.delete([uid(4), uid(6)])
    fresh = stores.create("fresh", dim=2)
    fresh.upsert([point for point in SIX if point.id not in (uid(4), uid(6))])
    leg: Any = ("sparse", Sparse([1, 2, 3], [1.0, 1.0, 1.0]), 10)
    assert store.search([leg]) == fresh.search([leg])
    stores.close()


def test_a_look_up_sees_what_is_left_of_a_term(tmp_path: Path) -> None:
    """A leg with the limit 0 tells whether a passage has a term, also where most that had it are gone."""
    stores = EdgeStores(tmp_path)
    store = stores.create("docs", dim=2)
    store.upsert([chunk(number, [1.0, 0.0], [7]) for number in range(12)])
    look_up: Any = ("sparse", Sparse([7], [1.0]), 0)
    left = []
    for gone in range(12):
        store.delete([uid(gone)])
        left.append(len(store.search([look_up])[0]))
    assert left == [1] * 11 + [0]
    stores.close()


def large(numbers: Iterable[int]) -> list[Point]:
    """Return passages of 32 numbers each, by their number always the same."""
    found = []
    for number in numbers:
        made = np.random.default_rng(number)
        terms = sorted({int(term) for term in made.zipf(1.3, 8) if term < 500})
        found.append(chunk(number, made.normal(size=32).tolist(), terms))
    return found


def everything(store: Store) -> list[list[Hit]]:
    """Return what some questions of both kinds find."""
    dense = [point.dense for point in large(range(10_000, 10_020))]
    legs: list[Any] = [("dense", vector, 20) for vector in dense]
    legs += [("sparse", Sparse([term, term + 1], [1.0, 1.0]), 20) for term in range(1, 20)]
    return store.search(legs)


def is_quantised(store: Any) -> bool:
    """Tell whether dense vectors have a quantised form: only then the engine counts them as indexed."""
    return bool(store._shard.info().indexed_vectors_count > store.count("chunk"))


def test_a_quantised_collection_finds_what_comparing_all_vectors_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Order and scores are those of the vectors themselves, also beside passages added later."""
    monkeypatch.setattr(edge, "QUANTISED_FROM", 300)
    stores = EdgeStores(tmp_path)
    store = stores.create("docs", dim=32)
    points = large(range(1200))
    store.upsert(points[:1000])
    store.flush()
    assert is_quantised(store)
    store.upsert(points[1000:])
    matrix = np.asarray([point.dense for point in points])
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    for question in large(range(10_000, 10_030)):
        [hits] = store.search([("dense", question.dense or [], 20)])
        scores = matrix @ np.asarray(question.dense) / np.linalg.norm(np.asarray(question.dense))
        assert ids(hits) == np.argsort(-scores)[:20].tolist()
        assert [hit.score for hit in hits] == pytest.approx(np.sort(scores)[::-1][:20], abs=1e-6)
    stores.close()


def test_scores_of_a_quantised_collection_do_not_depend_on_its_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After deleting and replacing they are those of a collection made anew, opened again, too."""
    monkeypatch.setattr(edge, "QUANTISED_FROM", 300)
    stores = EdgeStores(tmp_path)
    store = stores.create("docs", dim=32)
    store.upsert(large(range(900)))
    store.flush()
    store.upsert(
        [
            Point(uid(n), p.payload, p.dense, p.sparse)
            for n, p in enumerate(large(range(2000, 2020)))
        ]
    )
    store.delete([uid(number) for number in range(500, 560)])
    store.flush()
    assert is_quantised(store)
    fresh = stores.create("fresh", dim=32)
    fresh.upsert(
        [
            Point(uid(n), p.payload, p.dense, p.sparse)
            for n, p in enumerate(large(range(2000, 2020)))
        ]
    )
    fresh.upsert(large([*range(20, 500), *range(560, 900)]))
    expected = everything(fresh)
    assert everything(store) == expected
    store.close()
    assert everything(stores.open("docs")) == expected
    stores.close()


def test_a_collection_of_an_earlier_version_is_quantised_when_it_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened as it is, it finds the same; the next run of writes brings the quantised form."""
    stores = EdgeStores(tmp_path)
    store = stores.create("docs", dim=32)
    store.upsert(large(range(600)))
    store.flush()
    expected = everything(store)
    store.close()
    monkeypatch.setattr(edge, "QUANTISED_FROM", 300)
    again = stores.open("docs")
    assert everything(again) == expected
    assert not is_quantised(again)
    again.upsert([document(1)])
    again.flush()
    assert is_quantised(again)
    assert everything(again) == expected
    stores.close()


def test_ids_are_those_of_the_engine_whatever_it_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the text of a point does not begin with its id, the id itself is taken."""

    class Scored:
        id = UUID(int=7)
        payload = None

        def __repr__(self) -> str:
            return "ScoredPoint{another form}" + "x" * 60

    assert edge._ids([Scored(), Scored()]) == [uid(7), uid(7)]


def test_searches_go_on_while_the_shard_is_flushed_and_replaced(tmp_path: Path) -> None:
    """Readers in other threads see a whole answer each time, or the store closed; never a crash."""
    stores = EdgeStores(tmp_path)
    store = stores.create("docs", dim=2)
    store.upsert(SIX)
    stop, problems = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            [hits] = store.search([("dense", [1.0, 1.0], 10)])
            if len(hits) != 6:
                problems.append(hits)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(5):
        store.upsert([document(number)])
        store.flush()
    stop.set()
    for reader in readers:
        reader.join()
    store.close()
    store.close()
    assert problems == []
    with pytest.raises(StepError, match="has been closed"):
        store.count("chunk")


def test_threat_unsafe_persistence_folders_belong_to_their_owner_alone(tmp_path: Path) -> None:
    """Folders are made with mode 0700."""
    EdgeStores(tmp_path / "home").create("docs", dim=2).close()
    folders = [f for f in (tmp_path / "home").glob("**/") if "segments" not in f.parts]
    modes = {f.name: f.stat().st_mode & 0o777 for f in folders}
    assert {modes[name] for name in ("home", "collections", "docs", "g1")} == {0o700}


@pytest.mark.parametrize("where", ["collections", "collections/docs"])
@pytest.mark.parametrize("change", ["mode 770", "mode 702", "owner"])
def test_threat_unsafe_persistence_a_folder_others_can_write_is_refused(
    tmp_path: Path, where: str, change: str
) -> None:
    """Whoever can write the store decides what is answered: not opened, and how to mend it."""
    stores = EdgeStores(tmp_path)
    stores.create("docs", dim=2, manifest={"v": 1}).close()
    folder = tmp_path / where
    if change == "owner":
        if os.geteuid():
            pytest.skip("giving a folder away needs root")
        os.chown(folder, 12345, -1)
        said = ("user 12345", "chown -R")
    else:
        if change == "mode 770":
            if os.geteuid():
                pytest.skip("giving a folder to another group needs root")
            os.chown(folder, -1, 12345)
        folder.chmod(int(change.split()[1], 8))
        said = (change, "chmod -R go-w")
    for call in (
        lambda: stores.open("docs"),
        lambda: stores.delete("docs"),
        lambda: stores.write_manifest("docs", {"v": 2}),
    ):
        with pytest.raises(StepError) as caught:
            call()
        assert caught.value.code == "misconfigured"
        assert all(part in caught.value.message for part in (*said, str(folder)))
    os.chown(folder, os.geteuid(), os.getegid())
    folder.chmod(0o770)  # our own group may
    stores.open("docs").close()


BOMB = """
import os, pickle, sys, threading
from pathlib import Path
class Bomb:
    def __reduce__(self):
        return (open, (sys.argv[2], "w"))
home = Path(sys.argv[1])
bomb = pickle.dumps(Bomb())
loaded = []
sys.addaudithook(lambda event, args: loaded.append(args) if event == "pickle.find_class" else None)
from rag_kit.errors import StepError
from rag_retrieve.stores.base import Point
from rag_retrieve.stores.embedded import collection as edge
from rag_retrieve.stores.embedded.collection import EdgeStore
from rag_retrieve.stores.embedded.database import EdgeStores
def use():
    stores = EdgeStores(home)
    try:
        for name in stores.names():
            store = stores.open(name)
            stores.read_journal(name)
            store.search([("dense", [1.0, 0.0], 3)])
            store.upsert([Point("00000000-0000-0000-0000-000000000007", {"kind": "chunk"}, [1.0, 2.0])])
            store.flush()
            print("used", flush=True)
    except StepError as error:
        print(error.code, flush=True)
    finally:
        stores.close()
folder = home / "collections/docs"
for name in ("storage.sqlite", "meta.pkl", "g1/segments.pkl", "g1/payload.pickle"):
    (folder / name).write_bytes(bomb)
use()
for file in (folder / "journal.json", folder / "manifest.json", folder / "g1/edge_config.json"):
    kept = file.read_bytes() if file.exists() else b"{}"
    file.write_bytes(bomb)
    use()
    file.write_bytes(kept)
print(loaded)
"""


def test_threat_unsafe_persistence_a_pickle_is_never_unpickled(tmp_path: Path) -> None:
    """Pickled code in the store's folder, beside its files and in place of them, does not run."""
    stores = EdgeStores(tmp_path)
    stores.create("docs", dim=2, manifest={"v": 1}).upsert(SIX)
    stores.close()

    out, err = run(BOMB, tmp_path, tmp_path / "exploded").communicate()

    assert out.splitlines() == ["used", *["store_corrupt"] * 3, "[]"], err
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "manifest.json").write_text("{"),
        lambda folder: (folder / "manifest.json").write_text("[]"),
        lambda folder: (folder / "manifest.json").write_text("{}"),
        lambda folder: (folder / "g1").rename(folder / "elsewhere"),
        lambda folder: (folder / "g1" / "edge_config.json").write_text("{"),
    ],
)
def test_a_damaged_collection_is_named_and_can_be_deleted(tmp_path: Path, damage: Any) -> None:
    """`store_corrupt` with the path and the way out; deleting works."""
    stores = EdgeStores(tmp_path)
    stores.create("docs", dim=2).close()
    damage(tmp_path / "collections" / "docs")
    with pytest.raises(StepError) as caught:
        stores.open("docs")
    assert caught.value.code == "store_corrupt"
    assert str(tmp_path) in caught.value.message
    assert "rag collections delete" in caught.value.message
    stores.delete("docs")
    assert stores.names() == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=192m", "tmpfs", str(folder)], capture_output=True
    )
    if mount.returncode:
        pytest.skip("a small disk needs the right to mount one")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_refuses_writes_and_still_answers(small_disk: Path) -> None:
    """The write that does not fit is refused whole; searching, deleting and reopening work."""
    stores = EdgeStores(small_disk, reserve=96 << 20)
    store = stores.create("docs", dim=64)
    written = 0
    with pytest.raises(StepError) as caught:
        for written in range(0, 10**6, 100):
            store.upsert(
                [
                    Point(uid(n), {"kind": "chunk", "text": uuid4().hex * 20}, [1.0] * 64)
                    for n in range(written, written + 100)
                ]
            )
    assert caught.value.code == "storage_full"
    assert "MiB free" in caught.value.message
    assert store.count("chunk") == written
    [hits] = store.search([("dense", [1.0] * 64, 5)])
    assert len(hits) == 5
    store.delete([uid(0)])
    store.flush()
    store.close()
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(b"0" * 4096)
    with pytest.raises(StepError) as manifest:
        stores.write_manifest("docs", {"v": "x" * 10000})
    assert manifest.value.code == "storage_full"
    with pytest.raises(StepError) as reopened:
        stores.open("docs")
    assert reopened.value.code == "storage_full"
    filler.unlink()
    assert stores.open("docs").count("chunk") == written - 1
    stores.close()


# -- the server store -------------------------------------------------------------------------


def raised(stores: Stores) -> StepError:
    with pytest.raises(StepError) as caught:
        stores.open("docs").search([("dense", [1.0, 1.0], 3)])
    return caught.value


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ({"status": 401}, "retriever_misconfigured"),
        ({"status": 403}, "retriever_misconfigured"),
        ({"status": 500}, "retriever_unavailable"),
        ({"status": 429}, "retriever_unavailable"),
        ({"status": 302}, "retriever_bad_response"),
        ({"html": True}, "retriever_bad_response"),
        ({"nan": True}, "retriever_bad_response"),
        ({"drop": 4}, "retriever_unavailable"),
    ],
)
def test_a_failing_server_is_told_apart(
    double: QdrantDouble, fault: dict[str, Any], code: str
) -> None:
    """Each fault has its code; no message shows the key or the host."""
    double.api_key = "sesame-1234"
    stores = server(double.url, qdrant_api_key="sesame-1234")
    stores.create("docs", dim=2).upsert(SIX)
    for name, value in fault.items():
        setattr(double.faults, name, value)
    error = raised(stores)
    assert error.code == code
    assert "sesame" not in error.message
    assert "127.0.0.1" not in error.message
    stores.close()


def test_a_wrong_key_is_misconfiguration(double: QdrantDouble) -> None:
    """The message says which setting, never the key."""
    double.api_key = "right"
    stores = server(double.url, qdrant_api_key="wrong-key")
    with pytest.raises(StepError) as caught:
        stores.names()
    assert caught.value.code == "retriever_misconfigured"
    assert "RAG_QDRANT_API_KEY" in caught.value.message
    assert "wrong-key" not in caught.value.message
    stores.close()


def test_a_read_is_tried_twice_and_a_write_once(double: QdrantDouble) -> None:
    """One lost connection does not hurt a search; an upsert is the caller's to repeat."""
    stores = server(double.url)
    store = stores.create("docs", dim=2)
    store.upsert(SIX)
    double.requests.clear()
    double.faults.drop = 1
    assert len(store.search([("dense", [1.0, 1.0], 3)])[0]) == 3
    assert double.requests == ["POST /collections/rag_docs/points/query/batch"] * 2
    double.requests.clear()
    double.faults.drop = 1
    with pytest.raises(StepError) as caught:
        store.upsert(SIX)
    assert caught.value.code == "retriever_unavailable"
    assert double.requests == ["PUT /collections/rag_docs/points"]
    stores.close()


def test_a_cluster_that_notices_a_lost_node_gets_the_write_again(double: QdrantDouble) -> None:
    """It fails inside (500), or its first node is not there: the write is repeated, and is made once."""
    stores = server(double.url)
    store = stores.create("docs", dim=2)
    statuses = [500, None]
    double.faults.before = lambda _: setattr(double.faults, "status", statuses.pop(0))
    double.requests.clear()
    store.upsert([document(1)])
    assert double.requests == ["PUT /collections/rag_docs/points"] * 2
    double.faults.before = None
    stores.close()
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        lost = f"http://127.0.0.1:{unheard.getsockname()[1]}"
    stores = server(f"{lost}, {double.url}")
    ServerStore(stores._server, name="docs", remote="rag_docs", dim=2).upsert(SIX)
    assert stores.open("docs").count("chunk") == len(SIX)
    stores.close()


def test_points_that_one_request_cannot_hold_are_written_by_several(double: QdrantDouble) -> None:
    """A request stays below what the server takes at once, whatever the points hold."""
    stores = server(double.url, qdrant_max_request_mb=1)
    store = stores.create("docs", dim=2)
    large = [
        Point(uid(n), {"kind": "document", "text": "ä\n" * 100_000, "metadata": {}})
        for n in range(7)
    ]
    sizes: list[int] = []
    double.faults.sizes = sizes
    store.upsert([*large, document(1)])
    assert len(sizes) == 4 and max(sizes) < 2**20
    assert store.count("document") == 8
    stores.close()


def test_a_slow_server_is_a_deadline(double: QdrantDouble) -> None:
    """A search that takes longer than the timeout ends with the deadline's code."""
    patient, stores = server(double.url), server(double.url, qdrant_timeout_s=0.2)
    patient.create("docs", dim=2)
    patient.close()
    double.faults.hold = threading.Event()
    assert raised(stores).code == "deadline_exceeded"
    double.faults.hold.set()
    stores.close()


def test_nobody_listening_is_unavailable() -> None:
    """A refused connection is `retriever_unavailable`; a URL that is none, misconfiguration."""
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        port = unheard.getsockname()[1]
    stores = server(f"http://127.0.0.1:{port}")
    assert raised(stores).code == "retriever_unavailable"
    stores.close()
    with pytest.raises(StepError) as caught:
        server("ht!tp://nowhere:port").names()
    assert caught.value.code == "retriever_misconfigured"


def test_searching_is_one_round_trip(double: QdrantDouble) -> None:
    """Both legs with payloads cost one request."""
    stores = server(double.url)
    store = stores.create("docs", dim=2)
    store.upsert(SIX)
    double.requests.clear()
    store.search([("dense", [1.0, 1.0], 3), ("sparse", Sparse([1], [1.0]), 3)])
    assert len(double.requests) == 1
    stores.close()


def test_an_open_store_follows_a_swap_made_elsewhere(double: QdrantDouble) -> None:
    """Another process reindexes; this one reads the new generation through the alias."""
    here, there = server(double.url), server(double.url)
    store = here.create("docs", dim=2)
    store.upsert(SIX)
    generation, new = there.begin_generation("docs", 2)
    new.upsert(SIX[:2])
    there.publish_generation("docs", generation, {"v": 2})
    assert store.count("chunk") == 2
    assert list(double.collections) == ["rag~locks", "rag_docs~g2"]
    here.close()
    there.close()


def test_payload_fields_are_indexed_on_the_server(double: QdrantDouble) -> None:
    """What filters name has a keyword index, so that a server in strict mode takes them."""
    stores = server(double.url)
    stores.create("docs", dim=2)
    assert double.collections["rag_docs~g1"].indexed == [*INDEXED, *CLAIMS]
    stores.close()


# -- choosing ---------------------------------------------------------------------------------


def test_the_store_is_chosen_by_the_settings(tmp_path: Path) -> None:
    """Embedded by default, without importing the client; a server needs a URL."""
    assert isinstance(open_stores(RetrieveSettings(home=tmp_path)), EdgeStores)
    with pytest.raises(StepError) as caught:
        open_stores(RetrieveSettings(home=tmp_path, store="qdrant", qdrant_url=None))
    assert caught.value.code == "retriever_misconfigured"
    server = RetrieveSettings(home=tmp_path, store="qdrant", qdrant_url="http://127.0.0.1:1")
    opened = open_stores(server)
    assert isinstance(opened, ServerStores)
    opened.close()
    loaded = (
        "import sys; from pathlib import Path; from rag_retrieve import Retriever, RetrieveSettings; "
        "Retriever(RetrieveSettings(home=Path(sys.argv[1]))).close(); "
    )
    clients = "{'httpx', 'httpx2', 'openai', 'qdrant_client'}"
    checked = run(f"{loaded}print({clients} & set(sys.modules))", tmp_path)
    assert checked.communicate()[0] == "set()\n", "each costs time at every start"
