"""`POST /v1/responses`, asked by the official `openai` client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import ResponseFileSearchToolCall, ResponseOutputMessage
from service_kit import QUESTION, LLMStub, copy_home, serving, settings

from rag_service.api.openai_responses import KEPT, NEUTRAL, ResponseRequest, Responses

LEAVE = "How many days of leave does everybody have?"
HR: Any = {"type": "file_search", "vector_store_ids": ["hr"]}
KEYS = json.dumps(
    [
        {"name": "all", "key": "k-all-0123456789abcdef"},
        {"name": "hr", "key": "k-hr-0123456789abcdef0", "collections": ["hr"]},
    ]
)


@pytest.fixture(scope="module")
def client(service: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def answering(
    model: LLMStub, filled: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A service with keys whose answers a language model writes."""
    home = copy_home(filled, tmp_path_factory.mktemp("llm") / "home")
    env = {
        "RAG_LLM_BASE_URL": model.url,
        "RAG_LLM_MODEL": "stub",
        "RAG_LLM_ATTEMPTS": "1",
        "RAG_REWRITING": "terms",
    }
    given = settings(api_keys=KEYS, side_tasks=("### Task:",))
    with serving(given, home=home, env=env) as url:
        yield f"{url}/v1"


@pytest.fixture(scope="module")
def everyone(answering: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=answering, api_key="k-all-0123456789abcdef", max_retries=0
    ) as client:
        yield client


def test_an_answer_has_its_search_and_its_files(client: openai.OpenAI, http: httpx.Client) -> None:
    """The passages found are there when they are included; a citation has the address of its quote."""
    answer = client.responses.create(
        model="rag", input=LEAVE, tools=[HR], include=["file_search_call.results"]
    )

    search, message = answer.output
    assert isinstance(search, ResponseFileSearchToolCall) and search.results
    assert (search.status, search.queries) == ("completed", [LEAVE])
    assert (search.results[0].file_id, search.results[0].filename) == ("leave.md", "leave.md")
    assert search.results[0].attributes == {"year": 2022, "topic": "leave"}
    assert "25 days" in (search.results[0].text or "")
    assert isinstance(message, ResponseOutputMessage)
    assert "25 days" in answer.output_text and answer.status == "completed"
    (citation,) = message.content[0].annotations  # type: ignore[union-attr]
    assert (citation.type, citation.file_id, citation.filename) == (
        *("file_citation", "leave.md", "leave.md"),
    )
    assert answer.output_text[citation.index :].startswith("[1]")
    assert "25 days" in http.get((citation.model_extra or {})["url"]).text
    assert (answer.model_extra or {})["answerable"] is True
    assert answer.usage is not None and answer.usage.total_tokens == 0


def test_a_stream_tells_the_same(client: openai.OpenAI) -> None:
    """Every event in OpenAI's order, numbered; what it ends with is what is answered without one."""
    with client.responses.create(model="rag", input=LEAVE, tools=[HR], stream=True) as stream:
        events = list(stream)

    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    kinds = [event.type for event in events if event.type != "response.output_text.delta"]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.file_search_call.in_progress",
        "response.file_search_call.searching",
        "response.file_search_call.completed",
        "response.output_item.done",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.annotation.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    last: Any = events[-1]
    whole = client.responses.create(model="rag", input=LEAVE, tools=[HR])
    assert text == last.response.output_text == whole.output_text
    places = [(event.output_index, event.content_index) for event in events if "text" in event.type]
    assert set(places) == {(1, 0)}
    annotations = [one.output[1].content[0].annotations for one in (last.response, whole)]  # type: ignore[union-attr]
    assert annotations[0] == annotations[1]


def test_the_clients_own_stream_helper(client: openai.OpenAI) -> None:
    with client.responses.stream(model="rag", input=QUESTION) as stream:
        text = "".join(
            event.delta for event in stream if event.type == "response.output_text.delta"
        )
        final = stream.get_final_response()

    assert final.output_text == text
    assert text.endswith("signs as well [1].")


