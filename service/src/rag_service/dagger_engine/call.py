"""One call of the module's function a request: the composite in a process of its own each time."""

from __future__ import annotations

from dataclasses import dataclass

from rag_pipeline.models import RagResponse, SearchResponse

from ..runners.base import Say
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
    """The module in a session: the object whose functions are called."""

    rag: str

    async def ping(self) -> None:
        """Return: what is loaded stays as long as the session."""

    async def close(self) -> None:
        """Return: nothing is held here."""


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
            given = {"rag": live.started.rag, "request": text}
            data = await live.session.ask(SEARCH, given, deadline_s=self._options.deadline_s)
            return check_response(SearchResponse, text, data["node"]["search"])

    async def _start(self, session: Session, say: Say) -> Called:
        options = self._options
        await load_module(session, options, say)
        rag = await configured(session, options, await dependencies(session, options))
        say("dagger: building the steps, indexing the documents, asking the first question …")
        await probed(_answer(session, rag, options.probe_request, options.load_s), say)
        return Called(rag)


async def _answer(session: Session, rag: str, text: str, limit_s: float) -> str:
    given = {"rag": rag, "request": text}
    data = await session.ask(RUN, given, deadline_s=limit_s)
    return check_response(RagResponse, text, data["node"]["run"])
