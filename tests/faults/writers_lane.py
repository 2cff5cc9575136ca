"""Kills processes that write to one collection of a Qdrant server side by side, one of them reindexing.

    python tests/faults/writers_lane.py --writers 8 --kills 1000 --seed 7 --minutes 60

Each writer indexes and deletes documents of its own and documents that all of them write; one also
reindexes. It says what it begins and what it was told is done. One after the other is killed at a
random moment, and another takes its place. At the end each document of a writer's own is what was
acknowledged last, or what was being written when it was killed; a document of all is one whole
version that somebody submitted; no passage is stray, and the manifest equals a count. The server is
the double in this process, or --url.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "dagger/retrieve/tests"))

from crash_kit import whole  # noqa: E402
from crash_lane import LostError, load_once, opened, say  # noqa: E402
from qdrant_double import QdrantDouble  # noqa: E402

from rag_retrieve import LoadedDocument, Retriever, StepError  # noqa: E402

OWN, COMMON = 6, 4  # documents of each writer, and of all
LONGEST_S = 0.5  # a writer is killed within this time after somebody has got on
SETTLE_S = 120  # the longest that what is left may take to be settled


def document(name: str, mark: int) -> LoadedDocument:
    """Return a document whose text, of one to four passages, follows from its mark."""
    parts = [
        f"{name} of mark {mark}, part {part}. " + "Words. " * 20 for part in range(1 + mark % 4)
    ]
    return LoadedDocument(name, "", name, "\n\n".join(parts), "text/plain")


# -- a writer ---------------------------------------------------------------------------------


def forks(reads: Any, writes: int) -> None:
    """Start a writer for each line with `number`, kill and reap one for each line with `kill`."""
    load_once()
    for line in reads:
        given = json.loads(line)
        if "kill" in given:
            os.kill(given["kill"], signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(given["kill"], 0)[1])
            tell(writes, ended=status, number=given["number"])
            continue
        pid = os.fork()
        if not pid:
            try:
                write_for_ever(given, writes)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        tell(writes, pid=pid, number=given["number"])


def tell(writes: int, **told: Any) -> None:
    os.write(writes, (json.dumps(told) + "\n").encode())  # shorter than a pipe's atomic write


def write_for_ever(given: dict[str, Any], writes: int) -> None:
    """Do one operation after the other; `begin` and `done` say what and when."""
    number, rng = given["number"], random.Random(given["seed"])
    names = [f"w{number}-{n}" for n in range(OWN)] + [f"all-{n}" for n in range(COMMON)]
    retriever = opened(Path(given["home"]), given["url"], None)
    while True:
        chosen = rng.sample(names, rng.randint(1, 4))
        kind = rng.choices(["index", "delete", "reindex"], [6, 2, 2 if number == 0 else 0])[0]
        marks: dict[str, int | None] = {}
        if kind == "index":
            marks = {name: rng.randrange(10**6) for name in chosen}
        elif kind == "delete":
            marks = {name: None for name in chosen if name.startswith("w")}
        tell(writes, begin=marks, number=number)
        try:
            act(retriever, kind, marks)
        except StepError as error:
            if error.code not in ("in_progress", "collection_not_found"):
                raise
            tell(writes, refused=error.code, number=number)
        else:
            tell(writes, done=kind, number=number)


def act(retriever: Retriever, kind: str, marks: dict[str, int | None]) -> None:
    if kind == "index":
        documents = [document(name, mark) for name, mark in marks.items() if mark is not None]
        retriever.ingest_documents(documents)
    elif kind == "delete":
        retriever.delete_documents("default", list(marks))
    else:
        retriever.reindex("default")


# -- what may be there ------------------------------------------------------------------------


@dataclass
class Book:
    """Which marks each document may have; None: it is not there."""

    allowed: dict[str, set[int | None]] = field(default_factory=dict)
    pending: dict[int, dict[str, int | None]] = field(default_factory=dict)
    told: Counter[str] = field(default_factory=Counter)
    alive: set[int] = field(default_factory=set)
    changed: threading.Condition = field(default_factory=threading.Condition)
    pids: dict[int, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def note(self, told: dict[str, Any]) -> None:
        """Take in one line of a writer or of the process that forks them."""
        number = told["number"]
        with self.changed:
            if "begin" in told:
                self.pending[number] = told["begin"]
            elif "done" in told:
                self._settle(number, certain=True)
                self.told[told["done"]] += 1
            elif "refused" in told:
                self._settle(number, certain=False)
                self.told[f"refused, {told['refused']}"] += 1
            elif "pid" in told:
                self.pids[number] = told["pid"]
            elif "ended" in told:
                self._settle(number, certain=False)
                self.pids.pop(number, None)
                if told["ended"] != -signal.SIGKILL:
                    self.problems.append(f"writer {number} ended by itself with {told['ended']}")
            self.changed.notify_all()

    def _settle(self, number: int, *, certain: bool) -> None:
        for name, mark in self.pending.pop(number, {}).items():
            before = self.allowed.get(name, {None})
            common = name.startswith("all-")
            if common and certain:
                before = before - {None}  # nobody deletes it, so it is there from now on
            self.allowed[name] = {*(before if common or not certain else set()), mark}

    def wait_for_progress(self) -> None:
        """Return when one more operation was acknowledged or refused."""
        with self.changed:
            before = self.told.total()
            if not self.changed.wait_for(lambda: self.told.total() > before, SETTLE_S):
                raise LostError("nobody gets on any more")

    def wait(self, number: int, *, started: bool) -> None:
        with self.changed:
            if not self.changed.wait_for(lambda: (number in self.pids) == started, SETTLE_S):
                raise LostError(f"writer {number} did not {'start' if started else 'end'}")


class Lane:
    """The server, the process that forks, and the writers."""

    def __init__(self, folder: Path, url: str | None, seed: int) -> None:
        self._folder, self._url, self._rng = folder, url, random.Random(seed)
        self.book = Book()
        self.kills = 0

    def __enter__(self) -> Lane:
        load_once()
        self._stack = contextlib.ExitStack()
        if self._url is None:
            self._url = self._stack.enter_context(QdrantDouble()).url
        read, write = os.pipe()
        kits = [str(ROOT / "dagger/retrieve/tests"), str(ROOT / "tests/faults")]
        path = os.pathsep.join([*kits, *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
        code = f"import sys, writers_lane; writers_lane.forks(sys.stdin, {write})"
        self._forks = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            pass_fds=[write],
            env={**os.environ, "PYTHONPATH": path},
            text=True,
        )
        os.close(write)
        self._told = os.fdopen(read)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def _read(self) -> None:
        for line in self._told:
            self.book.note(json.loads(line))

    def __exit__(self, *_: object) -> None:
        for number in list(self.book.pids):
            self.kill(number)
        assert self._forks.stdin is not None
        self._forks.stdin.close()
        self._forks.wait(30)
        self._reader.join(30)
        self._told.close()
        self._stack.close()

    def _send(self, **what: Any) -> None:
        assert self._forks.stdin is not None
        self._forks.stdin.write(json.dumps(what) + "\n")
        self._forks.stdin.flush()

    def start(self, number: int) -> None:
        """Start a writer."""
        home = str(self._folder / "home")
        self._send(number=number, seed=self._rng.randrange(2**31), home=home, url=self._url)
        self.book.wait(number, started=True)

    def kill(self, number: int) -> None:
        """Kill a writer."""
        self._send(kill=self.book.pids[number], number=number)
        self.book.wait(number, started=False)

    def run(self, writers: int, kills: int, until: float) -> None:
        """Keep so many writers going while one after the other is killed, then check."""
        for number in range(writers):
            self.start(number)
        while self.kills < kills and time.monotonic() < until:
            self.book.wait_for_progress()
            time.sleep(self._rng.uniform(0, LONGEST_S))  # the random moment of a kill
            number = self._rng.randrange(writers)
            self.kill(number)
            self.kills += 1
            if self.kills % 50 == 0:
                self._pause_and_check(writers)
            self.start(number)
            if self.book.problems:
                raise LostError("; ".join(self.book.problems))
        self._pause_and_check(writers, again=False)

    def _pause_and_check(self, writers: int, *, again: bool = True) -> None:
        """Kill all of them, look at what is there, and go on."""
        running = list(self.book.pids)
        for number in running:
            self.kill(number)
        self.check()
        for number in running if again else []:
            self.start(number)

    def check(self) -> None:
        """Settle what the dead have left, and compare with the book."""
        with opened(self._folder / "home", self._url, None) as retriever:
            retriever.ingest_documents([document("check", self.kills)])
            found = whole(retriever)
            problems = retriever.checkup("default").problems
            assert not problems, problems
        for name, allowed in self.book.allowed.items():
            texts = {None if mark is None else document(name, mark).text for mark in allowed}
            if found.get(name) not in texts:
                what = "lost" if name not in found else "a version nobody may see"
                raise LostError(
                    f"{name}: {what}; allowed are the marks {sorted(map(str, allowed))}"
                )
        unknown = set(found) - set(self.book.allowed) - {"check"}
        if unknown:
            raise LostError(f"nobody submitted {sorted(unknown)}")

    def lines(self) -> Iterator[str]:
        yield f"kills: {self.kills}"
        for name, count in sorted(self.book.told.items()):
            yield f"  {name}: {count}"


def main() -> int:
    """Run from the command line; returns 1 when something was lost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    parser.add_argument("--minutes", type=float, default=60, help="end after this time")
    parser.add_argument(
        "--url", help="a real Qdrant server; its collection 'default' is written to"
    )
    options = parser.parse_args()
    say(f"seed {options.seed}")
    until = time.monotonic() + 60 * options.minutes
    with (
        tempfile.TemporaryDirectory(prefix="writers-lane-") as folder,
        Lane(Path(folder), options.url, options.seed) as lane,
    ):
        try:
            lane.run(options.writers, options.kills, until)
        except (LostError, AssertionError) as error:
            say(f"LOST: {error}")
            return 1
        finally:
            say("\n".join(lane.lines()))
    say("lost 0, torn 0, phantom 0")
    return 0


if __name__ == "__main__":
    sys.exit(main())
