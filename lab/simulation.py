"""A small discrete-event simulation of the service: cores, admission, a language model, a balancer.

Time is in seconds. A question takes turns on a core, step by step; while it waits for the
language model it holds its slot and a thread, but no core. `lab/scaling.py` feeds it with
measured times, `lab/tests/test_scaling.py` holds it to queueing theory and to what was measured.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import simpy

from rag_kit.workers import IO_THREADS
from rag_service.http.fair_queue import MAX_WAIT_SHARE, RETRY_S, SMOOTHING
from rag_service.settings import ServiceSettings

QUANTUM_S = 0.005  # CPython lets another thread on after so long (sys.getswitchinterval)
COMPUTING = 1  # steps that compute at once: as many as the process has cores
Steps = Generator[simpy.Event, Any, Any]
Balance = Literal["least", "two", "random"]


def _default(name: str) -> Any:
    return ServiceSettings.model_fields[name].default


@dataclass(frozen=True)
class Limits:
    """The limits of one replica; the service's own defaults."""

    places: int = _default("max_concurrency")
    queue: int = _default("max_queue")
    wait_s: float = _default("queue_wait_s")
    computing: int = COMPUTING
    waiting: int = IO_THREADS
    refusal_s: float = 0.0  # seconds on a core that a refusal takes


@dataclass(frozen=True)
class Question:
    """What one question costs.

    Args:
        turns: Seconds on a core: the service's own before, each step, the service's own after.
        model_s: Seconds the language model takes, in the last step; 0: none is asked.
        outside_s: Seconds that the client itself and the network take.
    """

    turns: tuple[float, ...]
    model_s: float = 0.0
    outside_s: float = 0.0


@dataclass(frozen=True)
class Record:
    """The outcome of one question: when it was due, whether it was answered, how long that took."""

    due: float
    answered: bool
    took: float


Draw = Callable[[random.Random], Question]


class Cores:
    """Equal cores that serve ready tasks in turns, urgent ones first.

    Args:
        quantum_s: Longest turn.
        chance: Who is next is anybody's guess, as among the threads of CPython; None: who came first.
    """

    def __init__(
        self,
        env: simpy.Environment,
        number: int = 1,
        quantum_s: float = QUANTUM_S,
        chance: random.Random | None = None,
    ) -> None:
        self._env, self._free, self._quantum_s = env, number, quantum_s
        self._chance = chance
        self._urgent: deque[tuple[float, simpy.Event]] = deque()
        self._ready: deque[tuple[float, simpy.Event]] = deque()

    def work(self, seconds: float, *, urgent: bool = False) -> simpy.Event:
        """Return the event that fires when this much work is done."""
        done = self._env.event()
        if seconds <= 0:
            return done.succeed()
        (self._urgent if urgent else self._ready).append((seconds, done))
        self._start()
        return done

    def _start(self) -> None:
        while self._free and (queue := self._urgent or self._ready):
            if self._chance and len(queue) > 1:
                queue.rotate(self._chance.randrange(len(queue)))
            left, done = queue.popleft()
            turn = min(left, self._quantum_s)
            self._free -= 1
            ended = self._env.timeout(turn)
            ended.callbacks.append(partial(self._stop, queue, left - turn, done))

    def _stop(
        self,
        queue: deque[tuple[float, simpy.Event]],
        left: float,
        done: simpy.Event,
        _: simpy.Event,
    ) -> None:
        self._free += 1
        if left > 1e-12:
            queue.append((left, done))
        else:
            done.succeed()
        self._start()


class Replica:
    """One process of the service: `Admission` with one tenant, threads, cores, a model's fleet.

    Steps that compute have as many threads as there are cores, first come, first served, and stand
    back behind the event loop; one that asks a model has another kind of thread, and many of them.

    Args:
        fleet: Answers that the language models write at once, shared by all replicas; None: any number.
    """

    def __init__(
        self,
        env: simpy.Environment,
        limits: Limits,
        cores: Cores,
        fleet: simpy.Resource | None = None,
    ) -> None:
        self._env, self._limits, self._fleet = env, limits, fleet
        self._cores = cores
        self._computing = simpy.Resource(env, limits.computing)
        self._asking = simpy.Resource(env, limits.waiting)
        self._waiting: deque[simpy.Event] = deque()
        self._free = limits.places
        self._took_s = 0.0
        self.here = 0  # questions in this replica, as a balancer counts them

    def ask(self, question: Question) -> Steps:
        """Answer a question; returns whether it was answered."""
        self.here += 1
        try:
            if not (yield from self._enter()):
                yield self._cores.work(self._limits.refusal_s, urgent=True)
                return False
            began = self._env.now
            yield from self._answer(question)
            took_s = self._env.now - began
            self._took_s += (SMOOTHING if self._took_s else 1) * (took_s - self._took_s)
            self._leave()
            return True
        finally:
            self.here -= 1

    def _answer(self, question: Question) -> Steps:
        first, *steps, last = question.turns
        yield self._cores.work(first, urgent=True)
        for at, seconds in enumerate(steps):
            asks = question.model_s and at == len(steps) - 1
            with (self._asking if asks else self._computing).request() as thread:
                yield thread
                yield self._cores.work(seconds)
                if asks:
                    yield from self._model(question.model_s)
        yield self._cores.work(last, urgent=True)

    def _model(self, seconds: float) -> Steps:
        if self._fleet is None:
            yield self._env.timeout(seconds)
            return
        with self._fleet.request() as turn:
            yield turn
            yield self._env.timeout(seconds)

    def _enter(self) -> Steps:
        limits = self._limits
        if self._free:
            self._free -= 1
            return True
        expected_s = (len(self._waiting) + 1) * self._took_s / limits.places
        if len(self._waiting) >= limits.queue or expected_s > MAX_WAIT_SHARE * limits.wait_s:
            return False
        turn = self._env.event()
        self._waiting.append(turn)
        yield turn | self._env.timeout(limits.wait_s)
        if turn.triggered:
            return True
        self._waiting.remove(turn)
        return False

    def _leave(self) -> None:
        if self._waiting:
            self._waiting.popleft().succeed()
        else:
            self._free += 1


