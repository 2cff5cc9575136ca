"""The collections of the server: created, filled, published, searched.

    PUT begins an index beside the live one -> chunks -> publish swaps it in

The live index answers until the new one is whole; a PUT gives up an index that was begun before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rag_kit.errors import StepError

from .databases import Database, explained, open_database
from .models import Chunk, CollectionInfo, Found, Search, Spaces
from .settings import SuperlinkedSettings

if TYPE_CHECKING:
    from .sdk import SearchIndex


@dataclass
class Begun:
    """An index being filled."""

    generation: str
    spaces: Spaces
    index: SearchIndex
    ids: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Live:
    """A published index."""

    generation: str
    info: CollectionInfo
    index: SearchIndex


class Collections:
    """All collections; every method must be called from the same thread.

    Args:
        settings: What is configured.
    """

    def __init__(self, settings: SuperlinkedSettings) -> None:
        self._database: Database = open_database(settings)
        self._begun: dict[str, Begun] = {}
        self._live: dict[str, Live] = {}

    def load(self) -> None:
        """Import Superlinked now, and check that the database answers."""
        from . import sdk  # noqa: F401

        self._database.check()

    def begin(self, name: str, spaces: Spaces) -> str:
        """Create an index; returns its generation, which its chunks must name."""
        given_up = self._begun.pop(name, None)
        if given_up is not None:
            given_up.index.close()
            self._database.drop_one(given_up.generation)
        generation = self._database.generation(name)
        self._begun[name] = Begun(generation, spaces, self._index(generation, spaces))
        return generation

    def put(self, name: str, generation: str, chunks: Sequence[Chunk]) -> int:
        """Write chunks into the unpublished index; returns its number of distinct ones."""
        begun = self._of(name, generation)
        known = set(begun.spaces.categories)
        for at, chunk in enumerate(chunks):
            self._fits(chunk.vector, begun.spaces, f"chunks.{at}.vector")
            if chunk.category is not None and chunk.category not in known:
                raise StepError(
                    "invalid_request",
                    f"category '{chunk.category}' is none of the collection's; name all categories "
                    "in PUT",
                    param=f"chunks.{at}.category",
                )
        with explained():
            begun.index.put(chunks)
        begun.ids.update(chunk.chunk_id for chunk in chunks)
        return len(begun.ids)

    def publish(self, name: str, generation: str, chunks: int) -> CollectionInfo:
        """Publish the index, and drop the previous one."""
        begun = self._of(name, generation)
        if chunks != len(begun.ids):
            raise StepError(
                "invalid_request",
                f"{len(begun.ids)} distinct chunks came, but {chunks} are to be published; send all",
                param="chunks",
            )
        info = CollectionInfo(name=name, chunks=chunks, **begun.spaces.model_dump())
        self._database.publish(generation, info)
        del self._begun[name]
        before = self._live.get(name)
        self._live[name] = Live(generation, info, begun.index)
        if before is not None:
            before.index.close()
        self._database.drop(name, keep=generation)
        return info

    def info(self, name: str) -> CollectionInfo:
        """Return the description of a collection; raises `collection_not_found`."""
        return self._open(name).info

    def delete(self, name: str) -> None:
        """Delete a collection; raises `collection_not_found`."""
        live = self._open(name)
        del self._live[name]
        live.index.close()
        self._database.drop(name)

    def search(self, name: str, request: Search) -> Found:
        """Find chunks.

        Raises:
            StepError: `collection_not_found`, `collection_mismatch` (dimension or digest),
                `invalid_request` (a category that no chunk has), `retriever_…`.
        """
        live = self._open(name)
        if request.corpus_digest not in (None, live.info.corpus_digest):
            raise StepError(
                "collection_mismatch",
                f"collection '{name}' holds other content than asked for; send it again",
                param="corpus_digest",
            )
        self._fits(request.vector, live.info, "vector")
        if request.category is not None and request.category not in live.info.categories:
            known = ", ".join(live.info.categories[:20]) or "it has none"
            raise StepError(
                "invalid_request",
                f"no chunk of collection '{name}' has the category '{request.category}'; "
                f"its categories: {known}",
                param="category",
            )
        try:
            with explained():
                hits = live.index.search(request)
        except StepError as error:
            if error.code == "collection_not_found":
                self._live.pop(name).index.close()
            raise
        return Found(corpus_digest=live.info.corpus_digest, hits=hits)

    def close(self) -> None:
        """Release all connections; unpublished indices are dropped."""
        from .sdk import close_event_loop

        indices: list[Begun | Live] = [*self._begun.values(), *self._live.values()]
        for one in indices:
            one.index.close()
        close_event_loop()
        try:
            for begun in self._begun.values():
                self._database.drop_one(begun.generation)
        finally:
            self._database.close()

    def _index(self, generation: str, spaces: Spaces) -> SearchIndex:
        from .sdk import SearchIndex

        with explained():
            return SearchIndex(spaces, self._database.open(generation))

    def _of(self, name: str, generation: str) -> Begun:
        begun = self._begun.get(name)
        if begun is None or begun.generation != generation:
            raise StepError(
                "in_progress",
                f"generation '{generation}' of collection '{name}' is not being filled: another "
                "writer began a newer one, or the server restarted; begin again with PUT",
                param="generation",
            )
        return begun

    def _open(self, name: str) -> Live:
        if name not in self._live:
            found = self._database.find(name)
            if found is None:
                raise StepError(
                    "collection_not_found",
                    f"collection '{name}' does not exist here; send it with PUT /collections/{name}",
                    param="collection",
                )
            generation, info = found
            self._live[name] = Live(generation, info, self._index(generation, info))
        return self._live[name]

    @staticmethod
    def _fits(vector: Sequence[float], spaces: Spaces, param: str) -> None:
        if len(vector) != spaces.dimension:
            raise StepError(
                "collection_mismatch",
                f"a vector of {len(vector)} numbers does not fit the collection, whose vectors have "
                f"{spaces.dimension}; use the embedding model it was built with, or send it again",
                param=param,
            )
