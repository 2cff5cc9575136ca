"""Where passages live: `base` is the interface; `embedded` runs in this process, `qdrant` is a server."""

from __future__ import annotations

from rag_kit.errors import StepError

from ..settings import RetrieveSettings
from .base import Stores


def open_stores(settings: RetrieveSettings) -> Stores:
    """Return the configured database; a server is not contacted before the first use.

    Raises:
        StepError: `retriever_misconfigured`, a server is chosen but has no URL.
    """
    if settings.store == "embedded":
        from .embedded.database import EdgeStores

        return EdgeStores(settings.home)
    if not settings.qdrant_url:
        raise StepError(
            "retriever_misconfigured", "RAG_STORE=qdrant needs the server's URL in RAG_QDRANT_URL"
        )
    # Its import takes a second, which the embedded store need not wait for.
    from .qdrant.database import ServerStores

    return ServerStores(settings.qdrant_url, settings)
