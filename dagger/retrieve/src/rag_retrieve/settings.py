"""What an operator configures for `retrieve`; the only place that reads the environment."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal

import platformdirs
from pydantic import Field, SecretStr, field_validator

from rag_kit.languages import ENGLISH, LANGUAGES
from rag_kit.settings import BreakerSettings


class RetrieveSettings(BreakerSettings):
    """Settings of `retrieve`, from arguments or `RAG_…` environment variables."""

    home: Path = Field(
        default_factory=lambda: Path(platformdirs.user_data_dir("rag", appauthor=False)),
        description="Folder of the embedded store.",
    )
    store: Literal["embedded", "qdrant"] = Field(
        "embedded", description="embedded: in this process, under home; qdrant: a server."
    )
    qdrant_url: str | None = Field(
        None,
        description="URL of the Qdrant server; of several nodes, with commas between: when one cannot be "
        "used, the next is asked.",
    )
    qdrant_api_key: SecretStr | None = Field(None, description="Its key.")
    qdrant_api_key_file: Path | None = Field(None, description="File that holds its key.")
    qdrant_timeout_s: float = Field(2.0, gt=0, description="Seconds a search may take there.")
    qdrant_lease_s: float = Field(
        20.0,
        gt=0,
        le=300,
        description="Seconds without a sign of life after which a writer counts as dead there; the same "
        "for all writers.",
    )
    qdrant_shard_number: int | None = Field(
        None, ge=1, description="Shards of a new collection there; none: Qdrant's own, one a node."
    )
    qdrant_replication_factor: int | None = Field(
        None, ge=1, description="Copies of each shard of a new collection; none: Qdrant's own, one."
    )
    qdrant_write_consistency_factor: int | None = Field(
        None,
        ge=1,
        description="Copies that must take a write to a new collection; none: Qdrant's own, one.",
    )
    qdrant_max_request_mb: int = Field(
        32,
        ge=1,
        description="MiB that the server takes in one request, its service.max_request_size_mb; a document "
        "that does not fit is refused.",
    )
    retriever: Literal["builtin", "superlinked"] = Field(
        "builtin",
        description="builtin: dense, sparse and hybrid search in the store; superlinked: text, recency "
        "and category, weighted per request, on a Superlinked server that is filled from the store.",
    )
    superlinked_url: str | None = Field(
        None, pattern=r"^https?://[^\s/]+", description="URL of the Superlinked server."
    )
    superlinked_timeout_s: float = Field(10.0, gt=0, description="Seconds a search may take there.")
    superlinked_date_fields: str = Field(
        "date,timestamp",
        description="Metadata fields that recency reads, the first one that holds an ISO date or "
        "seconds since 1970.",
    )
    superlinked_category_field: str = Field(
        "category", description="Metadata field that holds a document's category, as text."
    )
    superlinked_period_days: float = Field(
        365.0,
        gt=0,
        le=36500,
        description="Documents older than this, before the newest one, score 0 in recency.",
    )
    embedder: Literal["minilm", "openai", "fastembed"] = Field(
        "minilm",
        description="minilm: packaged; openai: any OpenAI-compatible /v1/embeddings; fastembed: extra.",
    )
    embedding_base_url: str | None = Field(None, description="Base URL of /v1/embeddings.")
    embedding_model: str | None = Field(None, description="Model name there, or for fastembed.")
    embedding_api_key: SecretStr | None = Field(None, description="Its key.")
    embedding_api_key_file: Path | None = Field(None, description="File that holds its key.")
    embedding_timeout_s: float = Field(30.0, gt=0, description="Seconds one call may take.")
    embedding_path: Path | None = Field(
        None, description="Folder with model.onnx and tokenizer.json, for minilm or fastembed."
    )
    embedding_cache: Path | None = Field(
        None,
        description="Folder of cached vectors, for stores that are rebuilt; none: off.",
    )
    chunk_tokens: int = Field(200, ge=16, le=2048, description="Longest passage, in tokens.")
    chunk_overlap_tokens: int = Field(0, ge=0, le=512, description="Tokens two passages share.")
    language: str = Field(
        ENGLISH,
        description="Language of documents that are too short to tell theirs; every other document's is "
        "detected.",
    )
    threads: int = Field(
        0, ge=0, le=64, description="Embedding threads; 0: one per core, at most 4."
    )

    @field_validator("language")
    @classmethod
    def _known(cls, value: str) -> str:
        name = LANGUAGES.get(value.lower(), value.lower())
        if name not in LANGUAGES.values():
            raise ValueError(f"no language of these: {', '.join(sorted(LANGUAGES.values()))}")
        return name

    def qdrant_key(self) -> str | None:
        """Return the key of the Qdrant server; raises `retriever_misconfigured`."""
        return self.secret("qdrant_api_key", code="retriever_misconfigured")

    def embedding_key(self) -> str | None:
        """Return the key of the embedding service; raises `retriever_misconfigured`."""
        return self.secret("embedding_api_key", code="retriever_misconfigured")


def child_environment(
    variables: Mapping[str, str], *, without: Collection[str] = ()
) -> dict[str, str]:
    """Return this process's environment for a command it starts, with and without these variables."""
    kept = {name: value for name, value in os.environ.items() if name not in without}
    return {**kept, **variables}


def aws_environment() -> dict[str, str]:
    """Return the variables `AWS_…` that are set, which name the keys and the server of a bucket."""
    return {name: value for name, value in os.environ.items() if name.startswith("AWS_") and value}


def ray_environment() -> str | None:
    """Return the address of the Ray cluster to use, if one is named.

    Ray's reports of its use are turned off, and what its processes say about themselves.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    return os.environ.get("RAY_ADDRESS") or None
