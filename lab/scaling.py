"""What a question costs, how far one process scales, and how many replicas a load needs.

    python lab/scaling.py [--measure] [--write]

Reads the measured times in lab/scaling_samples.json, simulates the same load (lab/simulation.py)
and prints the error, then simulates what was not measured: other rates, many replicas, slow
models. `--measure` takes new samples first, on this machine, which must be quiet: about four
minutes. `--write` puts the tables into docs/scaling.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from simulation import Balance, Draw, Limits, Question, Record, World, poisson

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE.parent / folder) for folder in ("bench", "scripts")]
from report import write_section

from rag_pipeline.stages import NEEDED

SAMPLES = HERE / "scaling_samples.json"
DOCUMENT = HERE.parent / "docs" / "scaling.md"
RATES = (10, 1_000, 100_000)  # questions a second to plan for
CELL = 1_000  # questions a second behind one balancer; more are more cells
ROUNDS = 12  # simulated for each load that was measured
SETTLE_S = 2.0  # simulated seconds at the beginning that do not count
PER_S, P95 = 0.15, 0.25  # how far the simulation may be off
PARTS = ("service", "composite", *NEEDED)
Found = dict[str, Any]


@dataclass(frozen=True)
class Published:
    """A figure that was not measured here: its meaning and its source."""

    value: float
    what: str
    source: str


# Figures of others, and choices. Change them here; everything below follows.
BUSY = 0.7  # of a core, on average, that is planned with
MODEL_S = 1.0  # assumption: seconds of an answer of a model
ANSWER_TOKENS = 128  # assumption: tokens of an answer
GPUS = {
    "A100 40 GB": Published(
        495,
        "output tokens a second, Llama 3.1 8B, vLLM, 8 at once, 1,024 tokens in and 128 out "
        "(75 at one, 6.6 times that at 8)",
        "https://johnmusgrave.com/p/vllm-throughput-latency-sweep-on",
    ),
    "H100 80 GB": Published(
        1384,
        "output tokens a second, Llama 3.1 8B, vLLM, 16 at once, short chats",
        "https://yobitelcomm.github.io/bench/recipes/concurrency-sweep/",
    ),
}
SEARCHES = Published(
    404,
    "searches a second of one Qdrant node with 8 cores: a million vectors of 1,536 numbers, "
    "m 32, ef_construct 256, hnsw_ef 512, int8 with rescoring, 100 at once, precision 0.98 to 0.998",
    "https://qdrant.tech/benchmarks/ (raw data of 2024-06-15)",
)
SEARCHES_EACH = 2  # assumption: hybrid is a dense and a sparse search, taken as equally dear
RAM_FACTOR = Published(
    1.5,
    "times vectors × dimension × 4 bytes of memory",
    "https://qdrant.tech/documentation/capacity-planning/",
)
NODE_GIB = 64  # assumption: memory of a Qdrant node, of which three quarters are planned with
NODE_SHARE = 0.75
COPIES = 2  # assumption: replication_factor


# -- from samples to questions --------------------------------------------------------------------

Rows = Sequence[Sequence[float]]  # [retrieve, augment, generate, round trip] of an answer, in ms


def _own(row: Sequence[float], client_ms: float) -> float:
    """Return the service's own share of a round trip, outside of all steps, in ms."""
    return max(0.0, row[-1] - sum(row[:-1]) - client_ms)


def _drawing(questions: Sequence[Question]) -> Draw:
    return lambda chance: chance.choice(questions)


def plain(found: Found) -> Draw:
    """Return a generator of extractive questions, from those measured with one client."""
    client_ms = found["client_ms"]
    questions = []
    for row in found["answers"]:
        half = _own(row, client_ms) / 2  # before the steps, and after them
        turns = tuple(ms / 1000 for ms in (half, *row[:-1], half))
        questions.append(Question(turns, outside_s=client_ms / 1000))
    return _drawing(questions)


