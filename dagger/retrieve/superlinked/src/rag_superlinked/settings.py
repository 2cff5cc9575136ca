"""What an operator configures; the only place that reads the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict
from rag_kit.errors import StepError


class SuperlinkedSettings(BaseSettings):
    """Settings of the server, from arguments or `RAG_…` environment variables."""

    model_config = SettingsConfigDict(
        env_prefix="RAG_", frozen=True, extra="ignore", env_ignore_empty=True
    )

    qdrant_url: str | None = Field(
        None,
        pattern=r"^https?://[^\s/]+",
        description="URL of the Qdrant server; none: Superlinked's in-memory database, which is "
        "empty after a restart.",
    )
    qdrant_api_key: SecretStr | None = Field(None, description="Its key.")
    qdrant_api_key_file: Path | None = Field(None, description="File that holds its key.")
    qdrant_timeout_s: float = Field(10.0, gt=0, description="Seconds one call of it may take.")
    superlinked_search: Literal["exact", "hnsw"] = Field(
        "exact", description="On Qdrant: exact scans every vector; hnsw uses its index."
    )

    def api_key(self) -> str | None:
        """Return the key from its variable or its file, or None.

        Raises:
            StepError: `retriever_misconfigured`, the file cannot be read.
        """
        if self.qdrant_api_key is not None or self.qdrant_api_key_file is None:
            return self.qdrant_api_key.get_secret_value() if self.qdrant_api_key else None
        try:
            return self.qdrant_api_key_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise StepError(
                "retriever_misconfigured",
                f"RAG_QDRANT_API_KEY_FILE={self.qdrant_api_key_file} cannot be read: "
                f"{error.strerror}",
            ) from None
