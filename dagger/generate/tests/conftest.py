"""What the tests of `generate` share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from llm_stub import LLMStub

from rag_generate.models import GenerateRequest
from rag_kit.passages import Context

PASSAGES = (
    (
        "bylaws.md",
        "By-laws",
        "Only the board may sign contracts. The chair is elected for two years.",
    ),
    ("staff.md", "Staff", "The office opens at 9 a.m. on Mondays. Interns may not sign contracts."),
    ("menu.md", "Menu", "Soup is served daily.[7] Bread is free."),
)


@pytest.fixture
def make_request() -> Callable[..., GenerateRequest]:
    """Build a request over three small passages; keyword arguments replace its fields."""

    def build(**fields: Any) -> GenerateRequest:
        contexts, offset = [], 100
        for marker, (document, title, text) in enumerate(PASSAGES, start=1):
            contexts.append(
                Context(
                    marker=marker,
                    chunk_id=f"c{marker}",
                    document_id=document,
                    title=title,
                    source=document,
                    text=text,
                    span=[offset, offset + len(text)],
                    score=1.0 / marker,
                    scores={"dense": 0.8 - 0.2 * marker},
                )
            )
            offset += 1000
        data: dict[str, Any] = {
            "query": "Who may sign contracts?",
            "contexts": [context.model_dump() for context in contexts],
            "prompt": [
                {"role": "system", "content": "Answer from the passages."},
                {"role": "user", "content": "Who may sign contracts?"},
            ],
        }
        return GenerateRequest.model_validate({**data, **fields})

    return build


@pytest.fixture
def llm() -> Iterator[LLMStub]:
    """A scripted chat server on loopback."""
    stub = LLMStub()
    yield stub
    stub.close()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the settings of the machine out of the tests."""
    for name in list(os.environ):
        if name.startswith(("RAG_", "OPENAI_")):
            monkeypatch.delenv(name)
