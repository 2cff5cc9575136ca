"""Rank the passages found for a question again: a reranking server, a local cross-encoder, or none."""

from typing import TYPE_CHECKING

from rag_kit.lazy import lazy

if TYPE_CHECKING:
    from rag_kit.errors import StepError

    from .step import __version__, rerank

_HOME = {"StepError": "rag_kit.errors", "__version__": ".step", "rerank": ".step"}

__all__ = ["StepError", "__version__", "rerank"]

if not TYPE_CHECKING:
    __getattr__ = lazy(__name__, _HOME)
