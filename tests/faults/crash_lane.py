"""Kills an ingest again and again, at named and at random moments, and looks what is left.

    python tests/faults/crash_lane.py --kills 10000 --seed 7 --minutes 60

A round: a process forked from one that has loaded everything works on a collection, by
operations that follow from the round's seed, and says after each what it was told is done. It
is killed. Then the store is opened as after a restart: what was done is there, each document is
one whole version of those that were submitted, and finishing the work gives what an ingest into
an empty store gives. The store stays for the next round. The Qdrant server is a double in this
process; a kill hits its client alone.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import random
import select
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "dagger/retrieve/tests"))

from crash_kit import SERVER_STEPS, STEPS, HashedWords, whole  # noqa: E402
from qdrant_client import QdrantClient  # noqa: E402
from qdrant_double import QdrantDouble  # noqa: E402

import rag_retrieve.index.ingest  # noqa: E402
import rag_retrieve.index.shared  # noqa: E402
import rag_retrieve.retriever  # noqa: E402
import rag_retrieve.stores.base  # noqa: E402
import rag_retrieve.stores.qdrant.database  # noqa: E402  # before the forks, not in each
from rag_retrieve import (  # noqa: E402
    Retriever,
    RetrieveRequest,
    RetrieveSettings,
    StepError,
)
from rag_retrieve.index.embedders import open_embedder  # noqa: E402

STORES = ("embedded", "server")
FILES = {"making": "os.mkdir", "renaming": "os.rename", "removing": "shutil.rmtree"}
REQUESTS = ("received", "applied")  # moments of a writing request, seen by the server
OFTEN = {"renaming": 10, "received": 25, "applied": 25, "making": 2, "removing": 2}  # others: 4
LONGEST_S = 0.25  # random kills come within this time
LATEST_S = 20.0  # a named moment that has not come is no longer waited for
FRESH_EVERY = 10  # rounds whose outcome is also compared with an ingest into an empty store
NAMES = [f"{letter}.txt" for letter in "abcdefgh"]


@dataclass(frozen=True)
class Strike:
    """When the process is killed: the n-th time a moment comes, or after seconds."""

    moment: str
    occurrence: int = 1
    after_s: float = 0.0


@dataclass(frozen=True)
class Operation:
    """What the process does next, and the texts by document id once it is done."""

    kind: str
    files: dict[str, str]
    after: dict[str, str]


@dataclass
class Tally:
    """What was killed and what was found."""

    kills: Counter[str] = field(default_factory=Counter)
    done: int = 0  # operations and commits that were acknowledged
    fresh: int = 0
    restarts_s: dict[str, list[float]] = field(default_factory=lambda: {one: [] for one in STORES})

    def lines(self) -> Iterator[str]:
        for name, count in sorted(self.kills.items()):
            yield f"  {name}: {count}"
        yield f"acknowledged: {self.done}; compared with a fresh ingest: {self.fresh}"
        for store, times in self.restarts_s.items():
            if times:
                times = sorted(times)
                p50, p99 = (times[int(part * (len(times) - 1))] * 1000 for part in (0.5, 0.99))
                yield (
                    f"{store}: open, recover, first answer: p50 {p50:.0f}, p99 {p99:.0f}, "
                    f"max {times[-1] * 1000:.0f} ms"
                )


class LostError(AssertionError):
    """A round found what must not be."""


# -- what is done ---------------------------------------------------------------------------


def operations(rng: random.Random, texts: dict[str, str]) -> Iterator[Operation]:
    """Give operations without end, beginning at a collection of these texts."""
    while True:
        kind = rng.choices(["ingest", "prune", "delete", "reindex", "drop"], [8, 4, 2, 3, 2])[0]
        files = {}
        if kind in ("ingest", "prune"):
            chosen = rng.sample(NAMES, rng.randint(2, 6))
            files = {f"notes/{name}": _text(rng, name, texts) for name in sorted(chosen)}
            after = {**({} if kind == "prune" else texts), **files}
        elif kind == "delete":
            gone = rng.sample(sorted(texts), min(len(texts), rng.randint(1, 3)))
            files = dict.fromkeys(gone, "")
            after = {name: text for name, text in texts.items() if name not in gone}
        else:
            after = {} if kind == "drop" else texts
        yield Operation(kind, files, after)
        texts = after


def _text(rng: random.Random, name: str, texts: dict[str, str]) -> str:
    old = texts.get(f"notes/{name}")
    if old and rng.random() < 0.2:
        return old
    mark = rng.randrange(10**9)
    long = rng.random() < 0.05
    return "\n\n".join(
        f"{name} of release {mark}, part {part}: " + f"rule {mark % 97} and part {part} hold. " * 4
        for part in range(rng.randint(60, 90) if long else rng.randint(1, 9))
    )


def work(
    retriever: Retriever, operation: Operation, folder: Path, say: Callable[..., None]
) -> None:
    """Do one operation; `say` is told what the product acknowledges."""
    if operation.kind in ("ingest", "prune"):
        notes = folder / "notes"
        shutil.rmtree(notes, ignore_errors=True)
        notes.mkdir(parents=True)
        for name, text in operation.files.items():
            (folder / name).write_text(text)
        retriever.ingest(
            [notes],
            prune=operation.kind == "prune",
            progress=lambda at: say(committed=at.done),
        )
        return
    try:
        if operation.kind == "delete":
            retriever.delete_documents("default", list(operation.files))
        elif operation.kind == "reindex":
            retriever.reindex("default")
        else:
            retriever.delete_collection("default")
    except StepError as error:
        if error.code != "collection_not_found":  # it was dropped before
            raise


def load_once() -> None:
    """Keep what every retriever loads anew, and no round is about: tokenizer and certificates."""
    if not hasattr(ssl.create_default_context, "cache_info"):
        retriever = rag_retrieve.retriever
        retriever.load_tokenizer = functools.lru_cache(retriever.load_tokenizer)
        retriever.load_tokenizer(retriever.tokenizer_path())
        ssl.create_default_context = functools.lru_cache(ssl.create_default_context)
        QdrantClient("http://127.0.0.1:1", check_compatibility=False).close()


def opened(home: Path, url: str | None, minilm: Any, **more: Any) -> Retriever:
    server = {"store": "qdrant", "qdrant_url": url, "qdrant_timeout_s": 30} if url else {}
    settings = RetrieveSettings(home=home, chunk_tokens=32, chunk_overlap_tokens=4, **server)
    return Retriever(settings, embedder=minilm or HashedWords(), **more)


# -- the process that is killed -----------------------------------------------------------------


def forks(reads: Any, writes: int) -> None:
    """Fork a process for each line read, kill it when it is time, and tell how it ended."""
    load_once()
    rag_retrieve.index.ingest.COMMIT_DOCUMENTS = 2  # so that a few documents are several commits,
    rag_retrieve.index.ingest.CHECKPOINT_COMMITS = 2  # and several checkpoints,
    rag_retrieve.stores.base.BATCH = 8  # and a document several operations
    for line in reads:
        given = json.loads(line)
        strike = Strike(**given["strike"])
        pid = os.fork()
        if not pid:
            try:
                _victim(given, strike, writes)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        os.write(writes, (json.dumps({"pid": pid}) + "\n").encode())
        watched = os.pidfd_open(pid)
        late = not select.select([watched], [], [], strike.after_s or LATEST_S)[0]
        if late:
            os.kill(pid, signal.SIGKILL)
        os.close(watched)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.write(writes, (json.dumps({"ended": status, "late": late}) + "\n").encode())


def _victim(given: dict[str, Any], strike: Strike, writes: int) -> None:
    seen = 0

    def at(moment: str) -> None:
        nonlocal seen
        if moment == strike.moment:
            seen += 1
            if seen == strike.occurrence:
                os.kill(os.getpid(), signal.SIGKILL)

    def say(**told: int) -> None:
        os.write(writes, (json.dumps(told) + "\n").encode())

    if strike.moment in FILES:
        event, inside = FILES[strike.moment], f"{given['home']}/store/"
        sys.addaudithook(
            lambda name, args: (
                at(strike.moment) if name == event and str(args[0]).startswith(inside) else None
            )
        )
    minilm = open_embedder(RetrieveSettings()) if given["minilm"] else None
    home = Path(given["home"])
    retriever = opened(home / "store", given["url"], minilm, on_step=at)
    for operation in operations(random.Random(given["seed"]), given["texts"]):
        say(begun=1)
        work(retriever, operation, home / "files", say)
        say(done=1)


class Forks:
    """The process that forks those to be killed; it never opens a store, so it has one thread."""

    def __init__(self) -> None:
        read, write = os.pipe()
        kits = [str(ROOT / "dagger/retrieve/tests"), str(ROOT / "tests/faults")]
        path = os.pathsep.join([*kits, *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"import crash_lane, sys; crash_lane.forks(sys.stdin, {write})"],
            stdin=subprocess.PIPE,
            pass_fds=[write],
            env={**os.environ, "PYTHONPATH": path},
            text=True,
        )
        os.close(write)
        self._told = os.fdopen(read)

    def run(self, given: dict[str, Any], on_pid: Callable[[int], None]) -> Iterator[dict[str, int]]:
        """Yield what the process says until it has ended."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{json.dumps(given)}\n")
        self._process.stdin.flush()
        for line in self._told:
            told = json.loads(line)
            if "pid" in told:
                on_pid(told["pid"])
            else:
                yield told
            if "ended" in told:
                return
        raise RuntimeError("the process that forks has died")

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._told.close()


