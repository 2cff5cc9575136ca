"""What an operator configures for the Superlinked server; the only place that reads the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from rag_kit.settings import StepSettings


class SuperlinkedSettings(StepSettings):
    """Settings of the server, from arguments or `RAG_…` environment variables."""

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
        return self.secret("qdrant_api_key", code="retriever_misconfigured")
