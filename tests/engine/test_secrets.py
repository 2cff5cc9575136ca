"""A key given as a secret reaches the server it is for, and nothing else."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_kit import Dagger
from llm_stub import LLMStub


@pytest.fixture
def llm() -> Iterator[LLMStub]:
    """An OpenAI-compatible model server on this machine. A double: it answers as scripted."""
    stub = LLMStub()
    yield stub
    stub.close()


def ask(dagger_cli: Dagger, llm: LLMStub, docs: Path, canary: str) -> tuple[str, str]:
    """Ask with the model; return the answer and all that was logged, spans included."""
    port = llm.url.rpartition(":")[2].partition("/")[0]
    ran = dagger_cli(
        *("-vvvv", "call", "rag", "--docs", str(docs)),
        *("--llm", f"tcp://127.0.0.1:{port}", "--llm-base-url", f"http://llm:{port}/v1"),
        *("--llm-model", "m", "--llm-api-key", "env:CANARY"),
        *("run", "--query", "How much holds the kettle?"),
        env={"CANARY": canary},
    )
    return ran.out, ran.log


def test_a_key_stands_in_no_log_trace_answer_or_cached_result(
    dagger_cli: Dagger, llm: LLMStub, my_docs: Path
) -> None:
    """The model server got the key; the answer, the progress with all spans, and a second call did not."""
    canary = f"canary-{secrets.token_hex(12)}"
    llm.script = [llm.text("It holds 1.7 litres [1].")]

    first = ask(dagger_cli, llm, my_docs, canary)
    second = ask(dagger_cli, llm, my_docs, canary)

    assert '"answer":"It holds 1.7 litres [1]."' in first[0]
    assert [headers["authorization"] for headers in llm.headers] == [f"Bearer {canary}"] * 2
    assert llm.calls == 2  # an equal question is asked again, not remembered
    for text in (*first, *second):
        assert canary not in text


def test_a_key_stands_in_no_error(dagger_cli: Dagger, llm: LLMStub, my_docs: Path) -> None:
    """A server that refuses the key, and says it back, is an error without it."""
    canary = f"canary-{secrets.token_hex(12)}"
    llm.script = [llm.status(401, {"error": {"message": f"bad key {canary}"}})]

    out, log = ask(dagger_cli, llm, my_docs, canary)

    assert '"code":"llm_misconfigured"' in out
    assert canary not in out + log
