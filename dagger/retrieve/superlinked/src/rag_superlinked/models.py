"""Requests and responses of the server as JSON; unknown fields are refused."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Spaces(_Model):
    """The parameters of an index; any other value needs another index."""

    dimension: int = Field(ge=1, le=65536, description="Numbers in a vector of text.")
    corpus_digest: str = Field(min_length=1, max_length=512, description="Names the content.")
    categories: list[str] = Field(
        default_factory=list, max_length=1000, description="The categories that chunks have."
    )
    period_days: float = Field(
        365.0,
        gt=0,
        le=36500,
        description="Chunks older than this, before `now`, score 0 in recency.",
    )
    now: int = Field(
        0, ge=0, le=2**40, description="What recency is measured from, in seconds since 1970."
    )

    @field_validator("categories")
    @classmethod
    def _distinct(cls, value: list[str]) -> list[str]:
        if "" in value or len(set(value)) != len(value):
            raise ValueError("categories must be distinct and not empty")
        return value


class Chunk(_Model):
    """One passage with its vector; the fields from `document_id` to `metadata` come back as sent."""

    chunk_id: str = Field(min_length=1, max_length=512)
    vector: list[float] = Field(description="As many numbers as the collection's dimension.")
    timestamp: int = Field(
        0, ge=0, le=2**40, description="Seconds since 1970; 0: unknown, scores 0 in recency."
    )
    category: str | None = Field(None, description="One of the categories, or null.")
    document_id: str
    title: str
    source: str
    text: str
    span: list[int] = Field(min_length=2, max_length=2)
    page: int | None = None
    metadata: dict[str, JsonValue] = Field(default_factory=dict)

    def payload(self) -> dict[str, Any]:
        """Return the payload, stored beside the vectors."""
        return self.model_dump(exclude={"chunk_id", "vector", "timestamp", "category"})


class Batch(_Model):
    """Chunks for the index that `PUT /collections/{name}` created."""

    generation: str = Field(description="From the answer to PUT.")
    chunks: list[Chunk] = Field(min_length=1, max_length=500)


class Publication(_Model):
    """Publishes an index."""

    generation: str = Field(description="From the answer to PUT.")
    chunks: int = Field(ge=0, description="How many distinct chunks were sent.")


class Weights(_Model):
    """How much each signal counts; a negative weight prefers the opposite."""

    text: float = Field(1.0, ge=-10, le=10)
    recency: float = Field(0.0, ge=-10, le=10)
    category: float = Field(0.0, ge=-10, le=10)

    @model_validator(mode="after")
    def _some(self) -> Weights:
        if not (self.text or self.recency or self.category):
            raise ValueError("one weight at least must not be 0")
        return self


class Search(_Model):
    """A question, as the vector of its text."""

    vector: list[float]
    top_k: int = Field(10, ge=1, le=1000)
    weights: Weights = Field(default_factory=lambda: Weights())
    category: str | None = Field(None, description="The category to prefer.")
    corpus_digest: str | None = Field(
        None,
        description="Refuse to answer from any other content; null: answer from what is there.",
    )


class Hit(_Model):
    """A chunk found: `score` is the sum of `scores`."""

    chunk_id: str
    score: float
    scores: dict[str, float] = Field(description="What text, recency and category add to it.")
    payload: dict[str, JsonValue]


class Found(_Model):
    """Chunks by descending score, ties by chunk id."""

    corpus_digest: str
    hits: list[Hit]


class CollectionInfo(Spaces):
    """A published collection."""

    name: str
    chunks: int
