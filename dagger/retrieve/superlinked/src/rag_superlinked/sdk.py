"""Superlinked, imported quietly: one index of one collection, over one vector database.

Import this module late: it takes seconds, and `without_models` decides what it takes. Annotations
are evaluated here, as Superlinked reads those of a schema.
"""

import json
import logging
import warnings
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import structlog

from .models import Chunk, Hit, Search, Spaces
from .without_models import stand_in

stand_in()
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
for ours in (  # of Superlinked's settings classes; and of a key sent to a Qdrant without TLS
    "Config key `yaml_",
    "Api key is used with an insecure connection",
):
    warnings.filterwarnings("ignore", message=ours)

from superlinked import framework as sl  # noqa: E402
from superlinked.framework.common.precision import Precision  # noqa: E402
from superlinked.framework.common.storage.search_index.search_algorithm import (  # noqa: E402
    SearchAlgorithm,
)
from superlinked.framework.common.util.async_util import AsyncUtil  # noqa: E402
from superlinked.framework.storage.qdrant.qdrant_vdb_connector import (  # noqa: E402
    QdrantVDBConnector,
)

SIGNALS = ("text", "recency", "category")  # in the order of the spaces
SPARE = 16  # hits fetched beyond the limit, so that equal scores at the limit are ordered by id
NO_CATEGORY = "\0"  # a category space needs one category at least


class NamedConnector(QdrantVDBConnector):
    """Superlinked's connector with one Qdrant collection per index, not one per process."""

    named: str

    @property
    def collection_name(self) -> str:
        """Name of the Qdrant collection."""
        return self.named


class NamedQdrant(sl.QdrantVectorDatabase):
    """Superlinked's Qdrant database, on a collection of a given name, in full precision."""

    def __init__(
        self, url: str, api_key: str | None, *, named: str, timeout_s: float, exact: bool
    ) -> None:
        super().__init__(
            url,
            api_key,  # type: ignore[arg-type]
            search_algorithm=SearchAlgorithm.FLAT if exact else SearchAlgorithm.HNSW,
            vector_precision=Precision.FLOAT32,
            client_params={"timeout": max(1, round(timeout_s)), "check_compatibility": False},
        )
        self._named = named

    @property
    def _vdb_connector(self) -> NamedConnector:
        connector = NamedConnector(self._connection_params, self._settings, self._client_params)
        connector.named = self._named
        return connector


def memory() -> sl.InMemoryVectorDatabase:
    """Return a new in-memory database of Superlinked."""
    return sl.InMemoryVectorDatabase()


class Passage(sl.Schema):
    """The fields of a chunk in Superlinked."""

    id: sl.IdField
    vector: sl.FloatList
    timestamp: sl.Timestamp
    category: sl.String
    payload: sl.String


class SearchIndex:
    """One index: the spaces text, recency and category of the chunks of a collection.

    Not safe to use from several threads: Superlinked keeps an event loop per thread.

    Args:
        spaces: Dimension, categories, and what recency is measured from.
        database: Where Superlinked keeps it.
    """

    def __init__(self, spaces: Spaces, database: Any) -> None:
        passage = Passage()
        text = sl.CustomSpace(vector=passage.vector, length=spaces.dimension)
        recency = sl.RecencySpace(
            timestamp=passage.timestamp,
            period_time_list=sl.PeriodTime(timedelta(days=spaces.period_days)),
        )
        category = sl.CategoricalSimilaritySpace(
            category_input=passage.category,
            categories=spaces.categories or [NO_CATEGORY],
            uncategorized_as_category=False,
        )
        index = sl.Index([text, recency, category])
        weights: dict[Any, Any] = {
            text: sl.Param("text"),
            recency: sl.Param("recency"),
            category: sl.Param("weight"),
        }
        self._query = (
            sl.Query(index, weights=weights)
            .find(passage)
            .similar(text.vector, sl.Param("vector"))
            .similar(category.category, sl.Param("category"))
            .select([passage.payload])
            .limit(sl.Param("limit"))
            .include_metadata()
        )
        self._source: Any = sl.InteractiveSource(passage)
        # Stored and queried times are both relative to this moment, so it is fixed.
        now = {sl.CONTEXT_COMMON: {sl.CONTEXT_COMMON_NOW: spaces.now}}
        self._app = sl.InteractiveExecutor(
            sources=[self._source], indices=[index], vector_database=database, context_data=now
        ).run()

    def put(self, chunks: Sequence[Chunk]) -> None:
        """Write chunks, replacing those with the same id."""
        self._source.put(
            [
                {
                    "id": chunk.chunk_id,
                    "vector": chunk.vector,
                    "timestamp": chunk.timestamp,
                    "category": chunk.category or "",
                    "payload": json.dumps(chunk.payload(), ensure_ascii=False),
                }
                for chunk in chunks
            ]
        )

    def search(self, request: Search) -> list[Hit]:
        """Return at most `top_k` hits by descending score, ties by chunk id."""
        found = self._app.query(
            self._query,
            vector=request.vector,
            category=request.category,
            text=request.weights.text,
            recency=request.weights.recency,
            weight=request.weights.category,
            limit=request.top_k + SPARE,
        )
        hits = [
            Hit(
                chunk_id=entry.id,
                score=entry.metadata.score,
                scores=dict(zip(SIGNALS, entry.metadata.partial_scores, strict=True)),
                payload=json.loads(entry.fields["payload"]),
            )
            for entry in found.entries
        ]
        return sorted(hits, key=lambda hit: (-hit.score, hit.chunk_id))[: request.top_k]

    def close(self) -> None:
        """Close the connections of the database."""
        AsyncUtil.run(self._app.storage_manager._vdb_connector.close_connection())


def close_event_loop() -> None:
    """Close the event loop that Superlinked keeps for this thread."""
    loop = getattr(AsyncUtil._loop_local, "loop", None)
    if loop is not None:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        del AsyncUtil._loop_local.loop