def test_nothing_found(client: openai.OpenAI) -> None:
    question = "Which telescope found the exoplanet Kepler-22b?"

    whole = client.responses.create(model="rag", input=question)
    with client.responses.create(model="rag", input=question, stream=True) as stream:
        last: Any = list(stream)[-1]

    assert whole.output_text == last.response.output_text != ""
    assert whole.output[1].content[0].annotations == []  # type: ignore[union-attr]
    assert (whole.model_extra or {})["answerable"] is False


@pytest.mark.parametrize(
    ("options", "documents"),
    [
        ({"max_num_results": 1}, {"travel.md"}),
        ({"filters": {"type": "eq", "key": "topic", "value": "work"}}, {"hours.md"}),
        (
            {"filters": {"type": "ne", "key": "topic", "value": "travel"}},
            {"hours.md", "building.txt"},
        ),
        ({"ranking_options": {"score_threshold": 2.0}}, set()),
    ],
)
def test_options_of_the_search(
    client: openai.OpenAI, options: dict[str, Any], documents: set[str]
) -> None:
    answer = client.responses.create(
        model="rag",
        input=QUESTION,
        tools=[{"type": "file_search", "vector_store_ids": ["default"], **options}],
        include=["file_search_call.results"],
    )

    search: Any = answer.output[0]
    assert {result.file_id for result in search.results} == documents


def test_forms_of_input(client: openai.OpenAI) -> None:
    """Parts, an answer said back with its search call, a developer's words, the instructions."""
    first = client.responses.create(model="rag", input=QUESTION)
    said: list[Any] = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": QUESTION}]},
        *[one.model_dump() for one in first.output],
        {"type": "message", "role": "user", "content": "And up to 2,000 euros?"},
    ]

    answer = client.responses.create(model="rag", input=said, instructions="In one sentence.")

    assert "head of the team" in answer.output_text
    assert answer.instructions == "In one sentence."


