"""What is searched besides the question as asked, and who finds it out."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from rag_doubles import BODIES, StepDouble

from rag_kit.errors import StepError
from rag_pipeline.models import RagRequest, RagResponse
from rag_pipeline.rewriting import Rewriting
from rag_pipeline.step import answer, search

TALK = [
    {"role": "user", "content": "What is RAG_MAX_QUEUE?"},
    {"role": "assistant", "content": "Requests that may wait [1]."},
]
FOLLOW_UP = {"query": "And what is its default?", "messages": TALK}
TERMS = "And what is its default RAG_MAX_QUEUE?"
FULL = "What is the default of RAG_MAX_QUEUE?"
USAGE = {"prompt_tokens": 40, "completion_tokens": 9, "total_tokens": 49, "llm_calls": 1}


def steps_with(says: Any = None) -> dict[str, StepDouble]:
    """Return the steps; `generate` says this when it is asked without passages."""

    def generate(request: dict[str, Any]) -> dict[str, Any]:
        body = BODIES["generate"](request)
        if request["contexts"]:
            return body
        if isinstance(says, StepError):
            raise says
        return {
            **body, "answer": str(says), "llm_generated": says is not None, "citations": [],
            "answerable": False, "usage": USAGE,
        }  # fmt: skip

    ready = {name: body for name, body in BODIES.items() if name != "generate"}
    defaults = {"warnings": [], "provenance": {}}
    return {
        **{name: StepDouble(body) for name, body in ready.items()},
        "generate": StepDouble(lambda request: generate({**defaults, **request})),
    }


def ask(steps: dict[str, StepDouble], rewriting: Rewriting = "model", **fields: Any) -> RagResponse:
    """Ask the pipeline."""
    request = RagRequest.model_validate(fields)
    return asyncio.run(answer(request, steps, rewriting=rewriting))


def test_a_follow_up_is_searched_in_the_models_words_and_in_the_users() -> None:
    """One call, shown in the answer and counted in its cost; every step gets what it needs."""
    steps = steps_with(FULL)

    response = ask(steps, **FOLLOW_UP)

    assert (response.query, response.search_queries) == (FOLLOW_UP["query"], [FULL])
    searched = steps["retrieve"].requests[-1]
    assert (searched["query"], searched["search_queries"]) == (FOLLOW_UP["query"], [FULL])
    rewriting, answering = steps["generate"].requests
    assert answering["standalone_query"] == FULL
    assert response.usage["llm_calls"] == 1
    assert "rewrite" in response.timings_ms
    assert rewriting["generate"] == {"deadline_s": 3.0, "max_answer_tokens": 96}
    asked = rewriting["prompt"][-1]["content"]
    assert "What is RAG_MAX_QUEUE?" in asked and FOLLOW_UP["query"] in asked


@pytest.mark.parametrize(
    "says",
    [
        None,
        StepError("llm_timeout", "too late"),
        StepError("llm_misconfigured", "no key"),
        FOLLOW_UP["query"],
        "",
        "Its default is 16.",
        "The capital of France is Paris.",
        "What is RAG_MAX_QUEUE? " * 30,
    ],
)
def test_without_a_usable_question_of_a_model_the_terms_are_searched(says: Any) -> None:
    """No model, one that fails or is late, an echo, an answer, another topic, a flood of words."""
    response = ask(steps_with(says), **FOLLOW_UP)

    assert response.search_queries == [TERMS]


def test_what_a_model_puts_around_its_question_is_removed() -> None:
    """A label, quotes, an explanation in the next line."""
    says = f'Question in full: "{FULL}"\n\nI completed it.'

    assert ask(steps_with(says), **FOLLOW_UP).search_queries == [FULL]


@pytest.mark.parametrize(
    ("fields", "queries"),
    [
        ({"query": "Who may sign contracts?", "messages": TALK}, []),
        ({"query": FOLLOW_UP["query"]}, []),
        ({**FOLLOW_UP, "search_queries": []}, []),
        ({**FOLLOW_UP, "search_queries": ["default of the queue"]}, ["default of the queue"]),
        ({"query": "Who signs leases, and where are forms kept?"},
         ["Who signs leases", "where are forms kept?"]),
    ],
)  # fmt: skip
def test_no_model_is_asked_where_nothing_needs_one(
    fields: dict[str, Any], queries: list[str]
) -> None:
    """A change of topic, no conversation, and what the caller chose; parts are split by rule."""
    steps = steps_with(FULL)

    response = ask(steps, **fields)

    assert response.search_queries == queries
    assert len(steps["generate"].requests) == 1
    assert "rewrite" not in response.timings_ms


@pytest.mark.parametrize(("rewriting", "queries"), [("terms", [TERMS]), ("off", [])])
def test_an_operator_may_have_it_without_a_model_or_not_at_all(
    rewriting: Rewriting, queries: list[str]
) -> None:
    """The setting RAG_REWRITING."""
    steps = steps_with(FULL)

    assert ask(steps, rewriting, **FOLLOW_UP).search_queries == queries
    assert len(steps["generate"].requests) == 1


def test_a_search_completes_a_follow_up_too_and_records_it_for_a_replay() -> None:
    """With the step `generate` or without it; provenance has what was searched."""
    for steps, queries in ((steps_with(FULL), [FULL]), ({}, [TERMS])):
        steps = {**steps, "retrieve": StepDouble(BODIES["retrieve"])}
        found = asyncio.run(search(RagRequest.model_validate(FOLLOW_UP), steps))
        assert found.search_queries == queries
        recorded: Any = found.provenance["rag"]["request"]
        assert recorded["search_queries"] == queries


def test_a_blank_search_query_is_refused() -> None:
    """The field and its place are named."""
    with pytest.raises(ValueError, match="the query is empty"):
        RagRequest.model_validate({"query": "x", "search_queries": ["y", " "]})
