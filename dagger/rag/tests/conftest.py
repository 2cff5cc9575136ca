"""Gives every test a home of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

# In its own image the pipeline is alone; these tests need the local steps.
WITH_STEPS = [
    *("test_cli_ask.py", "test_cli_index.py", "test_cli_superlinked.py", "test_conformance.py"),
    *("test_evaluate.py", "test_local.py", "test_new_step.py", "test_parity.py", "test_replay.py"),
    *("test_rerank.py", "test_cli_sync.py"),
]
collect_ignore = [] if find_spec("rag_retrieve") else WITH_STEPS


@pytest.fixture(scope="module", autouse=True)
def environment_without_settings() -> Iterator[None]:
    """Take the caller's own settings out of the environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("RAG_")]:
            patch.delenv(name)
        yield


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set RAG_HOME to a folder that is not there yet."""
    monkeypatch.setenv("RAG_HOME", str(tmp_path / "home"))
    return tmp_path / "home"
