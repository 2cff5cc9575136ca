"""The contract of `rag`, the composite: one question in, one answer out, as JSON."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from .shapes import check_query

COLLECTION = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$"


class Message(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "user", "assistant"] = Field(description="Who speaks.")
    content: str = Field(description="What was said.")


class RagRequest(BaseModel):
    """A question. Unknown fields are refused; a host, URL or key never belongs here."""

    model_config = ConfigDict(extra="forbid")

    query: str = Field(
        "",
        validate_default=True,
        description="The question, 1 character to 8 KiB of UTF-8; may be left out when the last "
        "message asks it.",
    )
    collection: str = Field("default", pattern=COLLECTION, description="Where to search.")
    top_k: int = Field(5, ge=1, le=100, description="How many passages at most.")
    filters: dict[str, JsonValue] | None = Field(
        None, description="Conditions on metadata, as in the request of `retrieve`."
    )
    min_score: float | None = Field(None, description="Drop passages whose score is lower.")
    messages: list[Message] = Field(
        default_factory=list, max_length=1000, description="The conversation so far, oldest first."
    )
    no_context: Literal["abstain", "answer", "error"] = Field(
        "abstain",
        description="When nothing supports an answer: say so, let a model answer anyway, or fail.",
    )
    debug: bool = Field(False, description="Also give the prompt that was built.")
    request_id: str | None = Field(
        None,
        min_length=1,
        max_length=128,
        description="Your id for this request; null: one is made.",
    )
    retrieve: dict[str, JsonValue] = Field(
        default_factory=dict, description='Options of `retrieve`, e.g. {"mode": "dense"}.'
    )
    augment: dict[str, JsonValue] = Field(
        default_factory=dict,
        description='Options of `augment`, e.g. {"max_context_tokens": 1024}.',
    )
    generate: dict[str, JsonValue] = Field(
        default_factory=dict, description='Options of `generate`, e.g. {"target": "extractive"}.'
    )

    @model_validator(mode="before")
    @classmethod
    def _query_from_messages(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("query"):
            return data
        messages = data.get("messages")
        if not isinstance(messages, list) or not messages:
            return data
        *earlier, last = messages
        if isinstance(last, dict) and last.get("role") == "user":
            return {**data, "query": last.get("content"), "messages": earlier}
        return data

    @field_validator("query")
    @classmethod
    def _query(cls, value: str) -> str:
        return check_query(value)


class Result(BaseModel):
    """One passage found; every step keeps these fields as they are."""

    model_config = ConfigDict(extra="allow")

    chunk_id: str = Field(description="Id of the passage.")
    document_id: str = Field(description="Id of the document it comes from.")
    title: str = Field("", description="Title of the document.")
    source: str = Field("", description="Where the document came from.")
    text: str = Field(description="The passage; equals the document's text[span[0]:span[1]].")
    span: list[int] = Field(
        min_length=2,
        max_length=2,
        description="Start and end in the document's text, in characters.",
    )
    page: int | None = Field(None, description="First page the passage stands on, from 1, or null.")
    score: float = Field(description="Rank score; higher is better.")
    scores: dict[str, float] = Field(default_factory=dict, description="Scores by leg.")
    metadata: dict[str, JsonValue] = Field(default_factory=dict, description="The document's own.")


class Context(Result):
    """A passage the answer could rest on; `marker` is its number in the prompt."""

    marker: int = Field(ge=1, description="Number of the passage in the prompt, from 1.")


class Citation(BaseModel):
    """What one number in the answer rests on."""

    model_config = ConfigDict(extra="allow")

    marker: int = Field(ge=1, description="The number in the answer.")
    chunk_id: str = Field(description="The passage cited.")
    document_id: str = Field(description="Its document.")
    title: str = Field(description="Title of the document.")
    source: str = Field(description="Where the document came from.")
    page: int | None = Field(description="First page of the passage, from 1, or null.")
    score: float = Field(description="Rank score of the passage.")
    spans: list[list[int]] = Field(
        description="Start and end of what supports the answer, in the document's text, in "
        "characters."
    )
    quote: str = Field(description="The document's text at the first span.")


class RagResponse(BaseModel):
    """An answer with verified citations, what it rests on, what it cost, and who made it."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(description="Id of this request: the caller's request_id, or a new one.")
    query: str = Field(description="The question as asked.")
    collection: str = Field(description="Where was searched.")
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
        description="How well the passages support an answer, 0 to 1, or null."
    )
    citations: list[Citation] = Field(description="By number, ascending.")
    citation_check: dict[str, JsonValue] = Field(description="What the check of citations mended.")
    contexts: list[Context] = Field(description="The passages in the prompt.")
    left_out: list[dict[str, JsonValue]] = Field(
        description="Passages found but not used, and why."
    )
    usage: dict[str, int] = Field(
        description="Tokens and calls of the model, tokens of the context."
    )
    timings_ms: dict[str, float] = Field(description="Milliseconds by step, and in total.")
    warnings: list[str] = Field(description="What the caller should know.")
    provenance: dict[str, dict[str, JsonValue]] = Field(
        description="Who made what, by step: versions, corpus digest, model, template digest; "
        "`rag` holds what `replay` needs: the retrieval part of the request, and a digest of what "
        "was found."
    )
    prompt: list[Message] | None = Field(
        None, description="The prompt built, when debug was asked."
    )


class SearchResponse(BaseModel):
    """The passages `retrieve` found for the question, without an answer."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(description="Id of this request: the caller's request_id, or a new one.")
    query: str = Field(description="The question as asked.")
    collection: str = Field(description="Where was searched.")
    results: list[Result] = Field(description="Best first.")
    timings_ms: dict[str, float] = Field(description="Milliseconds by step, and in total.")
    warnings: list[str] = Field(description="What the caller should know.")
    provenance: dict[str, dict[str, JsonValue]] = Field(
        description="Who made what, by step; `rag` as in an answer."
    )
