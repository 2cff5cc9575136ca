"""The pieces of a streamed chat completion, put together and checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from .llm_faults import bad_response

MAX_TEXT = 1_000_000  # characters; many times what max_answer_tokens allows


@dataclass
class Reply:
    """The part of an answer received so far."""

    text: str = ""
    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    started: bool = False  # a first token arrived, of the answer or of the model's reasoning

    def add(self, chunk: Any) -> str:
        """Add a chunk; returns its text.

        The client does not validate chunks, so anything may be missing or of another type.
        """
        if not isinstance(chunk, BaseModel):
            raise bad_response("its stream holds something else than chunks of an answer")
        usage = getattr(chunk, "usage", None)
        if usage is not None:
            self.prompt_tokens = _count(usage, "prompt_tokens")
            self.completion_tokens = _count(usage, "completion_tokens")
        choices = getattr(chunk, "choices", None)
        if not choices:
            return ""
        choice = choices[0]
        self.finish_reason = getattr(choice, "finish_reason", None) or self.finish_reason
        delta = getattr(choice, "delta", None)
        text = getattr(delta, "content", None)
        if text is not None and not isinstance(text, str):
            raise bad_response("its text is no string")
        if len(self.text) + len(text or "") > MAX_TEXT:
            raise bad_response(f"its answer has more than {MAX_TEXT} characters")
        self.started = self.started or bool(text or getattr(delta, "reasoning_content", None))
        self.text += text or ""
        return text or ""

    def check(self) -> None:
        """Raise when the stream ended without a complete answer.

        Raises:
            Failure: `llm_bad_response`.
        """
        if self.finish_reason is None and not self.started:
            raise bad_response("its stream holds no text; does it support streaming chat?")
        if self.finish_reason is None:
            raise bad_response("its stream ended without a finish reason")
        if not self.text.strip() and self.finish_reason == "length":
            raise bad_response(
                "the limit of tokens was used up before any text; raise generate.max_answer_tokens"
            )
        if not self.text.strip() and self.finish_reason != "content_filter":
            raise bad_response("the answer is empty")

    def reason(self) -> Literal["stop", "length", "filtered"]:
        """Return why the answer ended, in the contract's words."""
        if self.finish_reason == "length":
            return "length"
        return "filtered" if self.finish_reason == "content_filter" else "stop"


def _count(usage: Any, name: str) -> int:
    value = getattr(usage, name, 0)
    return value if isinstance(value, int) and value >= 0 else 0
