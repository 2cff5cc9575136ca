"""`rag serve --runner resident` while its engine dies, hangs and talks nonsense, under load.

The engine is reached through a socket of the test (`engine_proxy.py`), so it is itself never harmed.
"""

from __future__ import annotations

import itertools
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from engine_kit import CALL_S
from engine_proxy import RUNNER_HOST, EngineProxy, engine_address
from llm_stub import LLMStub

RAG = Path(sys.executable).with_name("rag")
ANSWER = "The kettle on the third floor holds 1.7 litres [1]."
TYPED = {
    503: {"engine_unavailable", "engine_lost", "not_ready", "overloaded"},
    504: {"deadline_exceeded"},
}
DEADLINE_S, DRAIN_S = 5.0, 2.0
NOTICED_S = 1.0  # a dead engine, or a silent one, until /readyz says so
ENDED_S = DRAIN_S + 15.0  # SIGTERM in any state, until the process is gone
NUMBERS = itertools.count()  # no two requests of this run carry the same
HOSTILE = [
    *('"', '"""', "}", "{", "$rag", "\\u0000", "cmd://touch PWNED", "env://HOME"),
    *("file:///etc/passwd", '"""){ host { directory(path: "/") { id } } } #', "$(touch PWNED)"),
]


class Served:
    """A running service, and what it said."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process, self.lines = process, list[str]()
        self._said: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        found = re.search(r"http://\S+:\d+", self.until(r"http://\S+:\d+ has the page"))
        assert found
        self.client = httpx.Client(base_url=found[0], trust_env=False, timeout=120)

    def _read(self) -> None:
        assert self.process.stderr is not None
        with suppress(ValueError):  # closed
            for line in self.process.stderr:
                self.lines.append(line.rstrip("\n"))
                self._said.put(line)
        self._said.put(None)

    def until(self, pattern: str) -> str:
        """Return the next line that matches."""
        while (line := self._said.get(timeout=CALL_S)) is not None:
            if re.search(pattern, line):
                return line
        raise AssertionError(self.lines)

    def until_ready(self, ready: bool = True, limit_s: float = CALL_S) -> float:
        """Return the seconds until /readyz says so."""
        began = time.monotonic()
        while (self.client.get("/readyz").status_code == 200) is not ready:
            assert time.monotonic() - began < limit_s, self.lines[-10:]
            time.sleep(0.02)
        return time.monotonic() - began

    def ask(self, query: str, **more: Any) -> httpx.Response:
        """Ask one question."""
        return self.client.post("/rag_modules", json={"query": query, **more})

    def end(self) -> tuple[int, float]:
        """End it by SIGTERM; return its exit code and the seconds it took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(120)
        return code, time.monotonic() - began


@dataclass
class Load:
    """Clients that ask without a pause; every answer is checked when it comes."""

    served: Served
    statuses: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def client(self) -> None:
        while not self.over.is_set():
            name = f"nonce-{next(NUMBERS)}-"
            query = f"How much does the kettle on the third floor hold? {name}"
            try:
                response = self.served.ask(query, request_id=name)
            except httpx.HTTPError as error:
                self.faults.append(f"{name}: {error!r}")
                continue
            body = response.json()
            if response.status_code == 200:
                right = (body["id"], body["query"], body["answer"]) == (name, query, ANSWER)
                self.statuses["200"] += 1
            else:
                code = body["error"]["code"]
                right = code in TYPED.get(response.status_code, ())
                self.statuses[f"{response.status_code} {code}"] += 1
                time.sleep(0.1)
            if not right:
                self.faults.append(f"{name}: {response.status_code} {response.text[:300]}")

    def until_answered(self, number: int) -> None:
        """Return when so many were answered."""
        ends = time.monotonic() + 120
        while self.statuses["200"] < number:
            assert time.monotonic() < ends and not self.faults, (self.statuses, self.faults)
            time.sleep(0.02)


@contextmanager
def loaded(served: Served, clients: int = 3) -> Iterator[Load]:
    """Ask by so many clients until the block ends; nothing may have gone wrong."""
    load = Load(served)
    threads = [threading.Thread(target=load.client) for _ in range(clients)]
    for each in threads:
        each.start()
    try:
        yield load
    finally:
        load.over.set()
        for each in threads:
            each.join(2 * DEADLINE_S + 60)
    assert load.faults == [] and not any(each.is_alive() for each in threads), load.statuses


@pytest.fixture(scope="module")
def proxy(engine: None) -> Iterator[EngineProxy]:
    address = engine_address()
    if address is None:
        pytest.skip(f"{RUNNER_HOST} names no socket to put a proxy before")
    with tempfile.TemporaryDirectory() as folder:
        made = EngineProxy(Path(folder) / "engine.sock", address)
        yield made
        made.close()


@pytest.fixture(scope="module")
def llm() -> Iterator[LLMStub]:
    stub = LLMStub()
    stub.script = [stub.text(ANSWER)]
    yield stub
    stub.close()


