"""The pipeline of `retrieve`, `augment` and `generate`: one question in, one answer out."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rag_kit.errors import StepError

    from .step import __version__, answer, search

# Loaded at first use: the Dagger module starts a process per call and needs none of them.
_HOME = {
    "StepError": "rag_kit.errors",
    "__version__": ".step",
    "answer": ".step",
    "search": ".step",
}

__all__ = ["StepError", "__version__", "answer", "search"]

if not TYPE_CHECKING:

    def __getattr__(name):
        """Load a public name (PEP 562)."""
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_HOME[name], __name__), name)
