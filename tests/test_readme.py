"""The Python examples of the READMEs run and print the output shown below them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
READMES = [
    ROOT / "README.md",
    *(ROOT / "dagger" / s / "README.md" for s in ("retrieve", "generate")),
]
EXAMPLE = re.compile(r"```python\n(.*?)```\s*```(?:text)?\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.parent.name)
def test_the_python_example_prints_what_the_readme_shows(readme: Path, tmp_path: Path) -> None:
    """Every example with an output block is run as a user would run it."""
    examples = EXAMPLE.findall(readme.read_text(encoding="utf-8"))
    assert examples, f"{readme} has no Python example with its output"
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAG_")}
    for code, output in examples:
        run = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env=env,
            check=False,
            capture_output=True,
            text=True,
        )

        assert run.stderr == ""
        assert run.stdout == output


@pytest.mark.parametrize(
    "document",
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("dagger/*/README.md"),
        *ROOT.glob("examples/**/README.md"),
    ],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    """A moved file breaks this test, not a reader."""
    for target in LINK.findall(document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), f"{document}: {target}"
