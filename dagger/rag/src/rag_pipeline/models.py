"""The contract of `rag`, the pipeline: one question in, one answer out, as JSON."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from rag_kit.passages import COLLECTION, Citation, Context, Message, Result
from rag_kit.request import check_query


def _options(step: str, example: str) -> Any:
    return Field(default_factory=dict, description=f"Options of `{step}`, e.g. {example}.")


class RagRequest(BaseModel):
    """A question. Unknown fields are refused; a host, URL or key never belongs here."""

    model_config = ConfigDict(extra="forbid")

    query: str = Field(
        "",
        validate_default=True,
        description="The question, 1 character to 8 KiB of UTF-8; may be left out when it is the "
        "last message.",
    )
    collection: str = Field("default", pattern=COLLECTION, description="The collection to search.")
    top_k: int = Field(5, ge=1, le=100, description="How many passages at most.")
    filters: dict[str, JsonValue] | None = Field(
        None, description="Conditions on metadata, as in the request of `retrieve`."
    )
    min_score: float | None = Field(
        None, description="Drop passages whose score is lower; the reranker's, where there is one."
    )
    messages: list[Message] = Field(
        default_factory=list, max_length=1000, description="The conversation so far, oldest first."
    )
    search_queries: list[str] | None = Field(
        None,
        max_length=8,
        description="What is searched besides the question as asked; null: a follow-up is completed from "
        "`messages`, and a question with several parts is split; []: nothing.",
    )
    no_context: Literal["abstain", "answer", "error"] = Field(
        "abstain",
        description="When nothing supports an answer: say so, let a model answer anyway, or fail.",
    )
    debug: bool = Field(False, description="Return the prompt, too.")
    request_id: str | None = Field(
        None,
        min_length=1,
        max_length=128,
        description="Your id for this request; null: a new one is made.",
    )
    cache_scope: str = Field(
        "",
        max_length=256,
        description="Whose question it is: an answer that is kept (RAG_ANSWER_CACHE) is given again within "
        "one scope alone. A service with keys sets the name of the key.",
    )
    # The options of each step; the step itself checks them.
    retrieve: dict[str, JsonValue] = _options("retrieve", '{"mode": "dense"}')
    rerank: dict[str, JsonValue] = _options("rerank", '{"candidates": 20}')
    augment: dict[str, JsonValue] = _options("augment", '{"max_context_tokens": 1024}')
    generate: dict[str, JsonValue] = _options("generate", '{"target": "extractive"}')

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

    @field_validator("search_queries")
    @classmethod
    def _search_queries(cls, value: list[str] | None) -> list[str] | None:
        return value and [check_query(query) for query in value]


class RagResponse(BaseModel):
    """An answer with verified citations, its passages, its cost, and its provenance."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(description="Id of this request: the caller's request_id, or a new one.")
    query: str = Field(description="The question as asked.")
    search_queries: list[str] = Field(
        description="What was searched besides it: the question completed from the conversation, its parts."
    )
    collection: str = Field(description="The collection searched.")
    answer: str = Field(
        description="The answer with numbers in brackets, or the no-context or filtered text."
    )
    answerable: bool = Field(description="False: nothing found supports an answer.")
    finish_reason: Literal["stop", "length", "no_context", "filtered"]
    llm_generated: bool = Field(description="Whether a language model wrote the answer.")
    degraded: bool = Field(
        False,
        description="Whether the model failed and the passages' own sentences answer instead, or the "
        "reranker failed and the passages keep the order of the search.",
    )
    support: float | None = Field(
        description="How well the passages support an answer, 0 to 1, or null."
    )
    citations: list[Citation] = Field(description="By number, ascending.")
    citation_check: dict[str, JsonValue] = Field(
        description="What the check of citations corrected."
    )
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
        "`rag` holds what `replay` needs: the search part of the request, and a digest of the "
        "passages found."
    )
    prompt: list[Message] | None = Field(
        None, description="The prompt, when the request sets `debug`."
    )


class SearchResponse(BaseModel):
    """The passages found for the question, without an answer."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(description="Id of this request: the caller's request_id, or a new one.")
    query: str = Field(description="The question as asked.")
    search_queries: list[str] = Field(
        description="What was searched besides it: the question completed from the conversation, its parts."
    )
    collection: str = Field(description="The collection searched.")
    results: list[Result] = Field(description="Best first.")
    degraded: bool = Field(
        False,
        description="Whether the reranker failed and the passages keep the order of the search.",
    )
    timings_ms: dict[str, float] = Field(description="Milliseconds by step, and in total.")
    warnings: list[str] = Field(description="What the caller should know.")
    provenance: dict[str, dict[str, JsonValue]] = Field(
        description="Who made what, by step; `rag` as in an answer."
    )
