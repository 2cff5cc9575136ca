"""Imports the Dagger SDK before pytest mistakes the folder `dagger/` for it; defines the lanes."""

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
    """How much the tests try: `fast` in every run, `full` in `make test-full`."""

    name: str
    seed: int

    def __call__(self, fast: int, full: int) -> int:
        """Return the number for this lane."""
        return full if self.name == "full" else fast


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the lanes."""
    parser.addoption(
        "--lane", choices=["fast", "full"], default="fast", help="how much the tests try"
    )
    parser.addoption("--seed", type=int, help="seed of random tests; a failure prints it")


def pytest_configure(config: pytest.Config) -> None:
    """Choose one seed per run, which workers get, and how many examples the lane tries of each property."""
    shared = getattr(config, "workerinput", {}).get("rag_seed")
    seed = config.getoption("--seed")
    if shared is None:
        shared = random.SystemRandom().randrange(2**31) if seed is None else seed
    config.stash[SEED] = shared
    with suppress(ImportError):
        from hypothesis import settings

        settings.register_profile("lane", max_examples=75 if lane_of(config) == "fast" else 300)
        settings.load_profile("lane")


def lane_of(config: pytest.Config) -> str:
    """Return the name of the lane."""
    return str(config.getoption("--lane"))


def pytest_configure_node(node: object) -> None:
    """Hand the seed to a worker of pytest-xdist."""
    node.workerinput["rag_seed"] = node.config.stash[SEED]  # type: ignore[attr-defined]


pytest_configure_node = pytest.hookimpl(optionalhook=True)(pytest_configure_node)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Start 1.5 workers per processor: many tests wait for a server or a deadline.

    Not in the full lane, which measures.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # not everywhere
    processors = len(affinity(0)) if affinity else os.cpu_count() or 1
    return None if lane_of(config) == "full" else processors + processors // 2


pytest_xdist_auto_num_workers = pytest.hookimpl(optionalhook=True)(pytest_xdist_auto_num_workers)
SEED = pytest.StashKey[int]()
# Files whose servers are slow to start: one worker of pytest-xdist runs all of a file.
ONE_PROCESS = {
    "test_lanes.py",
    "test_page.py",
    "test_parity.py",
    "test_superlinked_real.py",
    "test_transition.py",
}


def pytest_report_header(config: pytest.Config) -> str:
    """Print the lane and the seed that repeats the run."""
    return f"lane: {lane_of(config)}, seed: {config.stash[SEED]} (--seed)"


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in the same hook
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the files of ONE_PROCESS together; deselect tests of the full lane in the fast one."""
    if config.pluginmanager.has_plugin("xdist"):
        for item in items:
            if item.path.name in ONE_PROCESS and not item.get_closest_marker("xdist_group"):
                item.add_marker(pytest.mark.xdist_group(item.path.name))
    if lane_of(config) == "full":
        return
    left = [item for item in items if item.get_closest_marker("full")]
    items[:] = [item for item in items if not item.get_closest_marker("full")]
    config.hook.pytest_deselected(items=left)


@pytest.fixture(scope="session")
def lane(request: pytest.FixtureRequest) -> Lane:
    """Return the lane, with the seed of random tests."""
    return Lane(lane_of(request.config), request.config.stash[SEED])


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Name long bytes by their parameter: those of an archive differ from worker to worker."""
    return argname if isinstance(val, bytes) and len(val) > 20 else None
