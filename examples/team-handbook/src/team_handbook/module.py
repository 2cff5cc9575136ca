"""The Dagger module: the `rag` module as it is, over the documents of this project."""

from __future__ import annotations

from typing import Annotated, Any

import dagger
from dagger import DefaultPath, Doc, function, object_type

from .reading import readable

dag: Any = dagger.dag  # dag.rag() is generated where the module is loaded


@object_type
class TeamHandbook:
    """Ask the team's handbook: `dagger call ask --query "…"`."""

    docs: Annotated[
        dagger.Directory, DefaultPath("docs"), Doc("The handbook; by default this project's docs.")
    ]

    @function(cache="never")
    async def ask(self, query: Annotated[str, Doc("The question.")]) -> str:
        """Answer a question; returns the answer with its citations, to read."""
        answer: str = await self._rag().run(query=query)
        return readable(answer)

    @function(cache="168h")
    def index(self) -> dagger.Directory:
        """Build the handbook's index, e.g. to export it; unchanged documents cost nothing."""
        index: dagger.Directory = self._rag().index()
        return index

    @function(cache="session")
    def serve(self) -> dagger.Service:
        """Keep the pipeline resident over the handbook: POST /run on port 8080."""
        service: dagger.Service = self._rag().serve()
        return service

    def _rag(self) -> Any:
        return dag.rag(docs=self.docs, docs_name="handbook")
