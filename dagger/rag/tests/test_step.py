"""The composition alone, over three doubles that keep the contract, or break it."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

import pytest
import rag_doubles as doubles
from rag_doubles import BODIES, StepDouble

from rag_kit.passages import Result
from rag_pipeline import StepError, __version__, answer, search
from rag_pipeline.models import RagRequest, RagResponse
from rag_pipeline.step import digest_results


def ask(request: dict[str, Any], **bodies: Any) -> tuple[RagResponse, dict[str, Any]]:
    steps = {name: StepDouble(bodies.get(name, body)) for name, body in BODIES.items()}
    ticks = itertools.count()
    response = asyncio.run(
        answer(
            RagRequest.model_validate(request, strict=True),
            steps,
            clock=lambda: float(next(ticks)),
            new_id=lambda: "rag_new",
        )
    )
    return response, steps


def failure(**bodies: Any) -> StepError:
    with pytest.raises(StepError) as caught:
        ask({"query": "Who may sign?"}, **bodies)
    return caught.value


def error(code: str, **fields: Any) -> dict[str, Any]:
    return {"error": {"type": "t", "code": code, "message": "no", "param": None, **fields}}


def test_an_answer_keeps_what_each_step_gave() -> None:
    """Answer, citations, contexts, left-out passages and usage come through unchanged."""
    response, _ = ask({"query": "Who may sign?", "collection": "hr"})

    assert response.answer == "Only the board may sign [1]."
    assert response.collection == "hr"
    assert [c.model_dump() for c in response.citations] == [doubles.CITATION]
    assert [c.model_dump() for c in response.contexts] == [{**doubles.PASSAGE, "marker": 1}]
    assert [item["chunk_id"] for item in response.left_out] == ["c8"]
    assert response.usage == {
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "total_tokens": 0,
        "llm_calls": 0,
        "context_tokens": 6,
    }


def test_provenance_and_warnings_of_all_steps_are_merged() -> None:
    """Every step's own provenance stays as it is, `rag` is added, a warning is told once."""
    response, _ = ask({"query": "Who may sign?"})

    assert response.provenance == {
        "retrieve": {"version": "0.1.0", "corpus_digest": "sha256:1"},
        "augment": {"version": "0.1.0"},
        "generate": {"version": "0.1.0"},
        "rag": {
            "version": __version__,
            "request": {"top_k": 5, "filters": None, "min_score": None, "retrieve": {}},
            "results_digest": digest_results([Result.model_validate(doubles.PASSAGE)]),
        },
    }
    assert response.warnings == ["slow store", "one passage left out"]


def test_timings_are_per_step_and_in_total() -> None:
    """The clock is read before and after each step, and at both ends: 1 s per step here."""
    response, _ = ask({"query": "Who may sign?"})

    assert response.timings_ms == {
        "retrieve": 1000.0,
        "augment": 1000.0,
        "generate": 1000.0,
        "total": 7000.0,
    }


def test_each_step_is_sent_the_response_of_the_one_before() -> None:
    """The request flows through with its options, and the passages with it."""
    request = {
        "query": "Who may sign?",
        "top_k": 3,
        "no_context": "error",
        "messages": [{"role": "user", "content": "Hello"}],
        "retrieve": {"mode": "dense"},
        "generate": {"target": "extractive"},
    }
    _, steps = ask(request)
    first, second, third = (steps[name].requests[0] for name in BODIES)

    assert request.items() <= first.items()
    assert first["request_id"] == "rag_new"
    assert second == {**doubles.retrieve_body(first)}
    assert third == doubles.augment_body(second)


def test_a_step_that_drops_the_callers_options_does_not_lose_them() -> None:
    """A retriever that gives its results only still leaves `generate` its options."""
    _, steps = ask(
        {"query": "Who may sign?", "no_context": "answer", "generate": {"seed": 7}},
        retrieve=lambda _: {"results": [doubles.PASSAGE], "warnings": [], "provenance": {}},
    )

    assert steps["generate"].requests[0]["no_context"] == "answer"
    assert steps["generate"].requests[0]["generate"] == {"seed": 7}


def test_the_callers_request_id_is_kept() -> None:
    """`request_id` names the request in the response and in every step's request."""
    response, steps = ask({"query": "Who may sign?", "request_id": "mine"})

    assert response.id == "mine"
    assert [step.requests[0]["request_id"] for step in steps.values()] == ["mine"] * 3
    assert ask({"query": "Who?"})[0].id == "rag_new"


def test_the_prompt_is_given_only_for_debugging() -> None:
    """`debug` adds the prompt that was built."""
    assert ask({"query": "Who?"})[0].prompt is None
    prompt = ask({"query": "Who?", "debug": True})[0].prompt
    assert prompt is not None and prompt[0].content == "Who?"


def test_the_question_may_be_the_last_message() -> None:
    """Without a query the last message asks, and the earlier ones are the history."""
    said = [{"role": "user", "content": "Hi"}, {"role": "user", "content": "Who may sign?"}]
    response, steps = ask({"messages": said})

    assert response.query == "Who may sign?"
    assert steps["retrieve"].requests[0]["messages"] == said[:1]


