"""The simulation behind docs/scaling.md: it agrees with queueing theory, and with what was measured."""

from __future__ import annotations

import math
import random
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("simpy", reason="the simulation needs simpy: scripts/setup --group bench")
import scaling
import simulation

ROOT = Path(__file__).resolve().parents[2]
FOREVER = 1e9
LIMITLESS = simulation.Limits(places=10**6, queue=0, wait_s=FOREVER, computing=10**6, waiting=10**6)


def exponential(mean_s: float) -> Any:
    """Questions that take one turn on a core."""
    return lambda chance: simulation.Question((0.0, chance.expovariate(1 / mean_s), 0.0))


def took(records: list[Any], settle_s: float = 50.0) -> float:
    return statistics.fmean(one.took for one in records if one.due > settle_s)


# -- queueing theory ------------------------------------------------------------------------------


@pytest.mark.parametrize(("cores", "load"), [(1, 0.7), (4, 0.8)])
def test_waiting_first_come_first_served_is_that_of_m_m_c(cores: int, load: float) -> None:
    """The mean wait is Erlang's; the closed form itself is held to a known value below."""
    service_s, rate = 0.02, load * cores / 0.02
    world = simulation.World(
        exponential(service_s), limits=LIMITLESS, cores=cores, quantum_s=FOREVER, in_order=True
    )
    wait_s = took(world.arrivals(rate, 30_000 / rate), settle_s=1000 / rate) - service_s

    assert wait_s == pytest.approx(simulation.mean_wait(rate, service_s, cores), rel=0.08)


def test_the_closed_forms_give_the_values_of_the_textbooks() -> None:
    assert simulation.erlang_b(1.0, 1) == pytest.approx(0.5)
    assert simulation.erlang_b(2.0, 2) == pytest.approx(0.4)
    assert simulation.erlang_c(1.5, 2) == pytest.approx(9 / 14)
    assert simulation.mean_wait(0.8, 1.0) == pytest.approx(4.0)  # load / (1 - load) services


def test_waiting_for_equal_work_is_half_of_that_for_exponential_work() -> None:
    """Pollaczek and Khinchine: M/D/1."""
    service_s, rate = 0.02, 40.0
    world = simulation.World(
        lambda _: simulation.Question((0.0, service_s, 0.0)),
        limits=LIMITLESS,
        quantum_s=FOREVER,
        in_order=True,
    )
    wait_s = took(world.arrivals(rate, 1000)) - service_s

    assert wait_s == pytest.approx(simulation.mean_wait(rate, service_s) / 2, rel=0.06)


@pytest.mark.parametrize("in_order", [True, False])
def test_a_shared_core_takes_the_same_whatever_the_spread_of_the_work(in_order: bool) -> None:
    """Processor sharing: the mean time in the system is service / (1 - load), for any spread."""
    service_s, rate = 0.02, 35.0
    world = simulation.World(
        lambda _: simulation.Question((0.0, service_s, 0.0)),
        limits=LIMITLESS,
        quantum_s=0.001,
        in_order=in_order,
    )
    shared = took(world.arrivals(rate, 350))

    assert shared == pytest.approx(service_s / (1 - rate * service_s), rel=0.08)


def test_who_finds_no_place_is_refused_as_often_as_erlang_says() -> None:
    """Eight places, no queue, half a second of waiting for a model each, no work: M/G/8/8."""
    rate = 14.0
    world = simulation.World(
        lambda _: simulation.Question((0.0, 0.0, 0.0), model_s=0.5),
        limits=simulation.Limits(places=8, queue=0),
    )
    records = world.arrivals(rate, 1000)
    refused = sum(1 for one in records if not one.answered) / len(records)

    assert refused == pytest.approx(simulation.erlang_b(rate * 0.5, 8), rel=0.05)


def test_clients_that_wait_for_their_answers_share_what_the_core_gives() -> None:
    """The law of response times: clients = answers a second × seconds an answer."""
    world = simulation.World(exponential(0.02), limits=LIMITLESS)
    records = world.clients(4, 200)

    assert len(records) / 200 == pytest.approx(50, rel=0.03)
    assert len(records) / 200 * took(records) == pytest.approx(4, rel=0.02)


# -- the parts ------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_records_and_another_one_others() -> None:
    def run(seed: int) -> list[Any]:
        world = simulation.World(exponential(0.02), seed, replicas=3, balance="two")
        return list(world.arrivals(120, 20))

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_the_limits_are_those_of_the_service() -> None:
    """The service's defaults are read, not copied."""
    from rag_service.settings import ServiceSettings

    settings = ServiceSettings()
    limits = simulation.Limits()

    assert (limits.places, limits.queue, limits.wait_s) == (
        settings.max_concurrency,
        settings.max_queue,
        settings.queue_wait_s,
    )


