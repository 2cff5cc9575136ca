"""Find passages by their words: JSON in, JSON out, as contract/retrieve.*.schema.json says.

    request ──▶ check ──▶ score every passage ──▶ best first ──▶ response | error envelope

A passage is a paragraph of the catalogue. Its score is the share of the question's words that stand
in it or in its title, where a rare word weighs more than a common one. Knows nothing of Dagger.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

VERSION = "0.1.0"
CATALOGUE = Path(__file__).with_name("catalogue.json")
WORD = re.compile(r"\w+")
COMMON = frozenset(
    WORD.findall(
        "a an and are at be by can do does for from how i in is it many much my of on or the to "
        "what when which who"
    )
)


class BadRequestError(Exception):
    """A request that cannot be answered: what is wrong with it, and which field."""

    def __init__(
        self, message: str, param: str | None = None, code: str = "invalid_request"
    ) -> None:
        super().__init__(message)
        self.message, self.param, self.code = message, param, code


def run(input_json: str) -> str:
    """Answer one request; returns the response, or an error envelope, as JSON."""
    request_id = None
    try:
        request = parse(input_json)
        request_id = request.get("request_id")
        check(request)
        response = retrieve(request)
    except BadRequestError as error:
        response = envelope(error, request_id)
    return json.dumps(response, ensure_ascii=False)


def retrieve(request: dict[str, Any]) -> dict[str, Any]:
    """Return the passages for a question; every other field of the request as it was sent."""
    filters = request.get("filters") or {}
    lowest = request.get("min_score") or 0
    found = [
        {**passage, "score": score, "scores": {"keyword": score}}
        for passage, score in scored(request["query"], passages())
        if score > 0 and score >= lowest and filters.items() <= passage["metadata"].items()
    ]
    found.sort(key=lambda passage: (-passage["score"], passage["chunk_id"]))
    digest = hashlib.sha256(CATALOGUE.read_bytes()).hexdigest()
    made = {"version": VERSION, "corpus_digest": f"sha256:{digest}"}
    return {
        **request,
        "collection": "default",
        "results": found[: request.get("top_k", 5)],
        "warnings": request.get("warnings", []),
        "provenance": {**request.get("provenance", {}), "retrieve": made},
    }


def passages() -> list[dict[str, Any]]:
    """Return the paragraphs of the catalogue; a span counts characters in the document's text."""
    return [
        {
            "chunk_id": f"{record['id']}#{number}",
            "document_id": record["id"],
            "title": record["title"],
            "source": f"catalogue.json#{record['id']}",
            "text": paragraph.group(),
            "span": list(paragraph.span()),
            "page": None,
            "metadata": {"kind": record["kind"]},
        }
        for record in json.loads(CATALOGUE.read_text(encoding="utf-8"))
        for number, paragraph in enumerate(re.finditer(r"[^\n]+", record["text"]), start=1)
    ]


def scored(query: str, corpus: list[dict[str, Any]]) -> list[tuple[dict[str, Any], float]]:
    """Return each passage with the weight of the question's words in it, over that of them all: 0 to 1.

    A word weighs log(1 + N / n): N passages, n of them with the word (at least 1).
    """
    inside = [words(f"{passage['title']} {passage['text']}") for passage in corpus]
    weights = {
        word: math.log(1 + len(corpus) / max(1, sum(word in each for each in inside)))
        for word in words(query)
    }
    whole = sum(weights.values()) or 1.0
    scores = [sum(weights[word] for word in sorted(weights.keys() & each)) for each in inside]
    return [
        (passage, round(score / whole, 4)) for passage, score in zip(corpus, scores, strict=True)
    ]


def words(text: str) -> set[str]:
    """Return the words that count, in lower case and without a plural s."""
    found = set(WORD.findall(text.lower())) - COMMON
    return {word.removesuffix("s") if len(word) > 3 else word for word in found}


def parse(text: str) -> dict[str, Any]:
    """Return the request, or say why it is none."""
    try:
        request = json.loads(text)
    except ValueError as error:
        raise BadRequestError(f"the request is no JSON: {error}") from None
    if not isinstance(request, dict):
        raise BadRequestError(f"the request must be a JSON object, not {type(request).__name__}")
    return request


def check(request: dict[str, Any]) -> None:
    """Refuse what could only be answered wrongly."""
    query, top_k = request.get("query"), request.get("top_k", 5)
    if not isinstance(query, str) or not query.strip():
        raise BadRequestError("query: must be a question, not blank", "query")
    if type(top_k) is not int or not 1 <= top_k <= 100:
        raise BadRequestError(f"top_k: must be 1 to 100, not {top_k!r}", "top_k")
    if not isinstance(request.get("min_score"), int | float | None):
        raise BadRequestError("min_score: must be a number", "min_score")
    filters = request.get("filters") or {}
    if not isinstance(filters, dict) or not all(isinstance(each, str) for each in filters.values()):
        raise BadRequestError(
            'filters: this retriever compares texts only, like {"kind": "tent"}', "filters"
        )
    if request.get("retrieve"):
        raise BadRequestError("retrieve: this retriever has no options; leave it out", "retrieve")
    if (name := request.get("collection", "default")) != "default":
        raise BadRequestError(
            f"collection {name!r} does not exist; there is only 'default'",
            "collection",
            "collection_not_found",
        )


def envelope(error: BadRequestError, request_id: str | None) -> dict[str, Any]:
    """Return a failure as contract/error.schema.json has it."""
    return {
        "error": {
            "type": "invalid_request_error",
            "code": error.code,
            "message": error.message,
            "step": "retrieve",
            "param": error.param,
            "retryable": False,
            "request_id": request_id,
        }
    }