def modelled(found: Found, seconds: float | None = None) -> Draw:
    """Return a generator of questions for a model that takes the measured or other seconds.

    How much of `generate` is work and how much is waiting is told by the processor time of all.
    """
    rows, client_ms = found["model_answers"], found["client_ms"]
    own = [_own(row, client_ms) for row in rows]
    rest = statistics.fmean(row[0] + row[1] + ms for row, ms in zip(rows, own, strict=True))
    work = max(0.0, found["model"][0]["cpu_ms"] - rest)
    questions = []
    for row, ms in zip(rows, own, strict=True):
        turns = tuple(each / 1000 for each in (ms / 2, row[0], row[1], work, ms / 2))
        wait_s = max(0.0, row[2] - work) / 1000 if seconds is None else seconds
        questions.append(Question(turns, wait_s, client_ms / 1000))
    return _drawing(questions)


def refusal_s(found: Found) -> float:
    """Return the core seconds of a refusal: those of a flood beyond its answers."""
    flood = found["flood"]
    answers_s = flood["answers"] * core_s(plain(found))
    return max(0.0, flood["cpu_s"] - answers_s) / max(1, flood["refused"])


def limits(found: Found, **more: int) -> Limits:
    """Return the service's limits, with the cost of a refusal."""
    return Limits(refusal_s=refusal_s(found), **more)


def core_s(draw: Draw, number: int = 2000) -> float:
    """Return the mean core seconds of a question."""
    chance = random.Random(0)
    return statistics.fmean(sum(draw(chance).turns) for _ in range(number))


# -- what comes out -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """The outcome of the questions in some seconds; times are milliseconds."""

    per_s: float
    p50: float
    p95: float
    p99: float
    refused: float

    @classmethod
    def of(cls, records: Sequence[Record], seconds: float) -> Outcome:
        """Count answers, and how long they took."""
        times = sorted(one.took * 1000 for one in records if one.answered)
        at = [times[min(len(times) - 1, int(len(times) * share))] for share in (0.5, 0.95, 0.99)]
        return cls(len(times) / seconds, *at, 1 - len(times) / len(records))

    def cells(self) -> list[str]:
        times = (f"{ms:.0f}" for ms in (self.p50, self.p95, self.p99))
        return [f"{self.per_s:,.1f}", *times, f"{self.refused:.1%}"]


HEAD = ("answers/s", "p50 ms", "p95 ms", "p99 ms", "refused")


def steady(world: World, rate: float, seconds: float = 60.0) -> Outcome:
    """Return the steady-state outcome of Poisson arrivals."""
    end = SETTLE_S + seconds
    records = world.arrivals(rate, end)
    there = [one for one in records if one.due >= SETTLE_S]
    outcome = Outcome.of(there, seconds)
    # those that were waiting when it began count, those that wait at the end do not
    answers = sum(1 for one in records if one.answered and SETTLE_S <= one.due + one.took < end)
    return replace(outcome, per_s=answers / seconds)


@dataclass(frozen=True)
class Check:
    """A measured load beside its simulation."""

    load: str
    measured: Outcome
    simulated: Outcome

    def off(self) -> dict[str, float]:
        """Return how far the simulation is off, as a share of what was measured."""
        return {
            name: getattr(self.simulated, name) / getattr(self.measured, name) - 1
            for name in ("per_s", "p50", "p95")
        }

    def cells(self) -> list[str]:
        pairs = [
            (self.measured.per_s, self.simulated.per_s),
            (self.measured.p50, self.simulated.p50),
            (self.measured.p95, self.simulated.p95),
        ]
        both = [f"{one:.1f} / {other:.1f}" for one, other in pairs]
        return [self.load, *both, *(f"{share:+.0%}" for share in self.off().values())]


def checks(found: Found, seed: int = 1) -> list[Check]:
    """Simulate every measured load, in rounds as short as those were."""
    seconds = found["seconds"]

    def measured(line: Found) -> Outcome:
        times = (line[f"p{share}"] for share in (50, 95, 99))
        return Outcome(line["per_s"], *times, line["refused"] / (line["answers"] + line["refused"]))

    def clients(line: Found, draw: Draw, held: Limits) -> Outcome:
        worlds = (World(draw, seed * ROUNDS + at, limits=held) for at in range(ROUNDS))
        runs = [world.clients(line["clients"], seconds) for world in worlds]
        lasted = sum(max(one.due + one.took for one in run if one.answered) for run in runs)
        return Outcome.of([one for run in runs for one in run], lasted)

    def arrivals(line: Found) -> Outcome:
        runs = []
        for at in range(ROUNDS):  # the moments at which the questions of the rounds came
            chance = random.Random(f"{at % found['rounds']}-{line['flow']}")
            world = World(plain(found), seed * ROUNDS + at, limits=usual)
            runs.append(world.arrive(poisson(chance, line["rate"], seconds)))
        records = [one for run in runs for one in run]
        in_time = sum(1 for one in records if one.answered and one.due + one.took <= seconds)
        return replace(Outcome.of(records, seconds), per_s=in_time / seconds / ROUNDS)

    usual, places = limits(found), found["wide"]["clients"]
    many = limits(found, places=places, queue=places)
    out = [
        Check(_clients(line), measured(line), clients(line, plain(found), usual))
        for line in found["closed"]
    ]
    out += [
        Check(f"{line['rate']:.0f} questions/s by chance", measured(line), arrivals(line))
        for line in found["open"]
    ]
    out += [
        Check(f"model, {_clients(line)}", measured(line), clients(line, modelled(found), usual))
        for line in found["model"]
    ]
    wide = found["wide"]
    name = f"model, {_clients(wide)}, as many places"
    return [*out, Check(name, measured(wide), clients(wide, modelled(found), many))]


