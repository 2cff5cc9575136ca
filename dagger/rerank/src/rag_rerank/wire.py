"""Open the step: read the settings, open the reranker once, yield the JSON handler."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from functools import partial
from typing import Any

from rag_kit.handler import Handler

from .models import RerankRequest
from .reranker import Reranker
from .settings import RerankSettings
from .step import rerank


def is_configured() -> bool:
    """Tell whether the environment names a reranker; without one the step changes nothing."""
    return RerankSettings.read().kind != "none"


@contextmanager
def open_step(settings: RerankSettings | None = None) -> Iterator[Handler]:
    """Yield the step's handler; the model or the connections are held while it is open.

    Args:
        settings: None: from the environment.

    Raises:
        StepError: `misconfigured` or `reranker_misconfigured`: a setting is wrong or missing.
    """
    with _open(settings or RerankSettings.read()) as reranker:
        breaker: Any = getattr(reranker, "breaker", None)
        yield Handler(
            "rerank",
            RerankRequest,
            partial(rerank, reranker=reranker),
            breakers=() if breaker is None else (breaker,),
        )


def _open(settings: RerankSettings) -> AbstractContextManager[Reranker | None]:
    if settings.kind == "none":
        return nullcontext()
    if settings.kind == "onnx":
        from .cross_encoder import CrossEncoder

        return closing(CrossEncoder(settings))
    # lazy: importing the HTTP client takes long
    from .server import RerankServer

    return closing(RerankServer(settings))