@pytest.mark.parametrize("name", BODIES)
def test_a_steps_error_is_passed_on_with_its_own_code(name: str) -> None:
    """Code, message and field are the step's; the step is named."""
    caught = failure(**{name: lambda _: error("llm_timeout", param="generate.deadline_s")})

    assert (caught.code, caught.message, caught.step) == ("llm_timeout", "no", name)
    assert caught.param == "generate.deadline_s"


@pytest.mark.parametrize("name", BODIES)
def test_a_step_that_raises_is_a_module_error(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """The class of the exception is told, its text stays in the log: it may hold a document."""

    def explode(_: dict[str, Any]) -> None:
        raise RuntimeError("secret text")

    caught = failure(**{name: explode})

    assert (caught.code, caught.step) == ("module_error", name)
    assert "RuntimeError" in caught.message and "secret" not in caught.message
    assert "secret text" in caplog.text


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("reply", ["", "<html>", "[1]", '"text"', '{"a": NaN}', '{"a": 1'])
def test_a_step_that_gives_no_json_object_is_named(name: str, reply: str) -> None:
    """Whatever is no JSON object is `module_bad_output` of that step."""
    caught = failure(**{name: lambda _: reply})

    assert (caught.code, caught.step) == ("module_bad_output", name)
    assert name in caught.message


def without(body: Any, field: str) -> Any:
    return lambda request: {k: v for k, v in body(request).items() if k != field}


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("retrieve", "results"),
        ("augment", "contexts"),
        ("augment", "context_usage"),
        ("generate", "answer"),
        ("generate", "citations"),
    ],
)
def test_a_step_off_contract_is_told_the_missing_field(name: str, field: str) -> None:
    """A field that is missing names the step and the field."""
    caught = failure(**{name: without(BODIES[name], field)})

    assert (caught.code, caught.step, caught.param) == ("module_bad_output", name, field)
    assert f"{name} is off contract: {field}: required, but missing" in caught.message


def test_a_passage_off_contract_is_found_at_the_step_that_gave_it() -> None:
    """A wrong span of a foreign retriever is its fault and not that of augment."""
    body = {"results": [{**doubles.PASSAGE, "span": "100-124"}]}
    caught = failure(retrieve=lambda _: body)

    assert (caught.code, caught.step, caught.param) == (
        "module_bad_output",
        "retrieve",
        "results.0.span",
    )


def test_an_unknown_error_code_is_off_contract() -> None:
    """An envelope with a code that nobody can act on is the step's fault."""
    caught = failure(augment=lambda _: error("oops"))

    assert (caught.code, caught.step, caught.param) == (
        "module_bad_output",
        "augment",
        "error.code",
    )


@pytest.mark.parametrize("change", [{"marker": 2}, {"chunk_id": "c9"}])
def test_a_citation_of_no_passage_is_refused(change: dict[str, Any]) -> None:
    """What an answer cites must be in the prompt under that number."""
    body = lambda request: {  # noqa: E731
        **doubles.generate_body(request),
        "citations": [{**doubles.CITATION, **change}],
    }
    caught = failure(generate=body)

    assert (caught.code, caught.param) == ("module_bad_output", "citations.0.marker")


def test_search_calls_retrieve_alone() -> None:
    """Passages, timings and provenance, and no answer."""
    retrieve = StepDouble(doubles.retrieve_body)
    ticks = itertools.count()
    found = asyncio.run(
        search(
            RagRequest(query="Who may sign?", top_k=2),
            {"retrieve": retrieve},
            clock=lambda: float(next(ticks)),
            new_id=lambda: "rag_new",
        )
    )

    assert json.loads(found.model_dump_json()) == {
        "id": "rag_new",
        "query": "Who may sign?",
        "collection": "default",
        "results": [doubles.PASSAGE],
        "degraded": False,
        "timings_ms": {"retrieve": 1000.0, "total": 3000.0},
        "warnings": ["slow store"],
        "provenance": {
            "retrieve": {"version": "0.1.0", "corpus_digest": "sha256:1"},
            "rag": {
                "version": __version__,
                "request": {"top_k": 2, "filters": None, "min_score": None, "retrieve": {}},
                "results_digest": digest_results([Result.model_validate(doubles.PASSAGE)]),
            },
        },
    }


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"score": 0.8100001}, True),
        ({"title": "Another"}, True),
        ({"score": 0.81001}, False),
        ({"span": [101, 125]}, False),
        ({"chunk_id": "c9"}, False),
        ({"document_id": "other.md"}, False),
    ],
)
def test_the_digest_tells_ids_spans_and_scores_to_six_decimals(
    change: dict[str, Any], same: bool
) -> None:
    """What makes it the same finding counts; the noise of a processor and a title do not."""
    one = digest_results([Result.model_validate(doubles.PASSAGE)])
    other = digest_results([Result.model_validate({**doubles.PASSAGE, **change})])

    assert one.startswith("sha256:") and len(one) == 71
    assert (one == other) is same


def test_the_digest_tells_the_order() -> None:
    """The same passages in another order are another finding."""
    results = [
        Result.model_validate({**doubles.PASSAGE, "chunk_id": chunk_id}) for chunk_id in ("a", "b")
    ]

    assert digest_results(results) != digest_results(results[::-1])