def _clients(line: Found) -> str:
    return f"{line['clients']} client{'s' * (line['clients'] > 1)}"


# -- the tables -----------------------------------------------------------------------------------


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows), ""]


def spread(values: Sequence[float]) -> list[str]:
    ordered = sorted(values)
    at = (ordered[int(len(ordered) * share)] for share in (0.5, 0.95))
    return [f"{statistics.fmean(ordered):.2f}", *(f"{one:.2f}" for one in at)]


def where(found: Found) -> str:
    return f"{found['date']} on {found['machine']}"


def cost(found: Found) -> str:
    """Return what a question costs, step by step."""
    steps, one = found["steps"], found["closed"][0]
    drift = [ms for line in found["closed"] for ms in line["rounds_cpu_ms"]]
    rows = [
        [name, *spread(steps["wall"][name]), *spread(steps["cpu"][name])] for name in steps["wall"]
    ]
    own = [whole - sum(rest) for *rest, whole in found["answers"]]
    rows.append(["HTTP, composite, client", *spread(own), "", "", ""])
    rows.append(
        ["a question over HTTP", *spread([row[-1] for row in found["answers"]]),
         f"{one['cpu_ms']:.2f}", "", ""]
    )  # fmt: skip
    parts = found["apart"]
    apart = [[name, f"{parts['cpu'][name]:.2f}", str(parts["memory_mib"][name])] for name in PARTS]
    apart.append(
        ["all five", f"{sum(parts['cpu'].values()):.2f}", str(sum(parts["memory_mib"].values()))]
    )
    apart.append(["for comparison: one process", f"{one['cpu_ms']:.2f}", str(found["memory_mib"])])
    usual = sum(steps["knobs_cpu"]["top_k 5 (default)"].values())
    knobs = [
        [name, *(f"{ms:.2f}" for ms in each.values()), f"{sum(each.values()):.2f}",
         f"{sum(each.values()) / usual - 1:+.0%}"]
        for name, each in steps["knobs_cpu"].items()
    ]  # fmt: skip
    before, between, after = found["cores_busy"]
    return "\n".join(
        [
            f"Measured {where(found)}, {found['passages']} passages, extractive answers; "
            f"{len(found['answers'])} questions over HTTP, {len(steps['cpu']['augment'])} without. The "
            "service has one core, the load generator the other. Both cores were "
            f"{before:.0%}, {between:.0%} and {after:.0%} busy before, in a pause and after. The machine's "
            f"own speed was not steady: a question took {min(drift):.1f} to {max(drift):.1f} ms of the "
            "processor from one round of a load to another, so differences below a sixth say little.",
            "",
            *markdown(
                ("step", "wall ms, mean", "p50", "p95", "processor ms, mean", "p50", "p95"), rows
            ),
            f"Of `retrieve`, embedding the question takes {steps['embed_cpu']:.2f} ms. With a model the "
            f"service's processor time is {found['model'][0]['cpu_ms']:.2f} ms a question, at one client.",
            "",
            "**Each part a process of its own, all on one core, 4 clients**",
            "",
            *markdown(("part", "processor ms a question", "memory MiB"), apart),
            "**What changes the cost: processor ms, in one process without HTTP**",
            "",
            *markdown(("question", *steps["wall"], "all", "to the default"), knobs),
        ]
    )