def test_it_goes_on_from_a_response(client: openai.OpenAI) -> None:
    """By its id or by that of its message; a follow-up is understood; what is deleted is gone."""
    first = client.responses.create(model="rag", input=QUESTION)
    follow_up = "And up to 2,000 euros?"

    by_response = client.responses.create(
        model="rag", input=follow_up, previous_response_id=first.id
    )
    references: list[Any] = [{"type": "item_reference", "id": one.id} for one in first.output]
    by_items = client.responses.create(
        model="rag",
        input=[
            {"role": "user", "content": QUESTION},
            *references,
            {"role": "user", "content": follow_up},
        ],
    )
    again = client.responses.retrieve(first.id)
    client.responses.delete(first.id)

    assert "head of the team" in by_response.output_text
    assert by_items.output_text == by_response.output_text
    assert again == first
    with pytest.raises(openai.NotFoundError) as gone:
        client.responses.create(model="rag", input=follow_up, previous_response_id=first.id)
    assert gone.value.param == "previous_response_id"
    kept_not = client.responses.create(model="rag", input=QUESTION, store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(kept_not.id)


def test_what_a_response_answers_is_listed(client: openai.OpenAI) -> None:
    """In pages, newest first, with the messages of earlier responses; an item can be referred to."""
    first = client.responses.create(model="rag", input=LEAVE, instructions="Be brief.", tools=[HR])
    second = client.responses.create(
        model="rag",
        previous_response_id=first.id,
        tools=[HR],
        input=[
            {"role": "developer", "content": "Use full sentences."},
            {"role": "user", "content": "And when is it carried over?"},
        ],
    )

    items = client.responses.input_items.list(second.id, order="asc").data
    texts = [(item.role, item.content[0].text) for item in items]  # type: ignore[union-attr]
    newest = list(client.responses.input_items.list(second.id, limit=1))
    again = client.responses.create(
        model="rag", tools=[HR], input=[{"type": "item_reference", "id": str(items[0].id)}]
    )

    assert texts == [
        ("user", LEAVE),
        ("assistant", first.output_text),
        ("system", "Use full sentences."),
        ("user", "And when is it carried over?"),
    ]
    assert [item.id for item in newest] == [item.id for item in reversed(items)]
    assert again.output_text == first.output_text
    with pytest.raises(openai.NotFoundError):
        client.responses.input_items.list("resp_none")


def test_of_many_responses_the_last_are_kept(client: openai.OpenAI) -> None:
    """Of each key; one key's do not push out another's."""
    from rag_service.api.openai_responses import Kept
    from rag_service.http.context import Principal

    kept, one, other = Responses(), Principal("one"), Principal("other")
    kept.keep(Kept({"id": "x"}, [], {}, other))
    for number in range(KEPT + 1):
        kept.keep(Kept({"id": str(number)}, [], {}, one))

    assert kept.find(one, "1", "id").body == {"id": "1"}
    assert kept.find(other, "x", "id").body == {"id": "x"}
    for principal, gone in ((one, "0"), (one, "x"), (Principal("x", groups=frozenset()), "1")):
        with pytest.raises(Exception, match="there is no response"):
            kept.find(principal, gone, "id")


def test_every_parameter_of_the_client_is_known() -> None:
    from openai.types.responses import response_create_params as params

    harmless = {
        *("max_tool_calls", "moderation", "parallel_tool_calls", "prompt_cache_key", "reasoning"),
        *("prompt_cache_options", "prompt_cache_retention", "safety_identifier", "service_tier"),
        *("stream_options", "top_p", "truncation", "user", "context_management"),
        *("access_programs", "background_options", "image"),
    }
    known = harmless | NEUTRAL.keys() | ResponseRequest.model_fields.keys()

    assert params.ResponseCreateParamsBase.__annotations__.keys() - known == set()


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        (
            {
                "tools": [{"type": "function", "name": "f"}],
                "tool_choice": {"type": "function", "name": "f"},
            },
            "tools.0.type",
        ),
        ({"tools": [{**HR, "vector_store_ids": ["hr", "default"]}]}, "tools.0.vector_store_ids"),
        ({"tools": [HR], "model": "rag/default"}, "collection"),
        ({"tools": [{**HR, "filters": {"type": "like"}}]}, "tools.0.filters"),
        ({"tools": [{**HR, "max_num_results": 51}]}, "tools.0.max_num_results"),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input.0.type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input.0.content.0.type",
        ),
        ({"input": [{"role": "assistant", "content": "x"}]}, "input.0.role"),
        ({"input": [{"type": "reasoning", "id": "x"}]}, "input"),
        ({"temperature": 3}, "temperature"),
        ({"max_num_results": 0}, "max_num_results"),
    ],
)
def test_refused(client: openai.OpenAI, change: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as failed:
        client.post(
            "/responses", body={"model": "rag", "input": QUESTION, **change}, cast_to=object
        )

    assert failed.value.param == param


def test_what_is_not_known_is_ignored_and_named(http: httpx.Client) -> None:
    sent = {"input": QUESTION, "reasoning": {"effort": "low"}, "top_k": 0, "x": 1, "stream": True}

    response = http.post("/v1/responses", json=sent)

    assert response.headers["x-rag-warning"] == "ignored: reasoning, top_k, x"


# -- a language model's words ---------------------------------------------------------------------


def test_a_models_answer_cut_off_or_filtered(everyone: openai.OpenAI, model: LLMStub) -> None:
    """It is incomplete, and says why, in a stream as well."""
    model.script = [model.text("The finance director [1]", finish="length")]

    whole = everyone.responses.create(model="rag", input=QUESTION, max_output_tokens=5)
    with everyone.responses.create(model="rag", input=QUESTION, stream=True) as stream:
        last: Any = list(stream)[-1]

    assert model.bodies[-2]["max_tokens"] == 5
    assert (whole.status, last.type) == ("incomplete", "response.incomplete")
    assert whole.incomplete_details is not None
    assert whole.incomplete_details.reason == "max_output_tokens"
    assert whole.usage is not None and whole.usage.output_tokens == 7


def test_a_stream_that_breaks_ends_in_an_error(everyone: openai.OpenAI, model: LLMStub) -> None:
    piece = json.dumps({"choices": [{"index": 0, "delta": {"content": "The [1] finance"}}]})

    def hang_up(handler: Any) -> None:
        handler.close_connection = True

    model.script = [model.events(piece, then=hang_up)]

    with (
        pytest.raises(openai.APIError) as failed,
        everyone.responses.create(model="rag", input=QUESTION, stream=True) as stream,
    ):
        list(stream)

    assert failed.value.code == "llm_stream_broken"


def test_a_side_task_is_the_models_alone(everyone: openai.OpenAI, model: LLMStub) -> None:
    model.script = [model.text("Signing")]

    answer = everyone.responses.create(model="rag", input="### Task:\nGenerate a title.")

    assert answer.output_text == "Signing"
    assert [one.type for one in answer.output] == ["message"]
    assert model.bodies[-1]["messages"] == [
        {"role": "user", "content": "### Task:\nGenerate a title."}
    ]


def test_a_key_sees_its_own(answering: str, everyone: openai.OpenAI, model: LLMStub) -> None:
    """Neither another collection nor another key's response."""
    model.script = [model.text("The finance director [1].")]
    other = everyone.responses.create(model="rag", input=QUESTION)
    with openai.OpenAI(base_url=answering, api_key="k-hr-0123456789abcdef0", max_retries=0) as hr:
        for call in (
            lambda: hr.responses.create(model="rag", input=QUESTION),
            lambda: hr.responses.create(model="rag/hr", input=LEAVE, previous_response_id=other.id),
            lambda: hr.responses.retrieve(other.id),
            lambda: hr.responses.delete(other.id),
        ):
            with pytest.raises(openai.NotFoundError):
                call()
    assert everyone.responses.retrieve(other.id).id == other.id


SCHEMA: Any = {
    "format": {
        "type": "json_schema",
        "name": "days",
        "schema": {"type": "object", "properties": {"days": {"type": "integer"}}},
    }
}


def test_what_is_not_known_is_a_refusal_where_json_was_asked_for(everyone: openai.OpenAI) -> None:
    """Whole and as a stream, in responses and in chats; a plain text would be no JSON."""
    unknown: Any = {"model": "rag", "extra_body": {"filters": {"year": 1}}}
    question = "Who won the world cup?"

    whole = everyone.responses.create(**unknown, input=question, text=SCHEMA)
    part: Any = whole.output[1].content[0]  # type: ignore[union-attr]
    assert (part.type, whole.status) == ("refusal", "completed")

    with everyone.responses.stream(**unknown, input=question, text=SCHEMA) as events:
        kinds = [(event.type, getattr(event, "delta", None)) for event in events]
        final: Any = events.get_final_response().output[1]
    assert ("response.refusal.delta", part.refusal) in kinds
    assert "response.refusal.done" in [kind for kind, _ in kinds]
    assert not [kind for kind, _ in kinds if kind.startswith("response.output_text")]
    assert final.content[0].refusal == part.refusal

    chat: Any = {
        "messages": [{"role": "user", "content": question}],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "days", "schema": SCHEMA["format"]["schema"]},
        },
    }
    deltas = [
        chunk.choices[0].delta
        for chunk in everyone.chat.completions.create(**unknown, **chat, stream=True)
    ]
    assert "".join(delta.refusal or "" for delta in deltas) == part.refusal
    assert not any(delta.content for delta in deltas)
    assert everyone.chat.completions.create(**unknown, **chat).choices[0].message.refusal
