"""What an operator configures for `retrieve`; the only place that reads the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import platformdirs
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from rag_kit.breaker import Rules
from rag_kit.errors import StepError


class RetrieveSettings(BaseSettings):
    """Settings of `retrieve`, from arguments or `RAG_…` environment variables."""

    model_config = SettingsConfigDict(
        env_prefix="RAG_", frozen=True, extra="ignore", env_ignore_empty=True
    )

    home: Path = Field(
        default_factory=lambda: Path(platformdirs.user_data_dir("rag", appauthor=False)),
        description="Folder of the embedded store.",
    )
    store: Literal["embedded", "qdrant"] = Field(
        "embedded", description="embedded: in this process, under home; qdrant: a server."
    )
    qdrant_url: str | None = Field(None, description="URL of the Qdrant server.")
    qdrant_api_key: SecretStr | None = Field(None, description="Its key.")
    qdrant_api_key_file: Path | None = Field(None, description="File that holds its key.")
    qdrant_timeout_s: float = Field(2.0, gt=0, description="Seconds a search may take there.")
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
        description="Folder of vectors computed before, for stores that are built anew; none: off.",
    )
    chunk_tokens: int = Field(200, ge=16, le=2048, description="Longest passage, in tokens.")
    chunk_overlap_tokens: int = Field(0, ge=0, le=512, description="Tokens two passages share.")
    language: str = Field("english", description="Language of BM25's stemmer and stop words.")
    threads: int = Field(
        0, ge=0, le=64, description="Embedding threads; 0: one per core, at most 4."
    )

    retry_share: float = Field(
        0.1, ge=0, le=1, description="Retries per call of a dependency, on average."
    )
    breaker_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Share of a dependency's calls that must fail until calls are refused for a while.",
    )
    breaker_calls: int = Field(20, ge=1, description="Calls needed to judge that.")
    breaker_window_s: float = Field(10.0, gt=0, description="Seconds in which calls count for it.")
    breaker_probe_s: float = Field(
        2.0, gt=0, description="Seconds between two calls that are let through meanwhile."
    )

    def rules(self) -> Rules:
        """Return when a dependency's calls are refused, and how much is tried again."""
        return Rules(
            share=self.breaker_share,
            calls=self.breaker_calls,
            window_s=self.breaker_window_s,
            probe_s=self.breaker_probe_s,
            retries=self.retry_share,
        )

    def secret(self, name: Literal["qdrant_api_key", "embedding_api_key"]) -> str | None:
        """Return a key from its variable or its file, or None.

        Raises:
            StepError: `retriever_misconfigured`, the file cannot be read.
        """
        value: SecretStr | None = getattr(self, name)
        path: Path | None = getattr(self, f"{name}_file")
        if value is not None or path is None:
            return value.get_secret_value() if value is not None else None
        try:
            return path.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise StepError(
                "retriever_misconfigured",
                f"RAG_{name.upper()}_FILE={path} cannot be read: {error.strerror}",
            ) from None
