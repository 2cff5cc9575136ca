"""What tests of crashes share: the moments of an ingest, a whole collection, a cheap embedder."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from rag_retrieve import Retriever
from rag_retrieve.index.embedders import Vectors

STEPS = [
    "cut", "embedded", "journal", "upserting", "upserted", "publishing", "published", "sweeping",
    "swept", "flushed", "manifest", "committed",
]  # fmt: skip
"""The named moments of a commit and its checkpoint, in order; `sweeping` is not in each."""
SERVER_STEPS = [step for step in STEPS if step != "flushed"]
SERVER_STEPS.insert(SERVER_STEPS.index("upserting"), "claimed")
"""Those of a commit to a Qdrant server, which claims the documents and needs no sync."""
VISIBLE_FROM = STEPS.index("published")


class HashedWords:
    """A double of an embedder: counts words in 16 buckets by their hash; microseconds a text."""

    model = "hashed-words"
    identity = "double:hashed-words:16"
    dim = 16

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Embed N texts; returns N × 16."""
        return np.array([self.embed_query(text) for text in texts], np.float32).reshape(-1, 16)

    def embed_query(self, query: str) -> Vectors:
        """Embed one text."""
        vector = np.full(self.dim, 0.01, np.float32)
        for word in query.lower().split():
            vector[zlib.crc32(word.encode()) % self.dim] += 1
        return vector / np.linalg.norm(vector)


def whole(retriever: Retriever, name: str = "default") -> dict[str, str]:
    """Return each document's text, once its passages are all of it and nothing else is stored."""
    texts = {}
    collection = retriever._collection(name)
    points = list(collection._store.scroll({"kind": "chunk"}))
    for record in (point.payload for point in collection._store.scroll({"kind": "document"})):
        document_id = record["document_id"]
        own = [point for point in points if point.payload["document_id"] == document_id]
        assert {point.payload["version"] for point in own} <= {record["content_hash"]}, "torn"
        assert len(own) == record["chunks"], "torn"
        texts[document_id] = record["text"]
    assert {point.payload["document_id"] for point in points} <= set(texts), "phantom"
    manifest = collection.manifest
    assert (manifest.documents, manifest.chunks) == (len(texts), len(points)), "miscounted"
    return texts
