"""The contract: its schemas and examples, and every step's compliance with both."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from breaking import breaking_changes
from contract import CONTRACT, MODELS, generated
from examples import Bad, Good, bad_examples, differences, good_examples
from jsonschema import Draft202012Validator
from projects import PIPELINE, STEPS

import rag_augment.models
import rag_generate.models
import rag_pipeline.models
import rag_retrieve.models
from rag_kit import passages
from rag_kit.errors import CODES

GOOD = good_examples()
BAD = bad_examples()
SCHEMAS = {name: json.loads((CONTRACT / f"{name}.schema.json").read_bytes()) for name in MODELS}
VALIDATORS = {name: Draft202012Validator(schema) for name, schema in SCHEMAS.items()}
NEXT = dict(itertools.pairwise(STEPS))


def named(examples: list[Any]) -> Any:
    return pytest.mark.parametrize(
        "example", examples, ids=[f"{example.step}-{example.name}" for example in examples]
    )


def faults(document: str, value: Any) -> list[str]:
    return [f"{e.json_path}: {e.message[:200]}" for e in VALIDATORS[document].iter_errors(value)]


@pytest.mark.parametrize("name", MODELS)
def test_schema_is_valid_and_carries_the_version(name: str) -> None:
    """Each schema is valid draft 2020-12 and its $id names the contract's version."""
    version = (CONTRACT / "VERSION").read_text().strip()

    Draft202012Validator.check_schema(SCHEMAS[name])

    assert SCHEMAS[name]["$id"] == f"urn:dagger-rag:contract:{version}:{name}"


def test_files_in_contract_are_what_the_models_say() -> None:
    """Schemas and the table of codes on disk equal what the models give."""
    drifted = [path.name for path, text in generated().items() if path.read_text() != text]

    assert drifted == [], "run: make contract"


def test_readme_lists_every_code() -> None:
    """The table in contract/README.md has one row for each error code."""
    rows = re.findall(r"^\| `(\w+)` \|", (CONTRACT / "README.md").read_text(), re.MULTILINE)

    assert rows == list(CODES)


def test_every_step_has_good_and_bad_examples() -> None:
    """No step is without a good pair and a dozen of bad requests."""
    for step in (*STEPS, PIPELINE):
        assert len([example for example in GOOD if example.step == step]) >= 5
        assert len([example for example in BAD if example.step == step]) >= 12


@named(GOOD)
def test_good_example_fits_the_schemas(example: Good) -> None:
    """The request and the response of a good pair are valid."""
    assert faults(f"{example.step}.request", example.request) == []
    assert faults(f"{example.step}.response", example.response) == []


@named(GOOD)
def test_step_answers_good_example_as_written(example: Good, steps: dict[str, Any]) -> None:
    """A step answers the request of a good pair with its response."""
    response = json.loads(steps[example.step](json.dumps(example.request)))

    assert differences(example.response, response) == []


@named(GOOD)
def test_step_answers_the_same_request_the_same(example: Good, steps: dict[str, Any]) -> None:
    """The same request gives the same JSON, except for times and a generated id."""
    first, second = (json.loads(steps[example.step](json.dumps(example.request))) for _ in "ab")
    for response in (first, second):
        response.pop("timings_ms", None)
        if "request_id" not in example.request and example.step == "rag":
            response.pop("id")
        if not example.request.get("augment", {}).get("seed"):
            response.pop("prompt", None)  # its marker is random

    assert first == second


@named([example for example in GOOD if example.step in NEXT])
def test_output_of_a_step_is_input_of_the_next(example: Good, steps: dict[str, Any]) -> None:
    """The response of a good pair is a valid request of the next step, which answers it."""
    following = NEXT[example.step]
    answered = json.loads(steps[following](json.dumps(example.response)))

    assert faults(f"{following}.request", example.response) == []
    assert faults(f"{following}.response", answered) == []


@named(BAD)
def test_step_refuses_bad_example_as_written(example: Bad, steps: dict[str, Any]) -> None:
    """A step answers a bad request with the error envelope, its code and the field at fault."""
    response = json.loads(steps[example.step](example.raw))

    assert faults("error", response) == []
    error = response["error"]
    assert (example.code, example.param) == (error["code"], error["param"]), error["message"]


@named([example for example in BAD if example.name.startswith("bad-") and example.param])
def test_error_message_is_short(example: Bad, steps: dict[str, Any]) -> None:
    """The message of an error does not repeat a huge value and shows no traceback."""
    error = json.loads(steps[example.step](example.raw))["error"]

    assert 10 < len(error["message"]) < 600
    assert "Traceback" not in error["message"]


@named([example for example in BAD if example.request is not None])
def test_schema_refuses_bad_example_where_it_can(example: Bad) -> None:
    """The schema refuses a bad request, unless the example says that only the step can."""
    refused = bool(faults(f"{example.step}.request", example.request))

    assert refused is not example.beyond_schema


