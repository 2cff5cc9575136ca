"""Properties for any input: a valid response or error, and unchanged passages."""

from __future__ import annotations

import copy
import json
from typing import Any

import projects
import pytest
from contract import CONTRACT, MODELS
from examples import EXAMPLES, good_examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

VALIDATORS = {
    name: Draft202012Validator(json.loads((CONTRACT / f"{name}.schema.json").read_bytes()))
    for name in MODELS
}
STEPS = (*projects.STEPS, projects.PIPELINE)
REQUESTS = {step: [e.request for e in good_examples() if e.step == step] for step in STEPS}
# the same examples in every run, so that a failure is found by everybody
thorough = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
every_step = pytest.mark.parametrize("step", STEPS)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
finite_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
objects = st.dictionaries(st.text(max_size=8), finite_values, max_size=4)


def answer_on_contract(steps: dict[str, Any], step: str, raw: str | bytes) -> dict[str, Any]:
    """Return a step's answer, which must be a valid response or a documented error."""
    answer: dict[str, Any] = json.loads(steps[step](raw))
    document = "error" if answer.keys() == {"error"} else f"{step}.response"
    faults = [f"{e.json_path}: {e.message[:200]}" for e in VALIDATORS[document].iter_errors(answer)]

    assert faults == [], answer
    if document == "error":
        assert answer["error"]["code"] != "internal_error", answer
    return answer


def answered(steps: dict[str, Any], step: str, request: dict[str, Any]) -> dict[str, Any]:
    """Return the response of a step to a valid request."""
    answer = answer_on_contract(steps, step, json.dumps(request))

    assert "error" not in answer, answer
    return answer


# -- any input ------------------------------------------------------------------------------


@every_step
@given(raw=st.binary(max_size=200) | st.text(max_size=200))
@thorough
def test_any_bytes_get_an_error_envelope(
    steps: dict[str, Any], step: str, raw: str | bytes
) -> None:
    """Input that is not a JSON object gets a valid error, never an exception."""
    answer_on_contract(steps, step, raw)


@every_step
@given(value=json_values)
@thorough
def test_any_json_gets_an_answer_on_contract(steps: dict[str, Any], step: str, value: Any) -> None:
    """Any JSON, including NaN and Infinity, gets a valid response or error."""
    answer_on_contract(steps, step, json.dumps(value))


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return (container, key) for each place in a JSON document."""
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list):
        pairs = list(enumerate(value))
    else:
        return []
    return [(value, key) for key, _ in pairs] + [p for _, inner in pairs for p in places(inner)]


def field_names(step: str) -> list[str]:
    """Return the names a request of the step knows, at the top and in its options."""
    schema = VALIDATORS[f"{step}.request"].schema
    known = [*schema["properties"]]
    for definition in schema["$defs"].values():
        known += definition.get("properties", {})
    return sorted(set(known))


@st.composite
def nearly_valid(draw: st.DrawFn, step: str) -> str:
    """Draw a good request with one to three places removed, replaced or added."""
    request = copy.deepcopy(draw(st.sampled_from(REQUESTS[step])))
    for _ in range(draw(st.integers(1, 3))):
        container, key = draw(st.sampled_from(places(request) or [({}, "")]))
        change = draw(st.sampled_from(["remove", "replace", "add"]))
        if change == "remove":
            container.pop(key, None) if isinstance(container, dict) else container.pop()
        elif change == "replace" and container:
            container[key] = draw(json_values)
        else:
            name = draw(st.sampled_from(field_names(step)) | st.text(max_size=8))
            request[name] = draw(json_values)
    return json.dumps(request)


@every_step
@given(data=st.data())
@thorough
def test_nearly_valid_request_gets_an_answer_on_contract(
    steps: dict[str, Any], step: str, data: st.DataObject
) -> None:
    """A damaged good request gets a valid response or error."""
    answer_on_contract(steps, step, data.draw(nearly_valid(step)))


# -- what survives ---------------------------------------------------------------------------

WORDS = (
    "travel train flight meal head team signs request budget Zürich über 東京 🚆 2,000 [1] <<x>>"
)
sentences = st.lists(st.sampled_from(WORDS.split()), min_size=2, max_size=12).map(
    lambda words: " ".join(words).capitalize() + "."
)
passages = st.lists(sentences, min_size=1, max_size=4).map(" ".join) | st.text(max_size=60)
scores = st.floats(-1000, 1000)
PASSAGE_FIELDS = sorted(VALIDATORS["augment.request"].schema["$defs"]["Result"]["properties"])
extra_fields = st.dictionaries(
    st.text(max_size=8).filter(lambda name: name not in {*PASSAGE_FIELDS, "marker"}),
    finite_values,
    max_size=2,
)


@st.composite
def a_result(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a passage as any retriever may give it, with fields of its own."""
    text = draw(passages)
    start = draw(st.integers(0, 10**7))
    return {
        **draw(extra_fields),
        "chunk_id": draw(st.text(min_size=1, max_size=8)),
        "document_id": draw(st.text(min_size=1, max_size=8)),
        "title": draw(st.text(max_size=20)),
        "source": draw(st.text(max_size=20)),
        "text": text,
        "span": [start, start + len(text)],
        "page": draw(st.none() | st.integers(1, 5000)),
        "score": draw(scores),
        "scores": draw(
            st.fixed_dictionaries({"dense": st.floats(0.2, 1)}, optional={"sparse": scores})
        ),
        "metadata": draw(objects),
    }