class StrikingDouble(QdrantDouble):
    """A double that kills its client at the n-th write: when it came, or when it was done."""

    def __init__(self) -> None:
        super().__init__()
        self.strike: Strike | None = None
        self.victim = threading.Event()
        self.pid = 0
        self._writes = 0
        self._server.handle_error = lambda *_: None  # a killed client resets its connection

    def begin(self, strike: Strike | None) -> None:
        """Wait for a client to be killed, or for none."""
        self.victim.clear()
        self._writes, self.strike = 0, strike
        self.requests.clear()

    def quiet(self) -> None:
        """Return when nothing that the killed client sent is still on its way."""
        deadline = time.monotonic() + 30
        while any("process_request" in thread.name for thread in threading.enumerate()):
            assert time.monotonic() < deadline, "the server still answers the killed client"
            time.sleep(0.001)
        self.begin(None)

    def answer(self, method: str, path: str, body: Any) -> Any:
        """Return the `result` of one request; the client may be killed before or after it."""
        strike = self.strike
        writing = method in ("PUT", "DELETE") or path.endswith(("/delete", "/aliases"))
        if strike is None or strike.moment not in REQUESTS or not writing:
            return super().answer(method, path, body)
        self._writes += 1
        if self._writes == strike.occurrence and strike.moment == "received":
            self._kill()
        result = super().answer(method, path, body)
        if self._writes == strike.occurrence and strike.moment == "applied":
            self._kill()
        return result

    def _kill(self) -> None:
        self.victim.wait(10)
        os.kill(self.pid, signal.SIGKILL)


