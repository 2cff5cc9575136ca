"""The runner `call`: a request is one call of the module's function, in a new process."""

from __future__ import annotations

from dataclasses import dataclass

from rag_pipeline.models import RagResponse, SearchResponse

from ..runners.base import Notify
from ..runners.responses import check_response
from .base import EngineRunner, probed
from .queries import configured, dependencies, load_module
from .session import Session

RUN = """query ($rag: ID!, $request: String!) {
  node(id: $rag) { ... on Rag { run(inputJson: $request) } }
}"""
SEARCH = """query ($rag: ID!, $request: String!) {
  node(id: $rag) { ... on Rag { search(inputJson: $request) } }
}"""


@dataclass(frozen=True)
class Called:
    """The configured object `rag` of a session, by its id."""

    rag: str

    async def ping(self) -> None:
        """Do nothing: the object lives as long as its session."""

    async def close(self) -> None:
        """Do nothing: this process holds nothing."""


class CallRunner(EngineRunner[Called]):
    """Every request is one GraphQL call of `rag.run`; it starts a process, so it takes seconds."""

    name = "call"

    async def answer(self, text: str) -> str:
        """Answer a request."""
        async with self._supervisor.lease() as live:
            limit = self._options.deadline_s
            return await _answer(live.session, live.started.rag, text, limit)

    async def search(self, text: str) -> str:
        """Find passages for a request."""
        async with self._supervisor.lease() as live:
            variables = {"rag": live.started.rag, "request": text}
            data = await live.session.ask(SEARCH, variables, deadline_s=self._options.deadline_s)
            return check_response(SearchResponse, text, data["node"]["search"])

    async def _start(self, session: Session, notify: Notify) -> Called:
        options = self._options
        await load_module(session, options, notify)
        rag = await configured(session, options, await dependencies(session, options))
        notify("dagger: building the steps, indexing the documents, asking the first question …")
        await probed(_answer(session, rag, options.probe_request, options.load_s), notify)
        return Called(rag)


async def _answer(session: Session, rag: str, text: str, limit_s: float) -> str:
    variables = {"rag": rag, "request": text}
    data = await session.ask(RUN, variables, deadline_s=limit_s)
    return check_response(RagResponse, text, data["node"]["run"])
