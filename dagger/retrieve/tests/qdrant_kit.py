"""Servers that tests of several writers run on: the double, and a real one where there is one.

RAG_TEST_QDRANT_URL names a real Qdrant server, RAG_TEST_QDRANT_API_KEY its key. Tests use collections of
their own names there and leave everything else alone.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from qdrant_double import QdrantDouble

from rag_retrieve import RetrieveSettings

REAL = os.environ.get("RAG_TEST_QDRANT_URL")
SERVERS = ["double", pytest.param("real", marks=pytest.mark.xdist_group("qdrant"))]


@dataclass(frozen=True)
class Qdrant:
    """A server to test on; `name` is a collection's name that no other test uses."""

    url: str
    key: str | None
    name: str
    double: QdrantDouble | None

    def settings(self, **more: Any) -> RetrieveSettings:
        """Settings of a retriever over this server."""
        options = {"qdrant_url": self.url, "qdrant_api_key": self.key, "qdrant_timeout_s": 20}
        return RetrieveSettings(**{"store": "qdrant", **options, **more})

    def stores(self, **more: Any) -> Any:
        """The collections of this server."""
        from rag_retrieve.stores import open_stores

        return open_stores(self.settings(**more))

    def clean(self) -> None:
        """Remove the collections of this test."""
        stores = self.stores()
        for name in stores.names():
            if name.startswith(self.name):
                stores.delete(name)
        stores.close()


def real_qdrant() -> Qdrant:
    """The real server, or a skipped test."""
    if not REAL:
        pytest.skip("RAG_TEST_QDRANT_URL names no real Qdrant server")
    key = os.environ.get("RAG_TEST_QDRANT_API_KEY")
    return Qdrant(REAL, key, f"test-{uuid4().hex[:12]}", None)
