"""`make run`, as a new user runs it: sets up, indexes, answers, serves until Ctrl-C."""

from __future__ import annotations

import os
import subprocess

import pytest
from sample_corpus import ROOT, MadeRun


@pytest.mark.timeout(600)  # it embeds the documentation
@pytest.mark.xdist_group("sample_corpus")
def test_make_run_serves_the_sample_corpus(made_run: MadeRun) -> None:
    """The printed answer has citations; the page and an answer come from the printed address."""
    assert "added, 0 updated" in made_run.said
    assert "[1]" in made_run.said
    assert made_run.page.status_code == 200
    assert made_run.answer.json()["citations"]
    assert "Traceback" not in made_run.said + made_run.rest


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
