"""Ingest documents and find passages for a question. Does not build prompts or answers."""

from .errors import StepError
from .loaders import LoadedDocument
from .models import RetrieveOptions, RetrieveRequest, RetrieveResponse
from .retriever import Retriever
from .settings import RetrieveSettings
from .step import retrieve
from .version import __version__

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