def test_raw_handler_takes_bytes_and_text_alike(steps: dict[str, Any]) -> None:
    """A request as UTF-8 bytes gets the same answer as the same request as text."""
    example = next(example for example in GOOD if example.name == "ok-hybrid")
    text = json.dumps(example.request, ensure_ascii=False)

    assert steps["retrieve"](text) == steps["retrieve"](text.encode())


def test_the_steps_one_by_one_give_what_the_pipeline_gives(steps: dict[str, Any]) -> None:
    """Calling the steps one after the other gives the pipeline's answer."""
    for example in (
        example for example in GOOD if example.step == "rag" and "seed" in str(example)
    ):
        if not example.request.get("query"):
            continue
        text = json.dumps(example.request)
        for step in STEPS:
            text = steps[step](text)
        chained = json.loads(text)
        for field in ("answer", "answerable", "citations", "contexts", "support", "finish_reason"):
            assert differences(example.response[field], chained[field], field) == []


def test_a_passage_is_the_same_model_in_every_step() -> None:
    """Passage, context, citation and message are written once, in the kit."""
    for models in (
        rag_retrieve.models,
        rag_augment.models,
        rag_generate.models,
        rag_pipeline.models,
    ):
        for name in ("Result", "Context", "Citation", "Message"):
            model = getattr(models, name, None)
            assert model is None or model is getattr(passages, name)


def test_fields_of_the_composite_are_the_same_in_its_steps() -> None:
    """A field that the pipeline passes on to a step has the same type, bounds and default there."""
    rag = rag_pipeline.models.RagRequest.model_fields
    handed = {
        rag_retrieve.models.RetrieveRequest: ("collection", "top_k", "filters", "min_score"),
        rag_generate.models.GenerateRequest: ("no_context",),
    }
    for model, names in handed.items():
        for name in names:
            assert model.model_fields[name].annotation == rag[name].annotation
            assert str(model.model_fields[name].metadata) == str(rag[name].metadata)
            assert model.model_fields[name].default == rag[name].default


def request(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": ["query"]}


TEXT = {"type": "string"}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (request(query=TEXT, top_k={"type": "integer"}), request(query=TEXT), "field removed"),
        (
            request(query=TEXT),
            {**request(query=TEXT, a=TEXT), "required": ["query", "a"]},
            "field required now",
        ),
        (request(query={"type": "number"}), request(query={"type": "integer"}), "type refused now"),
        (
            request(query={"anyOf": [TEXT, {"type": "null"}]}),
            request(query=TEXT),
            "type refused now: null",
        ),
        (
            request(query={"enum": ["a", "b"]}),
            request(query={"enum": ["a"]}),
            "value refused now: 'b'",
        ),
        (request(query={"maximum": 9}), request(query={"maximum": 8}), "maximum changed"),
        (request(query=TEXT), request(query={**TEXT, "minLength": 1}), "minLength changed"),
        (request(query=TEXT), request(query={**TEXT, "pattern": "a"}), "pattern changed"),
        (
            request(query=TEXT),
            {**request(query=TEXT), "additionalProperties": False},
            "unknown fields refused now",
        ),
        (
            request(query={"items": request(query=TEXT, a=TEXT)}),
            request(query={"items": request(query=TEXT)}),
            "query[].a: field removed",
        ),
    ],
)
def test_breaking_change_of_a_request_is_told(
    old: dict[str, Any], new: dict[str, Any], said: str
) -> None:
    """A request field that is removed or newly required is a breaking change."""
    told = breaking_changes(old, new, "request")

    assert len(told) == 1
    assert said in told[0]


def test_breaking_change_of_a_response_is_the_other_way_round() -> None:
    """A response breaks its readers by a wider type, a new value, or a field that may be missing."""
    old = request(query=TEXT, kind={"enum": ["a"]})
    new = request(query={"anyOf": [TEXT, {"type": "null"}]}, kind={"enum": ["a", "b"]})

    told = breaking_changes(old, {**new, "required": []}, "response")

    assert sorted(told) == [
        "kind: value new: 'b'",
        "query: field no longer always there",
        "query: type new: null",
    ]


def test_wider_request_and_richer_response_break_nobody() -> None:
    """A new optional request field and a new response field are no breaking changes."""
    old = request(query=TEXT)
    wider = request(query={"anyOf": [TEXT, {"type": "null"}]}, more=TEXT)
    richer = {**request(query=TEXT, more=TEXT), "required": ["query", "more"]}

    assert breaking_changes(old, wider, "request") == []
    assert breaking_changes(old, richer, "response") == []


@pytest.mark.parametrize("name", MODELS)
def test_schema_does_not_break_itself(name: str) -> None:
    """Compared with itself, no schema has a breaking change."""
    side = "request" if name.endswith("request") else "response"

    assert breaking_changes(SCHEMAS[name], SCHEMAS[name], side) == []


def test_example_responses_have_no_path_of_a_machine() -> None:
    """No example response contains an absolute path."""
    for example in GOOD:
        assert str(Path.home()) not in example.response_path.read_text()
        assert "/tmp/" not in example.response_path.read_text()
