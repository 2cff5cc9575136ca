"""The pieces of a streamed chat completion, put together and checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel

from .llm_faults import bad_response
from .reasoning import ReasoningFilter
from .repetition import RepetitionCheck, loop_of

MAX_TEXT = 1_000_000  # characters; many times what max_answer_tokens allows


@dataclass
class Reply:
    """The part of an answer received so far.

    Args:
        reasoning: Keeps the model's reasoning out of `text`.
    """

    reasoning: ReasoningFilter = field(default_factory=ReasoningFilter)
    repetition: RepetitionCheck = field(default_factory=RepetitionCheck)
    text: str = ""
    received: int = 0  # characters, with those of reasoning
    repeats: bool = False  # the model repeats itself, in its answer or in its reasoning
    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_token_s: float | None = None
    separate: bool = False  # reasoning came in a field of its own
    started: bool = False  # a first token arrived, of the answer or of the model's reasoning

    def add(self, chunk: Any) -> str:
        """Add a chunk; returns what it adds to the answer.

        Where `reasoning.unopened` grows, `text` begins anew with what is returned. The client
        does not validate chunks, so anything may be missing or of another type.
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
        reasoning = _reasoning(delta)
        self.received += len(text or "") + len(reasoning)
        if self.received > MAX_TEXT:
            raise bad_response(f"its answer has more than {MAX_TEXT} characters")
        self.started = self.started or bool(text or reasoning)
        self.separate = self.separate or bool(reasoning)
        self.repeats = self.repetition.feed(text or reasoning)
        return self._answer(text or "")

    def _answer(self, text: str) -> str:
        unopened = self.reasoning.unopened
        added = self.reasoning.feed(text)
        if self.reasoning.unopened > unopened:
            self.text = ""
        self.text += added
        return added

    def finish(self) -> str:
        """Return the rest of the answer, once the stream has ended or the model repeats itself."""
        if self.repeats:
            self.finish_reason = "length"
            end = loop_of(self.text)
            self.text = self.text if end is None else self.text[:end]
            return ""
        rest = self.reasoning.finish(complete=self.finish_reason not in (None, "length"))
        self.text += rest
        return rest

    def check(self) -> None:
        """Raise when the stream ended without a complete answer.

        Raises:
            Failure: `llm_bad_response`.
        """
        if self.finish_reason is None and not self.started:
            raise bad_response("its stream holds no text; does it support streaming chat?")
        if self.finish_reason is None:
            raise bad_response("its stream ended without a finish reason")
        if not self.text.strip() and self.repeats:
            raise bad_response("it repeats itself without an answer")
        if not self.text.strip() and self.finish_reason == "length":
            raise bad_response(
                "the limit of tokens was used up before any text; raise generate.max_answer_tokens, or "
                "RAG_LLM_MAX_ANSWER_TOKENS"
            )
        if not self.text.strip() and self.finish_reason != "content_filter":
            raise bad_response(
                "it wrote reasoning and no answer"
                if self.reasoning.found
                else "the answer is empty"
            )

    def where_reasoning(self) -> Literal["none", "field", "tags", "unopened"]:
        """Return where the model's reasoning came."""
        if self.reasoning.unopened:
            return "unopened"
        if self.reasoning.found:
            return "tags"
        return "field" if self.separate else "none"

    def reason(self) -> Literal["stop", "length", "filtered"]:
        """Return why the answer ended, in the contract's words."""
        if self.finish_reason == "length":
            return "length"
        return "filtered" if self.finish_reason == "content_filter" else "stop"


def _reasoning(delta: Any) -> str:
    """Return the reasoning a chunk has in a field of its own; servers differ in its name."""
    for name in ("reasoning_content", "reasoning"):
        if isinstance(value := getattr(delta, name, None), str):
            return value
    return ""


def _count(usage: Any, name: str) -> int:
    value = getattr(usage, name, 0)
    return value if isinstance(value, int) and value >= 0 else 0
