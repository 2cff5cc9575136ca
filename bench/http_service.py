"""What the HTTP service adds to the pipeline, how much it serves, and Hayhooks beside it.

    python bench/http_service.py [--seconds 5] [--runners local,remote] [--write]

Every server runs in a process of its own over the same index of docs/, the load generator
(bench/load.py) in another one. Every question is a new one. Measured are:

    requests     per second, p50, p95 and p99 by runner and number of clients, with the default limits
                 (what is over them is refused with 503 and counted apart) and with a queue that
                 takes all of them
    overhead     of one request at one client over the pipeline's own time, and in process
    streaming    time to the first piece of an answer
    /healthz     while documents are being added
    start        from the process to the first answer; resident memory
    Hayhooks     a Haystack pipeline over the same passages, in turns with the service

The runners resident, call and containers need a Dagger engine and are left out with the reason.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
from report import machine, write_section
from rich.console import Console

from rag_pipeline.steps.local import open_local

ROOT = Path(__file__).resolve().parent.parent
PIPELINES = Path(__file__).resolve().parent / "hayhooks_pipelines"
RUNNERS = ("local", "remote", "resident", "call", "containers")
ENGINE = RUNNERS[2:]
SLOW = RUNNERS[3:]
CLIENTS = (1, 2, 4, 8, 16, 32)
ALL_WAIT = {"RAG_MAX_QUEUE": "1000", "RAG_QUEUE_WAIT_S": "60", "RAG_DEADLINE_S": "60"}
ENGINE_LOAD_S = 900.0
LEAST = 30  # answers for a line, however slow; percentiles of fewer say nothing
CANDIDATES = {"Hayhooks": 10, "Hayhooks, 100 candidates": 100}  # Haystack's default; ours
TOPICS = (
    "How are dense and sparse results fused?", "What does a citation hold?",
    "Who may write to a collection?", "What happens when nothing supports an answer?",
    "How is a PDF read?", "When is an index built anew?", "What does the step augment add?",
    "How long may a request take?",
)  # fmt: skip
Questions = Iterator[str]


def questions() -> Questions:
    """Yield questions, none of them twice, so that nothing is answered from a cache."""
    number = 0
    while True:
        number += 1
        yield f"{TOPICS[number % len(TOPICS)]} Asked for the {number}. time."


ASKED = questions()


def bodies(count: int) -> list[str]:
    return [json.dumps({"query": next(ASKED)}) for _ in range(count)]


# -- servers ------------------------------------------------------------------------------------


@dataclass
class Server:
    """A server that is ready."""

    url: str
    process: subprocess.Popen[bytes]
    start_s: float

    def memory_mib(self) -> float:
        """Return the resident memory of the process and its children."""
        import psutil  # here, because not everybody who serves has it

        one = psutil.Process(self.process.pid)
        return sum(each.memory_info().rss for each in (one, *one.children(recursive=True))) / 2**20


class NotReady(Exception):  # noqa: N818 - reads better where it is caught
    """A server did not become ready."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(
    command: Sequence[str], port: int, ready: str, env: dict[str, str], within: float = 120.0
) -> Iterator[Server]:
    """Start a server and wait until it answers 200."""
    with tempfile.TemporaryFile() as log:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, env={**os.environ, **env}, stdout=log, stderr=log, cwd=ROOT
        )
        url = f"http://127.0.0.1:{port}"
        try:
            with httpx.Client(trust_env=False, timeout=5) as client:
                while not _answers(client, url + ready):
                    if process.poll() is not None or time.perf_counter() - began > within:
                        log.seek(0)
                        raise NotReady(log.read().decode(errors="replace")[-600:].strip())
                    time.sleep(0.005)
            yield Server(url, process, time.perf_counter() - began)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(url).status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def service(runner: str, home: Path, **env: str) -> Iterator[Server]:
    """Serve by one runner; `remote` gets a composite of its own, whose memory counts."""
    with ExitStack() as stack:
        variables = {"RAG_HOME": str(home), "RAG_DOCS": str(ROOT / "docs"), **env}
        extra = 0.0
        composite = None
        if runner == "remote":
            port = free_port()
            command = [sys.executable, "-m", "rag_pipeline", "serve", "--port", str(port)]
            composite = stack.enter_context(serving(command, port, "/readyz", variables))
            variables["RAG_COMPOSITE_URL"], extra = composite.url, composite.start_s
        port = free_port()
        rag = Path(sys.executable).parent / "rag"
        command = [str(rag), "serve", "--runner", runner, "--port", str(port)]
        within = ENGINE_LOAD_S if runner in ENGINE else 120.0
        server = stack.enter_context(serving(command, port, "/readyz", variables, within))
        server.start_s += extra
        if composite is not None:
            inner, own = composite.memory_mib, server.memory_mib
            server.memory_mib = lambda: inner() + own()  # type: ignore[method-assign]
        yield server


