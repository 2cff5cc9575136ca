"""What the settings of every step share: one error text, and keys from variables or files."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import Field, SecretStr

from rag_kit.errors import StepError
from rag_kit.settings import BreakerSettings, PacedSettings, StepSettings


class Settings(StepSettings):
    """Settings of a step with a key and a URL."""

    db_key: SecretStr | None = None
    db_key_file: Path | None = None
    db_url: str = Field("http://db", pattern="^http")


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("RAG_BREAKER_CALLS", "0", "RAG_BREAKER_CALLS: Input should be greater than or equal to 1, "
         "but got '0'"),
        ("RAG_RETRY_SHARE", "many", "RAG_RETRY_SHARE: Input should be a valid number, unable to "
         "parse string as a number, but got 'many'"),
    ],
)  # fmt: skip
def test_a_wrong_variable_is_named_with_its_value(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    """The first one at fault, and the rule it breaks."""
    monkeypatch.setenv(variable, value)

    with pytest.raises(StepError) as caught:
        BreakerSettings.read()

    assert (caught.value.code, caught.value.message) == ("misconfigured", message)


def test_an_address_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL may hold a password."""
    monkeypatch.setenv("RAG_DB_URL", "user:sesame@db")

    with pytest.raises(StepError, match=r"^RAG_DB_URL: ") as caught:
        Settings.read()

    assert "sesame" not in caught.value.message


def test_a_key_comes_from_its_variable_or_its_file(tmp_path: Path) -> None:
    """The variable goes first; a file that cannot be read is named."""
    file = tmp_path / "key"
    file.write_text("from-file\n")

    assert Settings().secret("db_key", code="misconfigured") is None
    assert Settings(db_key_file=file).secret("db_key", code="misconfigured") == "from-file"
    both = Settings(db_key=SecretStr("canary"), db_key_file=file)
    assert both.secret("db_key", code="misconfigured") == "canary"
    assert "canary" not in repr(both)
    with pytest.raises(StepError, match=r"^RAG_DB_KEY_FILE=.*no cannot be read: ") as caught:
        Settings(db_key_file=tmp_path / "no").secret("db_key", code="retriever_misconfigured")
    assert caught.value.code == "retriever_misconfigured"


@pytest.mark.parametrize("content", [b"\xff\xfek\x00", b"k\xe9y", b"\x80"])
def test_a_key_in_a_file_that_is_no_text_is_named_and_not_shown(
    tmp_path: Path, content: bytes
) -> None:
    """UTF-16, Latin-1, and a file that is something else."""
    file = tmp_path / "key"
    file.write_bytes(content)

    with pytest.raises(StepError, match=r"^RAG_DB_KEY_FILE=.*key cannot be read as text in UTF-8"):
        Settings(db_key_file=file).secret("db_key", code="retriever_misconfigured")


class Paced(PacedSettings):
    """Settings with a deadline that follows from the model."""

    PACES: ClassVar = {"local": {"deadline_s": 300.0}}

    deadline_s: float = 30.0


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({}, 30.0),
        ({"RAG_LLM_PACE": "local"}, 300.0),
        ({"RAG_LLM_PACE": "reasoning"}, 30.0),
        ({"RAG_LLM_PACE": "local", "RAG_DEADLINE_S": "45"}, 45.0),
    ],
)
def test_a_pace_sets_the_deadlines_that_are_unset(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], seconds: float
) -> None:
    """A deadline of its own counts more; a pace may leave one as it is."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert Paced.read().deadline_s == seconds
