"""What an operator configures for `generate`; the only place that reads the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, SecretStr

from rag_kit.errors import StepError
from rag_kit.settings import BreakerSettings, PacedSettings, read_file

from .step import FILTERED_TEXT

# Probability. Prose alone would take about 0.5; questions about product documentation need it lower.
MIN_SUPPORT = 0.4


class Settings(BreakerSettings, PacedSettings):
    """Settings of `generate`; each field is the environment variable RAG_<FIELD>."""

    # local: a processor that reads 20 tokens a second needs 100 s for a prompt of 2,000
    PACES: ClassVar = {
        "local": {"llm_first_token_s": 120.0, "llm_idle_s": 30.0, "llm_total_s": 300.0},  # nosec B105, seconds
        "reasoning": {
            "llm_first_token_s": 60.0,  # nosec B105, seconds
            "llm_idle_s": 60.0,
            "llm_total_s": 300.0,
            "llm_max_answer_tokens": 4096,
        },
    }

    generator: Literal["extractive", "openai"] | None = Field(
        None,
        description="Default generator; unset: openai when RAG_LLM_BASE_URL is set, else extractive.",
    )
    min_support: float = Field(
        MIN_SUPPORT, ge=0, le=1, description="extractive abstains when the support is lower."
    )
    no_context_text: str = Field(
        "I could not find an answer to this in the documents.",
        description="The answer when nothing found supports one.",
    )
    filtered_text: str = Field(
        FILTERED_TEXT, description="The answer when a model's own holds what may not leave."
    )
    canaries: tuple[Annotated[str, Field(min_length=8)], ...] = Field(
        (),
        description="Texts no answer of a model may hold, as JSON: what you planted in documents or "
        'in RAG_TEMPLATE to notice a leak, e.g. `["canary-7f3a91"]`.',
    )
    answer_cache: int = Field(
        0,
        ge=0,
        le=100_000,
        description="Answers of the model that are kept in memory, and given again when everything they "
        "follow from is the same; 0: none.",
    )
    llm_base_url: str | None = Field(
        None, description="OpenAI-compatible server, e.g. http://127.0.0.1:8000/v1."
    )
    llm_model: str | None = Field(None, description="Name of the model on that server.")
    llm_api_key: SecretStr | None = Field(None, description="Its key, where it wants one.")
    llm_api_key_file: Path | None = Field(None, description="File that holds the key instead.")
    llm_max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="What the server calls the limit of an answer."
    )
    llm_context_window: int | None = Field(
        None,
        ge=256,
        description="Tokens the model takes, prompt and answer together; unset: unknown.",
    )
    on_no_citations: Literal["abstain", "warn"] = Field(
        "abstain",
        description="An answer of a model that cites no passage: abstain gives RAG_NO_CONTEXT_TEXT "
        "instead, warn passes it on with the warning `no_citations`; a request may differ.",
    )
    llm_max_answer_tokens: int = Field(
        512,
        ge=1,
        le=32768,
        description="Longest answer in tokens, with its reasoning, where a request does not say; 4096 by "
        "RAG_LLM_PACE=reasoning.",
    )
    llm_starts_in_reasoning: bool = Field(
        False,
        description="The server's chat template opens the model's reasoning, so its text begins "
        "inside it and only `</think>` ends it; unset, it is found out with the first answer.",
    )
    llm_connect_s: float = Field(2.0, gt=0, description="Seconds to connect.")
    llm_first_token_s: float = Field(
        10.0, gt=0, description="Seconds until the first token; 120 or 60 by RAG_LLM_PACE."
    )
    llm_idle_s: float = Field(
        5.0, gt=0, description="Seconds between two tokens; 30 or 60 by RAG_LLM_PACE."
    )
    llm_total_s: float = Field(
        30.0,
        gt=0,
        description="Seconds for an answer, retries included; a request may allow fewer; 300 by "
        "RAG_LLM_PACE.",
    )
    llm_attempts: int = Field(3, ge=1, le=10, description="Requests for one answer at most.")
    llm_retry_min_s: float = Field(0.2, ge=0, description="Shortest wait before a retry, seconds.")
    llm_retry_max_s: float = Field(2.0, ge=0, description="Longest wait before a retry, seconds.")

    def default_generator(self) -> str:
        """Return the name of the generator used when a request names none."""
        return self.generator or ("openai" if self.llm_base_url else "extractive")

    def api_key(self) -> SecretStr | None:
        """Return the key, from its file where one is named.

        Raises:
            StepError: `llm_misconfigured`: the file cannot be read, or the key cannot be sent.
        """
        key = self.llm_api_key
        if self.llm_api_key_file is not None:
            text = read_file(
                "RAG_LLM_API_KEY_FILE", self.llm_api_key_file, code="llm_misconfigured"
            )
            key = SecretStr(text)
        if key is None:
            return None
        value = key.get_secret_value().strip()
        if not value.isascii() or not value.isprintable() or not value:
            raise StepError(
                "llm_misconfigured",
                "the API key is empty or holds characters no header can carry; "
                "set RAG_LLM_API_KEY or the file RAG_LLM_API_KEY_FILE names anew",
            )
        return SecretStr(value)