@contextmanager
def hayhooks(passages: Path, candidates: int) -> Iterator[Server]:
    """Serve the Haystack pipeline; `candidates` passages come from each leg."""
    port = free_port()
    command = [
        str(Path(sys.executable).parent / "hayhooks"), "run", "--host", "127.0.0.1",
        "--port", str(port), "--pipelines-dir", str(PIPELINES),
        "--without-tracing", "--without-monitoring",
    ]  # fmt: skip
    env = {
        "HAYSTACK_TELEMETRY_ENABLED": "False",
        "LOG": "WARNING",
        "BENCH_PASSAGES": str(passages),
        "BENCH_CANDIDATES": str(candidates),
    }
    with serving(command, port, "/status/ask", env) as server:
        yield server


# -- load ---------------------------------------------------------------------------------------


def load(url: str, *, clients: int, seconds: float, **more: Any) -> dict[str, Any]:
    """Run the load generator once."""
    return generate_load({"url": url, "clients": clients, "seconds": seconds, **more})


def generate_load(job: dict[str, Any]) -> dict[str, Any]:
    """Run the load generator on a job, in a process of its own."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("load.py"))],
        input=json.dumps(job).encode(),
        stdout=subprocess.PIPE,
        check=True,
    )
    out: dict[str, Any] = json.loads(done.stdout)
    return out


def percentile(times: Sequence[float], share: float) -> float:
    if not times:
        return float("nan")
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


@dataclass(frozen=True)
class Row:
    """One number of clients of one server."""

    name: str
    clients: int
    per_s: float
    p50: float
    p95: float
    p99: float
    shed: int
    failed: int
    answers: int
    client_cpu_ms: float

    @classmethod
    def of(cls, name: str, clients: int, out: dict[str, Any]) -> Row:
        statuses = dict(out["statuses"])
        served, shed = statuses.pop("200", 0), statuses.pop("503", 0)
        return cls(
            name,
            clients,
            served / out["seconds"],
            *(percentile(out["ms"], share) for share in (0.5, 0.95, 0.99)),
            shed,
            sum(statuses.values()),
            served,
            out["client_cpu_ms"],
        )

    def cells(self) -> list[str]:
        times = (f"{self.per_s:.1f}", *(f"{ms:.1f}" for ms in (self.p50, self.p95, self.p99)))
        counts = (self.answers, self.shed, self.failed)
        return [self.name, str(self.clients), *times, *map(str, counts)]


def measure(name: str, url: str, clients: int, seconds: float) -> Row:
    """Load one server with one number of clients."""
    texts = bodies(int(400 * seconds) + clients)
    out = load(url, clients=clients, seconds=seconds, bodies=texts, least=LEAST)
    row = Row.of(name, clients, out)
    print(" ".join(row.cells()), file=sys.stderr, flush=True)
    return row


def warm(url: str, seconds: float) -> None:
    load(url, clients=2, seconds=min(1.0, seconds), bodies=bodies(500))


# -- what is measured ---------------------------------------------------------------------------


def index(home: Path, passages: Path) -> int:
    """Index docs/ as the service's and write its passages for Haystack; returns their number."""
    with open_local(home=home) as rag:
        report = rag.retriever.ingest([ROOT / "docs", ROOT / "README.md"])
        assert not report.failed, report.failed
        rows = [
            {
                "id": point.id,
                "content": point.payload["text"],
                "embedding": [float(value) for value in point.dense],
                "meta": {
                    key: point.payload[key] for key in ("document_id", "title", "source", "span")
                },
            }
            for points in rag.retriever._collection("default").passages(1000)
            for point in points
        ]
    passages.write_text(json.dumps(rows), encoding="utf-8")
    return len(rows)