def held(rows: Sequence[Check]) -> list[Check]:
    """Return what the simulation must agree with: all but light Poisson load.

    There a few dozen questions in one slow moment of the machine decide p95.
    """
    return [one for one in rows if "by chance" not in one.load or one.measured.refused > 0]


def check(found: Found) -> str:
    """Return how far the simulation is off."""
    rows = checks(found)

    def worst(among: Sequence[Check]) -> str:
        off = {name: max(abs(one.off()[name]) for one in among) for name in ("per_s", "p50", "p95")}
        return f"answers/s {off['per_s']:.0%}, p50 {off['p50']:.0%}, p95 {off['p95']:.0%}"

    light = [one for one in rows if one not in held(rows)]
    return "\n".join(
        [
            f"Measured {where(found)}, {found['rounds']} rounds of {found['seconds']:g} s a line, all "
            f"lines in turns; simulated {ROUNDS} such rounds a line from the samples taken at one client. "
            "Each cell: measured / simulated.",
            "",
            *markdown(
                ("load", "answers/s", "p50 ms", "p95 ms", "answers/s off", "p50 off", "p95 off"),
                [one.cells() for one in rows],
            ),
            f"Farthest off: {worst(held(rows))}. The test allows {PER_S:.0%} (answers/s), {P95:.0%} (p95). "
            f"Without light load by chance, which is not held to p95: {worst(light)}.",
        ]
    )


def replica(found: Found) -> str:
    """Return the results of one replica under growing load, and with a model."""
    draw, usual = plain(found), limits(found)
    most = 1 / core_s(draw)
    rows = []
    for share in (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.5, 10.0):
        seconds = 120.0 if share <= 1 else 30.0
        rows.append(
            [f"{share:g} ×", *steady(World(draw, limits=usual), share * most, seconds).cells()]
        )
    waits = []
    for seconds in (0.5, 1.0, 2.0):
        for places in (8, 32, 128):
            slow = modelled(found, seconds)
            held = limits(found, places=places, queue=2 * places)
            bound = min(1 / core_s(slow), min(places, held.waiting) / seconds)
            flood = steady(World(slow, limits=held), 1.5 * bound)
            calm = steady(World(slow, limits=held), BUSY * bound, 120)
            waits.append(
                [f"{seconds:g}", str(places), f"{bound:.1f}", f"{flood.per_s:.1f}",
                 f"{flood.refused:.0%}", f"{calm.p95:.0f}", f"{calm.refused:.1%}"]
            )  # fmt: skip
    return "\n".join(
        [
            f"Simulated from the samples of {where(found)}: one replica with one core, which can answer "
            f"{most:.1f} questions a second. Questions come by chance; default limits.",
            "",
            *markdown(("offered", *HEAD), rows),
            "**With a model**: `RAG_MAX_CONCURRENCY` places, twice as many in the queue, "
            f"{Limits().waiting} threads. The bound is the smallest of 1 / processor time, places / "
            "latency, threads / latency.",
            "",
            *markdown(
                ("model s", "places", "bound, answers/s", "answers/s at 1.5 × the bound", "refused",
                 f"p95 ms at {BUSY:g} × the bound", "refused"),
                waits,
            ),
        ]
    )  # fmt: skip


def fleet(found: Found) -> str:
    """Return the results of many replicas, by balancer, with one lost, and with too few models."""
    draw = plain(found)
    each = core_s(draw)
    rows = []
    for rate in (10, CELL):
        number = replicas(rate, each)
        seconds = 300.0 if rate < CELL else 20.0
        shapes: list[tuple[str, int, Balance]] = [
            ("fewest at work", number, "least"),
            ("the better of two", number, "two"),
            ("any", number, "random"),
            ("fewest at work, one replica lost", number - 1, "least"),
            ("any, one replica lost", number - 1, "random"),
        ]
        for name, many, balance in shapes:
            outcome = steady(
                World(draw, replicas=many, balance=balance, limits=limits(found)), rate, seconds
            )
            rows.append([f"{rate:,}", str(many), name, *outcome.cells()])
    slow = modelled(found, MODEL_S)
    room, number, at_once = limits(found, places=32, queue=64), 8, 100
    short = []
    for share in (0.7, 0.9, 1.0, 1.2, 2.0):
        world = World(slow, replicas=number, limits=room, fleet=at_once)
        outcome = steady(world, share * at_once / MODEL_S)
        short.append([f"{share:g} ×", f"{share * at_once / MODEL_S:.0f}", *outcome.cells()])
    return "\n".join(
        [
            f"Simulated from the samples of {where(found)}; each replica has one core and default limits, "
            f"and their number is planned for cores that are {BUSY:.0%} busy.",
            "",
            *markdown(("questions/s", "replicas", "balancer sends to", *HEAD), rows),
            f"**Too few models**: {number} replicas with 32 places, models that write {at_once} answers at "
            f"once, {MODEL_S:g} s each.",
            "",
            *markdown(("offered", "questions/s", *HEAD), short),
        ]
    )


