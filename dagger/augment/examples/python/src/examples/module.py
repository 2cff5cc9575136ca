"""One function for each function of `augment`, named as the Daggerverse wants it."""

from __future__ import annotations

import json
from typing import Any

import dagger
from dagger import function, object_type

dag: Any = dagger.dag
PASSAGE = {
    "chunk_id": "c1",
    "document_id": "bylaws.md",
    "text": "Only the board may sign.",
    "span": [24, 48],
    "score": 0.8,
}


@object_type
class Examples:
    """How to call `augment`."""

    @function(cache="never")
    async def augment_run(self) -> str:
        """Build a prompt from a passage, in at most 512 tokens."""
        request = {
            "query": "Who may sign?",
            "results": [PASSAGE],
            "augment": {"max_context_tokens": 512},
        }
        response: str = await dag.augment().run(input_json=json.dumps(request))
        return response

    @function(cache="never")
    async def augment_run__file(self, retrieved: dagger.File) -> str:
        """Build a prompt from the response of `retrieve`, kept in a file."""
        response: str = await dag.augment().run(input=retrieved)
        return response

    @function(cache="session")
    def augment_serve(self) -> dagger.Service:
        """Keep the step resident."""
        service: dagger.Service = dag.augment().serve()
        return service
