"""The service under overload: goodput, fast refusals, recovery, isolation of tenants.

    python bench/overload.py [--seconds 10] [--runners extractive,model] [--write]

`rag serve --runner local` over an index of docs/ with three keys, pinned to one core; the load
generator (bench/load.py, open loop, in a process of its own) to another. `extractive` answers with
sentences, which costs the processor; `model` waits half a second for a language model (a stub).

    peak       answers a second to clients that wait for each answer, the best number of clients
    profile    one tenant: 0.8 × peak, then 10 × peak, then 0.8 × peak again
    pairs      peak, then 10 × peak, again and again for half as long: a shared machine is not as fast
               every minute
    fairness   another tenant's few requests while the first is away, at 0.8 × peak, at 10 × peak, in turn
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any

from http_service import (
    ROOT,
    Server,
    bodies,
    generate_load,
    index,
    load,
    markdown,
    percentile,
    service,
)
from report import machine, tell, write_section
from rich.console import Console

sys.path.append(str(ROOT / "dagger/generate/tests"))
from llm_stub import LLMStub

Record = tuple[float, int, float]
PROBES = 20.0  # of /healthz a second
KEYS = {name: f"{name}-0123456789abcdef" for name in ("noisy", "quiet", "spare")}
NORMAL, FLOOD = 0.8, 10.0  # times the peak
CLIENTS = (2, 4, 8)
MODEL_S = 0.5
QUIET_PER_S = {"extractive": 5.0, "model": 1.0}
SETTLE_S = 1.0  # at the beginning of a phase, which does not count for its goodput
PAIRS = 16  # of peak and flood, one after the other
ROUNDS = 5  # of the quiet tenant's three phases
WINDOW_S = 1.0  # in which it must be normal again
GOODPUT, REFUSED_MS, RECOVERY_S, VICTIM = 0.95, 50.0, 5.0, 1.2  # the goals


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Pin the processes started here to one core; where there is only one, to that."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(before)[core % len(before)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def model() -> Iterator[str]:
    """Serve a language model that thinks for half a second; gives its URL."""
    stub = LLMStub()
    text = stub.text("The passages tell [1].")

    def think(handler: Any) -> None:
        time.sleep(MODEL_S)
        text(handler)

    stub.script = [think]
    try:
        yield stub.url
    finally:
        stub.close()


@contextmanager
def served(runner: str, home: Path) -> Iterator[Server]:
    """Start the service on the first core."""
    keys = json.dumps([{"name": name, "key": key} for name, key in KEYS.items()])
    with model() as url:
        env = {"RAG_LLM_BASE_URL": url, "RAG_LLM_MODEL": "stub"} if runner == "model" else {}
        with on_core(0):
            running = service("local", home, RAG_API_KEYS=keys, RAG_LOG_FORMAT="json", **env)
            server = running.__enter__()
        try:
            yield server
        finally:
            running.__exit__(None, None, None)


def flood(
    server: Server, seed: int, *, probed: bool = True, **phases: list[tuple[float, float]]
) -> dict[str, list[Record]]:
    """Send requests by tenant and phase, and probes; returns their outcomes, by name."""
    flows = [
        {"name": name, "key": KEYS[name], "phases": each, "bodies": bodies(count(each))}
        for name, each in phases.items()
    ]
    length = max(sum(seconds for _, seconds in each) for each in phases.values())
    if probed:
        probe = {"url": f"{server.url}/healthz", "phases": [[PROBES, length]], "bodies": []}
        flows.append({"name": "health", **probe})
    with on_core(1):
        job = {"url": f"{server.url}/rag_modules", "flows": flows, "seed": seed}
        found: dict[str, list[Record]] = generate_load(job)["flows"]
    return found


def count(phases: list[tuple[float, float]]) -> int:
    """Return the largest number of requests: no question twice, or it is embedded only once."""
    return int(1.5 * sum(rate * seconds for rate, seconds in phases)) + 10


def closed(server: Server, clients: int, seconds: float) -> float:
    """Return the answers a second to clients that wait for each."""
    url, key = f"{server.url}/rag_modules", KEYS["noisy"]
    with on_core(1):
        out = load(url, clients=clients, seconds=seconds, bodies=bodies(4000), key=key)
    return len(out["ms"]) / float(out["seconds"])


def peak(server: Server, seconds: float) -> tuple[float, int]:
    """Return the most answers a second, and by how many clients."""
    return max((closed(server, clients, seconds), clients) for clients in CLIENTS)


@dataclass(frozen=True)
class Phase:
    """The outcome of the requests that were due in some seconds."""

    name: str
    offered: float
    goodput: float
    p50: float
    p99: float
    refused: int
    refused_p50: float
    refused_p99: float
    failed: int

    @classmethod
    def of(cls, name: str, records: list[Record], begin: float, end: float) -> Phase:
        begin += SETTLE_S
        there = [one for one in records if begin <= one[0] < end]
        # by when they were answered: of a flood those count that were waiting when it began
        good = [one for one in records if one[1] == 200 and begin <= one[0] + one[2] / 1000 < end]
        times = [one[2] for one in there if one[1] == 200]
        refused = [one[2] for one in there if one[1] == 503]
        return cls(
            name,
            len(there) / (end - begin),
            len(good) / (end - begin),
            percentile(times, 0.5),
            percentile(times, 0.99),
            len(refused),
            percentile(refused, 0.5),
            percentile(refused, 0.99),
            len(there) - len(times) - len(refused),
        )


def recovery(records: list[Record], before: Phase, ended: float, end: float) -> float:
    """Return the seconds from the end of a flood until answers are as fast as before."""
    at = ended
    while at + WINDOW_S <= end:
        window = [one for one in records if at <= one[0] < at + WINDOW_S]
        times = [one[2] for one in window if one[1] == 200]
        if len(times) >= 0.9 * len(window) and percentile(times, 0.5) <= 1.5 * before.p50:
            return at - ended
        at += 0.1
    return float("inf")


@dataclass(frozen=True)
class Found:
    """All measurements of one runner."""

    runner: str
    peak: float
    phases: list[Phase]
    recovery_s: float
    pairs: list[tuple[float, float]]  # answers a second at the peak, and at ten times it
    quiet: list[Phase]
    health_p99: float

    @property
    def goodput(self) -> float:
        """The goodput at ten times the peak, as a share of the peak, over all pairs."""
        return sum(left for _, left in self.pairs) / sum(most for most, _ in self.pairs)

    @property
    def ratios(self) -> list[float]:
        """The same of each pair."""
        return [left / most for most, left in self.pairs]

    def missed(self) -> list[str]:
        """Return the goals that were not reached."""
        flooded, (away, normal, beside) = self.phases[1], self.quiet
        # a processor that is shared makes everybody slower: there the same place at normal load counts
        base = away if self.runner == "model" else normal
        goals = {
            f"goodput {self.goodput:.2f} of the peak": self.goodput >= GOODPUT,
            f"p99 of a refusal {flooded.refused_p99:.0f} ms": flooded.refused_p99 <= REFUSED_MS,
            f"normal after {self.recovery_s:.1f} s": self.recovery_s <= RECOVERY_S,
            f"the quiet tenant's p99 {beside.p99 / base.p99:.2f} ×": beside.p99
            <= VICTIM * base.p99,
            f"the quiet tenant was refused {beside.refused} times": beside.refused == 0,
            f"{flooded.failed} failed": flooded.failed == 0,
            f"p99 of /healthz {self.health_p99:.0f} ms": self.health_p99 <= REFUSED_MS,
        }
        return [goal for goal, reached in goals.items() if not reached]


def measure(runner: str, home: Path, seconds: float, seed: int) -> Found:
    """Measure one runner."""
    with served(runner, home) as server:
        peak(server, min(1.0, seconds))  # warm
        most, clients = peak(server, seconds)
        tell(f"{runner}: peak {most:.1f}/s with {clients} clients")
        normal, much = NORMAL * most, FLOOD * most
        sent = flood(server, seed, noisy=[(normal, seconds), (much, seconds), (normal, seconds)])
        names = ("0.8 × peak", "10 × peak", "0.8 × peak again")
        phases = [
            Phase.of(name, sent["noisy"], at * seconds, (at + 1) * seconds)
            for at, name in enumerate(names)
        ]
        back = recovery(sent["noisy"], phases[0], 2 * seconds, 3 * seconds)
        pairs = []
        half = seconds / 2  # one soon after the other: a shared machine changes within seconds
        for at in range(PAIRS):
            alone = closed(server, clients, half)
            # without probes, as the peak: twenty a second cost as much as an answer or two
            left = flood(server, seed + at, probed=False, noisy=[(much, half)])["noisy"]
            pairs.append((alone, Phase.of("pair", left, 0, half).goodput))
            tell(f"{runner}: pair {at + 1} of {PAIRS}: {pairs[-1][1] / alone:.2f} of the peak")
        others = {"away": 0.0, "0.8 × peak": normal, "10 × peak": much}
        asked: dict[str, list[Record]] = {name: [] for name in others}
        probes: list[Record] = []
        for at, (name, other) in product(range(ROUNDS), others.items()):
            rates = {"quiet": [(QUIET_PER_S[runner], seconds)], "noisy": [(other, seconds)]}
            sent = flood(server, seed + at, **rates)
            asked[name] += [(due + at * seconds, *rest) for due, *rest in sent["quiet"]]
            probes += sent["health"] if other == much else []
            tell(f"{runner}: round {at + 1} of {ROUNDS}, the other tenant: {name}")
        quiet = [Phase.of(name, records, 0, ROUNDS * seconds) for name, records in asked.items()]
        health = Phase.of("health", probes, 0, seconds)
        return Found(runner, most, phases, back, pairs, quiet, health.p99)


def text_of(found: list[Found], passages: int, seconds: float) -> str:
    """Return the section."""
    profile = [
        [
            one.runner if at == 0 else "", phase.name, f"{phase.offered:.0f}", f"{phase.goodput:.1f}",
            f"{phase.goodput / one.peak:.2f}", f"{phase.p50:.0f}", f"{phase.p99:.0f}",
            str(phase.refused), f"{phase.refused_p50:.1f}" if phase.refused else "",
            f"{phase.refused_p99:.1f}" if phase.refused else "", str(phase.failed),
        ]
        for one in found
        for at, phase in enumerate(one.phases)
    ]  # fmt: skip
    quiet = [
        [one.runner if at == 0 else "", phase.name, f"{phase.p50:.0f}", f"{phase.p99:.0f}",
         f"{phase.p99 / one.quiet[0].p99:.2f} ×", f"{phase.p99 / one.quiet[1].p99:.2f} ×",
         str(phase.refused)]
        for one in found
        for at, phase in enumerate(one.quiet)
    ]  # fmt: skip
    pairs = "; ".join(
        f"{one.runner} {one.goodput:.2f} ({min(one.ratios):.2f} to {max(one.ratios):.2f})"
        for one in found
    )
    peaks = "; ".join(f"{one.runner} {one.peak:.1f}/s" for one in found)
    back = "; ".join(f"{one.runner} after {one.recovery_s:.1f} s" for one in found)
    health = "; ".join(f"{one.runner} {one.health_p99:.1f} ms" for one in found)
    missed = [f"{one.runner}: {goal}" for one in found for goal in one.missed()]
    return "\n".join(
        [
            f"Measured {date.today()} on {machine()}; {seconds:g} s a phase, {passages} passages, default "
            "limits. The service has one core, the load generator the other.",
            "",
            f"Peak: {peaks}. Normal again: {back}. /healthz at 10 × peak, p99: {health}. "
            f"What 10 × peak leaves, {PAIRS} times in turn with the peak: {pairs}.",
            "",
            *markdown(
                ("Runner", "load", "requests/s", "answers/s", "of the peak", "p50 ms", "p99 ms",
                 "refused", "refusal p50 ms", "p99 ms", "failed"),
                profile,
            ),
            "The quiet tenant:",
            "",
            *markdown(
                ("Runner", "the other tenant", "p50 ms", "p99 ms", "p99 to: away",
                 "to: 0.8 × peak", "refused"),
                quiet,
            ),
            f"Goals missed: {'; '.join(missed) or 'none'}.",
        ]
    )  # fmt: skip


def main() -> None:
    """Measure, print, and with --write put it into docs/benchmarks.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="for each phase (default 10)")
    parser.add_argument("--runners", default="extractive,model", help="extractive, model")
    parser.add_argument("--seed", type=int, default=1, help="of the times of arrival")
    parser.add_argument("--write", action="store_true", help="into docs/benchmarks.md, too")
    options = parser.parse_args()
    for name in [name for name in os.environ if name.startswith("RAG_")]:
        del os.environ[name]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        passages = index(home, Path(folder) / "passages.json")
        found = [
            measure(runner, home, options.seconds, options.seed)
            for runner in options.runners.split(",")
        ]
    text = text_of(found, passages, options.seconds)
    Console(width=160).print(text, markup=False, highlight=False)
    if options.write:
        write_section("overload", text)


if __name__ == "__main__":
    main()
