"""The step as JSON in, JSON out, and its settings."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_generate.models import GenerateRequest, GenerateResponse
from rag_generate.settings import Settings
from rag_generate.wire import open_step
from rag_kit.errors import CODES, StepError
from rag_kit.handler import Handler

Build = Callable[..., GenerateRequest]


def ask(request: Any, settings: Settings | None = None) -> dict[str, Any]:
    with open_step(settings) as handler:
        answer: dict[str, Any] = json.loads(handler(json.dumps(request)))
    return answer


def test_the_default_answers_without_model_and_network(make_request: Build) -> None:
    """No setting at all: extractive."""
    response = ask(make_request().model_dump())

    assert GenerateResponse.model_validate(response)
    assert response["provenance"]["generate"] == {
        "version": "0.1.0", "generator": "extractive", "model": None,
    }  # fmt: skip
    assert response["answer"].startswith("Only the board may sign contracts [1].")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"query": " "}, "query"),
        ({"generate": {"max_sentences": 0}}, "generate.max_sentences"),
        ({"generate": {"nonsense": 1}}, "generate.nonsense"),
        ({"generate": {"target": "openai"}}, "generate.target"),
        ({"generate": {"min_support": 2}}, "generate.min_support"),
        ({"no_context": "guess"}, "no_context"),
        ({"contexts": [{"marker": 0}]}, None),
    ],
)
def test_bad_requests_name_the_field(
    make_request: Build, change: dict[str, Any], param: str | None
) -> None:
    """Each is an envelope of the caller's fault, never a traceback."""
    error = ask({**make_request().model_dump(), **change})["error"]

    assert (error["code"], error["step"]) == ("invalid_request", "generate")
    assert param is None or error["param"] == param


def test_openai_is_the_default_once_a_server_is_named(llm: Any, make_request: Build) -> None:
    """The stub answers through the whole step, citations verified."""
    llm.script = [llm.text("Only the board may sign [1], ", "not Bob [5].")]
    settings = Settings(llm_base_url=llm.url, llm_model="m")

    response = ask(make_request().model_dump(), settings)

    assert response["answer"] == "Only the board may sign [1], not Bob."
    assert response["citation_check"]["removed_markers"] == [5]
    assert response["citations"][0]["quote"] == "Only the board may sign contracts."
    assert (response["usage"]["total_tokens"], response["llm_generated"]) == (38, True)
    assert response["provenance"]["generate"]["model"] == "m"


def test_a_request_may_choose_extractive_next_to_a_model(llm: Any, make_request: Build) -> None:
    """A target is the name of a configured generator, never an address."""
    settings = Settings(llm_base_url=llm.url, llm_model="m")

    response = ask(make_request(generate={"target": "extractive"}).model_dump(), settings)

    assert (response["llm_generated"], llm.calls) == (False, 0)


def test_without_context_the_server_is_not_called(llm: Any, make_request: Build) -> None:
    """Zero model calls, counted at the server."""
    settings = Settings(llm_base_url=llm.url, llm_model="m")

    response = ask(make_request(decision={"answerable": False}).model_dump(), settings)

    assert (response["finish_reason"], llm.calls) == ("no_context", 0)


def test_a_window_too_small_for_the_prompt_is_said(llm: Any, make_request: Build) -> None:
    """The setting reaches the generator."""
    llm.script = [llm.text("x [1]")]
    settings = Settings(llm_base_url=llm.url, llm_model="m", llm_context_window=256)

    response = ask(make_request(generate={"max_answer_tokens": 512}).model_dump(), settings)

    assert response["warnings"] == ["answer_shortened"]
    assert llm.bodies[0]["max_tokens"] < 256


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"llm_base_url": "http://127.0.0.1:1/v1"}, "RAG_LLM_MODEL"),
        ({"llm_model": "m"}, "RAG_LLM_BASE_URL"),
        ({"generator": "openai"}, "RAG_LLM_BASE_URL"),
    ],
)
def test_half_a_configuration_is_refused_at_start(settings: dict[str, Any], name: str) -> None:
    """The message names the variable that is missing."""
    with pytest.raises(StepError, match=name) as caught, open_step(Settings(**settings)):
        pass

    assert caught.value.code == "llm_misconfigured"


def test_the_key_comes_from_the_environment_or_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file wins; the key never shows in the settings' text."""
    file = tmp_path / "key"
    file.write_text("sk-from-file\n")
    monkeypatch.setenv("RAG_LLM_API_KEY", "sk-from-env")
    plain = Settings().api_key()
    monkeypatch.setenv("RAG_LLM_API_KEY_FILE", str(file))
    settings = Settings()
    filed = settings.api_key()

    assert plain is not None
    assert filed is not None
    assert plain.get_secret_value() == "sk-from-env"
    assert filed.get_secret_value() == "sk-from-file"
    assert "sk-from" not in repr(settings)


@pytest.mark.parametrize("content", [None, b"", b"sk-\xff", b"sk-\xc3\xa9", b"sk\nx"])
def test_a_key_that_cannot_be_sent_is_refused_at_start(
    tmp_path: Path, content: bytes | None
) -> None:
    """Missing file, empty file, bytes no header carries: the key is not in the message."""
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(StepError) as caught:
        Settings(llm_api_key_file=file).api_key()

    assert caught.value.code == "llm_misconfigured"
    assert "sk" not in caught.value.message


def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable, the rule and the value."""
    monkeypatch.setenv("RAG_MIN_SUPPORT", "7")

    with pytest.raises(StepError, match=r"RAG_MIN_SUPPORT: .*'7'") as caught, open_step():
        pass

    assert caught.value.code == "misconfigured"


@pytest.fixture(scope="module")
def handler() -> Any:
    """One open step for many requests."""
    with open_step(Settings()) as opened:
        yield opened


FIELDS = st.sampled_from([*GenerateRequest.model_fields, "text", "span", "marker", "x"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(FIELDS, inner, max_size=6),
    max_leaves=25,
)


@settings(deadline=None)
@given(raw=JSON.map(json.dumps) | st.text(max_size=40) | st.binary(max_size=40))
def test_any_input_gives_a_response_or_an_envelope(handler: Handler, raw: str | bytes) -> None:
    """Never a traceback, never an unknown code."""
    answer = json.loads(handler(raw))

    assert "error" in answer or GenerateResponse.model_validate(answer)
    assert "error" not in answer or answer["error"]["code"] in CODES
    assert answer.get("error", {}).get("code") != "internal_error"


def test_the_command_answers_like_the_function(tmp_path: Path, make_request: Build) -> None:
    """`python -m rag_generate` writes the same JSON."""
    request = make_request().model_dump()
    (tmp_path / "in.json").write_text(json.dumps(request))

    done = subprocess.run(
        [sys.executable, "-m", "rag_generate", "--input", "in.json", "--output", "out.json"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((tmp_path / "out.json").read_text()) == ask(request)


def test_the_client_of_a_model_is_not_imported_without_one() -> None:
    """The default starts without paying for the openai package."""
    code = (
        "import sys; from rag_generate.wire import open_step\n"
        "with open_step(): print('openai' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )  # fmt: skip

    assert done.stdout == "False\n"
