"""A started runner, and everything it sends to its Dagger session, without a network."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Self

import httpx
from graphql_double import Asked, EngineDouble, engine_double
from runner_kit import ROOT, RUNNERS, composite, request

from rag_kit.errors import StepError
from rag_service.dagger_engine import call, containers
from rag_service.dagger_engine.options import EngineOptions

QUERIES = {"call": (call.RUN, call.SEARCH), "containers": (containers.RUN, containers.SEARCH)}
CORPUS = [
    *(
        '"',
        '"""',
        "'",
        "\\",
        "\\u0000",
        "\u0000",
        "\n",
        "\r\n",
        "{",
        "}",
        "{}",
        "$",
        "$rag",
        "@skip",
    ),
    *("#", "...", '") { id } }', '"""){ host { directory(path: "/") { id } } } #', "!", "| &"),
    *("cmd://touch PWNED", "env://HOME", "file:///etc/passwd", "op://vault/key", "vault://x"),
    *('secret(uri: "cmd://touch PWNED") { plaintext }', "query { version }", "__typename"),
    *("\ud800", "\ufeff", "\u202e", "\u2028", "𝕏" * 50, "a" * 8000, "ﬀ", "%s %(x)s {0}", "${HOME}"),
    *('{"query": "x"}', "[1]", "null", "true", "NaN", "1e999"),
]
"""Texts that mean something to GraphQL, a shell, a secret provider, JSON or a terminal."""


class Wire:
    """A runner in an open session whose connection ends in this process.

    Args:
        name: `call` or `containers`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.sent: list[Asked] = []

    def __enter__(self) -> Self:
        canned = {verb: composite(verb, request()) for verb in ("run", "search")}
        self._loop = asyncio.Runner()
        with engine_double(lambda verb, text: canned.get(verb) or composite(verb, text)) as double:
            options = EngineOptions(module=str(ROOT / "dagger/rag"), session_port=double.port)
            self.runner: Any = RUNNERS[self.name](options)
            self._loop.run(self.runner.start(lambda _: None))
            self._session = self.runner._supervisor._current.session
            self._loop.run(self._session._client.aclose())
            self._session._client = _Client(double, self.sent)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run(self.runner.close())
        self._loop.close()

    def check(self, text: str) -> bool:
        """Ask with a text in the query and in an option; returns whether anything was sent.

        Raises:
            AssertionError: A query's text depends on it, or the value did not arrive as it was.
        """
        given = json.dumps({"query": text, "collection": "hr", "generate": {"note": text}})
        any_sent = False
        for ask, query in zip(
            (self.runner.answer, self.runner.search), QUERIES[self.name], strict=True
        ):
            self.sent.clear()
            try:
                self._loop.run(ask(given))
            except StepError as error:
                assert error.code in ("invalid_request", "module_bad_output"), error.message
            mine = [each for each in self.sent if each.query != "{ version }"]
            assert len(mine) <= 1
            for each in mine:
                assert each.query == query, "the text of a query is not the constant"
                assert json.loads(each.variables["request"])["query"] == text
                any_sent = True
        return any_sent


class _Client:
    """In place of a session's HTTP client: what a double would answer."""

    def __init__(self, double: EngineDouble, sent: list[Asked]) -> None:
        self._double, self._sent = double, sent

    async def post(self, url: str, *, content: bytes, headers: dict[str, str]) -> httpx.Response:
        asked = json.loads(content)
        self._sent.append(Asked("", asked["query"], asked["variables"]))
        data = self._double.data(asked["query"], asked["variables"])
        return httpx.Response(200, json={"data": data})

    async def aclose(self) -> None:
        """Hold nothing."""
