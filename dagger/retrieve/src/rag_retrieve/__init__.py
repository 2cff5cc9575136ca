"""Ingest documents and find passages for a question. Does not build prompts or answers."""

from typing import TYPE_CHECKING

from rag_kit.lazy import lazy

if TYPE_CHECKING:
    from rag_kit.errors import StepError

    from .documents import LoadedDocument
    from .models import RetrieveOptions, RetrieveRequest, RetrieveResponse
    from .retriever import Retriever
    from .settings import RetrieveSettings
    from .step import __version__, retrieve

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
    __getattr__ = lazy(__name__, _HOME)