def in_process(home: Path, seconds: float) -> tuple[float, float]:
    """Return medians without HTTP, in ms: the handler from JSON to JSON, the pipeline's own total."""

    async def ask(handler: Any) -> tuple[list[float], list[float]]:
        times, totals = [], []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            text = json.dumps({"query": next(ASKED)})
            began = time.perf_counter()
            answer = await handler.serve(text)
            times.append((time.perf_counter() - began) * 1000)
            totals.append(json.loads(answer)["timings_ms"]["total"])
        return times[5:], totals[5:]

    with open_local(home=home, preload=True) as rag:
        times, totals = asyncio.run(ask(rag.handler))
    return statistics.median(times), statistics.median(totals)


@dataclass(frozen=True)
class Alone:
    """What one client meets."""

    round_trip: float
    total: float
    first_event: float
    streamed: float
    start_s: float
    memory: float


def alone(server: Server, seconds: float) -> Alone:
    """Measure one client: round trip, the pipeline's own time, the first event of a stream."""
    url = f"{server.url}/rag_modules"
    many = int(400 * seconds)
    plain = load(url, clients=1, seconds=seconds, bodies=bodies(many), total=True)
    stream = load(url, clients=1, seconds=seconds, bodies=bodies(many), stream=True)
    return Alone(
        statistics.median(plain["ms"]),
        statistics.median(plain["total_ms"]),
        statistics.median(stream["first_ms"] or [float("nan")]),
        statistics.median(stream["ms"] or [float("nan")]),
        server.start_s,
        server.memory_mib(),
    )


def health_during_ingest(server: Server, seconds: float) -> dict[str, dict[str, Any]]:
    """Return /healthz times at rest and while documents are being added."""
    url = f"{server.url}/healthz"
    found = {"at rest": load(url, clients=1, seconds=seconds, pause=0.005)}
    texts = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))]
    number = max(4, int(12 * seconds))  # more than can be embedded in that time
    files = [
        ("files", (f"copy-{n}.md", f"Copy {n}\n\n{texts[n % len(texts)]}".encode()))
        for n in range(number)
    ]
    with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as client:
        params = {"collection": "copies", "wait": "false"}
        accepted = (
            client.post("/v1/documents", params=params, files=files).raise_for_status().json()
        )
        found["during an ingest"] = load(url, clients=1, seconds=seconds, pause=0.005)
        state = client.get(f"/v1/ingests/{accepted['id']}").json()
        assert state["status"] == "running", f"the ingest was too short: {state}"
        client.delete(f"/v1/ingests/{accepted['id']}")
        client.get(accepted["events"])  # ends when it stopped
        client.delete("/v1/collections/copies")
    return found


# -- the report ---------------------------------------------------------------------------------


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows), ""]


HEAD = ("Server", "clients", "requests/s", "p50 ms", "p95 ms", "p99 ms", "answers", "503", "failed")


