"""Requests for the tests of the step."""

from __future__ import annotations

from typing import Any

QUERY = "Who may sign contracts?"
TEXTS = [
    "The treasurer keeps the books.",
    "Members pay their fee in January.",
    "Only the board may sign contracts above 5,000 euros.",
    "The board may grant a delay.",
]


def result(number: int, text: str, **fields: Any) -> dict[str, Any]:
    """Return a passage with every field one can have."""
    start = number * 1000
    return {
        "chunk_id": f"c{number}",
        "document_id": f"d{number}.md",
        "title": "",
        "source": f"docs/d{number}.md",
        "text": text,
        "span": [start, start + len(text)],
        "page": number,
        "score": 1 / number,
        "scores": {"dense": 0.9 - number / 10, "sparse": 3.5},
        "metadata": {"dept": "legal"},
    } | fields


def make_request(texts: list[str] = TEXTS, /, **fields: Any) -> dict[str, Any]:
    """Return a request over passages with these texts."""
    results = [result(number, text) for number, text in enumerate(texts, start=1)]
    return {"query": QUERY, "results": results} | fields
