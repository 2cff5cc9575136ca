"""Writers of one collection are killed at random while one reindexes: nothing acknowledged is lost."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from writers_lane import Lane, say


@pytest.mark.timeout(3600)
def test_writers_killed_side_by_side_lose_and_tear_nothing(lane: Any) -> None:
    """`make crash-soak WRITERS=8` does it for hours."""
    writers, kills = lane(3, 8), lane(5, 300)
    with tempfile.TemporaryDirectory() as folder, Lane(Path(folder), None, lane.seed) as crashes:
        crashes.run(writers, kills, time.monotonic() + 3000)
        say("\n".join(crashes.lines()))
        assert crashes.kills == kills
        assert crashes.book.told["index"], "too little was acknowledged to be lost"
