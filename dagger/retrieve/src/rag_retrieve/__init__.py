"""Ingest documents and find passages for a question. Does not build prompts or answers."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .errors import StepError
    from .loaders import LoadedDocument
    from .models import RetrieveOptions, RetrieveRequest, RetrieveResponse
    from .retriever import Retriever
    from .settings import RetrieveSettings
    from .step import retrieve
    from .version import __version__

# Loaded at first use: the Dagger module starts a process per call and needs none of them.
_HOME = {
    "LoadedDocument": "loaders",
    "RetrieveOptions": "models",
    "RetrieveRequest": "models",
    "RetrieveResponse": "models",
    "RetrieveSettings": "settings",
    "Retriever": "retriever",
    "StepError": "errors",
    "__version__": "version",
    "retrieve": "step",
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
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
