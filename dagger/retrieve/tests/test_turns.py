"""Turns at the embedder: one at a time, round robin between tenants, and nobody remembered."""

from __future__ import annotations

import threading

from rag_retrieve.index.turns import Turns


def test_tenants_have_turns_round_robin_whoever_asked_first() -> None:
    """Ann asks three times before Bob and Cy do; each of them is behind one turn of hers."""
    turns = Turns()
    order: list[str] = []
    threads: list[threading.Thread] = []

    def take(tenant: str) -> None:
        with turns.turn(tenant):
            order.append(tenant)

    with turns.turn("ann"):
        for asked, tenant in enumerate(("ann", "ann", "bob", "bob", "cy"), 1):
            threads.append(threading.Thread(target=take, args=(tenant,)))
            threads[-1].start()
            while sum(map(len, turns._waiting.values())) < asked:
                threads[-1].join(0.001)
    for thread in threads:
        thread.join()

    assert order == ["ann", "bob", "cy", "ann", "bob"]
    assert not turns._waiting


def test_a_turn_that_fails_is_passed_on() -> None:
    """Two threads, each of which raises inside its turn; both get one."""
    turns = Turns()
    for _ in range(2):
        try:
            with turns.turn("ann"):
                raise ValueError
        except ValueError:
            continue
    with turns.turn("bob"):
        assert turns._taken
    assert not turns._taken