def test_a_place_goes_to_who_waits_at_the_moment_it_is_given_back() -> None:
    """One place: each question waits for those before it, to the millisecond."""
    world = simulation.World(
        lambda _: simulation.Question((0.0, 0.1, 0.0)), limits=simulation.Limits(places=1)
    )
    records = world.arrive([0.0, 0.01, 0.02])

    assert [one.answered for one in records] == [True] * 3
    assert [one.took for one in records] == pytest.approx([0.1, 0.19, 0.28])


def test_nobody_waits_longer_than_the_limit_and_a_flood_costs_no_answers() -> None:
    """Admission: refused early, not answered late."""
    limits = simulation.Limits()
    draw = exponential(0.02)
    calm = simulation.World(draw, limits=limits).arrivals(50, 60)
    flooded = simulation.World(draw, limits=limits).arrivals(500, 60)
    answers = [
        sum(1 for one in records if one.answered and one.due + one.took < 60)
        for records in (calm, flooded)
    ]

    assert answers[1] >= 0.98 * answers[0]
    assert max(one.took for one in flooded if not one.answered) <= limits.wait_s + 1e-9


def test_a_balancer_that_knows_who_is_busy_is_faster_than_one_that_does_not() -> None:
    def p95(balance: str) -> float:
        world = simulation.World(exponential(0.02), replicas=10, balance=balance)
        times = sorted(one.took for one in world.arrivals(400, 30))
        return times[int(0.95 * len(times))]

    least, two, anybody = (p95(balance) for balance in ("least", "two", "random"))
    assert least < two < anybody


def test_models_that_write_few_answers_at_once_are_the_limit_whatever_the_replicas() -> None:
    """Little's law: at once = answers a second × seconds an answer."""
    world = simulation.World(
        lambda _: simulation.Question((0.001, 0.001, 0.001), model_s=1.0),
        replicas=4,
        limits=simulation.Limits(places=32),
        fleet=20,
    )
    records = world.arrivals(60, 100)
    answers = sum(1 for one in records if one.answered and 20 < one.due + one.took < 100)

    assert answers / 80 == pytest.approx(20, rel=0.02)


def test_a_refusal_takes_its_time_on_the_core() -> None:
    free, dear = (
        simulation.World(exponential(0.02), limits=simulation.Limits(refusal_s=cost))
        for cost in (0.0, 0.001)
    )
    given = [sum(1 for one in world.arrivals(500, 30) if one.answered) for world in (free, dear)]

    assert given[1] < 0.75 * given[0]


# -- what was measured ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checked() -> Iterator[list[Any]]:
    yield scaling.checks(scaling.read(), seed=2)


def test_the_simulation_gives_the_measured_throughput_and_p95(checked: list[Any]) -> None:
    """1 to 16 clients, a flood, a model, many places; light load by chance: throughput only."""
    off = {one.load: one.off() for one in checked}
    held = {one.load for one in scaling.held(checked)}

    assert {"1 client", "2 clients", "4 clients", "8 clients", "16 clients"} <= held
    assert len(held) == len(off) - 2
    assert {n: o for n, o in off.items() if abs(o["per_s"]) > scaling.PER_S} == {}
    assert {n: o for n, o in off.items() if n in held and abs(o["p95"]) > scaling.P95} == {}


def test_the_samples_are_of_a_quiet_machine() -> None:
    """Nothing else was at work, and one load's questions were about as dear as another's."""
    found = scaling.read()
    spent = [line["cpu_ms"] for line in found["closed"]]

    assert max(found["cores_busy"]) < 0.1
    assert max(line["others"] for line in found["closed"]) < 0.2
    assert max(spent) / min(spent) < 1.2
    assert len(found["answers"]) >= 200


def test_plans_grow_with_the_rate_and_one_may_always_be_lost() -> None:
    assert scaling.replicas(1, 0.001) == 2
    assert scaling.replicas(1000, 0.014) == math.ceil(1000 * 0.014 / scaling.BUSY)


def test_drawn_questions_cost_what_was_measured() -> None:
    """The parts of a drawn question add up to the round trip of an answer."""
    found = scaling.read()
    wholes = {round(row[-1], 3) for row in found["answers"]}
    draw, chance = scaling.plain(found), random.Random(3)
    for _ in range(100):
        one = draw(chance)
        assert any(abs((sum(one.turns) + one.outside_s) * 1000 - ms) < 0.01 for ms in wholes)


def test_the_document_holds_what_the_command_prints() -> None:
    """docs/scaling.md was written from the committed samples: its cheap sections are the same."""
    text = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    for name in ("cost", "plan", "store"):
        section = scaling.SECTIONS[name](scaling.read())
        assert section.strip() in text, f"{name} differs: make scaling, with --write"


def test_the_command_says_what_it_does_and_what_is_wrong() -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "lab/scaling.py"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    told = run("--help")
    wrong = run("--only", "nothing")

    assert told.returncode == 0 and "--measure" in told.stdout
    assert wrong.returncode == 2 and "nothing" in wrong.stderr
