"""The step as JSON in, JSON out: bad requests, settings, any JSON at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rerank_kit import make_request
from reranker_double import RerankerDouble, reranker_double

from rag_kit.errors import ErrorEnvelope, StepError
from rag_kit.handler import Handler
from rag_rerank.models import RerankResponse
from rag_rerank.settings import RerankSettings
from rag_rerank.wire import is_configured, open_step

FIELDS = ["query", "results", "rerank", "top_k", "provenance", "warnings", "x"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
ANY_JSON = VALUES | st.dictionaries(st.sampled_from(FIELDS), VALUES)


@pytest.fixture(scope="module")
def handler() -> Iterator[Handler]:
    """The step over a double of a server."""
    with (
        reranker_double() as double,
        open_step(RerankSettings(reranker_url=double.url)) as opened,
    ):
        yield opened


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(data=ANY_JSON)
def test_any_json_gives_a_response_or_an_envelope(handler: Handler, data: Any) -> None:
    """Never a traceback."""
    answer = json.loads(handler(json.dumps(data)))
    model = ErrorEnvelope if "error" in answer and "query" not in answer else RerankResponse
    model.model_validate(answer)


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"query": " "}, "query", "empty"),
        ({"results": None}, "results", "got None"),
        ({"results": [{"chunk_id": "c"}]}, "results.0.document_id", "required"),
        ({"rerank": {"top_n": 0}}, "rerank.top_n", "got 0"),
        ({"rerank": {"top_n": "5"}}, "rerank.top_n", "got '5'"),
        ({"rerank": {"candidates": 101}}, "rerank.candidates", "got 101"),
        ({"rerank": {"candidates": True}}, "rerank.candidates", "got True"),
        ({"rerank": {"min_relevance": "high"}}, "rerank.min_relevance", "got 'high'"),
        ({"rerank": {"enabled": "no"}}, "rerank.enabled", "got 'no'"),
        ({"rerank": {"model": "x"}}, "rerank.model", "unknown option"),
        ({"top_n": 3}, None, "option of rerank"),
    ],
)
def test_a_bad_request_names_the_field_and_the_value(
    handler: Handler, change: Any, param: str | None, words: str
) -> None:
    """The caller can mend it without reading code."""
    error = json.loads(handler(json.dumps({**make_request(), **change})))["error"]

    assert (error["code"], error["step"], error["param"]) == ("invalid_request", "rerank", param)
    assert words in error["message"]


def test_settings_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, double: RerankerDouble
) -> None:
    """A URL is enough; an empty variable is none."""
    monkeypatch.setenv("RAG_RERANKER", "")
    assert not is_configured()
    monkeypatch.setenv("RAG_RERANKER_URL", double.url)
    assert is_configured()
    with open_step() as handler:
        response = json.loads(handler(json.dumps(make_request())))
    assert response["provenance"]["rerank"]["reranker"] == "cohere"
    monkeypatch.setenv("RAG_RERANKER", "none")
    assert not is_configured()


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("RAG_RERANKER", "bert", "bert"),
        ("RAG_RERANKER_TIMEOUT_S", "0", "0"),
        ("RAG_RERANKER_URL", "tei:80", ""),
    ],
)
def test_a_bad_setting_is_misconfigured(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, shown: str
) -> None:
    """The message names the variable, and its value unless it may hold a secret."""
    monkeypatch.setenv(name, value)
    with pytest.raises(StepError) as caught, open_step():
        pass
    assert caught.value.code == "misconfigured"
    assert name in caught.value.message and shown in caught.value.message


def test_connections_stay_open(handler: Handler, double: RerankerDouble) -> None:
    """One client for any number of requests; each is one call of the server."""
    with open_step(RerankSettings(reranker_url=double.url)) as opened:
        for _ in range(3):
            assert "error" not in json.loads(opened(json.dumps(make_request())))
    assert len(double.bodies) == 3
