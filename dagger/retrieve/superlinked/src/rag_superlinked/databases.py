"""Where the indices live: in this process, or on a Qdrant server through Superlinked's connector.

On Qdrant every index is a collection `superlinked-NAME-GENERATION` of its own. A point without
vectors in it says what it holds; it is written last, so a collection without it is unfinished.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import httpx
from qdrant_client import QdrantClient
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse
from qdrant_client.models import PointStruct
from rag_kit.errors import StepError

from .models import CollectionInfo
from .settings import SuperlinkedSettings

PREFIX = "superlinked"
INFO_ID = str(uuid.UUID(int=1))  # Superlinked's own ids are hashes of schema and chunk id
INFO_FIELD = "rag_superlinked"


class Database(Protocol):
    """Creates, finds and drops indices."""

    def generation(self, name: str) -> str:
        """Return a new name of an index of a collection."""

    def open(self, generation: str) -> Any:
        """Return the vector database for Superlinked."""

    def publish(self, generation: str, info: CollectionInfo) -> None:
        """Store the description of the index, which is complete now."""

    def find(self, name: str) -> tuple[str, CollectionInfo] | None:
        """Return the published index of a collection that an earlier process left, or None."""

    def drop(self, name: str, *, keep: str | None = None) -> None:
        """Drop all indices of a collection but one."""

    def drop_one(self, generation: str) -> None:
        """Drop one index; a missing one is ignored."""

    def check(self) -> None:
        """Raise StepError when the database does not answer."""

    def close(self) -> None:
        """Release the connections."""


class Memory:
    """Superlinked's in-memory database: nothing outlives the process."""

    def generation(self, name: str) -> str:
        """Return a new name."""
        return f"{name}-{secrets.token_hex(8)}"

    def open(self, generation: str) -> Any:
        """Return a new database; the garbage collector takes it."""
        from .sdk import memory

        return memory()

    def publish(self, generation: str, info: CollectionInfo) -> None:
        """Do nothing: there is nothing to keep."""

    def find(self, name: str) -> None:
        """There is none."""

    def drop(self, name: str, *, keep: str | None = None) -> None:
        """Do nothing: there is nothing to keep."""

    def drop_one(self, generation: str) -> None:
        """Do nothing: there is nothing to keep."""

    def check(self) -> None:
        """It always answers."""

    def close(self) -> None:
        """There is nothing to release."""


class Qdrant:
    """A Qdrant server."""

    def __init__(self, settings: SuperlinkedSettings) -> None:
        self._url = str(settings.qdrant_url)
        self._key = settings.api_key()
        self._settings = settings
        with explained():
            self._client = QdrantClient(
                url=self._url,
                api_key=self._key,
                timeout=max(1, round(settings.qdrant_timeout_s)),
                check_compatibility=False,
            )

    def generation(self, name: str) -> str:
        """Return a new name of a Qdrant collection."""
        return f"{PREFIX}-{name}-{secrets.token_hex(8)}"

    def open(self, generation: str) -> Any:
        """Return Superlinked's database on that Qdrant collection."""
        from .sdk import NamedQdrant

        return NamedQdrant(
            self._url,
            self._key,
            named=generation,
            timeout_s=self._settings.qdrant_timeout_s,
            exact=self._settings.superlinked_search == "exact",
        )

    def publish(self, generation: str, info: CollectionInfo) -> None:
        """Write the point that describes the collection."""
        point = PointStruct(id=INFO_ID, vector={}, payload={INFO_FIELD: info.model_dump()})
        with explained():
            self._client.upsert(generation, [point], wait=True)

    def find(self, name: str) -> tuple[str, CollectionInfo] | None:
        """Return the newest published index by name; there is one unless a process died."""
        with explained():
            for generation in self._generations(name):
                points = self._client.retrieve(generation, [INFO_ID], with_payload=True)
                if points and points[0].payload:
                    info = CollectionInfo.model_validate(points[0].payload[INFO_FIELD])
                    return generation, info
        return None

    def drop(self, name: str, *, keep: str | None = None) -> None:
        """Delete the Qdrant collections of this name, also those of a dead process."""
        with explained():
            for generation in self._generations(name):
                if generation != keep:
                    self._client.delete_collection(generation)

    def drop_one(self, generation: str) -> None:
        """Delete one Qdrant collection."""
        with explained():
            self._client.delete_collection(generation)

    def check(self) -> None:
        """Ask for the list of collections."""
        with explained():
            self._client.get_collections()

    def close(self) -> None:
        """Close the client."""
        self._client.close()

    def _generations(self, name: str) -> list[str]:
        names = [one.name for one in self._client.get_collections().collections]
        return sorted(one for one in names if one.rpartition("-")[0] == f"{PREFIX}-{name}")


def open_database(settings: SuperlinkedSettings) -> Database:
    """Return the configured database."""
    return Qdrant(settings) if settings.qdrant_url else Memory()


@contextmanager
def explained() -> Iterator[None]:
    """Turn the failures of the Qdrant client into StepErrors; none shows the key or the host."""
    try:
        yield
    except UnexpectedResponse as error:
        raise _refused(error) from error
    except ResponseHandlingException as error:
        if isinstance(error.source, httpx.TimeoutException) and not isinstance(
            error.source, httpx.ConnectTimeout
        ):
            raise StepError(
                "deadline_exceeded",
                "the Qdrant server did not answer in time; try again, or raise RAG_QDRANT_TIMEOUT_S",
            ) from error
        raise _unavailable(type(error.source).__name__) from error


def _refused(error: UnexpectedResponse) -> StepError:
    if error.status_code in (401, 403):
        return StepError(
            "retriever_misconfigured",
            f"the Qdrant server refuses the key (HTTP {error.status_code}); set RAG_QDRANT_API_KEY "
            "or RAG_QDRANT_API_KEY_FILE to one that may read and write",
        )
    if error.status_code == 404:
        return StepError(
            "collection_not_found",
            "the collection is no longer on the Qdrant server; send it again",
            param="collection",
        )
    return _unavailable(f"HTTP {error.status_code}")


def _unavailable(reason: str) -> StepError:
    return StepError(
        "retriever_unavailable",
        f"the Qdrant server cannot be used ({reason}); check that it runs at RAG_QDRANT_URL",
    )
