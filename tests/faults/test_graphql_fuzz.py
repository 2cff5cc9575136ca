"""The text of what is sent to an engine is the same whatever anybody writes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from graphql_double import engine_double
from graphql_wire import CORPUS, QUERIES, Wire
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from runner_kit import ROOT, RUNNERS, composite, composite_server

from rag_kit.errors import StepError
from rag_service.dagger_engine import call, containers, queries, resident, session
from rag_service.dagger_engine.options import EngineOptions

CONSTANTS = {
    text
    for module in (session, queries, call, containers, resident)
    for name, text in vars(module).items()
    if name.isupper() and isinstance(text, str)
}


@pytest.fixture(scope="module", params=list(QUERIES))
def wire(request: pytest.FixtureRequest) -> Iterator[Wire]:
    with Wire(request.param) as made:
        yield made


def test_threat_graphql_injection_of_a_corpus(wire: Wire) -> None:
    """Quotes, braces, control characters, secret addresses: text, byte for byte."""
    sent = [wire.check(text) for text in CORPUS]
    assert sum(sent) > 20


def test_threat_graphql_injection_of_any_text(wire: Wire, lane: Any) -> None:
    """Any text, alone and around what GraphQL means something by."""
    parts = st.lists(st.text(max_size=40) | st.sampled_from(CORPUS), max_size=6).map("".join)

    @settings(
        max_examples=lane(40, 5000),
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(parts)
    def check(text: str) -> None:
        wire.check(text)

    check()


@pytest.mark.parametrize("name", RUNNERS)
def test_threat_graphql_injection_of_settings(name: str, tmp_path: Path) -> None:
    """What an operator sets is a value, too: names of folders and collections, keys, models."""
    hostile = '"""){ host { directory(path: "x") { id } } } # cmd:touch PWNED $rag'
    docs = tmp_path / hostile
    docs.mkdir()

    async def main(port: int) -> None:
        options = EngineOptions(
            module=str(ROOT / "dagger/rag"),
            session_port=port,
            docs=docs,
            collection="hr",
            probe=hostile,
            qdrant_api_key=SecretStr(hostile),
            llm_base_url="http://localhost:1/v1",
            llm_model=hostile,
            llm_api_key=SecretStr(hostile),
        )
        runner = RUNNERS[name](options)
        try:
            await asyncio.wait_for(runner.start(lambda _: None), 20)
        except StepError as error:
            raise AssertionError(error.message) from error
        finally:
            await runner.close()

    with composite_server() as url, engine_double(composite, url) as double:
        asyncio.run(main(double.port))
    assert {each.query for each in double.asked} <= CONSTANTS
    assert json.dumps(hostile)[1:-1] in json.dumps([each.variables for each in double.asked])
    assert not Path("PWNED").exists()
