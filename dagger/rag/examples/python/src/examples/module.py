"""One function for each function of `rag`, named as the Daggerverse wants it."""

from __future__ import annotations

from typing import Any

import dagger
from dagger import function, object_type

dag: Any = dagger.dag


@object_type
class Examples:
    """How to call `rag`."""

    @function(cache="never")
    async def rag_run(self, docs: dagger.Directory, query: str) -> str:
        """Ask a folder: the answer with verified citations, as JSON."""
        answer: str = await dag.rag(docs=docs).run(query=query)
        return answer

    @function(cache="never")
    async def rag_run__model(
        self, docs: dagger.Directory, query: str, base_url: str, model: str, key: dagger.Secret
    ) -> str:
        """Ask a folder, and let an OpenAI-compatible model write the answer."""
        pipeline = dag.rag(docs=docs, llm_base_url=base_url, llm_model=model, llm_api_key=key)
        answer: str = await pipeline.run(query=query)
        return answer

    @function(cache="never")
    async def rag_search(self, docs: dagger.Directory, query: str) -> str:
        """Find passages only, of documents from 2024 on."""
        found: str = await dag.rag(docs=docs).search(
            query=query, filters='{"year": {"$gte": 2024}}'
        )
        return found

    @function(cache="168h")
    def rag_index(self, docs: dagger.Directory) -> dagger.Directory:
        """Build the index of a folder, to export it or to ask it later with `store`."""
        store: dagger.Directory = dag.rag(docs=docs).index()
        return store

    @function(cache="session")
    def rag_serve(self, docs: dagger.Directory) -> dagger.Service:
        """Keep the whole pipeline resident, each step in its own container."""
        service: dagger.Service = dag.rag(docs=docs).serve()
        return service

    @function(cache="never")
    async def rag_eval(self, docs: dagger.Directory, questions: dagger.File) -> str:
        """Measure answers on your own questions."""
        report: str = await dag.rag(docs=docs).eval(dataset=questions)
        return report
