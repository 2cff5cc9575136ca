"""The contract of `augment`: request and response as JSON."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from rag_kit.passages import Context, Message, Result
from rag_kit.request import StepRequest


class AugmentOptions(BaseModel):
    """How to build the prompt; unknown options are refused."""

    model_config = ConfigDict(extra="forbid")

    max_context_tokens: int = Field(
        2048, ge=16, le=131072, description="Token budget of all passages together."
    )
    near_duplicate: float = Field(
        0.9,
        gt=0,
        le=1,
        description="Drop a passage whose word shingles agree with a better one's by this share or "
        "more (Jaccard), or of which this share stands inside a better one; 1: equal or wholly inside.",
    )
    order: Literal["score", "document"] = Field(
        "score", description="score: best first; document: by document and position."
    )
    max_history_messages: int = Field(6, ge=0, le=50, description="Latest messages kept.")
    max_history_tokens: int = Field(512, ge=0, le=131072, description="Token budget of history.")
    min_relevance: float | None = Field(
        None,
        description="Decide `no_context` when no passage reaches this dense cosine; null: the step's "
        "setting.",
    )
    spotlight: Literal["delimit", "datamark", "none"] = Field(
        "delimit",
        description="How untrusted passages are marked in the prompt: random delimiters, a random mark "
        "between words, or not at all (arXiv 2403.14720).",
    )
    seed: int | None = Field(None, description="Makes the random marker repeatable; null: random.")


class AugmentRequest(StepRequest):
    """Passages and a question to build a prompt from. Unknown fields are carried on untouched."""

    step = "augment"

    results: list[Result] = Field(max_length=1000, description="Passages, best first.")
    messages: list[Message] = Field(
        default_factory=list, max_length=1000, description="The conversation before the question."
    )
    no_context: Literal["abstain", "answer", "error"] = Field(
        "abstain",
        description="For `generate`; answer: the prompt allows a model to answer without passages.",
    )
    augment: AugmentOptions = Field(default_factory=lambda: AugmentOptions())


class LeftOut(BaseModel):
    """A passage that is not in the prompt, and why."""

    model_config = ConfigDict(extra="forbid")

    chunk_id: str = Field(description="The passage left out.")
    document_id: str = Field(description="Its document.")
    score: float = Field(description="Its rank score.")
    reason: Literal["near_duplicate", "token_budget", "empty"] = Field(description="Why.")
    duplicate_of: str | None = Field(None, description="The passage kept instead, by chunk id.")


class Decision(BaseModel):
    """Whether the passages are enough to try an answer."""

    model_config = ConfigDict(extra="forbid")

    answerable: bool = Field(description="False: do not call a model; there is no context.")
    reason: str = Field(description="Why, in one sentence.")


class AugmentUsage(BaseModel):
    """Tokens by the step's tokenizer."""

    model_config = ConfigDict(extra="forbid")

    context_tokens: int = Field(ge=0, description="Tokens of the packed passages.")
    prompt_tokens: int = Field(ge=0, description="Tokens of the whole prompt.")


class AugmentResponse(BaseModel):
    """A prompt over numbered passages; other fields of the request as sent, `results` excepted."""

    model_config = ConfigDict(extra="allow")

    query: str = Field(description="The question as asked.")
    messages: list[Message] = Field(description="The conversation as sent.")
    no_context: Literal["abstain", "answer", "error"] = Field(description="As sent, or abstain.")
    prompt: list[Message] = Field(
        description="What a model is asked; empty when not answerable, unless no_context is answer."
    )
    contexts: list[Context] = Field(description="Passages in the prompt, in order of their number.")
    left_out: list[LeftOut] = Field(description="Passages not in the prompt, and why.")
    decision: Decision
    canaries: list[str] = Field(
        default_factory=list,
        description="Texts no answer of a model may hold: the mark of this prompt.",
    )
    context_usage: AugmentUsage
    warnings: list[str] = Field(default_factory=list, description="What the caller should know.")
    provenance: dict[str, dict[str, JsonValue]] = Field(
        description="By step; `augment` holds version, tokenizer and template digest."
    )
