"""Fixtures of the tests across steps: the steps, opened once over the example corpus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="session")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The handler of each step, over the collection `handbook`."""
    from examples import open_steps

    with open_steps(tmp_path_factory.mktemp("home")) as opened:
        yield opened
