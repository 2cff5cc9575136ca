"""`make run`, as a new user runs it: sets up, indexes, answers, serves until Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parent.parent


def test_make_run_serves_the_sample_corpus(tmp_path: Path) -> None:
    """The printed answer has citations; the page and an answer come from the printed address."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAG_")}
    process = subprocess.Popen(
        ["make", "--no-print-directory", "run", "PORT=0"],
        cwd=ROOT,
        env={**env, "RAG_HOME": str(tmp_path)},
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

    assert "added, 0 updated" in said
    assert "[1]" in said
    assert page.status_code == 200
    assert answer.json()["citations"]
    assert "Traceback" not in said + rest


def test_make_lets_python_cache_bytecode() -> None:
    """A variable that images of Python set does not make every process compile its libraries."""
    asked = subprocess.run(
        ["make", "--eval", "probe: ; @printenv PYTHONDONTWRITEBYTECODE", "probe"],
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (asked.stdout, "Error 1" in asked.stderr) == ("", True), "printenv found the variable"