results = st.lists(a_result(), max_size=6, unique_by=lambda result: result["chunk_id"])
questions = sentences.map(lambda sentence: sentence.rstrip(".") + "?")
budgets = st.sampled_from([16, 40, 2048])


def check_contexts(sent: dict[str, dict[str, Any]], contexts: list[dict[str, Any]]) -> None:
    """Every context is a passage as it was sent, under numbers from 1."""
    assert [context["marker"] for context in contexts] == list(range(1, len(contexts) + 1))
    for context in contexts:
        assert {**sent[context["chunk_id"]], "marker": context["marker"]} == context


def check_citations(sent: dict[str, dict[str, Any]], answer: dict[str, Any]) -> None:
    """Every citation names a passage as it was sent, and quotes what stands at its spans."""
    contexts = {context["marker"]: context for context in answer["contexts"]}
    for citation in answer["citations"]:
        passage = sent[citation["chunk_id"]]
        start = passage["span"][0]

        assert contexts[citation["marker"]]["chunk_id"] == citation["chunk_id"]
        for field in ("document_id", "title", "source", "page", "score"):
            assert passage[field] == citation[field]
        quotes = [passage["text"][a - start : b - start] for a, b in citation["spans"]]
        assert all(quotes)
        assert quotes[0] == citation["quote"]


@given(query=questions, found=results, budget=budgets, carried=objects)
@thorough
def test_passages_survive_augment_and_generate(
    steps: dict[str, Any],
    query: str,
    found: list[dict[str, Any]],
    budget: int,
    carried: dict[str, Any],
) -> None:
    """Id, score, span, source, metadata and foreign fields of a passage are never changed."""
    request = {
        **{f"x-{name}": value for name, value in carried.items()},
        "query": query,
        "results": found,
        "augment": {"max_context_tokens": budget},
    }
    sent = {result["chunk_id"]: result for result in found}

    built = answered(steps, "augment", request)
    written = answered(steps, "generate", built)

    left_out = [item["chunk_id"] for item in built["left_out"]]
    used = [context["chunk_id"] for context in built["contexts"]]
    assert sorted([*used, *left_out]) == sorted(sent)
    for name, value in carried.items():
        assert built[f"x-{name}"] == value
    assert query == built["query"] == written["query"]
    check_contexts(sent, built["contexts"])
    assert built["contexts"] == written["contexts"]
    check_citations(sent, written)


corpus_queries = st.lists(
    st.sampled_from(
        [
            "who",
            "signs",
            "travel",
            "requests",
            "lost",
            "badge",
            "porter",
            "coffee",
            "machine",
            "hours",
            "home",
            "moon",
            "allowance",
            "INV-2041",
        ]
    ),
    min_size=1,
    max_size=6,
).map(" ".join)
retrieve_options = st.fixed_dictionaries(
    {},
    optional={
        "mode": st.sampled_from(["hybrid", "dense", "sparse"]),
        "fusion": st.sampled_from(["dbsf", "rrf"]),
        "candidates": st.integers(1, 20),
        "max_per_document": st.none() | st.integers(1, 2),
    },
)
conditions = st.none() | st.sampled_from([{"year": 2024}, {"$not": {"topic": "work"}}])


@given(
    query=corpus_queries,
    options=retrieve_options,
    filters=conditions,
    top_k=st.integers(1, 20),
    carried=objects,
)
@thorough
def test_passages_survive_the_three_steps(
    steps: dict[str, Any],
    query: str,
    options: dict[str, Any],
    filters: dict[str, Any] | None,
    top_k: int,
    carried: dict[str, Any],
) -> None:
    """What retrieve finds is text of the document at its span, and reaches the answer as it is."""
    request = {
        **{f"x-{name}": value for name, value in carried.items()},
        "query": query,
        "collection": "handbook",
        "top_k": top_k,
        "filters": filters,
        "retrieve": options,
    }

    found = answered(steps, "retrieve", request)
    built = answered(steps, "augment", found)
    written = answered(steps, "generate", built)

    assert len(found["results"]) <= top_k
    order = [(-result["score"], result["chunk_id"]) for result in found["results"]]
    assert order == sorted(order)
    for result in found["results"]:
        document = (EXAMPLES / result["source"]).read_bytes().decode()
        start, end = result["span"]
        assert document[start:end] == result["text"]
    for name, value in request.items():
        assert found[name] == value
    sent = {result["chunk_id"]: result for result in found["results"]}
    check_contexts(sent, built["contexts"])
    assert built["contexts"] == written["contexts"]
    check_citations(sent, written)


@given(query=corpus_queries, options=retrieve_options, filters=conditions)
@thorough
def test_output_of_a_step_is_valid_input_of_the_next(
    steps: dict[str, Any], query: str, options: dict[str, Any], filters: dict[str, Any] | None
) -> None:
    """The response of a step fits the request schema of the next one."""
    request = {"query": query, "collection": "handbook", "filters": filters, "retrieve": options}

    found = answered(steps, "retrieve", request)
    built = answered(steps, "augment", found)

    assert [e.message for e in VALIDATORS["augment.request"].iter_errors(found)] == []
    assert [e.message for e in VALIDATORS["generate.request"].iter_errors(built)] == []
