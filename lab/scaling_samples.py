"""The measurements of `lab/scaling.py --measure`, and their file.

The service has the first core, the load generator and the language model's stub the second. Every
question is a new one, unless a line says otherwise. All times are milliseconds.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import psutil
from http_service import (
    ASKED,
    Server,
    bodies,
    free_port,
    generate_load,
    index,
    load,
    percentile,
    service,
    serving,
)
from overload import MODEL_S, model, on_core
from report import machine

from rag_pipeline.stages import NEEDED
from rag_pipeline.steps.local import open_local

SAMPLES = Path(__file__).resolve().with_name("scaling_samples.json")
CLIENTS = (1, 2, 4, 8, 16)
MODEL_CLIENTS = (1, 4, 8, 16)
WIDE = 32  # places, and clients, of the service that is told to wait for many models at once
WIDE_ENV = {"RAG_MAX_CONCURRENCY": str(WIDE), "RAG_MAX_QUEUE": str(WIDE)}
OPEN_LOOP = (0.5, 0.7, 2.0)  # times the most answers a second
FLOOD = 10.0
FLOW = "all"  # the load generator's chance comes from this name and a seed, the number of the round
KNOBS: dict[str, dict[str, Any]] = {
    "top_k 5 (default)": {},
    "top_k 3": {"top_k": 3},
    "top_k 10": {"top_k": 10},
    "top_k 20": {"top_k": 20},
    "dense only": {"retrieve": {"mode": "dense"}},
    "sparse only": {"retrieve": {"mode": "sparse"}},
}
Say = Callable[[str], None]


def mean(values: Any) -> float:
    return statistics.fmean(values)


def cpu_s(server: Server) -> float:
    """Return the processor seconds of a server so far."""
    one = psutil.Process(server.process.pid)
    times = [each.cpu_times() for each in (one, *one.children(recursive=True))]
    return sum(each.user + each.system for each in times)


# -- one process, without HTTP --------------------------------------------------------------------


async def _one(rag: Any, question: dict[str, Any]) -> dict[str, Any]:
    """Run the three steps one after the other; the process does nothing else meanwhile."""
    text = json.dumps(question)
    found: dict[str, Any] = {"bytes": {"question": len(text)}}
    for name in NEEDED:
        cpu, wall = time.process_time(), time.perf_counter()
        text = await rag.steps[name](text)
        found[name] = (
            (time.perf_counter() - wall) * 1000,
            (time.process_time() - cpu) * 1000,
        )
        found["bytes"][name] = len(text.encode())
        if name == "augment":
            found["prompt_tokens"] = json.loads(text)["context_usage"]["prompt_tokens"]
    return found


def in_process(home: Path, number: int) -> dict[str, Any]:
    """Measure each step by wall and processor time, what it sends, the knobs, a passage's size."""

    async def ask(rag: Any, many: int, **more: Any) -> list[dict[str, Any]]:
        return [await _one(rag, {"query": next(ASKED), **more}) for _ in range(many)]

    async def again(rag: Any, many: int) -> list[dict[str, Any]]:
        texts = [{"query": next(ASKED)} for _ in range(many)]
        for text in texts:
            await rag.steps["retrieve"](json.dumps(text))
        return [await _one(rag, text) for text in texts]

    def costs(runs: list[dict[str, Any]]) -> dict[str, float]:
        return {name: round(mean(one[name][1] for one in runs), 3) for name in NEEDED}

    with on_core(0), open_local(home=home, preload=True) as rag:
        asyncio.run(ask(rag, 20))
        runs = asyncio.run(ask(rag, number))
        knobs = {
            name: costs(asyncio.run(ask(rag, number // 4, **more))) for name, more in KNOBS.items()
        }
        knobs["a question asked before"] = costs(asyncio.run(again(rag, number // 4)))
        embedder = rag.retriever._embedder
        began = time.process_time()
        for _ in range(number // 4):
            embedder.embed_query(next(ASKED))
        embed_ms = (time.process_time() - began) * 1000 / (number // 4)
        pages = rag.retriever._collection("default").passages(1000)
        points = [point for page in pages for point in page]
    return {
        "wall": {name: [round(one[name][0], 3) for one in runs] for name in NEEDED},
        "cpu": {name: [round(one[name][1], 3) for one in runs] for name in NEEDED},
        "bytes": {
            name: round(mean(one["bytes"][name] for one in runs)) for name in ("question", *NEEDED)
        },
        "prompt_tokens": round(mean(one["prompt_tokens"] for one in runs)),
        "knobs_cpu": knobs,
        "embed_cpu": round(embed_ms, 3),
        "passage": {
            "count": len(points),
            "dimension": len(points[0].dense),
            "payload_bytes": round(mean(len(json.dumps(one.payload)) for one in points)),
            "words": round(mean(len(one.sparse.indices) for one in points)),
        },
    }


# -- the service ----------------------------------------------------------------------------------


def busy_s() -> float:
    """Return the busy seconds of all cores so far, of any process."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - times.iowait - times.guest - times.guest_nice


def closed(server: Server, clients: int, seconds: float) -> dict[str, Any]:
    """Load a server with clients that wait for their answers."""
    before, all_before, mine = cpu_s(server), busy_s(), time.process_time()
    with on_core(1):
        out = load(
            f"{server.url}/rag_modules",
            clients=clients,
            seconds=seconds,
            bodies=bodies(int(200 * seconds) + clients),
            total=True,
        )
    requests = sum(out["statuses"].values())
    ours = cpu_s(server) - before
    ours_too = time.process_time() - mine + out["client_cpu_ms"] * requests / 1000
    return {
        "seconds": max(out["at"]),  # until the last answer; who was refused may sleep longer
        "lasted": out["seconds"],
        "ms": out["ms"],
        "timings_ms": out["timings_ms"],
        "refused": out["statuses"].get("503", 0),
        "cpu_s": ours,
        "client_s": out["client_cpu_ms"] * requests / 1000,
        "others_s": busy_s() - all_before - ours - ours_too,
    }


def together(clients: int, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return several rounds of one load as one."""
    times = [ms for run in runs for ms in run["ms"]]
    total = {
        name: sum(run[name] for run in runs)
        for name in ("seconds", "lasted", "refused", "cpu_s", "client_s", "others_s")
    }
    return {
        "clients": clients,
        "seconds": round(total["seconds"], 3),
        "answers": len(times),
        "refused": total["refused"],
        "per_s": round(len(times) / total["seconds"], 2),
        **_percentiles(times),
        "cpu_ms": round(total["cpu_s"] * 1000 / len(times), 3),
        "client_cpu_ms": round(total["client_s"] * 1000 / len(times), 3),
        "others": round(total["others_s"] / total["lasted"], 3),  # cores, for anything else
        "rounds_cpu_ms": [round(run["cpu_s"] * 1000 / len(run["ms"]), 2) for run in runs],
    }


def _percentiles(times: list[float]) -> dict[str, float]:
    return {f"p{share}": round(percentile(times, share / 100), 2) for share in (50, 95, 99)}


def samples(runs: list[dict[str, Any]]) -> list[list[float]]:
    """Return [retrieve, augment, generate, whole round trip] of each answer."""
    return [
        [*(round(timings[name], 3) for name in NEEDED), round(took, 3)]
        for run in runs
        for timings, took in zip(run["timings_ms"], run["ms"], strict=True)
    ]


def open_loop(server: Server, rate: float, seconds: float, seed: int) -> dict[str, Any]:
    """Send Poisson arrivals at a rate, open loop."""
    flow = {
        "name": FLOW,
        "phases": [[rate, seconds]],
        "bodies": bodies(int(2 * rate * seconds) + 100),  # more than are sent: none comes twice
    }
    job = {"url": f"{server.url}/rag_modules", "flows": [flow], "seed": seed}
    before = cpu_s(server)
    with on_core(1):
        records = generate_load(job)["flows"][FLOW]
    return {"rate": rate, "seconds": seconds, "cpu_s": cpu_s(server) - before, "records": records}


def arrivals_together(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return several rounds of one rate as one."""
    records = [one for run in runs for one in run["records"]]
    good = [one for one in records if one[1] == 200]
    times = [one[2] for one in good]
    seconds = sum(run["seconds"] for run in runs)
    in_time = sum(1 for one in good if one[0] + one[2] / 1000 <= runs[0]["seconds"])
    return {
        "rate": runs[0]["rate"],
        "flow": FLOW,
        "seconds": seconds,
        "answers": len(times),
        "refused": sum(1 for one in records if one[1] == 503),
        "failed": sum(1 for one in records if one[1] not in (200, 503)),
        "per_s": round(in_time / seconds, 2),
        **_percentiles(times),
        "cpu_s": round(sum(run["cpu_s"] for run in runs), 2),
    }


@contextmanager
def apart(home: Path, **env: str) -> Iterator[tuple[Server, dict[str, Server]]]:
    """Serve each part from a process of its own, all on the first core."""
    with ExitStack() as stack:
        variables = {"RAG_HOME": str(home), **env}
        parts: dict[str, Server] = {}
        stack.enter_context(on_core(0))
        for name in NEEDED:
            port = free_port()
            command = [sys.executable, "-m", f"rag_{name}", "serve", "--port", str(port)]
            parts[name] = stack.enter_context(serving(command, port, "/readyz", variables))
        port = free_port()
        urls = {f"RAG_{name.upper()}_URL": parts[name].url for name in NEEDED}
        command = [sys.executable, "-m", "rag_pipeline", "serve", "--port", str(port)]
        composite = stack.enter_context(serving(command, port, "/readyz", variables | urls))
        port = free_port()
        rag = str(Path(sys.executable).parent / "rag")
        command = [rag, "serve", "--runner", "remote", "--port", str(port)]
        remote = variables | {"RAG_COMPOSITE_URL": composite.url}
        front = stack.enter_context(serving(command, port, "/readyz", remote))
        yield front, {"service": front, "composite": composite, **parts}


def parts_cpu(home: Path, seconds: float) -> dict[str, Any]:
    """Measure the processor time of a question in each part that is a process of its own."""
    with apart(home) as (front, parts):
        closed(front, 2, min(1.0, seconds))
        before = {name: cpu_s(part) for name, part in parts.items()}
        run = closed(front, 4, seconds)
        spent = {
            name: round((cpu_s(part) - before[name]) * 1000 / len(run["ms"]), 3)
            for name, part in parts.items()
        }
        memory = {name: round(part.memory_mib()) for name, part in parts.items()}
    return {"cpu": spent, "memory_mib": memory, "closed": together(4, [run])}


def idle(seconds: float = 2.0) -> float:
    """Return how busy the cores are while the benchmark is idle, 0 to 1."""
    return psutil.cpu_percent(interval=seconds) / 100


def serve_rounds(server: Server, seconds: float, rounds: int) -> dict[str, Any]:
    """Measure all loads in turns, so that a slow moment of the machine affects all of them."""
    lines: dict[int, list[dict[str, Any]]] = {clients: [] for clients in CLIENTS}
    chance: dict[float, list[dict[str, Any]]] = {share: [] for share in OPEN_LOOP}
    most = 0.0
    for at in range(rounds):
        for clients, runs in lines.items():
            runs.append(closed(server, clients, seconds))
        most = most or max(together(clients, runs)["per_s"] for clients, runs in lines.items())
        for share, runs in chance.items():
            runs.append(open_loop(server, share * most, seconds, at))
    flood = open_loop(server, FLOOD * most, seconds, 0)
    return {
        "answers": samples(lines[1]),
        "closed": [together(clients, runs) for clients, runs in lines.items()],
        "open": [arrivals_together(chance[share]) for share in OPEN_LOOP],
        "flood": arrivals_together([flood]),
    }


def measure(seconds: float, rounds: int, number: int, say: Say) -> dict[str, Any]:
    """Measure everything; takes about `rounds` × 15 × `seconds`, and a minute."""
    busy = [idle()]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        passages = index(home, Path(folder) / "passages.json")
        say(f"{passages} passages; cores {busy[0]:.0%} busy before")
        steps = in_process(home, number)
        say(", ".join(f"{name} {mean(each):.2f} ms" for name, each in steps["cpu"].items()))
        with local(home) as server:
            served = serve_rounds(server, seconds, rounds)
            memory = round(server.memory_mib())
        for line in (*served["closed"], *served["open"], served["flood"]):
            say(str(line))
        with on_core(1):
            stub = model()
            url = stub.__enter__()
        try:
            llm = {"RAG_LLM_BASE_URL": url, "RAG_LLM_MODEL": "stub"}
            waiting: dict[int, list[dict[str, Any]]] = {clients: [] for clients in MODEL_CLIENTS}
            with local(home, **llm) as server:
                for _ in range(rounds):
                    for clients, runs in waiting.items():
                        runs.append(closed(server, clients, seconds))
            with local(home, **llm, **WIDE_ENV) as server:
                wide = together(WIDE, [closed(server, WIDE, seconds) for _ in range(rounds)])
            with apart(home, **llm, **WIDE_ENV) as (server, _):
                closed(server, 2, 1.0)
                steps_wait = together(WIDE, [closed(server, WIDE, 2 * seconds)])
        finally:
            stub.__exit__(None, None, None)
        modelled = [together(clients, runs) for clients, runs in waiting.items()]
        for line in (*modelled, wide, steps_wait):
            say(str(line))
        busy.append(idle())
        separate = parts_cpu(home, 2 * seconds)
        say(f"apart: {separate}")
    busy.append(idle())
    return {
        "date": str(date.today()),
        "machine": machine().partition(", load")[0],
        "cores_busy": [round(one, 3) for one in busy],  # before, between and after
        "seconds": seconds,
        "rounds": rounds,
        "passages": passages,
        "steps": steps,
        "client_ms": served["closed"][0]["client_cpu_ms"],
        "memory_mib": memory,
        **served,
        "model_s": MODEL_S,
        "model_answers": samples(waiting[1]),
        "model": modelled,
        "wide": wide,
        "apart_model": steps_wait,
        "apart": separate,
    }


@contextmanager
def local(home: Path, **env: str) -> Iterator[Server]:
    """Serve from one process on the first core, warm."""
    with ExitStack() as stack:
        with on_core(0):
            server = stack.enter_context(service("local", home, **env))
        with on_core(1):
            load(f"{server.url}/rag_modules", clients=2, seconds=1.5, bodies=bodies(500))
        yield server


def write(found: dict[str, Any]) -> None:
    """Write the samples, one line per key, so that a diff is readable."""
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in found.items())
    SAMPLES.write_text("{\n" + lines + "\n}\n", encoding="utf-8")
