"""The Dagger module: the `rag` module as it is, with `keyword-retriever` in the place of `retrieve`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import dagger
from dagger import Doc, check, function, object_type

from .reading import readable

dag: Any = dagger.dag  # dag.rag() and dag.keyword_retriever() are generated where it is loaded


@object_type
class TeamCatalog:
    """Ask the catalogue of gear for hire: `dagger call ask --query "…"`."""

    @function(cache="never")
    async def ask(self, query: Annotated[str, Doc("The question.")]) -> str:
        """Answer a question; returns the answer with its citations, to read."""
        answer: str = await dag.rag().run(query=query, retrieve_with=dag.keyword_retriever())
        return readable(answer)

    @function(cache="never")
    @check
    async def conformance(
        self,
        query: Annotated[str, Doc("A question with passages in the catalogue.")] = "canoe paddles",
    ) -> str:
        """Check the retriever against the contract; returns each promise, fails when one is broken."""
        report = json.loads(
            await dag.rag().conformance(retrieve_with=dag.keyword_retriever(), query=query)
        )
        checks = [each for step in report["steps"] for each in step["checks"]]
        lines = [f"{'kept' if c['passed'] else 'BROKEN'}  {c['id']}: {c['got']}" for c in checks]
        if not all(step["passed"] for step in report["steps"]):
            raise ValueError("\n".join(lines))
        return "\n".join(lines)