def replicas(rate: float, seconds: float) -> int:
    """Return the number of cores needed, at least two: one may be lost."""
    return max(2, math.ceil(rate * seconds / BUSY))


def plan(found: Found) -> str:
    """Return the number of replicas needed, by questions per second."""
    cpu = found["apart"]["cpu"]
    one = found["closed"][0]["cpu_ms"]
    model_ms = found["model"][0]["cpu_ms"]
    waiting = MODEL_S / Limits().waiting * 1000

    def row(name: str, ms: float) -> list[str]:
        return [name, f"{ms:.2f}", *(f"{replicas(rate, ms / 1000):,}" for rate in RATES)]

    sent = found["steps"]["bytes"]
    question, passages, prompt, answer = (sent[name] for name in ("question", *NEEDED))
    outside = question + answer
    inside = 2 * (question + answer) + 2 * passages + 2 * prompt  # composite and steps
    head = ("", "processor ms", *(f"{rate:,}/s" for rate in RATES))
    rows = [
        row("one process (`--runner local`)", one),
        *(row(f"apart: {name}", cpu[name]) for name in PARTS),
        row("one process, with a model: by processor time", model_ms),
        [f"the same: by threads, {MODEL_S:g} s a model", f"{waiting:.2f} of a thread",
         *(f"{max(2, math.ceil(rate * waiting / 1000 / BUSY)):,}" for rate in RATES)],
    ]  # fmt: skip
    net = [
        ["client ↔ service", f"{outside:,}", *(_bits(outside * rate) for rate in RATES)],
        ["between the parts, when apart", f"{inside:,}", *(_bits(inside * rate) for rate in RATES)],
    ]
    searches = [
        "Qdrant nodes by searches", "",
        *(f"{max(2, math.ceil(rate * SEARCHES_EACH / SEARCHES.value / BUSY)):,}" for rate in RATES),
    ]  # fmt: skip
    models = [
        ["answers being written at once", "", *(f"{rate * MODEL_S:,.0f}" for rate in RATES)],
        ["output tokens/s", "", *(f"{rate * ANSWER_TOKENS:,}" for rate in RATES)],
        *(
            [f"{name} GPUs", f"{gpu.value:,.0f} tokens/s",
             *(f"{math.ceil(rate * ANSWER_TOKENS / gpu.value):,}" for rate in RATES)]
            for name, gpu in GPUS.items()
        ),
    ]  # fmt: skip
    sources = [
        f"- {name}: {each.value:,.0f} {each.what}; {each.source}" for name, each in GPUS.items()
    ]
    return "\n".join(
        [
            f"Replicas of one core each, {BUSY:.0%} busy, two at least; processor times of {where(found)}.",
            "",
            *markdown(head, rows),
            "**Beyond the processes of this project**, from figures of others:",
            "",
            *markdown(("", "", *(f"{rate:,}/s" for rate in RATES)), [searches, *models]),
            f"- Qdrant: {SEARCHES.value:,.0f} {SEARCHES.what}; {SEARCHES.source}. Assumption: a hybrid "
            f"question is {SEARCHES_EACH} such searches.",
            *sources,
            f"- Assumptions: an answer takes {MODEL_S:g} s and has {ANSWER_TOKENS} tokens. The prompts here "
            f"have {found['steps']['prompt_tokens']} tokens on average (measured).",
            "",
            "**Network**, JSON without HTTP's own (measured bytes):",
            "",
            *markdown(("", "bytes a question", *(f"{rate:,}/s" for rate in RATES)), net),
        ]
    )


