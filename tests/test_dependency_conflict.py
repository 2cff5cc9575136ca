"""Why Superlinked is a project and a process of its own: it fits into no step's environment."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
UV = ROOT / "scripts/uv"
SUPERLINKED, DAGGER = "superlinked==37.5.2", "dagger-io==0.21.8"


def resolve(*requirements: str) -> subprocess.CompletedProcess[str]:
    """Resolve requirements into one environment for Python 3.11, installing nothing."""
    return subprocess.run(
        [UV, "pip", "compile", "--quiet", "--no-header", "--python-version", "3.11", "-"],
        input="\n".join(requirements),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd="/",
    )


@pytest.mark.timeout(200)
def test_superlinked_and_the_dagger_sdk_fit_into_no_common_environment() -> None:
    """Each resolves alone; together uv finds no beartype that both accept."""
    try:
        alone = [resolve(SUPERLINKED), resolve(DAGGER)]
    except subprocess.TimeoutExpired:
        pytest.skip("the package registry does not answer within a minute")
    if any(one.returncode for one in alone):
        pytest.skip(f"no package registry to resolve with: {alone[0].stderr or alone[1].stderr}")

    together = resolve(SUPERLINKED, DAGGER)

    assert together.returncode != 0
    assert "beartype" in together.stderr
    assert "No solution found" in together.stderr
