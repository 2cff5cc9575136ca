"""Loads the Dagger SDK before pytest takes the folder `dagger/` for it; the lanes of the tests."""

from __future__ import annotations

import os
import random
from contextlib import suppress
from dataclasses import dataclass

import pytest

with suppress(ImportError):
    import dagger.mod  # noqa: F401


@dataclass(frozen=True)
class Lane:
    """How much is tried: `fast` in every run, `full` by `make test-full`."""

    name: str
    seed: int

    def __call__(self, fast: int, full: int) -> int:
        """Return the number for this lane."""
        return full if self.name == "full" else fast


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the lanes."""
    parser.addoption("--lane", choices=["fast", "full"], default="fast", help="how much is tried")
    parser.addoption("--seed", type=int, help="seed of what is random; a failure prints it")


def pytest_configure(config: pytest.Config) -> None:
    """Choose one seed a run; workers get the one of the run."""
    shared = getattr(config, "workerinput", {}).get("rag_seed")
    given = config.getoption("--seed")
    if shared is None:
        shared = random.SystemRandom().randrange(2**31) if given is None else given
    config.stash[SEED] = shared


def pytest_configure_node(node: object) -> None:
    """Hand the seed to a worker of pytest-xdist."""
    node.workerinput["rag_seed"] = node.config.stash[SEED]  # type: ignore[attr-defined]


pytest_configure_node = pytest.hookimpl(optionalhook=True)(pytest_configure_node)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Have half as many processes again as processors: many tests wait for a server or a deadline.

    Not in the full lane, which measures.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # not everywhere
    processors = len(affinity(0)) if affinity else os.cpu_count() or 1
    return None if config.getoption("--lane") == "full" else processors + processors // 2


pytest_xdist_auto_num_workers = pytest.hookimpl(optionalhook=True)(pytest_xdist_auto_num_workers)
SEED = pytest.StashKey[int]()
# Files whose servers take long to start: one process of pytest-xdist has all of a file.
ONE_PROCESS = {
    "test_lanes.py",
    "test_page.py",
    "test_parity.py",
    "test_superlinked_real.py",
    "test_transition.py",
}


def pytest_report_header(config: pytest.Config) -> str:
    """Say which lane this is, and how to run it again."""
    return f"lane: {config.getoption('--lane')}, seed: {config.stash[SEED]} (--seed)"


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in the same hook
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep together what starts servers once a file; leave out what belongs to the full lane."""
    if config.pluginmanager.has_plugin("xdist"):
        for item in items:
            if item.path.name in ONE_PROCESS and not item.get_closest_marker("xdist_group"):
                item.add_marker(pytest.mark.xdist_group(item.path.name))
    if config.getoption("--lane") == "full":
        return
    left = [item for item in items if item.get_closest_marker("full")]
    items[:] = [item for item in items if not item.get_closest_marker("full")]
    config.hook.pytest_deselected(items=left)


@pytest.fixture(scope="session")
def lane(request: pytest.FixtureRequest) -> Lane:
    """Return how much is tried, and the seed of what is random."""
    return Lane(request.config.getoption("--lane"), request.config.stash[SEED])
