from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rag_augment import StepError
from rag_augment.models import AugmentResponse
from rag_augment.settings import AugmentSettings
from rag_augment.template import Template
from rag_augment.tokenizer import Tokenizer
from rag_augment.wire import open_step
from rag_kit.errors import ErrorEnvelope

FIELDS = ["query", "results", "messages", "augment", "no_context", "provenance", "seed", "x"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
ANY_JSON = VALUES | st.dictionaries(st.sampled_from(FIELDS), VALUES)


def is_valid(text: str) -> bool:
    """Tell whether the text is a response or an error envelope of the contract."""
    data = json.loads(text)
    model = ErrorEnvelope if "error" in data and "query" not in data else AugmentResponse
    model.model_validate(data)
    return True


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(data=ANY_JSON)
def test_any_json_gives_a_response_or_an_envelope(handler, data: Any) -> None:
    """Never a traceback."""
    assert is_valid(handler(json.dumps(data)))


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"query": " "}, "query", "empty"),
        ({"query": "x" * 9000}, "query", "9000 bytes"),
        ({"results": None}, "results", "got None"),
        ({"augment": {"max_context_tokens": 15}}, "augment.max_context_tokens", "got 15"),
        ({"augment": {"max_context_tokens": "64"}}, "augment.max_context_tokens", "got '64'"),
        ({"augment": {"near_duplicate": 0}}, "augment.near_duplicate", "got 0"),
        ({"augment": {"template": "{{7*7}}"}}, "augment.template", "unknown option"),
        ({"augment": {"order": "random"}}, "augment.order", "got 'random'"),
        ({"no_context": "guess"}, "no_context", "got 'guess'"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role", "got 'tool'"),
        ({"spotlight": "none"}, None, "option of augment"),
    ],
)
def test_a_bad_request_names_the_field_and_the_value(handler, make_request, change, param, words):
    """The caller can mend it without reading code."""
    error = json.loads(handler(json.dumps(make_request(**change))))["error"]
    assert (error["code"], error["step"], error["param"]) == ("invalid_request", "augment", param)
    assert words in error["message"]


def test_parts_are_loaded_at_start_and_never_on_a_request(make_request):
    """One tokenizer and one template for any number of requests."""
    before = Tokenizer.loads, Template.loads
    with open_step(AugmentSettings()) as handler:
        for _ in range(3):
            assert "error" not in json.loads(handler(json.dumps(make_request())))
    assert (Tokenizer.loads - before[0], Template.loads - before[1]) == (1, 1)


def test_settings_come_from_the_environment(monkeypatch, make_request):
    """RAG_MIN_RELEVANCE and RAG_NO_CONTEXT_TEXT reach the step; an empty variable is none."""
    monkeypatch.setenv("RAG_TEMPLATE", "")
    monkeypatch.setenv("RAG_NO_CONTEXT_TEXT", "Weiß ich nicht.")
    with open_step() as handler:
        response = json.loads(handler(json.dumps(make_request())))
    assert "reply exactly: Weiß ich nicht." in response["prompt"][0]["content"]
    monkeypatch.setenv("RAG_MIN_RELEVANCE", "0.99")
    with open_step() as handler:
        response = json.loads(handler(json.dumps(make_request())))
    assert response["decision"]["answerable"] is False


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RAG_MIN_RELEVANCE", "high"),
        ("RAG_TOKENIZER", "/nowhere/tokenizer.json"),
        ("RAG_TEMPLATE", "/nowhere/t.jinja"),
    ],
)
def test_a_bad_setting_is_misconfigured(monkeypatch, name, value):
    """The message names the variable and its value."""
    monkeypatch.setenv(name, value)
    with pytest.raises(StepError) as caught, open_step():
        pass
    assert caught.value.code == "misconfigured"
    assert name in caught.value.message
    assert value in caught.value.message
