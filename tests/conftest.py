"""What the tests across steps share: the steps, opened once over the example corpus."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]


@pytest.fixture(scope="session")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The handler of each step, over the collection `handbook`."""
    from examples import open_steps

    with open_steps(tmp_path_factory.mktemp("home")) as opened:
        yield opened
