"""The root conftest's grouping of tests for pytest-xdist."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def test_a_file_that_starts_servers_stays_in_one_process(request: pytest.FixtureRequest) -> None:
    """pytest-xdist honours the group; some versions of it or of pytest silently do not."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        pytest.skip("one process: nothing to keep together; `make test` has several")

    assert request.node.nodeid.endswith(f"@{Path(__file__).name}")
