"""docs/transition.md on a real engine: the guide's step joins the resident pipeline."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import httpx
import pytest
from engine_kit import Dagger, commit, copy_of, served

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs/transition.md").read_text(encoding="utf-8")
REQUEST = {"query": "Until when can I cancel a booking?", "top_k": 3, "augment": {"seed": 7}}
RETRIEVER = "examples/keyword-retriever/src/keyword_retriever/module.py"
TEAM = "examples/team-catalog/src/team_catalog/module.py"


def blocks() -> list[str]:
    """Return the guide's Python, in its order."""
    return re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)


@pytest.fixture(scope="module")
def followed(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This repository after a reader did to the examples what stage 4 says."""
    root = copy_of(ROOT, tmp_path_factory.mktemp("followed"))
    server = next(each for each in blocks() if "BaseHTTPRequestHandler" in each)
    (root / "examples/keyword-retriever/src/server.py").write_text(server)
    step, team = [each for each in blocks() if "def serve" in each]
    for path, function in ((RETRIEVER, step), (TEAM, team)):
        text = (root / path).read_text() + "\n" + function
        if "\nimport dagger\n" not in text:
            text = text.replace(
                "\nfrom dagger import Doc,", "\nimport dagger\nfrom dagger import Doc, dag,"
            )
        (root / path).write_text(text)
    commit(root)
    return root


def test_a_step_of_ones_own_is_resident_beside_the_others(followed: Path) -> None:
    """The team's pipeline answers over HTTP with passages of the team's own retriever."""
    with served(followed, "-m", "examples/team-catalog", "call") as url:
        answer = httpx.post(f"{url}/run", json=REQUEST, trust_env=False, timeout=120).json()

    assert "48 hours" in answer["answer"]
    assert answer["citations"][0]["document_id"] == "terms"
    assert "keyword" in answer["contexts"][0]["scores"]


def test_the_module_of_stage_2_answers_as_the_command(followed: Path) -> None:
    """The guide's own call prints what the step's function returns."""
    command = next(line for line in GUIDE.splitlines() if "keyword-retriever call run" in line)
    request = re.search(r"'(\{.*\})'", command)
    assert request
    called = Dagger(followed)(
        *("-m", "examples/keyword-retriever", "call", "run", "--input-json", request[1])
    ).json

    code = "import sys; from keyword_retriever import search; print(search.run(sys.argv[1]))"
    done = subprocess.run(
        ["python3", "-c", code, request[1]],
        env={**os.environ, "PYTHONPATH": str(ROOT / "examples/keyword-retriever/src")},
        check=True,
        capture_output=True,
        text=True,
    )
    assert called == json.loads(done.stdout)
