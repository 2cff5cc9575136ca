"""What the composite needs from each step's response; more is welcome and carried along.

A step may be someone else's. What it gives is checked here, so that a fault is put down to the
step that made it and not to the one that stumbles over it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from rag_kit.passages import Citation, Context, Message, Result


class Output(BaseModel):
    """What every step gives: its warnings, and who made what so far."""

    model_config = ConfigDict(extra="allow")

    warnings: list[str] = Field(default_factory=list)
    provenance: dict[str, dict[str, JsonValue]] = Field(default_factory=dict)


class RetrieveOutput(Output):
    """Passages, best first."""

    results: list[Result]


class ContextUsage(BaseModel):
    """Tokens of the packed passages and of the whole prompt."""

    context_tokens: int = Field(ge=0)


class AugmentOutput(Output):
    """A prompt over numbered passages."""

    prompt: list[Message]
    contexts: list[Context]
    left_out: list[dict[str, JsonValue]]
    context_usage: ContextUsage


class GenerateOutput(Output):
    """An answer with verified citations."""

    answer: str
    answerable: bool
    finish_reason: Literal["stop", "length", "no_context", "filtered"]
    llm_generated: bool
    degraded: bool = False
    support: float | None
    citations: list[Citation]
    citation_check: dict[str, JsonValue]
    usage: dict[str, int]
