"""The pipeline of `retrieve`, `augment` and `generate`: one question in, one answer out."""

from typing import TYPE_CHECKING

from rag_kit.lazy import lazy

if TYPE_CHECKING:
    from rag_kit.errors import StepError

    from .step import __version__, answer, search

_HOME = {
    "StepError": "rag_kit.errors",
    "__version__": ".step",
    "answer": ".step",
    "search": ".step",
}

__all__ = ["StepError", "__version__", "answer", "search"]

if not TYPE_CHECKING:
    __getattr__ = lazy(__name__, _HOME)
