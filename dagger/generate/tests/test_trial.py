"""A trial of a model: what is measured, and which settings follow."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from llm_stub import chunk

from rag_generate.generator import Draft
from rag_generate.models import GenerateRequest, Usage
from rag_generate.settings import Settings
from rag_generate.trial import fitting, try_model
from rag_kit.errors import StepError

Build = Callable[..., GenerateRequest]


def settings(llm: Any, **more: Any) -> Settings:
    return Settings(llm_base_url=llm.url, llm_model="m", **more)


def test_a_model_that_cites_is_measured(llm: Any, make_request: Build) -> None:
    """Loaded by a first call that asks for one token; the second one is the trial."""
    llm.script = [llm.text("The", finish="length"), llm.text("Only the board ", "[1].")]

    trial = try_model(make_request(), 1, settings(llm))

    assert [body["max_tokens"] for body in llm.bodies] == [1, 512]
    assert (trial.model, trial.answer, trial.cites) == ("m", "Only the board [1].", True)
    assert (trial.prompt_tokens, trial.answer_tokens, trial.reasoning) == (31, 7, "none")
    assert 0 < trial.first_token_s <= trial.seconds
    assert trial.settings["RAG_LLM_BASE_URL"] == llm.url


@pytest.mark.parametrize("text", ["The board.", "The board [2].", "The board [1], as in [9]."])
def test_a_model_that_does_not_cite_right_is_told_apart(
    llm: Any, make_request: Build, text: str
) -> None:
    """Without a number, with another passage's, or with one that points nowhere."""
    llm.script = [llm.text(text)]

    assert not try_model(make_request(), 1, settings(llm)).cites


def test_reasoning_is_found_and_set(llm: Any, make_request: Build) -> None:
    """A server's template that opens the reasoning needs a setting; its pace is another one."""
    llm.script = [llm.text("why", "</think>", "The board [1].")]

    trial = try_model(make_request(), 1, settings(llm))

    assert (trial.reasoning, trial.answer) == ("unopened", "The board [1].")
    assert trial.settings["RAG_LLM_PACE"] == "reasoning"
    assert trial.settings["RAG_LLM_STARTS_IN_REASONING"] == "true"


def test_a_model_that_only_thinks_at_first_is_loaded_all_the_same(
    llm: Any, make_request: Build
) -> None:
    """One token is not enough for a word of its answer; that is no failure."""
    end = json.dumps(chunk(finish="length"))
    llm.script = [llm.events(end, "[DONE]"), llm.text("<think>x</think>The board [1].")]

    assert try_model(make_request(), 1, settings(llm)).reasoning == "tags"


def test_a_server_that_names_the_limit_of_tokens_otherwise(llm: Any, make_request: Build) -> None:
    """The other name is tried and set."""
    refused = llm.status(400, {"error": {"code": "unsupported_parameter"}})
    llm.script = [refused, llm.text("The", finish="length"), llm.text("The board [1].")]

    trial = try_model(make_request(), 1, settings(llm))

    assert trial.settings["RAG_LLM_MAX_TOKENS_FIELD"] == "max_completion_tokens"
    assert llm.bodies[-1]["max_completion_tokens"] == 512


def test_without_a_name_a_server_that_lists_no_model_is_a_failure(
    llm: Any, make_request: Build
) -> None:
    """The double answers POST alone."""
    with pytest.raises(StepError) as caught:
        try_model(make_request(), 1, Settings(llm_base_url=llm.url))
    assert caught.value.code.startswith("llm_")


def draft(first: float, speed: float, *, prompt: int = 2600) -> Draft:
    """Return a draft of 101 tokens at this speed."""
    usage = Usage(prompt_tokens=prompt, completion_tokens=101)
    return Draft("x", "stop", usage, first_token_s=first, seconds=first + 100 / speed)


@pytest.mark.parametrize(
    ("made", "chosen"),
    [
        (draft(0.4, 80), {}),
        (draft(0.2, 80, prompt=130), {}),
        (draft(8, 80), {"RAG_LLM_PACE": "local", "RAG_REWRITING": "terms"}),
        (draft(1, 5), {"RAG_LLM_PACE": "local"}),
        (draft(1, 80, prompt=260), {"RAG_LLM_PACE": "local"}),
        (
            draft(100, 2),
            {
                "RAG_LLM_PACE": "local",
                "RAG_LLM_FIRST_TOKEN_S": "200",
                "RAG_LLM_TOTAL_S": "456",
                "RAG_DEADLINE_S": "486",
                "RAG_STEP_DEADLINE_S": "486",
                "RAG_REWRITING": "terms",
            },
        ),
    ],
)
def test_settings_follow_from_what_was_measured(made: Draft, chosen: dict[str, str]) -> None:
    """Twice what a full prompt and a long answer take must fit into a pace's deadlines."""
    server = {"RAG_LLM_BASE_URL": "http://x/v1", "RAG_LLM_MODEL": "m"}
    given = Settings(llm_base_url="http://x/v1")

    assert fitting(made, given, "m", None) == {**server, **chosen}
    assert fitting(made, given, "m", 4096)["RAG_LLM_CONTEXT_WINDOW"] == "4096"