def _bits(per_s: float) -> str:
    bits = per_s * 8
    for unit, size in (("Gbit/s", 1e9), ("Mbit/s", 1e6)):
        if bits >= size:
            return f"{bits / size:,.1f} {unit}"
    return f"{bits / 1e3:,.0f} kbit/s"


def store(found: Found) -> str:
    """Return the memory of passages in Qdrant, and the number of nodes."""
    passage = found["steps"]["passage"]
    dimension, payload, words = (passage[name] for name in ("dimension", "payload_bytes", "words"))
    vectors = dimension * 4 * RAM_FACTOR.value
    sparse = words * 8  # a number of the word and its weight, four bytes each
    graph = 2 * 32 * 4  # the edges of HNSW at m 32, within the factor
    memory, disk = vectors + sparse, vectors / RAM_FACTOR.value + sparse + payload
    rows = []
    for millions in (1, 10, 100, 1000):
        number = millions * 1e6
        gib = memory * number / 2**30
        nodes = math.ceil(gib / (NODE_GIB * NODE_SHARE))
        rows.append(
            [f"{millions:,} million", f"{gib:,.1f}", f"{disk * number / 2**30:,.1f}", f"{nodes}",
             f"{max(3, math.ceil(COPIES * gib / (NODE_GIB * NODE_SHARE)))}"]
        )  # fmt: skip
    return "\n".join(
        [
            "Bytes of a passage:",
            "",
            *markdown(
                ("what", "bytes", "how it is known"),
                [
                    ["dense vector", f"{dimension * 4:,}", f"{dimension} numbers of 4 bytes"],
                    ["dense vector with index and room to work", f"{vectors:,.0f}",
                     f"published: × {RAM_FACTOR.value:g}, {RAM_FACTOR.source}"],
                    ["of that: edges of the graph", f"{graph}", "2 × m × 4 bytes, m 32"],
                    ["words (sparse vector)", f"{sparse:,}",
                     f"{words} words of 8 bytes; words measured, overhead of their index not known"],
                    ["text and metadata (payload)", f"{payload:,}", "measured as JSON; on disk, cached"],
                ],
            ),
            f"Memory = passages × (dimension × 4 × {RAM_FACTOR.value:g} + words × 8). Nodes have "
            f"{NODE_GIB} GiB, of which {NODE_SHARE:.0%} are planned with (assumption).",
            "",
            *markdown(
                ("passages", "memory GiB, one copy", "disk GiB, one copy", "shards (nodes for one copy)",
                 f"nodes for {COPIES} copies, three at least"),
                rows,
            ),
            f"The sizes are those of {passage['count']} passages of this documentation, {where(found)}.",
        ]
    )  # fmt: skip


SECTIONS = {
    "cost": cost, "check": check, "replica": replica, "fleet": fleet, "plan": plan, "store": store,
}  # fmt: skip


def read() -> Found:
    """Return the latest samples."""
    if not SAMPLES.is_file():
        raise SystemExit(f"there is no {SAMPLES}; take samples with --measure")
    found: Found = json.loads(SAMPLES.read_text(encoding="utf-8"))
    return found


def main() -> None:
    """Measure if asked to, simulate, print, and with --write put it into docs/scaling.md."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="Without --measure it simulates from lab/scaling_samples.json, in about a minute.",
    )
    parser.add_argument(
        "--measure", action="store_true", help="take new samples on this machine first"
    )
    parser.add_argument("--seconds", type=float, default=2.5, help="of each load (default 2.5)")
    parser.add_argument("--rounds", type=int, default=3, help="of all loads (default 3)")
    parser.add_argument("--questions", type=int, default=120, help="without HTTP (default 120)")
    parser.add_argument("--only", choices=SECTIONS, help="one section instead of all")
    parser.add_argument("--write", action="store_true", help="into docs/scaling.md, too")
    options = parser.parse_args()
    if options.measure:
        from scaling_samples import measure, write  # needs what only measuring needs

        for name in [name for name in os.environ if name.startswith("RAG_")]:
            del os.environ[name]
        say = partial(print, file=sys.stderr, flush=True)
        write(measure(options.seconds, options.rounds, options.questions, say))
    found = read()
    for name, section in SECTIONS.items():
        if options.only in (None, name):
            text = section(found)
            print(f"\n## {name}\n\n{text}", flush=True)
            if options.write:
                write_section(name, text, DOCUMENT)


if __name__ == "__main__":
    main()