# -- rounds -------------------------------------------------------------------------------------


@dataclass
class Lane:
    """Both stores under one folder, and the rounds over them."""

    folder: Path
    minilm: Any = None
    tally: Tally = field(default_factory=Tally)

    def __enter__(self) -> Lane:
        load_once()
        self._stack = contextlib.ExitStack()
        self._forks = Forks()
        self._stack.callback(self._forks.close)
        self._double = self._stack.enter_context(StrikingDouble())
        self._texts: dict[str, dict[str, str]] = {store: {} for store in STORES}
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def round(self, seed: int, *, texts: dict[str, str] | None = None) -> None:
        """Kill once, as the seed says, and check; `texts` are stored before."""
        rng = random.Random(seed)
        store = rng.choice(STORES)
        strike = choose(rng, store)
        if texts is not None:
            self._settle(store, Operation("prune", texts, texts))
        before = self._texts[store]
        try:
            acknowledged, begun, late = self._strike(seed, store, strike)
            self._check(seed, store, acknowledged, begun)
        except Exception as error:
            path = self.folder.parent / f"crash-round-{seed}.json"
            path.write_text(json.dumps(before))
            raise LostError(
                f"{store}, killed at {strike}: {type(error).__name__}: {error}; again: "
                f"{sys.executable} tests/faults/crash_lane.py --round {seed} --texts {path}"
                + (" --minilm" if self.minilm else "")
            ) from error
        where = "random" if late else strike.moment
        self.tally.kills[f"{store} {where}"] += 1

    def _url(self, store: str) -> str | None:
        return self._double.url if store == "server" else None

    def _home(self, store: str) -> Path:
        return self.folder / store

    def _open(self, store: str, name: str = "store") -> Retriever:
        return opened(self._home(store) / name, self._url(store), self.minilm)

    def _strike(
        self, seed: int, store: str, strike: Strike
    ) -> tuple[dict[str, str], dict[str, str], bool]:
        """Run one process until it is killed.

        Returns: what is surely there, what may be, and whether it was killed from outside.
        """
        self._double.begin(strike)
        todo = operations(random.Random(seed), self._texts[store])
        acknowledged = target = self._texts[store]
        given = {
            "home": str(self._home(store)),
            "url": self._url(store),
            "seed": seed,
            "texts": self._texts[store],
            "strike": asdict(strike),
            "minilm": self.minilm is not None,
        }

        def on_pid(pid: int) -> None:
            self._double.pid = pid
            self._double.victim.set()

        for told in self._forks.run(given, on_pid):
            if "begun" in told:
                operation = next(todo)
                target = operation.after
            elif "committed" in told:
                done = dict(list(operation.files.items())[: told["committed"]])
                acknowledged = {**acknowledged, **done}
                self.tally.done += 1
            elif "done" in told:
                acknowledged = target
                self.tally.done += 1
            elif told["ended"] != -signal.SIGKILL:
                raise LostError(f"it ended by itself with {told['ended']}")
        self._double.quiet()
        return acknowledged, target, bool(told["late"])

    def _check(
        self, seed: int, store: str, acknowledged: dict[str, str], target: dict[str, str]
    ) -> None:
        began = time.perf_counter()
        with self._open(store) as retriever:
            found: dict[str, str] = {}
            if retriever.collections():
                retriever.retrieve(RetrieveRequest(query="rule and part hold"))
                self.tally.restarts_s[store].append(time.perf_counter() - began)
                found = visible(retriever)
                if store == "embedded":
                    assert found == whole(retriever)
            for name in {*acknowledged, *target, *found}:
                allowed = (acknowledged.get(name), target.get(name))
                if found.get(name) not in allowed:
                    lost = name in acknowledged and name not in found
                    raise LostError(f"{name}: {'lost' if lost else 'a version nobody submitted'}")
            work(retriever, Operation("prune", target, target), self._home(store) / "files", _mute)
            assert whole(retriever) == target, "finishing the work gives something else"
            self._texts[store] = target
            if seed % FRESH_EVERY == 0:
                self._compare(store, retriever.collections()[0].corpus_digest, target)

    def _compare(self, store: str, digest: str, texts: dict[str, str]) -> None:
        """Ingest into an empty store, and expect the same digest."""
        fresh = self._home(store) / "fresh"
        with opened(fresh, None, self.minilm) as retriever:
            work(retriever, Operation("prune", texts, texts), self._home(store) / "files", _mute)
            assert retriever.collections()[0].corpus_digest == digest, "another digest"
        shutil.rmtree(fresh)
        self.tally.fresh += 1

    def _settle(self, store: str, operation: Operation) -> None:
        with self._open(store) as retriever:
            work(retriever, operation, self._home(store) / "files", _mute)
        self._texts[store] = operation.after


