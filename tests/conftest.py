"""Fixtures of the tests across steps: the steps over the example corpus, and what `make run` leaves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sample_corpus import MadeRun, make_run


@pytest.fixture(scope="session")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The handler of each step, over the collection `handbook`."""
    from examples import open_steps

    with open_steps(tmp_path_factory.mktemp("home")) as opened:
        yield opened


@pytest.fixture(scope="session")
def made_run(tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    """`make run`, done once: it embeds the whole documentation."""
    return make_run(tmp_path_factory.mktemp("made_run"))
