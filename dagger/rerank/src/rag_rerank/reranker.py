"""The interface of a reranker: it scores texts for a question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Scored(NamedTuple):
    """Scores of texts.

    Args:
        scores: One for each text, in its order, 0 to 1.
        model: Name of the model as its server gives it, or None.
    """

    scores: list[float]
    model: str | None = None


class Reranker(Protocol):
    """Scores texts for a question."""

    @property
    def name(self) -> str:
        """Name in provenance."""

    @property
    def model(self) -> str | None:
        """Name of the model as configured, or None."""

    @property
    def digest(self) -> str | None:
        """Digest of a local model's file, or None."""

    def score(self, query: str, texts: Sequence[str]) -> Scored:
        """Score N >= 1 texts for a question.

        Raises:
            StepError: `reranker_…` or `deadline_exceeded`; the code tells why there are no scores.
        """
