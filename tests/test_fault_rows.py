"""Every row of docs/faults.md has a test named after it, and every such test a row."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SECTION = re.compile(r"^## (Faults|Threats)$(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
ROW = re.compile(r"^\| `([a-z_]+)` \|", re.MULTILINE)
PREFIX = {"Faults": "test_fault_", "Threats": "test_threat_"}


def rows() -> list[str]:
    """The prefixes of test names that the rows require."""
    text = (ROOT / "docs/faults.md").read_text(encoding="utf-8")
    found = [
        PREFIX[title] + slug for title, body in SECTION.findall(text) for slug in ROW.findall(body)
    ]
    assert len(found) == 72
    return found


@cache
def every_test() -> dict[str, Path]:
    """Every test function of the project, with its file."""
    files = [
        path
        for top in ("tests", "service/tests", "dagger")
        for path in (ROOT / top).rglob("test_*.py")
        if ".venv" not in path.parts
    ]
    return {
        node.name: path
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    }


def shows(test: str, row: str) -> bool:
    return test == row or test.startswith(f"{row}_")


@pytest.mark.parametrize("row", rows())
def test_a_row_has_a_test_named_after_it(row: str) -> None:
    assert [test for test in every_test() if shows(test, row)], (
        f"docs/faults.md: {row}… does not exist"
    )


def test_a_test_named_after_a_row_has_one() -> None:
    """A renamed row leaves no test behind."""
    named = [test for test in every_test() if test.startswith(tuple(PREFIX.values()))]
    assert [test for test in named if not any(shows(test, row) for row in rows())] == []
