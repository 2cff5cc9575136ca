"""A collection `test-news` of four chunks: what tests send and ask."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx

from rag_superlinked import SuperlinkedSettings

DAY = 86_400
NOW = 1_700_000_000
Serve = Callable[[SuperlinkedSettings], AbstractContextManager[httpx.Client]]


def chunk(
    chunk_id: str, vector: list[float], age_days: float, category: str | None
) -> dict[str, Any]:
    """Return a chunk as a client sends it."""
    return {
        "chunk_id": chunk_id,
        "vector": vector,
        "timestamp": int(NOW - age_days * DAY),
        "category": category,
        "document_id": f"{chunk_id}.md",
        "title": chunk_id.title(),
        "source": f"news/{chunk_id}.md",
        "text": f"The text of {chunk_id}: größer.",
        "span": [0, 20],
        "page": None,
        "metadata": {"tags": ["a", "b"], "level": 3},
    }


NEWS = [
    chunk("close", [1.0, 0.0, 0.0], 300, "it"),
    chunk("fresh", [0.8, 0.6, 0.0], 1, "it"),
    chunk("staff", [0.6, 0.8, 0.0], 200, "hr"),
    chunk("other", [0.0, 0.0, 1.0], 400, None),
]


def fill(
    client: httpx.Client, chunks: list[dict[str, Any]] = NEWS, digest: str = "sha256:one"
) -> dict[str, Any]:
    """Send chunks to the collection `test-news` and publish them."""
    begun = client.put(
        "/collections/test-news",
        json={
            "dimension": 3,
            "corpus_digest": digest,
            "categories": sorted({one["category"] for one in chunks if one["category"]}),
            "now": NOW,
        },
    ).json()
    for one in chunks:
        batch = {"generation": begun["generation"], "chunks": [one]}
        assert "chunks" in client.post("/collections/test-news/chunks", json=batch).json()
    ids = {one["chunk_id"] for one in chunks}
    published = client.post(
        "/collections/test-news/publish",
        json={"generation": begun["generation"], "chunks": len(ids)},
    )
    return published.json()


def search(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    """Search `test-news`; by default for a text like `close`."""
    request = {"vector": [1.0, 0.0, 0.0], **fields}
    return client.post("/collections/test-news/search", json=request).json()


def order(answer: dict[str, Any]) -> list[str]:
    """Return the chunk ids of an answer."""
    return [hit["chunk_id"] for hit in answer["hits"]]