def choose(replicas: Sequence[Replica], balance: Balance, chance: random.Random) -> Replica:
    """Return the replica that a balancer sends the next question to."""
    if balance == "random":
        return chance.choice(replicas)
    among = chance.sample(replicas, 2) if balance == "two" and len(replicas) > 2 else replicas
    least = min(one.here for one in among)
    return chance.choice([one for one in among if one.here == least])


@dataclass
class World:
    """Some replicas behind a balancer.

    Args:
        draw: Gives the next question.
        seed: Of all that comes by chance; the same seed gives the same records.
        fleet: Answers the language models write at once; None: any number.
    """

    draw: Draw
    seed: int = 1
    replicas: int = 1
    balance: Balance = "least"
    limits: Limits = field(default_factory=Limits)
    fleet: int | None = None
    cores: int = 1
    quantum_s: float = QUANTUM_S
    in_order: bool = False  # cores serve who came first, not anybody

    def __post_init__(self) -> None:
        self._env, self._chance = simpy.Environment(), random.Random(self.seed)
        fleet = simpy.Resource(self._env, self.fleet) if self.fleet else None
        self._replicas = [
            Replica(self._env, self.limits, self._cores(), fleet) for _ in range(self.replicas)
        ]
        self._records: list[Record] = []

    def _cores(self) -> Cores:
        return Cores(self._env, self.cores, self.quantum_s, None if self.in_order else self._chance)

    def clients(self, number: int, seconds: float) -> list[Record]:
        """Run closed-loop clients, each asking again when it has its answer, until the last answer."""
        for _ in range(number):
            self._env.process(self._client(seconds))
        self._env.run()
        return self._records

    def arrivals(self, rate: float, seconds: float) -> list[Record]:
        """Run Poisson arrivals at a rate, open loop."""
        return self.arrive(poisson(self._chance, rate, seconds))

    def arrive(self, dues: Iterable[float]) -> list[Record]:
        """Run arrivals at these ascending times, in seconds."""
        self._env.process(self._source(dues))
        self._env.run()
        return self._records

    def _one(self) -> Steps:
        question, due = self.draw(self._chance), self._env.now
        yield self._env.timeout(question.outside_s)
        answered = yield from choose(self._replicas, self.balance, self._chance).ask(question)
        self._records.append(Record(due, answered, self._env.now - due))
        return answered

    def _client(self, seconds: float) -> Steps:
        while self._env.now < seconds:
            if not (yield from self._one()):
                # Retry-After is whole seconds
                yield self._env.timeout(max(1, math.ceil(self._chance.uniform(0, RETRY_S))))

    def _source(self, dues: Iterable[float]) -> Steps:
        for due in dues:
            yield self._env.timeout(due - self._env.now)
            self._env.process(self._one())


def poisson(chance: random.Random, rate: float, seconds: float) -> Iterator[float]:
    """Yield Poisson arrival times; `bench/load.py` does the same."""
    due = 0.0
    while (due := due + chance.expovariate(rate)) < seconds:
        yield due


# -- queueing theory, to hold the simulation to ---------------------------------------------------


def erlang_b(load: float, servers: int) -> float:
    """Return the blocking probability without a queue (Erlang B); load in erlangs."""
    blocked = 1.0
    for number in range(1, servers + 1):
        blocked = load * blocked / (number + load * blocked)
    return blocked


def erlang_c(load: float, servers: int) -> float:
    """Return the probability of waiting in M/M/c (Erlang C)."""
    blocked = erlang_b(load, servers)
    return blocked / (1 - load / servers * (1 - blocked))


def mean_wait(rate: float, service_s: float, servers: int = 1) -> float:
    """Return the mean seconds in the queue of M/M/c."""
    load = rate * service_s
    return erlang_c(load, servers) * service_s / (servers - load)
