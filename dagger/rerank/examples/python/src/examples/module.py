"""One function for each function of `rerank`, named as the Daggerverse wants it."""

from __future__ import annotations

import json
from typing import Any

import dagger
from dagger import function, object_type

dag: Any = dagger.dag
PASSAGES = [
    {
        "chunk_id": f"c{number}",
        "document_id": "bylaws.md",
        "text": text,
        "span": [0, len(text)],
        "score": 1 / number,
    }
    for number, text in enumerate(["Members pay a fee.", "Only the board may sign."], start=1)
]


@object_type
class Examples:
    """How to call `rerank`."""

    @function(cache="never")
    async def rerank_run(self, server: dagger.Service) -> str:
        """Keep the better one of two passages, scored by a server that is a Dagger service."""
        request = {"query": "Who may sign?", "results": PASSAGES, "rerank": {"top_n": 1}}
        step = dag.rerank(url="http://reranker:8080", server=server)
        response: str = await step.run(input_json=json.dumps(request))
        return response

    @function(cache="never")
    async def rerank_run__file(self, retrieved: dagger.File) -> str:
        """Pass on the response of `retrieve`, kept in a file: without a server it keeps its order."""
        response: str = await dag.rerank().run(input=retrieved)
        return response

    @function(cache="session")
    def rerank_serve(self) -> dagger.Service:
        """Keep the step resident."""
        service: dagger.Service = dag.rerank(url="http://reranker.example.com", kind="tei").serve()
        return service
