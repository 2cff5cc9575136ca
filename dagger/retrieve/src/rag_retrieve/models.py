"""The contract of `retrieve`: request and response as JSON."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from rag_kit.passages import COLLECTION, Result
from rag_kit.request import StepRequest, check_query


class Weights(BaseModel):
    """How much each signal counts, for the retriever `superlinked`; negative: the opposite."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    text: float = Field(1.0, ge=-10, le=10, description="Likeness of meaning.")
    recency: float = Field(0.0, ge=-10, le=10, description="How new the document is.")
    category: float | None = Field(
        None, ge=-10, le=10, description="Being of `category`; null: 1 when a category is given."
    )

    @model_validator(mode="after")
    def _some(self) -> Weights:
        if self.text == 0 and self.recency == 0 and self.category == 0:
            raise ValueError("one weight at least must not be 0")
        return self


class RetrieveOptions(BaseModel):
    """How to search; unknown options are refused."""

    model_config = ConfigDict(extra="forbid")

    mode: Literal["hybrid", "dense", "sparse"] = Field(
        "hybrid", description="dense: embedding cosine; sparse: BM25; hybrid: both, fused."
    )
    fusion: Literal["dbsf", "rrf"] = Field(
        "dbsf", description="How hybrid fuses: distribution-based score fusion, or reciprocal rank."
    )
    rrf_k: int = Field(60, ge=1, le=1000, description="Constant k of reciprocal rank fusion.")
    candidates: int = Field(
        100, ge=1, le=1000, description="Passages taken from each leg before fusion."
    )
    max_per_document: int | None = Field(
        None,
        ge=1,
        le=100,
        description="At most this many results from one document; null: half of top_k, more where "
        "other documents have none that is close.",
    )
    weights: Weights | None = Field(
        None,
        description="What counts how much; only where the retriever `superlinked` is configured.",
    )
    category: str | None = Field(
        None,
        min_length=1,
        max_length=256,
        description="The category to prefer; only where the retriever `superlinked` is configured.",
    )


MAX_SEARCH_QUERIES = 8


class RetrieveRequest(StepRequest):
    """A question to find passages for. Unknown fields are carried to the response untouched."""

    step = "retrieve"

    search_queries: list[str] = Field(
        default_factory=list,
        max_length=MAX_SEARCH_QUERIES,
        description="Further wordings of the question, or its parts, that are searched and fused with it.",
    )
    collection: str = Field("default", pattern=COLLECTION, description="Where to search.")
    top_k: int = Field(5, ge=1, le=100, description="How many results at most.")
    filters: dict[str, JsonValue] | None = Field(
        None,
        description='Conditions on metadata, e.g. {"year": {"$gte": 2024}}; operators $eq $ne $gt '
        "$gte $lt $lte $in $nin $contains $startsWith $endsWith $exists $and $or $not.",
    )
    min_score: float | None = Field(
        None, description="Drop results whose `score` is lower; the scale depends on the mode."
    )
    retrieve: RetrieveOptions = Field(default_factory=lambda: RetrieveOptions())

    @field_validator("search_queries")
    @classmethod
    def _search_queries(cls, value: list[str]) -> list[str]:
        return [check_query(query) for query in value]


class RetrieveResponse(BaseModel):
    """Passages for the question, best first, ties by chunk id; other fields of the request as sent."""

    model_config = ConfigDict(extra="allow")

    query: str = Field(description="The question as asked.")
    collection: str = Field(description="Where was searched.")
    results: list[Result] = Field(description="Best first.")
    warnings: list[str] = Field(default_factory=list, description="What the caller should know.")
    provenance: dict[str, dict[str, JsonValue]] = Field(
        description="By step; `retrieve` holds version, corpus digest and embedding model."
    )
