"""One tenant adds a lot: what another tenant's deletions, small uploads and questions take meanwhile.

    python bench/ingest.py [--mb 100] [--seconds 0]

`rag serve --runner local` over an index of docs/ with three keys, in a process of its own. One
tenant uploads texts of `--mb` MB in uploads of 8 MB, half of them a single document. A second one
uploads a text of 2 kB and deletes it, over and over; a third one asks five questions a second,
before and meanwhile. It ends with the large uploads, or after `--seconds` of them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from http_service import ROOT, Server, bodies, generate_load, index, markdown, percentile, service
from report import machine, tell
from rich.console import Console

KEYS = {name: f"{name}-0123456789abcdef" for name in ("large", "small", "asking")}
UPLOAD_BYTES = 8 * 2**20
FILE_BYTES = 2**20
SMALL_BYTES = 2000
QUESTIONS_PER_S = 5.0
ALONE_S = 60.0  # of questions before the large uploads
GOALS = {"deletions p99": 2.0, "small uploads p99": 5.0, "questions' p95": 1.3}


def words() -> list[str]:
    """Return the words of docs/, repeated ones too."""
    return [
        word for path in sorted((ROOT / "docs").rglob("*.md")) for word in path.read_text().split()
    ]


WORDS = words()


def text(size: int, seed: int) -> str:
    """Return a text of about `size` bytes, in paragraphs."""
    chance = random.Random(seed)
    lines: list[str] = []
    left = size
    while left > 0:
        lines.append(" ".join(chance.choices(WORDS, k=60)))
        left -= len(lines[-1]) + 2
    return "\n\n".join(lines)


def client(server: Server, name: str) -> httpx.Client:
    """Return a client with the key of a tenant."""
    headers = {"authorization": f"Bearer {KEYS[name]}"}
    return httpx.Client(base_url=server.url, headers=headers, timeout=120, trust_env=False)


def send(
    there: httpx.Client, name: str, texts: list[str], collection: str, **params: str
) -> dict[str, Any]:
    """Upload texts as files."""
    files = [("files", (f"{name}-{at}.txt", each)) for at, each in enumerate(texts)]
    answer = there.post("/v1/documents", files=files, params={"collection": collection, **params})
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()
    return found


def add_large(server: Server, megabytes: float, stop: threading.Event) -> dict[str, int]:
    """Upload until it is done or stopped; returns passages and uploads."""
    found = {"passages": 0, "uploads": 0}
    with client(server, "large") as there:
        for at in range(max(1, round(megabytes * 10**6 / UPLOAD_BYTES))):
            many = 1 if at % 2 else UPLOAD_BYTES // FILE_BYTES
            texts = [text(UPLOAD_BYTES // many, 1000 * at + one) for one in range(many)]
            job = send(there, f"large-{at}", texts, collection="large", wait="false")
            state = follow(there, job["id"], stop)
            found["passages"] += state["progress"]["passages"]
            found["uploads"] += state["status"] == "done"
            if stop.is_set():
                break
    return found


def follow(there: httpx.Client, job: str, stop: threading.Event) -> dict[str, Any]:
    """Return how an upload ended, or how far it was when it was stopped."""
    while True:
        state: dict[str, Any] = there.get(f"/v1/ingests/{job}").json()
        if state["status"] in ("done", "failed") or stop.is_set():
            return state
        stop.wait(0.2)


def change(server: Server, times: dict[str, list[float]], stop: threading.Event) -> None:
    """Upload a small text and delete it until it is to stop; notes the seconds of each."""
    with client(server, "small") as there:
        at = 0
        while not stop.is_set():
            at += 1
            small = text(SMALL_BYTES, at)
            name = f"small-{at}"
            with timed(times["small uploads"]):
                job = send(there, name, [small], collection="small")
                follow(there, job["id"], threading.Event())  # on a slow machine it is not done yet
            with timed(times["deletions"]):
                gone = there.delete(f"/v1/documents/{name}-0.txt", params={"collection": "small"})
                gone.raise_for_status()


@contextmanager
def timed(times: list[float]) -> Iterator[None]:
    """Note the seconds of the block."""
    began = time.perf_counter()
    yield
    times.append(time.perf_counter() - began)


def ask(server: Server, seconds: float, seed: int) -> list[float]:
    """Ask at a steady rate; returns the seconds of each answer."""
    phases = [[QUESTIONS_PER_S, seconds]]
    texts = bodies(int(1.5 * QUESTIONS_PER_S * seconds) + 10)
    flow = {"name": "asking", "key": KEYS["asking"], "phases": phases, "bodies": texts}
    job = {"url": f"{server.url}/rag_modules", "flows": [flow], "seed": seed}
    records = generate_load(job)["flows"]["asking"]
    return [ms / 1000 for _, status, ms in records if status == 200]


def measure(
    server: Server, megabytes: float, seconds: float
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Return the seconds of each kind of request, and what the large uploads came to."""
    times: dict[str, list[float]] = {name: [] for name in ("deletions", "small uploads", "during")}
    ask(server, 5, 0)  # warm
    times["alone"] = ask(server, ALONE_S, 1)
    stop, added = threading.Event(), {}
    large = threading.Thread(target=lambda: added.update(add_large(server, megabytes, stop)))
    small = threading.Thread(target=change, args=(server, times, stop))
    for thread in (large, small):
        thread.start()
    ends = time.monotonic() + (seconds or float("inf"))
    while large.is_alive() and time.monotonic() < ends:
        times["during"] += ask(server, min(ALONE_S, max(1.0, ends - time.monotonic())), 2)
        tell(" ".join(f"{name}: {len(each)}" for name, each in times.items()))
    stop.set()
    for thread in (large, small):
        thread.join()
    return times, added


def report(times: dict[str, list[float]], added: dict[str, int], lasted: float) -> str:
    """Return the table and the goals."""
    figure: Callable[[str, float], float] = lambda name, share: percentile(times[name], share)  # noqa: E731
    ratio = figure("during", 0.95) / figure("alone", 0.95)
    found = {
        "deletions p99": figure("deletions", 0.99),
        "small uploads p99": figure("small uploads", 0.99),
        "questions' p95": ratio,
    }
    missed = [
        f"{name} {found[name]:.2f} > {most}" for name, most in GOALS.items() if found[name] > most
    ]
    rows = [
        [name, str(len(each)), *(f"{percentile(each, share):.3f}" for share in (0.5, 0.95, 0.99))]
        for name, each in times.items()
    ]
    return "\n".join(
        [
            f"{machine()}; {added['passages']} passages in {lasted:.0f} s, "
            f"{added['uploads']} uploads complete.",
            "",
            *markdown(("Requests", "number", "p50 s", "p95 s", "p99 s"), rows),
            f"Questions' p95 during the ingest: {ratio:.2f} times that before.",
            f"Goals missed: {'; '.join(missed) or 'none'}.",
        ]
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mb", type=float, default=100.0, help="of large uploads (default 100)")
    parser.add_argument("--seconds", type=float, default=0, help="at most (default: until done)")
    options = parser.parse_args()
    for name in [name for name in os.environ if name.startswith("RAG_")]:
        del os.environ[name]
    keys = json.dumps([{"name": name, "key": key, "write": True} for name, key in KEYS.items()])
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        index(home, Path(folder) / "passages.json")
        with service("local", home, RAG_API_KEYS=keys) as server:
            began = time.monotonic()
            times, added = measure(server, options.mb, options.seconds)
            text = report(times, added, time.monotonic() - began)
    Console(width=160).print(text, markup=False, highlight=False)


if __name__ == "__main__":
    main()
