"""What an operator configures for `augment`; the only place that reads the environment."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from rag_kit.settings import StepSettings

from .decision import MIN_RELEVANCE
from .prompt import NO_CONTEXT_TEXT


class AugmentSettings(StepSettings):
    """Settings of `augment`, from arguments or `RAG_…` environment variables."""

    tokenizer: Path | None = Field(
        None, description="A tokenizer.json to count tokens with; none: the packaged MiniLM one."
    )
    template: Path | None = Field(
        None, description="A Jinja2 file with the blocks system and user; none: the packaged one."
    )
    min_relevance: float | None = Field(
        None,
        ge=-1,
        le=1,
        description="Without augment.min_relevance: decide no_context when no passage reaches this "
        f"dense cosine; -1: never; none: {MIN_RELEVANCE}, or one holds every word of the question.",
    )
    no_context_text: str = Field(
        NO_CONTEXT_TEXT,
        min_length=1,
        description="What a model is told to answer when the passages do not hold the answer.",
    )