@dataclass
class Findings:
    """All that was measured."""

    passages: int
    seconds: float
    handler_ms: float
    own_ms: float
    default: list[Row]
    waiting: list[Row]
    alone: dict[str, Alone]
    health: dict[str, dict[str, Any]]
    ours: list[Row]
    others: dict[str, list[Row]]
    theirs_facts: list[str]
    left_out: list[str]

    def text(self) -> str:
        """Return the section."""
        lines = [
            f"Measured {date.today()} on {machine()}; {self.seconds:g} s for each line, "
            f"{self.passages} passages, extractive answers. The load generator shares the cores and "
            f"takes {self._client_ms():.2f} ms of CPU for a request.",
            "",
            "**By runner and number of clients, default limits** (8 at work, 16 waiting, 0.5 s)",
            "",
            *markdown(HEAD, [row.cells() for row in self.default]),
            "**The same, with a queue that takes all**",
            "",
            *markdown(HEAD, [row.cells() for row in self.waiting]),
            "**One client**",
            "",
            *markdown(
                ("Runner", "round trip ms", "pipeline's own ms", "overhead ms", "first piece of a "
                 "stream ms", "all of it ms", "start to ready s", "memory MiB"),
                [self._alone(name, one) for name, one in self.alone.items()],
            ),
            f"In one process, without HTTP: {self.handler_ms:.2f} ms from JSON to JSON, of which the "
            f"pipeline's own {self.own_ms:.2f} ms (medians).",
            "",
            *self._health(),
            *self._hayhooks(),
            *(f"Left out: {reason}" for reason in self.left_out),
        ]  # fmt: skip
        return "\n".join(lines)

    def _client_ms(self) -> float:
        rows = [
            *self.default,
            *self.waiting,
            *self.ours,
            *(row for each in self.others.values() for row in each),
        ]
        return statistics.median(row.client_cpu_ms for row in rows)

    @staticmethod
    def _alone(name: str, one: Alone) -> list[str]:
        times = (one.round_trip, one.total, one.round_trip - one.total, one.first_event)
        shown = [f"{ms:.2f}" for ms in (*times, one.streamed)]
        return [name, *shown, f"{one.start_s:.2f}", f"{one.memory:.0f}"]

    def _health(self) -> list[str]:
        if not self.health:
            return []
        rows = [
            [name, *(f"{percentile(out['ms'], share):.2f}" for share in (0.5, 0.99, 1.0))]
            for name, out in self.health.items()
        ]
        return ["**/healthz**", "", *markdown(("", "p50 ms", "p99 ms", "slowest ms"), rows)]

    def _hayhooks(self) -> list[str]:
        if not self.others:
            return []
        rows = []
        for at, ours in enumerate(self.ours):
            rows.append([*ours.cells(), "", ""])
            for others in (each[at] for each in self.others.values()):
                ratios = (ours.per_s / others.per_s, ours.p95 / others.p95)
                rows.append([*others.cells(), *(f"{ratio:.2f} ×" for ratio in ratios)])
        return [
            "**Next to Hayhooks**",
            "",
            f"Hayhooks {version('hayhooks')}, Haystack {version('haystack-ai')}, one process each, in "
            "turns; the last two columns are the service's throughput and p95 over the other's. Equal: the "
            "passages and their vectors, the embedding model and its threads, search by vector and by "
            "BM25, distribution-based fusion, the best 5, a prompt with numbered passages, the "
            "extractive generator with verified citations, the whole answer as JSON. Not equal: the "
            "service takes 100 candidates from each leg, Haystack 10, its default, or 100; Haystack "
            "searches its in-memory store in Python, and its BM25 reads the passage without the title; "
            "it fits no token budget, and has no limits, deadlines, request log or metrics. Its "
            "embeddings are not returned with the documents, which makes it faster.",
            "",
            *markdown((*HEAD, "throughput", "p95"), rows),
            *self.theirs_facts,
            "",
        ]


# -- all of it ----------------------------------------------------------------------------------


