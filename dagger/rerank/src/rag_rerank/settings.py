"""What an operator configures for `rerank`; the only place that reads the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr

from rag_kit.errors import StepError
from rag_kit.settings import BreakerSettings

Kind = Literal["none", "cohere", "tei", "onnx"]
SERVER_BATCH = 32  # texts; what text-embeddings-inference takes by default
LOCAL_BATCH = 1  # texts; the scores of an int8 model depend on what else is in the batch


class RerankSettings(BreakerSettings):
    """Settings of `rerank`, from arguments or `RAG_…` environment variables."""

    reranker: Kind | None = Field(
        None,
        description="none: passages keep their order; cohere: a server of `POST /v1/rerank` (Cohere, "
        "Jina, vLLM, llama.cpp, LiteLLM); tei: one of `POST /rerank` (text-embeddings-inference); onnx: a "
        "local cross-encoder (extra `fastembed`). Unset: cohere with RAG_RERANKER_URL, onnx with "
        "RAG_RERANKER_PATH, else none.",
    )
    reranker_url: str | None = Field(
        None,
        pattern=r"^https?://[^\s/]+",
        description="URL of the reranking server, with or without the path of its endpoint.",
    )
    reranker_model: str | None = Field(
        None,
        min_length=1,
        description="Name of the model on that server, or for onnx on the hub.",
    )
    reranker_api_key: SecretStr | None = Field(None, description="The server's key.")
    reranker_api_key_file: Path | None = Field(None, description="File that holds its key.")
    reranker_timeout_s: float = Field(
        5.0,
        gt=0,
        description="Seconds reranking may take, retries included; then the passages keep their order.",
    )
    reranker_attempts: int = Field(2, ge=1, le=10, description="Requests for one batch at most.")
    reranker_batch: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="Texts in one request, or in one run of onnx; unset: 32, and 1 for onnx, where the "
        "scores of an int8 model depend on the batch.",
    )
    reranker_logits: bool | None = Field(
        None,
        description="Whether the model gives logits, as llama.cpp does; their sigmoid is the score. "
        "Unset: only for onnx.",
    )
    reranker_path: Path | None = Field(
        None, description="Folder with model.onnx and tokenizer.json, for onnx."
    )
    reranker_threads: int = Field(0, ge=0, le=64, description="Threads of onnx; 0: one per core.")

    @property
    def kind(self) -> Kind:
        """The reranker to use."""
        by_url: Kind = "cohere" if self.reranker_url else "onnx" if self.reranker_path else "none"
        return self.reranker or by_url

    @property
    def batch(self) -> int:
        """Texts scored at once."""
        return self.reranker_batch or (LOCAL_BATCH if self.kind == "onnx" else SERVER_BATCH)

    @property
    def logits(self) -> bool:
        """Whether the model gives logits."""
        return self.kind == "onnx" if self.reranker_logits is None else self.reranker_logits

    def endpoint(self) -> str:
        """Return the URL requests are sent to: the one given, its path completed.

        Raises:
            StepError: `reranker_misconfigured`, there is none.
        """
        if not self.reranker_url:
            raise StepError(
                "reranker_misconfigured",
                f"RAG_RERANKER={self.kind} needs the URL of a reranking server in RAG_RERANKER_URL; or "
                "set RAG_RERANKER=none",
            )
        url = self.reranker_url.rstrip("/")
        if url.endswith("/rerank"):
            return url
        versioned = url.endswith(("/v1", "/v2"))
        return f"{url}/rerank" if versioned or self.kind == "tei" else f"{url}/v1/rerank"

    def key(self) -> str | None:
        """Return the key of the server; raises `reranker_misconfigured` for one no header can carry."""
        key = self.secret("reranker_api_key", code="reranker_misconfigured")
        if key is not None and not (key.isascii() and key.isprintable() and key.strip()):
            raise StepError(
                "reranker_misconfigured",
                "the API key is empty or holds characters no header can carry; set RAG_RERANKER_API_KEY "
                "or the file RAG_RERANKER_API_KEY_FILE names anew",
            )
        return key and key.strip()
