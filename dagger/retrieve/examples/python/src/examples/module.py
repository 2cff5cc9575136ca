"""One function for each function of `retrieve`, named as the Daggerverse wants it."""

from __future__ import annotations

import json
from typing import Any

import dagger
from dagger import function, object_type

dag: Any = dagger.dag


@object_type
class Examples:
    """How to call `retrieve`."""

    @function(cache="never")
    async def retrieve_run(self, docs: dagger.Directory) -> str:
        """Index a folder and find passages in it."""
        store = dag.retrieve().index(docs=docs)
        request = json.dumps({"query": "Who may sign contracts?", "top_k": 3})
        response: str = await dag.retrieve(store=store).run(input_json=request)
        return response

    @function(cache="168h")
    def retrieve_index(self, docs: dagger.Directory) -> dagger.Directory:
        """Build the index of a folder; the same documents give the stored result at once."""
        store: dagger.Directory = dag.retrieve().index(docs=docs, collection="handbook")
        return store

    @function(cache="never")
    async def retrieve_ingest(self, docs: dagger.Directory, qdrant: dagger.Service) -> str:
        """Bring a folder into a Qdrant server, and delete what is gone from it."""
        report: str = await dag.retrieve(qdrant=qdrant).ingest(docs=docs, prune=True)
        return report

    @function(cache="session")
    def retrieve_serve(self, store: dagger.Directory) -> dagger.Service:
        """Keep the retriever resident over an index."""
        service: dagger.Service = dag.retrieve(store=store).serve()
        return service
