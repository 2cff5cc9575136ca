"""The contract of `generate`: request and response as JSON."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

from rag_kit.passages import Citation, Context, Message
from rag_kit.request import StepRequest


class Decision(BaseModel):
    """Whether the passages are enough to try an answer."""

    model_config = ConfigDict(extra="forbid")

    answerable: bool = Field(True, description="False: do not call a model; there is no context.")
    reason: str = Field("", description="Why, in one sentence.")


class GenerateOptions(BaseModel):
    """How to answer; unknown options are refused."""

    model_config = ConfigDict(extra="forbid")

    target: str | None = Field(
        None,
        description="Name of a configured generator, e.g. extractive or openai; null: the default.",
    )
    max_answer_tokens: int | None = Field(
        None,
        ge=1,
        le=32768,
        description="Longest answer of a model, its reasoning included; null: the step's setting.",
    )
    temperature: float = Field(0.0, ge=0, le=2, description="Sampling temperature of a model.")
    seed: int | None = Field(None, description="Sampling seed of a model, where it has one.")
    max_sentences: int = Field(
        2, ge=1, le=20, description="Longest extractive answer; a list counts as one sentence."
    )
    min_support: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Abstain when the best support is lower; null: the step's setting.",
    )
    deadline_s: float | None = Field(
        None,
        gt=0,
        le=600,
        description="Seconds the answer may take; RAG_LLM_TOTAL_S when that is shorter, or for null.",
    )
    on_no_citations: Literal["abstain", "warn"] | None = Field(
        None,
        description="An answer of a model that cites no passage: give the no-context text instead, "
        "or pass it on with the warning `no_citations`; null: the step's setting.",
    )
    response_format: dict[str, JsonValue] | None = Field(
        None,
        description="The form of a model's answer, as OpenAI's API has it: json_schema or json_object; "
        "the answer is then JSON, numbers in its texts cite passages, and it need not cite.",
    )
    cache: bool = Field(
        True,
        description="false: ask the model even where an answer is kept (RAG_ANSWER_CACHE); its new answer "
        "replaces that one.",
    )
    allow_degraded: bool = Field(
        False,
        description="When the model fails before its first word: answer with the passages' own "
        "sentences, and say `degraded`.",
    )


class GenerateRequest(StepRequest):
    """A prompt over numbered passages to answer. Unknown fields are ignored."""

    step = "generate"

    standalone_query: str | None = Field(
        None,
        min_length=1,
        description="The question completed from the conversation, when it was a follow-up; the "
        "passages are judged by it. null: the question stands alone.",
    )
    contexts: list[Context] = Field(max_length=1000, description="Passages an answer may cite.")
    prompt: list[Message] = Field(default_factory=list, description="What a model is asked.")
    decision: Decision = Field(default_factory=lambda: Decision())
    no_context: Literal["abstain", "answer", "error"] = Field(
        "abstain",
        description="When nothing supports an answer: say so, let a model answer anyway, or fail.",
    )
    generate: GenerateOptions = Field(default_factory=lambda: GenerateOptions())
    canaries: list[str] = Field(
        default_factory=list,
        max_length=100,
        description="Texts no answer of a model may hold, such as the mark of the prompt.",
    )

    def question(self) -> str:
        """Return the question in full: as asked, or completed from the conversation."""
        return self.standalone_query or self.query

    @field_validator("contexts")
    @classmethod
    def _markers(cls, value: list[Context]) -> list[Context]:
        markers = [context.marker for context in value]
        if len(set(markers)) < len(markers):
            raise ValueError(f"two passages have the same marker: {sorted(markers)}")
        return value


class CitationCheck(BaseModel):
    """What the check of the answer's citations found and mended."""

    model_config = ConfigDict(extra="forbid")

    removed_markers: list[int] = Field(description="Numbers that pointed to no passage, removed.")
    uncited_sentences: int = Field(ge=0, description="Sentences of the answer without a number.")


class Usage(BaseModel):
    """What the answer cost; tokens are the model's own count where it gives one."""

    model_config = ConfigDict(extra="forbid")

    prompt_tokens: int = Field(0, ge=0)
    completion_tokens: int = Field(0, ge=0)
    total_tokens: int = Field(0, ge=0)
    llm_calls: int = Field(0, ge=0, description="Requests sent to a model, retries included.")


class GenerateResponse(BaseModel):
    """An answer with verified citations, or a statement that there is none."""

    model_config = ConfigDict(extra="forbid")

    query: str = Field(description="The question as asked.")
    answer: str = Field(
        description="The answer with numbers in brackets, or the no-context or filtered text."
    )
    answerable: bool = Field(description="False: nothing found supports an answer.")
    finish_reason: Literal["stop", "length", "no_context", "filtered"]
    llm_generated: bool = Field(description="Whether a language model wrote the answer.")
    degraded: bool = Field(
        False,
        description="Whether the model failed and the passages' own sentences answer instead.",
    )
    support: float | None = Field(
        description="How well the passages support an answer, 0 to 1, by the extractive scorer; "
        "null: not scored."
    )
    citations: list[Citation] = Field(description="By number, ascending.")
    citation_check: CitationCheck
    contexts: list[Context] = Field(description="The passages as sent.")
    usage: Usage
    warnings: list[str] = Field(default_factory=list, description="What the caller should know.")
    provenance: dict[str, dict[str, JsonValue]] = Field(
        description="By step; `generate` holds version, generator and model, and `cache` (hit or miss) "
        "where answers are kept."
    )
