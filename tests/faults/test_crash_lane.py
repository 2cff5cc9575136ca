"""An ingest is killed many times; nothing acknowledged is lost, nothing torn is seen."""

from __future__ import annotations

import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from crash_kit import SERVER_STEPS, STEPS
from crash_lane import FILES, REQUESTS, Lane, memory, operations, run, say

READY_S = 2.0  # from a dead process to the first answer


@pytest.mark.timeout(3600)
def test_threat_crash_in_ingestion_loses_and_tears_nothing(lane: Any) -> None:
    """Killed at named and random moments, over both stores; `make crash-soak` does it for hours."""
    kills = lane(20, 300)
    with tempfile.TemporaryDirectory(dir=memory()) as folder, Lane(Path(folder)) as crashes:
        run(crashes, kills, lane.seed)
        tally = crashes.tally
        assert tally.kills.total() == kills
        wanted = {f"embedded {one}" for one in {"random", *STEPS, *FILES}}
        wanted |= {f"server {one}" for one in {"random", *SERVER_STEPS, *REQUESTS}}
        more = random.Random(lane.seed + 1)
        while kills >= 300 and wanted - set(tally.kills):  # chance left a moment out
            assert tally.kills.total() < 3 * kills, wanted - set(tally.kills)
            crashes.round(more.randrange(2**31))
    say("\n".join(tally.lines()))
    assert tally.done > kills / 2, "too little was acknowledged to be lost"
    assert {name.split()[0] for name in tally.kills} == {"embedded", "server"}
    if kills >= 300:
        assert max(max(times) for times in tally.restarts_s.values()) <= READY_S


RESTART = """
import sys
from pathlib import Path
from rag_retrieve import Retriever, RetrieveRequest, RetrieveSettings
with Retriever(RetrieveSettings(home=Path(sys.argv[1]))) as retriever:
    print(len(retriever.retrieve(RetrieveRequest(query="rule and part hold")).results))
"""
DIE = """
import os, signal, sys
from pathlib import Path
from rag_retrieve import Retriever, RetrieveSettings
def strike(name):
    if name == sys.argv[3]:
        os.kill(os.getpid(), signal.SIGKILL)
with Retriever(RetrieveSettings(home=Path(sys.argv[1])), on_step=strike) as retriever:
    retriever.ingest([Path(sys.argv[2])])
"""


def child(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_fault_ingestion_killed_and_a_new_process_answers_within_two_seconds(
    lane: Any, tmp_path: Path
) -> None:
    """From the start of a process, imports and the packaged model included, to its first answer."""
    home, notes = tmp_path / "home", tmp_path / "notes"
    notes.mkdir()
    rng = random.Random(lane.seed)
    todo = operations(rng, {})
    took = []
    for step in ("upserted", "published", "swept", "manifest", "upserted", "published"):
        for name, text in next(one for one in todo if one.kind == "ingest").files.items():
            (tmp_path / name).write_text(text)
        died = child(DIE, home, notes, step)
        assert died.returncode == -signal.SIGKILL, died.stderr
        began = time.perf_counter()
        answered = child(RESTART, home)
        took.append(time.perf_counter() - began)
        assert int(answered.stdout) >= (step != "upserted"), answered.stderr
    say(f"process to first answer: {', '.join(f'{one:.2f}' for one in took)} s")
    assert statistics.median(took) <= READY_S
