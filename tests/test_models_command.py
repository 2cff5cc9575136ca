"""`rag models try`, against a model server on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from llm_stub import LLMStub
from rag_command import run


@pytest.fixture
def llm() -> Iterator[LLMStub]:
    stub = LLMStub()
    yield stub
    stub.close()


def test_a_model_is_tried_before_it_is_configured(llm: LLMStub, tmp_path: Path) -> None:
    """A real prompt is sent with the key; the output has the figures and the settings."""
    llm.script = [llm.text("The", finish="length"), llm.text("The finance director [1].")]
    key = tmp_path / "llm.key"
    key.write_text("sk-7f3a9c-canary\n", encoding="utf-8")

    ran = run("models", "try", llm.url, "--model", "m", "--key-file", str(key), home=tmp_path)

    assert (ran.code, ran.err) == (0, "")
    assert "The finance director [1]." in ran.out and "tokens a second" in ran.out
    assert f"export RAG_LLM_BASE_URL={llm.url}\n" in ran.out
    assert "canary" not in ran.out
    assert llm.headers[-1]["authorization"] == "Bearer sk-7f3a9c-canary"
    assert "finance director signs" in llm.bodies[-1]["messages"][-1]["content"]


def test_a_model_that_does_not_cite_fails_the_trial(llm: LLMStub, tmp_path: Path) -> None:
    """Exit code 1, and JSON that says so."""
    llm.script = [llm.text("The finance director.")]

    ran = run("models", "try", llm.url, "--model", "m", "--json", home=tmp_path)

    assert ran.code == 1
    assert (ran.json["cites"], ran.json["answer"]) == (False, "The finance director.")


def test_a_server_that_is_not_there_is_said(tmp_path: Path) -> None:
    """The error names what cannot be reached, without a traceback."""
    ran = run("models", "try", "http://127.0.0.1:9/v1", "--model", "m", home=tmp_path)

    assert ran.code == 1
    assert "the model's server cannot be reached" in ran.err