def by_runner(options: argparse.Namespace, home: Path, found: Findings) -> None:
    """Measure each runner with the default limits, then with a long queue."""
    for runner in options.runners:
        deadline = {"RAG_DEADLINE_S": "120"} if runner in ENGINE else {}
        try:
            with service(runner, home, **deadline) as server:
                url = f"{server.url}/rag_modules"
                warm(url, options.seconds)
                found.alone[runner] = alone(server, options.seconds)
                for clients in options.clients:
                    found.default.append(measure(runner, url, clients, options.seconds))
                if runner == "local":
                    found.health = health_during_ingest(server, options.seconds)
            if runner in SLOW:
                continue  # a queue of seconds each says nothing new
            with service(runner, home, **{**ALL_WAIT, **deadline}) as server:
                url = f"{server.url}/rag_modules"
                warm(url, options.seconds)
                for clients in options.clients:
                    found.waiting.append(measure(runner, url, clients, options.seconds))
        except NotReady as error:
            reason = (str(error).splitlines() or ["it did not become ready"])[-1]
            found.left_out.append(f"{runner}: {reason}")
            print(f"{runner}: {error}", file=sys.stderr, flush=True)


def side_by_side(options: argparse.Namespace, home: Path, passages: Path, found: Findings) -> None:
    """Measure Hayhooks and the service in turns."""
    with ExitStack() as stack:
        ours = stack.enter_context(service("local", home, **ALL_WAIT))
        others = {
            name: stack.enter_context(hayhooks(passages, candidates))
            for name, candidates in CANDIDATES.items()
        }
        service_url = f"{ours.url}/rag_modules"
        urls = {name: f"{server.url}/ask/run" for name, server in others.items()}
        for url in (service_url, *urls.values()):
            warm(url, options.seconds)
        for clients in options.clients:
            found.ours.append(measure("service", service_url, clients, options.seconds))
            for name, url in urls.items():
                row = measure(name, url, clients, options.seconds)
                found.others.setdefault(name, []).append(row)
        for name, server in others.items():
            found.theirs_facts.append(
                f"{name}: ready after {server.start_s:.2f} s, {server.memory_mib():.0f} MiB; with the "
                f"service: {_agreement(service_url, urls[name])}."
            )


def _agreement(ours: str, others: str) -> str:
    """Say how far the two do the same work: passages in common, and equal answers."""
    shared, equal = [], 0
    with httpx.Client(trust_env=False, timeout=60) as client:
        for topic in TOPICS:
            one = client.post(ours, json={"query": topic}).json()
            other = client.post(others, json={"query": topic}).json()["result"]
            found = [{context["chunk_id"] for context in each["contexts"]} for each in (one, other)]
            shared.append(len(found[0] & found[1]))
            equal += one["answer"] == other["answer"]
    mean = statistics.mean(shared)
    return f"{mean:.1f} of 5 passages shared, {equal} of {len(TOPICS)} answers equal"


def main() -> None:
    """Measure, print, and with --write put it into docs/benchmarks.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="for each line (default 10)")
    parser.add_argument("--runners", default="local,remote", help=f"of {','.join(RUNNERS)}; or all")
    parser.add_argument("--clients", default=",".join(map(str, CLIENTS)), help="numbers of clients")
    parser.add_argument("--without-hayhooks", action="store_true", help="measure only the service")
    parser.add_argument("--write", action="store_true", help="into docs/benchmarks.md, too")
    options = parser.parse_args()
    runners = RUNNERS if options.runners == "all" else options.runners.split(",")
    if unknown := set(runners) - set(RUNNERS):
        parser.error(f"there is no runner {', '.join(sorted(unknown))}")
    options.runners = runners
    options.clients = [int(number) for number in options.clients.split(",")]
    for name in [name for name in os.environ if name.startswith("RAG_")]:
        del os.environ[name]
    with tempfile.TemporaryDirectory() as folder:
        home, passages = Path(folder) / "home", Path(folder) / "passages.json"
        number = index(home, passages)
        handler_ms, own_ms = in_process(home, options.seconds)
        found = Findings(
            number, options.seconds, handler_ms, own_ms, [], [], {}, {}, [], {}, [], []
        )
        by_runner(options, home, found)
        if not options.without_hayhooks:
            side_by_side(options, home, passages, found)
    text = found.text()
    Console(width=140).print(text, markup=False, highlight=False)
    if options.write:
        write_section("service", text)


if __name__ == "__main__":
    main()
