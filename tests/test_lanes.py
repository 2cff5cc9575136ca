"""What the root conftest arranges for a run with several processes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def test_a_file_that_starts_servers_stays_in_one_process(request: pytest.FixtureRequest) -> None:
    """pytest-xdist has taken notice of the group; a version of pytest or itself may silently not."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        pytest.skip("one process: nothing to keep together; `make test` has several")

    assert request.node.nodeid.endswith(f"@{Path(__file__).name}")