@pytest.fixture(scope="module")
def serve(
    repository: Path, proxy: EngineProxy, llm: LLMStub, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Any]:
    """Starts `rag serve` behind the proxy, over one document and the stub's model."""
    docs = tmp_path_factory.mktemp("docs") / "my-docs"
    docs.mkdir()
    (docs / "kettle.md").write_text("# Kettle\n\nThe kettle on the third floor holds 1.7 litres.\n")
    given = {
        RUNNER_HOST: proxy.address,
        "RAG_DAGGER_MODULE": str(repository / "dagger/rag"),
        "RAG_DOCS": str(docs),
        "RAG_LLM_BASE_URL": llm.url,
        "RAG_LLM_MODEL": "stub",
        "RAG_DEADLINE_S": str(DEADLINE_S),
        "RAG_DRAIN_S": str(DRAIN_S),
    }

    @contextmanager
    def start(runner: str = "resident", **more: str) -> Iterator[Served]:
        process = subprocess.Popen(
            [RAG, "serve", "--port", "0", "--runner", runner],
            env={**os.environ, **given, **more},
            cwd=docs,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        proxy.work()
        assert process.stderr is not None
        try:
            served = Served(process)
            with served.client:
                yield served
        finally:
            proxy.work()
            process.kill()
            process.wait()
            process.stderr.close()

    return start


@pytest.fixture(scope="module")
def served(serve: Callable[..., Any]) -> Iterator[Served]:
    with serve() as running:
        running.until_ready()
        yield running


FAULTS: dict[str, Callable[[EngineProxy], None]] = {
    "dies": EngineProxy.die,
    "talks nonsense": EngineProxy.talk_nonsense,
    "hangs": EngineProxy.hang,
}


@pytest.mark.parametrize("name", FAULTS)
def test_threat_engine_crash_under_load(
    name: str, served: Served, proxy: EngineProxy, llm: LLMStub, lane: Any
) -> None:
    """Each request is a right answer or a typed 503/504, it is noticed, and comes back by itself."""
    served.until_ready()
    with loaded(served) as load:
        load.until_answered(4)
        FAULTS[name](proxy)
        noticed = served.until_ready(False, NOTICED_S + lane(3, 0))
        time.sleep(3 if name != "hangs" else 14)  # longer than a silent session is kept
        proxy.work()
        back = served.until_ready()
        load.until_answered(load.statuses["200"] + 4)
    tell(f"{name}: noticed in {noticed:.2f} s, back after {back:.1f} s, {dict(load.statuses)}")
    asked = model_calls(llm)
    assert asked and max(asked.values()) == 1  # a model is never asked twice for one request


def test_threat_graphql_injection_leaves_no_file(served: Served, repository: Path) -> None:
    """What looks like GraphQL, a command or a secret's address is text, in each field."""
    served.until_ready()
    for text in HOSTILE:
        asked = served.ask(f"kettle {text}")
        assert asked.status_code == 200 and asked.json()["query"] == f"kettle {text}"
        for more in ({"collection": text}, {"filters": {text: {"$eq": text}}}, {"target": text}):
            refused = served.ask("kettle", **more)
            assert refused.status_code in (200, 404, 422), refused.text
    assert not [*repository.rglob("PWNED"), *Path().glob("PWNED"), *Path("/tmp").glob("PWNED")]


def test_fault_engine_lost_when_the_session_is_killed(served: Served, lane: Any) -> None:
    """A request under way gets its answer or a typed error; the next session answers."""
    served.until_ready()
    [child] = [pid for pid in children(served.process.pid) if b"\0session" in command(pid)]
    with loaded(served):
        os.kill(child, signal.SIGKILL)
        served.until_ready(False, NOTICED_S + lane(3, 0))
        served.until_ready()
    assert served.ask("How much does the kettle hold?").status_code == 200


@pytest.mark.parametrize("name", [None, *FAULTS])
def test_fault_engine_unavailable_ends_on_a_signal(
    name: str | None, serve: Callable[..., Any], proxy: EngineProxy
) -> None:
    """SIGTERM ends the service under load whatever its engine does, with exit code 0."""
    with serve() as served:
        served.until_ready()
        load = Load(served)  # what a client sees of the end is not looked at here
        threads = [threading.Thread(target=load.client, daemon=True) for _ in range(3)]
        for each in threads:
            each.start()
        if name:
            FAULTS[name](proxy)
            served.until_ready(False, 5)
        code, took = served.end()
        load.over.set()
        tell(f"{name}: ended in {took:.1f} s")
        assert (code, took < ENDED_S) == (0, True), (code, took)


def test_threat_session_leak_sessions_rotate_without_a_failed_request(
    serve: Callable[..., Any],
) -> None:
    """Every 40 calls another session takes over, under load; nothing but right answers is given."""
    with serve(RAG_ENGINE_ROTATE_CALLS="40") as served:
        served.until_ready()
        with loaded(served, 2) as load:
            for _ in range(2):
                served.until("the new session took over")
        assert set(load.statuses) == {"200"}, "\n".join([str(load.statuses), *served.lines])
        alive = children(served.process.pid)
        assert len([pid for pid in alive if b"\0session" in command(pid)]) <= 2


def test_fault_module_pin_mismatch_does_not_start(serve: Callable[..., Any]) -> None:
    """Another digest ends it with exit code 78 and says which to pin; that one starts."""
    with serve(RAG_DAGGER_MODULE_DIGEST="xxh3:0000000000000000") as served:
        line = served.until("cannot start")
        assert served.process.wait(60) == 78
    assert "RAG_DAGGER_MODULE_DIGEST pins xxh3:0000000000000000" in line
    digest = re.findall(r"is (xxh3:[0-9a-f]{16})", line)[0]
    with serve(RAG_DAGGER_MODULE_DIGEST=digest) as served:
        served.until_ready()


def test_threat_engine_exhaustion_ends_typed(serve: Callable[..., Any]) -> None:
    """24 questions at once, each a process of its own in the engine: answers, or a typed refusal."""
    with serve("call", RAG_DEADLINE_S="120", RAG_MAX_CONCURRENCY="4") as served:
        served.until_ready()
        with ThreadPoolExecutor(24) as pool:
            asked = [pool.submit(served.ask, "How much does the kettle hold?") for _ in range(24)]
            responses = [each.result() for each in asked]
        found = Counter(
            str(each.status_code)
            if each.status_code == 200
            else f"{each.status_code} {each.json()['error']['code']}"
            for each in responses
        )
        tell(f"24 questions at once: {dict(found)}")
        assert found["200"] >= 4
        assert set(found) <= {"200", "503 overloaded", "504 deadline_exceeded"}
        served.until_ready()
        assert served.ask("How much does the kettle hold?").status_code == 200


def test_threat_joined_callers_stay_apart(serve: Callable[..., Any], llm: LLMStub) -> None:
    """Three equal requests at once, one given up: two answers, and a model's call for each."""
    with serve("call", RAG_DEADLINE_S="120") as served:
        served.until_ready()
        llm.bodies.clear()
        same = {"request_id": "the-same"}
        query = "How much does the kettle on the third floor hold? equal"

        def give_up() -> None:
            with suppress(httpx.TimeoutException):
                served.client.post("/rag_modules", json={"query": query, **same}, timeout=1)

        with ThreadPoolExecutor(3) as pool:
            pool.submit(give_up)
            asked = [pool.submit(served.ask, query, **same) for _ in range(2)]
            responses = [each.result() for each in asked]
        assert [each.json()["answer"] for each in responses] == [ANSWER] * 2
        calls = sum(query in str(body["messages"]) for body in llm.bodies)
        tell(f"3 equal requests, one given up after 1 s: {calls} calls of the model")
        assert calls in (2, 3)


def model_calls(llm: LLMStub) -> Counter[str]:
    """How often the model was asked for each request of a load; they are forgotten then."""
    texts = [str(body["messages"]) for body in llm.bodies]
    llm.bodies.clear()
    return Counter(found for text in texts for found in set(re.findall(r"nonce-\d+-", text)))


def tell(text: str) -> None:
    """Show a figure of this run (`pytest -s`)."""
    sys.stderr.write(f"\n{text}\n")


def children(pid: int) -> list[int]:
    """The child processes of a process."""
    listed = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(each) for file in listed for each in file.read_text().split()]


