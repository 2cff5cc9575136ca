"""The passage in the contract of every step: as a search result, in the prompt, as a citation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from .languages import ENGLISH

COLLECTION = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$"  # name of a collection
ALLOWED_GROUPS = "allowed_groups"  # field of a document's metadata: who may read it


class Message(BaseModel):
    """One message of a conversation or a prompt."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "user", "assistant"] = Field(description="Who speaks.")
    content: str = Field(description="What is said.")


class TablePart(BaseModel):
    """Rows of a table in a passage, and what their columns are called."""

    span: list[int] = Field(
        min_length=2,
        max_length=2,
        description="Start and end in the document's text, in characters.",
    )
    columns: list[str] = Field(
        description="Names of the columns; they may stand above the passage."
    )
    delimiter: str = Field(
        description="What stands between cells: one character of CSV, or ` | ` for lines with bars."
    )


class Similarity(BaseModel):
    """A sentence, line or row of a passage, and how near its meaning is to the question's."""

    span: list[int] = Field(
        min_length=2,
        max_length=2,
        description="Start and end in the document's text, in characters.",
    )
    cosine: float = Field(description="Cosine of their embeddings, -1 to 1.")


class Result(BaseModel):
    """One passage found; every step passes its fields on unchanged, unknown ones included."""

    # A response has every field, so its schema requires them; in a request those with a default are optional.
    model_config = ConfigDict(extra="allow", json_schema_serialization_defaults_required=True)

    chunk_id: str = Field(description="Id of the passage, stable for unchanged content.")
    document_id: str = Field(description="Id of the document it comes from.")
    title: str = Field("", description="Title of the document.")
    source: str = Field("", description="Where the document came from, e.g. its relative path.")
    text: str = Field(description="The passage; equals the document's text[span[0]:span[1]].")
    span: list[int] = Field(
        min_length=2,
        max_length=2,
        description="Start and end in the document's text, in characters.",
    )
    page: int | None = Field(None, description="First page the passage stands on, from 1, or null.")
    score: float = Field(
        description="Rank score of the chosen mode, or of the reranker; higher is better."
    )
    scores: dict[str, float] = Field(
        default_factory=dict,
        description="Scores by stage: dense (cosine, -1 to 1), sparse (BM25, from 0); of a reranked "
        "passage also retrieve (its score before) and rerank (0 to 1).",
    )
    metadata: dict[str, JsonValue] = Field(default_factory=dict, description="The document's own.")
    date: str | None = Field(
        None,
        exclude_if=lambda date: date is None,
        description="Date of the document as precise as it is known, `2024` or `2024-03-15`; absent "
        "where none is known.",
    )
    language: str | None = Field(
        None,
        exclude_if=lambda language: language in (None, ENGLISH),
        description="Language of the document, e.g. `german`; absent for English and where it is not "
        "known.",
    )
    headings: list[str] = Field(
        default_factory=list,
        exclude_if=lambda headings: not headings,
        description="The headings all of the passage stands under, outermost first; absent where there "
        "is none.",
    )
    in_code: bool = Field(
        False,
        exclude_if=lambda in_code: not in_code,
        description="Whether the passage begins inside a fenced block of code; absent when not.",
    )
    tables: list[TablePart] = Field(
        default_factory=list,
        exclude_if=lambda tables: not tables,
        description="The tables in the passage; absent where there is none.",
    )
    similarities: list[Similarity] = Field(
        default_factory=list,
        exclude_if=lambda similarities: not similarities,
        description="How near each sentence is to the question; absent where the embedder does not say.",
    )


class Context(Result):
    """A passage in the prompt, with the number by which an answer cites it."""

    marker: int = Field(ge=1, description="Number of the passage in the prompt, from 1.")


class Citation(BaseModel):
    """The passage that one number in the answer cites."""

    model_config = ConfigDict(extra="allow")

    marker: int = Field(ge=1, description="The number in the answer.")
    chunk_id: str = Field(description="The passage cited.")
    document_id: str = Field(description="Its document.")
    title: str = Field(description="Title of the document.")
    source: str = Field(description="Where the document came from.")
    page: int | None = Field(description="First page of the passage, from 1, or null.")
    date: str | None = Field(
        None,
        exclude_if=lambda date: date is None,
        description="Date of the document, ISO 8601; absent where none is known.",
    )
    score: float = Field(description="Rank score of the passage.")
    spans: list[list[int]] = Field(
        description="Start and end of what supports the answer, in the document's text, in "
        "characters."
    )
    quote: str = Field(description="The document's text at the first span.")
    quotes: list[str] = Field(
        default_factory=list,
        description="The document's text at each span, in the order of `spans`.",
    )
    url: str | None = Field(
        None,
        exclude_if=lambda url: url is None,
        description="Where a browser shows the cited words: the document's own address, or its view; "
        "added by the service, absent where there is none.",
    )


def quotes_of(citation: Mapping[str, Any]) -> list[str]:
    """Return all that a citation quotes; `quotes` is missing where another team's step answered."""
    quotes: list[str] = citation.get("quotes") or [citation["quote"]]
    return quotes
