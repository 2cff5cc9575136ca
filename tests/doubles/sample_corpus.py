"""`make run` from its start to Ctrl-C, and the store of the sample corpus that it leaves."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class MadeRun:
    """What `make run` printed and served.

    Attributes:
        home: Its RAG_HOME; the collection `docs` is this project's documentation.
        said: What it printed until it was ready.
        rest: What it printed after that.
        page: `GET /`.
        answer: An answer over HTTP.
    """

    home: Path
    said: str
    rest: str
    page: httpx.Response
    answer: httpx.Response


def make_run(home: Path) -> MadeRun:
    """Run `make run` with this RAG_HOME, ask once it is ready, and interrupt it."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAG_")}
    process = subprocess.Popen(
        ["make", "--no-print-directory", "run", "PORT=0"],
        cwd=ROOT,
        env={**env, "RAG_HOME": str(home)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.strip() == "ready":
                break
        said = "".join(lines)
        address = re.search(r"http://127\.0\.0\.1:\d+", said)
        assert address, said
        with httpx.Client(base_url=address[0], trust_env=False, timeout=60) as client:
            page = client.get("/")
            answer = client.post("/rag_modules", json={"query": "How are citations verified?"})
    finally:
        os.killpg(process.pid, signal.SIGINT)
        rest = process.stdout.read()
        process.wait(60)
        process.stdout.close()
    return MadeRun(home, said, rest, page, answer)