def _mute(**told: int) -> None:
    """Say nothing."""


def visible(retriever: Retriever) -> dict[str, str]:
    """Return the documents as callers see them, after checking that each is whole."""
    collection = retriever._collection("default")
    texts, seen = {}, Counter[tuple[str, str]]()
    for page in collection.passages(500):
        seen.update((p.payload["document_id"], p.payload["version"]) for p in page)
    for record in (point.payload for point in collection._store.scroll({"kind": "document"})):
        found = seen.pop((record["document_id"], record["content_hash"]), 0)
        assert found == record["chunks"], f"{record['document_id']} is torn: {found} passages"
        texts[record["document_id"]] = record["text"]
    assert not seen, f"phantoms: {seen}"
    return texts


def choose(rng: random.Random, store: str) -> Strike:
    """Choose a moment: a third of them at random times, the others named."""
    if rng.random() < 1 / 3:
        return Strike("", after_s=rng.uniform(0.002, LONGEST_S))
    moments = [*STEPS, *FILES] if store == "embedded" else [*SERVER_STEPS, *REQUESTS]
    moment = rng.choice(moments)
    return Strike(moment, rng.randint(1, OFTEN.get(moment, 4)))


def run(
    lane: Lane,
    kills: int,
    seed: int,
    *,
    until: float = float("inf"),
    told: Callable[[str], None] = lambda text: None,
) -> None:
    """Make so many rounds, or as many as fit."""
    rng = random.Random(seed)
    for number in range(kills):
        lane.round(rng.randrange(2**31))
        if time.monotonic() > until:
            return
        if number % 100 == 99:
            told(f"{number + 1} kills, none lost, none torn")


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def memory() -> Path | None:
    """Return where writing costs little: a killed process takes no page cache with it."""
    shared = Path("/dev/shm")
    return shared if os.access(shared, os.W_OK) else None


def main() -> int:
    """Run rounds from the command line; returns 1 when one of them lost something."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    parser.add_argument("--minutes", type=float, default=60, help="end after this time")
    parser.add_argument("--folder", type=Path, help="where the stores are made")
    parser.add_argument("--minilm", action="store_true", help="with the packaged model")
    parser.add_argument("--round", type=int, help="the one round of this seed")
    parser.add_argument("--texts", type=Path, help="what is stored before that round (JSON)")
    options = parser.parse_args()
    say(f"seed {options.seed}")
    where = options.folder or memory()
    with tempfile.TemporaryDirectory(prefix="crash-lane-", dir=where) as folder:
        minilm = open_embedder(RetrieveSettings()) if options.minilm else None
        with Lane(Path(folder), minilm) as lane:
            try:
                if options.round is not None:
                    texts = json.loads(options.texts.read_text()) if options.texts else {}
                    lane.round(options.round, texts=texts)
                else:
                    until = time.monotonic() + 60 * options.minutes
                    run(lane, options.kills, options.seed, until=until, told=say)
            except LostError as error:
                say(f"LOST: {error}")
                return 1
            finally:
                say("\n".join([f"kills: {lane.tally.kills.total()}", *lane.tally.lines()]))
    say("lost 0, torn 0, phantom 0")
    return 0


if __name__ == "__main__":
    sys.exit(main())
