"""Open the step: load model and collections once, yield the JSON handler."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rag_kit.handler import Handler

from .models import RetrieveRequest
from .retriever import Retriever
from .settings import RetrieveSettings


def handler_for(retriever: Retriever) -> Handler:
    """Return the JSON handler of an open retriever."""
    return Handler("retrieve", RetrieveRequest, retriever.retrieve, breakers=retriever.breakers)


@contextmanager
def open_step(settings: RetrieveSettings | None = None) -> Iterator[Handler]:
    """Load model and collections once, and yield the handler while they are open."""
    with Retriever.open(settings) as retriever:
        retriever.preload()
        yield handler_for(retriever)