def command(pid: int) -> bytes:
    """A process's command line; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.timeout(1800)
def test_threat_engine_crash_of_the_engine_itself(
    serve: Callable[..., Any], llm: LLMStub, lane: Any
) -> None:
    """SIGKILL under load: noticed at once, typed errors, and the next engine answers by itself.

    Last, and only where it is wanted: the engine loses its cache, and whoever uses it their session.
    """
    kill, start = (os.environ.get(f"RAG_TEST_ENGINE_{what}") for what in ("KILL", "START"))
    if kill is None or start is None:
        pytest.skip(
            "RAG_TEST_ENGINE_KILL and RAG_TEST_ENGINE_START name no commands that kill this engine "
            "and start it again"
        )
    llm.bodies.clear()
    with serve() as served:
        served.until_ready()
        with loaded(served) as load:
            load.until_answered(4)
            subprocess.run(kill, shell=True, check=True)
            noticed = served.until_ready(False, NOTICED_S + lane(3, 0))
            subprocess.run(start, shell=True, check=True)
            back = served.until_ready(limit_s=900)
            load.until_answered(load.statuses["200"] + 4)
    tell(f"killed: noticed in {noticed:.2f} s, back after {back:.1f} s, {dict(load.statuses)}")
    asked = model_calls(llm)
    assert asked and max(asked.values()) == 1
