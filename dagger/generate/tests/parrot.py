"""A toy model, as a double of a real one, and the text of what declines."""

from __future__ import annotations

from collections import abc
from typing import Any

from rag_generate.generator import Draft
from rag_generate.models import GenerateRequest, Usage

NONE = "I could not find an answer to this in the documents."


class Parrot:
    """A toy model: says what it was given, two characters at a time, and counts its calls."""

    name = "parrot"

    def __init__(self, text: str, *, model: str | None = "toy", **draft: Any) -> None:
        self.model = model
        self.calls = 0
        self.closed = False
        self._draft = Draft(**{"text": text, "finish_reason": "stop", "usage": Usage(llm_calls=1),
                               **draft})  # fmt: skip

    def stream(self, request: GenerateRequest) -> abc.Generator[str | Draft, None, None]:
        self.calls += 1
        try:
            for start in range(0, len(self._draft.text), 2):
                yield self._draft.text[start : start + 2]
            yield self._draft
        finally:
            self.closed = True
