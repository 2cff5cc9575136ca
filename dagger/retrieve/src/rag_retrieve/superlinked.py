"""The retriever `superlinked`: search by text, recency and category on a Superlinked server.

The step's own store stays the source: chunks and vectors are sent to the server whenever its content
differs from the collection's, and questions are embedded here. The server is `rag_superlinked`, whose
dependencies conflict with this step's; so it is called over HTTP.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import httpx
import numpy as np
import pydantic_core
from pydantic import BaseModel, ConfigDict, JsonValue, TypeAdapter, ValidationError

from rag_kit.errors import CODES, StepError, error_of
from rag_kit.ranking import cap

from .index.collection import Collection, Ranked
from .models import RetrieveRequest, RetrieveResponse
from .settings import RetrieveSettings
from .step import respond, result_of
from .stores.base import Point

BATCH = 64  # chunks read and sent at once
BATCH_BYTES = 2 * 1024 * 1024  # of JSON; the server takes twice that
BATCH_TIMEOUT_S = 60.0
LOADING_S = 60.0  # to wait for a server that is still loading
POLL_S = 0.1
UPDATE_ATTEMPTS = 3  # when the collection changes while it is sent
LATEST = 2**40  # seconds since 1970; later ones are mistakes, e.g. milliseconds
BUILTIN_OPTIONS = ("mode", "fusion", "rrf_k")
PAYLOAD = ("document_id", "title", "source", "text", "span", "page", "metadata")


class _Hit(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)

    chunk_id: str
    score: float
    scores: dict[str, float]
    payload: dict[str, JsonValue]


_HITS = TypeAdapter(list[_Hit])


class _LoadingError(StepError):
    """The server answers, but is not ready yet."""


class Superlinked:
    """A client of the Superlinked server; thread-safe.

    Args:
        settings: The configuration.

    Raises:
        StepError: `retriever_misconfigured`, the server has no URL.
    """

    def __init__(self, settings: RetrieveSettings) -> None:
        if not settings.superlinked_url:
            raise StepError(
                "retriever_misconfigured",
                "RAG_RETRIEVER=superlinked needs the URL of a Superlinked server in "
                "RAG_SUPERLINKED_URL (`python -m rag_superlinked serve` starts one), or set "
                "RAG_RETRIEVER=builtin",
            )
        self._settings = settings
        self._http = httpx.Client(
            base_url=settings.superlinked_url, timeout=settings.superlinked_timeout_s
        )
        self._current: dict[str, str] = {}  # collection -> digest the server is known to hold
        self._updating = threading.Lock()

    def retrieve(
        self, request: RetrieveRequest, *, collection: Collection, version: str
    ) -> RetrieveResponse:
        """Find the passages that fit the question by the weights of the request.

        Raises:
            StepError: `invalid_request` for options this retriever does not have; `retriever_unavailable`,
                `deadline_exceeded` or `retriever_bad_response` from the server.
        """
        query = _query(request)
        vector = collection.analyzer.dense_query(request.query)
        query["vector"] = np.asarray(vector).tolist()
        self.update(collection)
        try:
            hits = self._search(collection, query)
        except StepError as error:
            if error.code not in ("collection_not_found", "collection_mismatch"):
                raise
            self._current.pop(collection.manifest.name, None)  # it restarted, or was refilled
            self.update(collection)
            hits = self._search(collection, query)
        hits = _cut(hits, request)
        # `augment` and `generate` judge by the cosine whether a passage answers at all.
        cosines = collection.score(("dense", vector, len(hits)), [hit.chunk_id for hit in hits])
        results = []
        for hit in hits:
            if hit.chunk_id not in cosines:
                continue  # deleted meanwhile, or of another collection
            ranked = Ranked(hit.chunk_id, hit.score, {"dense": cosines[hit.chunk_id]} | hit.scores)
            results.append(result_of(ranked, hit.payload))
        provenance: dict[str, JsonValue] = {"version": version, "retriever": "superlinked"}
        return respond(request, results, collection.manifest, provenance)

    def wait(self) -> None:
        """Wait until the server has loaded, which may be long after it listens.

        Raises:
            StepError: `retriever_unavailable`, it does not answer, or still loads after a minute.
        """
        end = time.monotonic() + LOADING_S
        while True:
            try:
                self._call("GET", "/readyz")
            except _LoadingError:
                if time.monotonic() >= end:
                    raise
                time.sleep(POLL_S)
            else:
                return

    def update(self, collection: Collection) -> None:
        """Send the collection's content to the server, unless it has it already.

        Raises:
            StepError: `in_progress`, the collection keeps changing; `retriever_…` from the server.
        """
        name = collection.manifest.name
        if self._current.get(name) == self._digest(collection):
            return
        with self._updating:
            for _ in range(UPDATE_ATTEMPTS):
                digest = self._digest(collection)
                if self._current.get(name) == digest:
                    return
                if self._held(name) == digest or self._send(collection, digest):
                    self._current[name] = digest
                    return
        raise StepError(
            "in_progress",
            f"collection '{name}' changes faster than it can be sent to the Superlinked server; "
            "try again when its ingest is done",
            retry_after=1.0,
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # -- the server -----------------------------------------------------------------------

    def _digest(self, collection: Collection) -> str:
        """Return the digest of everything that the server's index depends on."""
        settings = self._settings
        fields = f"{settings.superlinked_date_fields}|{settings.superlinked_category_field}"
        return f"{collection.manifest.corpus_digest}|{fields}|{settings.superlinked_period_days:g}"

    def _held(self, name: str) -> str | None:
        try:
            return str(self._call("GET", f"/collections/{name}").get("corpus_digest"))
        except StepError as error:
            if error.code == "collection_not_found":
                return None
            raise

    def _send(self, collection: Collection, digest: str) -> bool:
        """Send every passage; False when the collection changed meanwhile."""
        name = collection.manifest.name
        newest, categories = 0, set()
        for info in collection.documents():
            newest = max(newest, self._timestamp(info.metadata))
            if category := self._category(info.metadata):
                categories.add(category)
        spaces = {
            "dimension": collection.manifest.recipe.dim,
            "corpus_digest": digest,
            "categories": sorted(categories),
            "period_days": self._settings.superlinked_period_days,
            "now": newest,
        }
        begun = self._call("PUT", f"/collections/{name}", spaces, timeout=BATCH_TIMEOUT_S)
        generation = begun.get("generation")
        sent = 0
        for points in collection.passages(BATCH):
            if self._digest(collection) != digest:
                return False
            for chunks in _batches([self._chunk(point) for point in points]):
                batch = {"generation": generation, "chunks": chunks}
                self._call("POST", f"/collections/{name}/chunks", batch, timeout=BATCH_TIMEOUT_S)
            sent += len(points)
        if self._digest(collection) != digest:
            return False
        ended = {"generation": generation, "chunks": sent}
        self._call("POST", f"/collections/{name}/publish", ended, timeout=BATCH_TIMEOUT_S)
        return True

    def _chunk(self, point: Point) -> dict[str, Any]:
        metadata = point.payload["metadata"]
        return {
            "chunk_id": point.id,
            "vector": np.asarray(point.dense, np.float32).tolist(),
            "timestamp": self._timestamp(metadata),
            "category": self._category(metadata),
            **{field: point.payload[field] for field in PAYLOAD},
        }

    def _timestamp(self, metadata: Mapping[str, Any]) -> int:
        fields = self._settings.superlinked_date_fields.split(",")
        return next(
            filter(None, (timestamp_of(metadata.get(field.strip())) for field in fields)), 0
        )

    def _category(self, metadata: Mapping[str, Any]) -> str | None:
        value = metadata.get(self._settings.superlinked_category_field)
        return value if isinstance(value, str) and value else None

    def _search(self, collection: Collection, query: dict[str, Any]) -> list[_Hit]:
        path = f"/collections/{collection.manifest.name}/search"
        answer = self._call("POST", path, {**query, "corpus_digest": self._digest(collection)})
        try:
            return _HITS.validate_python(answer.get("hits"))
        except ValidationError as error:
            field = ".".join(str(part) for part in error.errors()[0]["loc"])
            raise _bad_response(f"hits.{field} is not valid") from None

    def _call(
        self, method: str, path: str, body: object = None, *, timeout: float | None = None
    ) -> dict[str, Any]:
        request = self._http.build_request(
            method,
            path,
            content=None if body is None else pydantic_core.to_json(body),
            headers={"Content-Type": "application/json"},
            timeout=timeout or self._settings.superlinked_timeout_s,
        )
        try:
            try:
                response = self._http.send(request)
            except (httpx.NetworkError, httpx.RemoteProtocolError):
                if not (method == "GET" or path.endswith("/search")):
                    raise
                response = self._http.send(
                    request
                )  # it changes nothing; a restart cuts connections
        except (httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise _unavailable("does not accept a connection in time") from error
        except httpx.TimeoutException as error:
            raise StepError(
                "deadline_exceeded",
                "the Superlinked server of RAG_SUPERLINKED_URL did not answer in time; try again, or "
                "raise RAG_SUPERLINKED_TIMEOUT_S",
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _unavailable(f"does not answer ({type(error).__name__})") from error
        try:
            answer = pydantic_core.from_json(response.content, allow_inf_nan=False)
        except ValueError:
            raise _bad_response(f"HTTP {response.status_code} without JSON") from None
        if not isinstance(answer, dict):
            raise _bad_response("it is no JSON object")
        failed = error_of(answer)
        if failed:
            raise _passed_on(failed)
        if response.status_code != 200:
            raise _bad_response(f"HTTP {response.status_code}")
        return answer


def _query(request: RetrieveRequest) -> dict[str, Any]:
    """Return the query for the server; refuse options that would be ignored."""
    options = request.retrieve
    if request.filters:
        raise StepError(
            "invalid_request",
            "the retriever 'superlinked' takes no filters; leave them out and weigh a category "
            "instead, or set RAG_RETRIEVER=builtin",
            param="filters",
        )
    for name in BUILTIN_OPTIONS:
        if name in options.model_fields_set:
            raise StepError(
                "invalid_request",
                f"'{name}' is an option of the retriever 'builtin', but 'superlinked' is configured; "
                "leave it out and use 'weights', or set RAG_RETRIEVER=builtin",
                param=f"retrieve.{name}",
            )
    weights = options.weights.model_dump() if options.weights else {"text": 1.0, "recency": 0.0}
    if options.category is None and weights.get("category"):
        raise StepError(
            "invalid_request",
            "a weight on category needs the category to prefer; add it as retrieve.category",
            param="retrieve.weights.category",
        )
    if weights.get("category") is None:
        weights["category"] = 0.0 if options.category is None else 1.0
    if not any(weights.values()):
        raise StepError(
            "invalid_request", "one weight at least must not be 0", param="retrieve.weights"
        )
    top_k = max(
        options.candidates, request.top_k
    )  # more than requested: the document cap removes some
    return {"top_k": top_k, "weights": weights, "category": options.category}


def _cut(hits: Sequence[_Hit], request: RetrieveRequest) -> list[_Hit]:
    """Order, then apply threshold, document cap and top_k."""
    ordered = sorted(hits, key=lambda hit: (-hit.score, hit.chunk_id))
    if request.min_score is not None:
        ordered = [hit for hit in ordered if hit.score >= request.min_score]
    ranked = [
        (hit.payload.get("document_id"), True) for hit in ordered
    ]  # these scores have another scale than cosines
    kept = cap(ranked, request.retrieve.max_per_document, request.top_k)
    return [ordered[at] for at in kept]


def timestamp_of(value: object) -> int:
    """Return seconds since 1970 of an ISO date or time or of such a number; 0 for anything else.

    A date without a time zone is taken as UTC.
    """
    if isinstance(value, bool):
        return 0
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value.strip())
        except ValueError:
            try:
                return timestamp_of(float(value))
            except ValueError:
                return 0
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return timestamp_of(moment.timestamp())
    return int(value) if isinstance(value, int | float) and 0 <= value <= LATEST else 0


def _batches(chunks: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    size = 0
    for chunk in chunks:
        bytes_ = len(pydantic_core.to_json(chunk))
        if batch and size + bytes_ > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(chunk)
        size += bytes_
    if batch:
        yield batch


def _passed_on(failed: Mapping[str, Any]) -> StepError:
    """Return the server's error; the only field of the request it can name is the category."""
    code, message = str(failed["code"]), str(failed.get("message"))
    if code == "not_ready":
        return _unavailable("is still loading", _LoadingError)
    if code == "invalid_request" and failed.get("param") == "category":
        return StepError(code, message, param="retrieve.category")
    if code.startswith("invalid_") or code not in CODES:
        return _bad_response(f"it refused the request ({message})")
    return StepError(code, f"the Superlinked server: {message}")


def _unavailable(problem: str, kind: type[StepError] = StepError) -> StepError:
    return kind(
        "retriever_unavailable",
        f"the Superlinked server {problem}; check that it runs at RAG_SUPERLINKED_URL, or set "
        "RAG_RETRIEVER=builtin",
    )


def _bad_response(problem: str) -> StepError:
    return StepError(
        "retriever_bad_response",
        f"the Superlinked server's answer cannot be used: {problem}; is RAG_SUPERLINKED_URL a "
        "`rag_superlinked` server of this version, and no proxy in between?",
    )
