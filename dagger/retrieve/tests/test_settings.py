"""Settings come from the environment, and an empty variable is one that is not set."""

from __future__ import annotations

from pathlib import Path

import pytest

from rag_retrieve import RetrieveSettings, StepError


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """RAG_HOME="" must not put a store into the working folder."""
    monkeypatch.setenv("RAG_HOME", "")
    monkeypatch.setenv("RAG_CHUNK_TOKENS", "128")

    settings = RetrieveSettings()

    assert settings.home.is_absolute()
    assert settings.chunk_tokens == 128


def test_a_key_comes_from_its_variable_or_its_file_and_is_never_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The variable goes first; a file that is not there is named, without anything secret."""
    (tmp_path / "key").write_text("from-file\n")
    monkeypatch.setenv("RAG_QDRANT_API_KEY_FILE", str(tmp_path / "key"))
    assert RetrieveSettings().qdrant_key() == "from-file"
    monkeypatch.setenv("RAG_QDRANT_API_KEY", "canary")
    settings = RetrieveSettings()

    assert settings.qdrant_key() == "canary"
    assert "canary" not in repr(settings)
    monkeypatch.delenv("RAG_QDRANT_API_KEY")
    (tmp_path / "key").unlink()
    with pytest.raises(StepError, match=r"RAG_QDRANT_API_KEY_FILE=.* cannot be read"):
        RetrieveSettings().qdrant_key()
