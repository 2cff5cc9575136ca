"""The circuit breaker and the retry budget, on a clock of their own."""

from __future__ import annotations

import random

import pytest

from rag_kit.breaker import RESERVE, Breaker
from rag_kit.settings import BreakerSettings


class Clock:
    """Seconds, told by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def call(breaker: Breaker, *, failed: bool) -> bool:
    """Make a call when it may be made; tells whether it was."""
    if breaker.refused_for():
        return False
    breaker.record(failed=failed)
    return True


def test_it_opens_at_half_of_twenty_calls_in_ten_seconds(clock: Clock) -> None:
    """19 failures are not enough to judge; half of 20 are, one fewer is not."""
    few, half, fewer = (Breaker("x", BreakerSettings(), clock=clock) for _ in range(3))
    for n in range(19):
        call(few, failed=True)
        call(half, failed=n % 2 == 0)
        call(fewer, failed=n % 2 == 1)
    assert not (few.open or half.open or fewer.open)

    call(half, failed=False)
    call(fewer, failed=False)

    assert (half.open, fewer.open) == (True, False)


def test_calls_of_long_ago_do_not_count(clock: Clock) -> None:
    """Twenty failures spread over more than ten seconds open nothing."""
    breaker = Breaker("x", BreakerSettings(), clock=clock)
    for _ in range(100):
        assert call(breaker, failed=True)
        clock.now += 0.6

    assert not breaker.open


def test_while_open_one_call_every_two_seconds_tries(clock: Clock) -> None:
    """Who is refused is told how long; a failed probe changes nothing, a good one closes it."""
    breaker = Breaker("x", BreakerSettings(), clock=clock)
    for _ in range(20):
        call(breaker, failed=True)

    assert breaker.refused_for() == 2.0
    clock.now += 1.5
    assert breaker.refused_for() == 0.5
    clock.now += 0.5
    assert call(breaker, failed=True)
    assert breaker.refused_for() == 2.0
    clock.now += 2
    assert breaker.refused_for() == 0  # a probe that never comes back
    assert breaker.refused_for() == 2.0
    clock.now += 2
    assert call(breaker, failed=False)
    assert not breaker.open
    assert call(breaker, failed=True)
    assert not breaker.open, "what was before it closed does not count again"


def test_retries_are_a_tenth_of_the_calls_and_what_was_saved(clock: Clock) -> None:
    """Ten at once at most, also after a long quiet time."""
    breaker = Breaker("x", BreakerSettings(breaker_calls=10**9), clock=clock)
    calls = 5000
    retried = 0
    for _ in range(calls):
        call(breaker, failed=True)
        retried += breaker.may_retry()

    assert calls / 10 <= retried <= calls / 10 + RESERVE
    for _ in range(calls):
        call(breaker, failed=False)
    assert sum(breaker.may_retry() for _ in range(100)) == RESERVE


def test_no_retry_while_it_is_open(clock: Clock) -> None:
    """The budget is for passing failures."""
    breaker = Breaker("x", BreakerSettings(), clock=clock)
    for _ in range(20):
        call(breaker, failed=True)

    assert not breaker.may_retry()


def test_it_counts_as_a_plain_list_would(clock: Clock) -> None:
    """Against the definition: the last ten seconds, by random calls at random times."""
    chance = random.Random(7)
    breaker, opened = Breaker("x", BreakerSettings(), clock=clock), 0
    made: list[tuple[float, bool]] = []
    for _ in range(3000):
        clock.now += chance.expovariate(3)
        failed = chance.random() < 0.4
        if call(breaker, failed=failed):
            made.append((clock.now, failed))
        recent = [one for at, one in made if at > clock.now - 10]
        assert breaker.open == (len(recent) >= 20 and sum(recent) * 2 >= len(recent))
        if breaker.open:
            opened += 1
            clock.now += 2
            assert call(breaker, failed=False)
            made.clear()
    assert 10 < opened < 1000


def test_it_tells_how_long_each_call_took_however_it_ended(clock: Clock) -> None:
    """One that gives an answer, and one that is given up."""
    breaker = Breaker("x", BreakerSettings(), clock=clock)
    took: list[float] = []
    with breaker.timed():
        clock.now += 1.0  # nobody wants to know yet
    breaker.on_call = took.append

    with breaker.timed():
        clock.now += 0.5
    with pytest.raises(TimeoutError), breaker.timed():
        clock.now += 2.0
        raise TimeoutError

    assert took == [0.5, 2.0]
