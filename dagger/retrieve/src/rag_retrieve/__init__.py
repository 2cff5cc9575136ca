"""Ingest documents and find passages for a question. Does not build prompts or answers."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rag_kit.errors import StepError

    from .documents import LoadedDocument
    from .models import RetrieveOptions, RetrieveRequest, RetrieveResponse
    from .retriever import Retriever
    from .settings import RetrieveSettings
    from .step import __version__, retrieve

# Loaded at first use: the Dagger module starts a process per call and needs none of them.
_HOME = {
    "LoadedDocument": ".documents",
    "RetrieveOptions": ".models",
    "RetrieveRequest": ".models",
    "RetrieveResponse": ".models",
    "RetrieveSettings": ".settings",
    "Retriever": ".retriever",
    "StepError": "rag_kit.errors",
    "__version__": ".step",
    "retrieve": ".step",
}

__all__ = [
    "LoadedDocument",
    "RetrieveOptions",
    "RetrieveRequest",
    "RetrieveResponse",
    "RetrieveSettings",
    "Retriever",
    "StepError",
    "__version__",
    "retrieve",
]

if not TYPE_CHECKING:

    def __getattr__(name):
        """Load a public name (PEP 562)."""
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_HOME[name], __name__), name)
