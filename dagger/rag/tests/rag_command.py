"""Runs the `rag` command as a person would: its output, its exit code."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest

from rag_pipeline.__main__ import main as module_main
from rag_pipeline.cli.main import main

RAG = str(Path(sys.executable).with_name("rag"))
BYLAWS = """# By-laws

Only the board may sign contracts above 10 000 euros.

The treasurer keeps the accounts. The accounts are audited every year in March.
"""
HANDBOOK = """Handbook

Holiday requests go to the team lead, two weeks ahead. Sick leave needs a note from day three.
"""


@dataclass(frozen=True)
class Ran:
    """What a finished command left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run(*arguments: str, home: Path, stdin: str | None = None, **variables: str) -> Ran:
    """Run `rag` in this process, with a home of its own and no terminal.

    The libraries are imported and the model is loaded once for all tests, which in a process of its
    own takes two seconds each time; terminals are tried in one.
    """
    return _in_process(main, [RAG, *arguments], home, stdin, variables)


def run_module(*arguments: str, home: Path, stdin: str | None = None, **variables: str) -> Ran:
    """Run `python -m rag_pipeline` in this process, as `run` does."""
    return _in_process(
        lambda: sys.exit(module_main(list(arguments))), ["rag_pipeline"], home, stdin, variables
    )


def _in_process(
    command: Callable[[], object],
    argv: list[str],
    home: Path,
    stdin: str | None,
    variables: Mapping[str, str],
) -> Ran:
    out, err = (TextIOWrapper(BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ.keys() - environment(home):
            patch.delenv(name)
        for name, value in environment(home, **variables).items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", argv)
        patch.setattr(sys, "stdin", TextIOWrapper(BytesIO((stdin or "").encode())))
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        try:
            command()
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    told, failed = (stream.buffer.getvalue().decode() for stream in (out, err))  # type: ignore[attr-defined]
    assert "Traceback" not in failed
    return Ran(code, told, failed)


def environment(home: Path, **variables: str) -> dict[str, str]:
    """Return the environment without the caller's own settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAG_")}
    return {**kept, "RAG_HOME": str(home), "PYTHONWARNINGS": "error::ResourceWarning", **variables}


def write_documents(folder: Path) -> Path:
    """Write two documents into `folder`/papers and return that."""
    papers = folder / "papers"
    papers.mkdir()
    (papers / "bylaws.md").write_text(BYLAWS, encoding="utf-8")
    (papers / "handbook.txt").write_text(HANDBOOK, encoding="utf-8")
    return papers
