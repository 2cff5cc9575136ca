"""Chat completions and models, asked by the official `openai` client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel
from service_kit import QUESTION, LLMStub, copy_home, environment, serving, settings

from rag_pipeline.steps.local import open_local
from rag_service.api.openai_chat import NEUTRAL
from rag_service.api.openai_input import WARNING
from rag_service.api.openai_stop import StopSequences

ASKED: list[Any] = [{"role": "user", "content": QUESTION}]
KEYS = json.dumps(
    [
        {"name": "all", "key": "k-all-0123456789abcdef", "collections": ["*"]},
        {"name": "hr", "key": "k-hr-0123456789abcdef0", "collections": ["hr"]},
    ]
)
# what changes at most the wording, the price or the speed of an answer
HARMLESS = {
    *("frequency_penalty", "metadata", "parallel_tool_calls", "prediction", "presence_penalty"),
    *("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "reasoning_effort"),
    *("safety_identifier", "service_tier", "store", "top_p", "user", "verbosity"),
}
SIDE_TASKS = ("### Task:", "Provide a concise, 5-word-or-less title")
# requests of Open WebUI 0.9 and LibreChat 0.8, as their default prompts make them
SIDE_TASK_BODIES: dict[str, dict[str, Any]] = {
    "Open WebUI, title": {
        "stream": False,
        "messages": [
            {
                "role": "user",
                "content": "### Task:\nGenerate a concise, 3-5 word title with an emoji summarizing the "
                'chat history.\n### Output:\nJSON format: { "title": "your concise title here" }\n'
                "### Chat History:\n<chat_history>\nUSER: Who signs?\nASSISTANT: The director [1].\n"
                "</chat_history>",
            }
        ],
        "max_completion_tokens": 1000,
    },
    "Open WebUI, follow-ups": {
        "stream": True,
        "messages": [
            {
                "role": "user",
                "content": "### Task:\nSuggest 3-5 relevant follow-up questions or prompts that the user "
                "might naturally ask next in this conversation as a **user**.\n",
            }
        ],
    },
    "LibreChat, title": {
        "stream": False,
        "user": "64f0",
        "temperature": 0.2,
        "presence_penalty": 0,
        "messages": [
            {
                "role": "system",
                "content": "Provide a concise, 5-word-or-less title for the conversation, using title "
                "case conventions. Only return the title itself.\n\nConversation:\nUser: Who signs?\n"
                "AI: The director [1].",
            }
        ],
    },
}
LEAVE: list[Any] = [{"role": "user", "content": "How many days of leave does everybody have?"}]
NO_ANSWER = [{"role": "user", "content": "Which telescope found the exoplanet Kepler-22b?"}]


@pytest.fixture(scope="module")
def client(service: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def answering(
    model: LLMStub, filled: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[openai.OpenAI]:
    """A client of a service whose answers a language model writes."""
    home = copy_home(filled, tmp_path_factory.mktemp("llm") / "home")
    env = {"RAG_LLM_BASE_URL": model.url, "RAG_LLM_MODEL": "stub", "RAG_LLM_ATTEMPTS": "1"}
    with (
        serving(settings(side_tasks=SIDE_TASKS), home=home, env=env) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def guarded(filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of a service with two keys."""
    home = copy_home(filled, tmp_path_factory.mktemp("keys") / "home")
    with serving(settings(api_keys=KEYS, side_tasks=SIDE_TASKS), home=home) as url:
        yield f"{url}/v1"


# -- answers ------------------------------------------------------------------------------


def test_an_answer_has_citations(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="rag", messages=ASKED)

    choice = answer.choices[0]
    assert choice.message.content is not None
    assert choice.message.content.endswith("signs as well [1].")
    assert choice.message.role == "assistant"
    assert choice.finish_reason == "stop"
    assert answer.object == "chat.completion"
    assert answer.model == "rag"
    assert answer.usage is not None and answer.usage.total_tokens == 0  # no model was asked
    extra = answer.model_extra or {}
    assert [citation["document_id"] for citation in extra["citations"]] == ["travel.md"]
    assert extra["contexts"][0]["chunk_id"] == extra["citations"][0]["chunk_id"]
    assert extra["answerable"] is True


def test_a_stream_ends_with_what_was_verified(client: openai.OpenAI) -> None:
    with client.chat.completions.create(model="rag", messages=ASKED, stream=True) as stream:
        chunks = list(stream)

    first, last = chunks[0], chunks[-1]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert first.choices[0].delta.role == "assistant"
    found = (first.model_extra or {})["search_results"]
    assert "citations" not in (first.model_extra or {})
    assert last.choices[0].finish_reason == "stop"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    extra = last.model_extra or {}
    assert extra["answer"] == text
    assert extra["citations"][0]["chunk_id"] in [passage["chunk_id"] for passage in found]
    assert len({chunk.id for chunk in chunks}) == 1
    assert last.usage is None


def test_async_client(service: str) -> None:
    async def ask() -> None:
        async with openai.AsyncOpenAI(base_url=f"{service}/v1", api_key="any") as client:
            answer = await client.chat.completions.create(model="rag", messages=ASKED)
            stream = await client.chat.completions.create(model="rag", messages=ASKED, stream=True)
            pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
            assert "".join(pieces) == answer.choices[0].message.content
            assert "rag" in [one.id async for one in client.models.list()]

    asyncio.run(ask())


def test_nothing_found(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="rag", messages=NO_ANSWER)
    with client.chat.completions.create(model="rag", messages=NO_ANSWER, stream=True) as stream:
        chunks = list(stream)

    assert answer.choices[0].finish_reason == "stop"
    assert (answer.model_extra or {})["answerable"] is False
    assert (answer.model_extra or {})["citations"] == []
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == answer.choices[0].message.content
    assert (chunks[-1].model_extra or {})["citations"] == []


def test_conversation_parts_and_our_own_fields(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="rag",
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "How long is the week?"},
            {"role": "assistant", "content": "38 hours [1]."},
            {"role": "user", "content": [{"type": "text", "text": "How many days of leave?"}]},
        ],
        extra_body={
            "collection": "hr",
            "max_num_results": 1,
            "filters": {"year": 2022},
            "min_score": 0.0,
        },
    )

    extra = answer.model_extra or {}
    assert [passage["document_id"] for passage in extra["contexts"]] == ["leave.md"]
    assert "25 days" in (answer.choices[0].message.content or "")
    assert [warning.partition(":")[0] for warning in extra["warnings"]] == [
        "system_messages_ignored"
    ]


def test_an_answer_can_be_said_back(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(model="rag", messages=ASKED).choices[0].message
    messages: list[Any] = [*ASKED, first.model_dump(), {"role": "user", "content": QUESTION}]

    again = client.chat.completions.create(model="rag", messages=messages)

    assert again.choices[0].message.content == first.content


def test_harmless_parameters_are_taken(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="rag/default",
        messages=ASKED,
        n=1,
        top_p=0.9,
        frequency_penalty=0.5,
        presence_penalty=0.5,
        user="somebody",
        stop=None,
        store=False,
        metadata={"a": "b"},
        parallel_tool_calls=True,
        response_format={"type": "text"},
        logprobs=False,
        tools=[],
        tool_choice="none",
        temperature=0.7,
        seed=3,
        max_tokens=100_000,
    )

    assert answer.model == "rag/default"
    assert (answer.model_extra or {})["citations"]


def test_every_parameter_of_the_client_is_known() -> None:
    """What the installed client can send is asked, ignored or refused on purpose."""
    from openai.types.chat import completion_create_params as params

    from rag_service.api.openai_chat import ChatRequest

    known = HARMLESS | NEUTRAL.keys() | ChatRequest.model_fields.keys()
    sent = params.CompletionCreateParamsBase.__annotations__.keys() | {"stream"}

    assert sent <= known


def test_a_web_address_is_an_annotation(tmp_path: Path) -> None:
    from rag_retrieve.documents import LoadedDocument

    text = "The library opens at nine and closes at six on every working day."
    address = "https://library.example/hours"
    with environment({"RAG_CHUNK_TOKENS": "64"}), open_local(home=tmp_path / "store") as rag:
        document = LoadedDocument("hours", "Hours", address, text, "text/plain")
        rag.retriever.ingest_documents([document])
    with (
        serving(home=tmp_path) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="any") as client,
    ):
        messages: list[Any] = [{"role": "user", "content": "When does the library open?"}]
        message = client.chat.completions.create(model="rag", messages=messages).choices[0].message

    assert message.annotations is not None
    cited = message.annotations[0].url_citation
    assert (cited.url, cited.title) == (address, "Hours")
    assert (message.content or "")[cited.start_index : cited.end_index] == "[1]"


def test_what_is_quoted_has_an_address(client: openai.OpenAI, http: httpx.Client) -> None:
    """Each number of an answer is an annotation; its address marks the citation's quote."""
    answer = client.chat.completions.create(model="rag/hr", messages=LEAVE)
    message = answer.choices[0].message

    assert message.annotations and message.content
    cited = message.annotations[0].url_citation
    assert message.content[cited.start_index : cited.end_index] == "[1]"
    citation = (answer.model_extra or {})["citations"][0]
    assert (cited.title, cited.url) == ("Leave", citation["url"])
    shown = http.get(cited.url)
    assert f"autofocus>{citation['quote']}</mark>" in shown.text


def test_a_stream_has_its_annotations_before_its_end(client: openai.OpenAI) -> None:
    """Their places are those of the text as it was sent."""
    with client.chat.completions.create(model="rag", messages=ASKED, stream=True) as stream:
        chunks = list(stream)

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    given = [(chunk.choices[0].delta.model_extra or {}).get("annotations") for chunk in chunks]
    (annotation,) = given[-2]
    place = annotation["url_citation"]
    assert text[place["start_index"] : place["end_index"]] == "[1]"
    assert place["url"] == (chunks[-1].model_extra or {})["citations"][0]["url"]


# -- what clients send besides ------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_not_known_is_ignored_and_named(http: httpx.Client, *, stream: bool) -> None:
    """Sampling by `top_k` among it: passages are `max_num_results`."""
    sent = {
        "chat_id": "x",
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "reasoning": {"effort": "low"},
        "thinking": {"type": "enabled"},
        "keep_alive": "5m",
        "cache_prompt": True,
        "provider": {"order": ["a"]},
        "chat_template_kwargs": {"enable_thinking": False},
        "top_k": -1,
        "presence_penalty": 0.1,
        "größe, weit": 1,
        "session_id": None,
    }
    body = {"model": "rag", "messages": ASKED, "stream": stream, **sent}

    response = http.post("/v1/chat/completions", json=body)

    assert response.status_code == 200
    named = response.headers[WARNING].removeprefix("ignored: ").split(", ")
    *plain, umlaut = [name for name, value in sent.items() if value is not None]
    assert named == [*plain, umlaut.encode("unicode_escape").decode().replace(",", "%2C")]
    one = http.post("/v1/chat/completions", json={"messages": ASKED, "max_num_results": 1})
    assert len(one.json()["contexts"]) == 1
    assert WARNING not in one.headers


@pytest.mark.parametrize(
    ("messages", "document"),
    [
        ([{"role": "system", "content": QUESTION}], "travel.md"),
        (
            [
                {"role": "system", "content": "Be brief."},
                {"role": "developer", "content": QUESTION},
            ],
            "travel.md",
        ),
        ([*ASKED, {"role": "system", "content": "Answer in one sentence."}], "travel.md"),
        ([{"role": "assistant", "content": None}, *ASKED], "travel.md"),
        (
            [{"role": "user", "content": f"{'Some words about nothing. ' * 500}{QUESTION}"}],
            "travel.md",
        ),
        (
            [{"role": "user", "content": f"{QUESTION} {'Ein Wörtchen über nichts. ' * 900}"}],
            "travel.md",
        ),
    ],
    ids=["system", "system only", "system last", "empty answer", "long", "long, question first"],
)
def test_a_conversation_of_another_form(
    client: openai.OpenAI, messages: list[Any], document: str
) -> None:
    """Only instructions, instructions last, a message longer than a question may be."""
    answer = client.chat.completions.create(model="rag", messages=messages)

    passages = (answer.model_extra or {})["contexts"]
    assert passages[0]["document_id"] == document


@pytest.mark.parametrize("stop", ["signs as", ["never", "signs as"], ["s as well", "nev", "signs"]])
def test_an_answer_ends_at_a_stop_sequence(client: openai.OpenAI, stop: Any) -> None:
    """Without it, in a stream as well; a citation that is cut off is none."""
    first = [stop] if isinstance(stop, str) else stop
    whole = client.chat.completions.create(model="rag", messages=ASKED)
    text = whole.choices[0].message.content or ""
    wanted = text[: min(text.index(one) for one in first if one in text)]

    answer = client.chat.completions.create(model="rag", messages=ASKED, stop=stop)
    with client.chat.completions.create(
        model="rag", messages=ASKED, stop=stop, stream=True
    ) as stream:
        chunks = list(stream)

    assert answer.choices[0].message.content == wanted
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.model_extra or {})["citations"] == []
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == wanted


@pytest.mark.parametrize(
    ("stop", "pieces", "sent"),
    [
        ("END", ["a E", "N", "D b", "c"], "a "),
        ("END", ["a EN", "x EN"], "a ENx EN"),
        (["aab"], ["aaa", "b", "c"], "a"),
        (["", "x"], ["ab", "c"], "abc"),
        ([], ["ab"], "ab"),
        ("ü", ["aü", "b"], "a"),
    ],
)
def test_a_stop_sequence_in_pieces(stop: Any, pieces: list[str], sent: str) -> None:
    stops = StopSequences(stop)

    assert "".join(map(stops.feed, pieces)) + stops.finish() == sent
    assert stops.cut("".join(pieces)) == sent


# -- a language model's words -------------------------------------------------------------


def test_a_models_stream(answering: openai.OpenAI, model: LLMStub) -> None:
    model.script = [model.text("The finance [1] ", "director", " signs, ", "too [9].")]

    with answering.chat.completions.create(
        model="rag",
        messages=ASKED,
        stream=True,
        stream_options={"include_usage": True},
        temperature=0.3,
        seed=5,
        max_completion_tokens=99,
    ) as stream:
        *chunks, last, usage = list(stream)

    pieces = [chunk.choices[0].delta.content for chunk in chunks]
    assert len(pieces) > 2  # word by word: a word is sent when it is whole
    assert "".join(filter(None, pieces)) == "The finance [1] director signs, too [9]."
    extra = last.model_extra or {}
    assert extra["answer"] == "The finance [1] director signs, too."
    assert [citation["marker"] for citation in extra["citations"]] == [1]
    assert last.choices[0].finish_reason == "stop"
    assert last.usage is None
    assert usage.choices == []
    assert usage.usage is not None and usage.usage.total_tokens == 38
    sent = model.bodies[-1]
    assert (sent["temperature"], sent["seed"], sent["max_tokens"]) == (0.3, 5, 99)


def test_a_models_answer_cut_off(answering: openai.OpenAI, model: LLMStub) -> None:
    model.script = [model.text("The finance director [1]", finish="length")]

    answer = answering.chat.completions.create(model="rag", messages=ASKED, max_tokens=5)

    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None and answer.usage.completion_tokens == 7


def test_a_stream_that_cannot_begin_has_a_status(answering: openai.OpenAI, model: LLMStub) -> None:
    model.script = [model.status(500)]

    with pytest.raises(openai.InternalServerError) as failed:
        answering.chat.completions.create(model="rag", messages=ASKED, stream=True)

    assert failed.value.status_code == 502
    assert failed.value.code == "llm_upstream_error"


def test_a_stream_that_breaks_ends_in_an_error(answering: openai.OpenAI, model: LLMStub) -> None:
    piece = json.dumps({"choices": [{"index": 0, "delta": {"content": "The [1] finance"}}]})

    def hang_up(handler: Any) -> None:
        handler.close_connection = True

    model.script = [model.events(piece, then=hang_up)]
    pieces = []

    with (
        pytest.raises(openai.APIError) as failed,
        answering.chat.completions.create(model="rag", messages=ASKED, stream=True) as stream,
    ):
        pieces.extend(chunk.choices[0].delta.content for chunk in stream)

    assert pieces == ["The [1] "]  # a word is sent when it is whole
    assert failed.value.code == "llm_stream_broken"

    body = {"messages": ASKED, "stream": True}
    raw = httpx.post(f"{answering.base_url}chat/completions", json=body, trust_env=False).text
    assert raw.rstrip().splitlines()[-1].startswith('data: {"error":')
    assert "[DONE]" not in raw


class Signature(BaseModel):
    """What a client wants to know."""

    who: str
    limits: list[int]


def test_an_answer_in_the_form_of_a_schema(answering: openai.OpenAI, model: LLMStub) -> None:
    """The model gets the schema; its JSON is whole, arrays of numbers too; its texts cite."""
    model.script = [model.text('{"who": "The finance director [1] [9]", ', '"limits": [1, 2000]}')]

    answer = answering.chat.completions.parse(
        model="rag", messages=ASKED, response_format=Signature
    )

    sent = model.bodies[-1]["response_format"]
    assert sent["json_schema"]["schema"]["required"] == ["who", "limits"]
    assert answer.choices[0].message.parsed == Signature(
        who="The finance director [1]", limits=[1, 2000]
    )
    extra = answer.model_extra or {}
    assert [citation["document_id"] for citation in extra["citations"]] == ["travel.md"]


def test_what_is_no_json_is_an_error_and_what_is_not_known_a_refusal(
    answering: openai.OpenAI, model: LLMStub
) -> None:
    model.script = [model.text("The finance director [1].")]
    with pytest.raises(openai.APIStatusError, match="did not answer in JSON") as failed:
        answering.chat.completions.parse(model="rag", messages=ASKED, response_format=Signature)
    assert failed.value.code == "llm_bad_response"

    unknown = answering.chat.completions.parse(
        model="rag",
        messages=NO_ANSWER,  # type: ignore[arg-type]
        response_format=Signature,
        extra_body={"filters": {"year": 1}},
    )
    message = unknown.choices[0].message
    assert message.parsed is None and message.content is None and message.refusal


def test_without_a_model_a_schema_is_refused(client: openai.OpenAI) -> None:
    """It is said which setting is missing."""
    with pytest.raises(openai.APIStatusError, match="RAG_LLM_BASE_URL") as failed:
        client.chat.completions.parse(model="rag", messages=ASKED, response_format=Signature)

    assert (failed.value.code, failed.value.param) == ("not_supported", "generate.response_format")


@pytest.mark.parametrize("name", SIDE_TASK_BODIES)
def test_a_side_task_is_the_models_alone(
    answering: openai.OpenAI, model: LLMStub, name: str
) -> None:
    """The model sees the client's own messages, and no passage; nothing is cited."""
    model.script = [model.text('{"title": ', '"Signing [1]"}')]
    body = {"model": "rag", **SIDE_TASK_BODIES[name]}

    answer = answering.with_options(timeout=60).post(
        "/chat/completions", body=body, cast_to=httpx.Response
    )

    assert model.bodies[-1]["messages"] == body["messages"]
    assert answer.headers[WARNING].endswith("a model answered it without the documents")
    if body["stream"]:
        chunks = [json.loads(line[6:]) for line in answer.text.splitlines() if "{" in line]
        said = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
        cited = chunks[-1]["citations"]
    else:
        said = answer.json()["choices"][0]["message"]["content"]
        cited = answer.json()["citations"]
    assert said.startswith('{"title": "Signing')
    assert cited == []


def test_a_side_task_needs_a_model_and_a_key_for_its_collection(guarded: str) -> None:
    """It is said what to set; a key gets no further than with questions."""
    messages: list[Any] = SIDE_TASK_BODIES["LibreChat, title"]["messages"]
    with openai.OpenAI(base_url=guarded, api_key="k-hr-0123456789abcdef0") as client:
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="rag", messages=messages)
        with pytest.raises(openai.APIStatusError, match="RAG_LLM_BASE_URL") as failed:
            client.with_options(max_retries=0).chat.completions.create(
                model="rag/hr", messages=messages
            )
    assert failed.value.code == "not_supported"


def test_without_the_setting_a_side_task_is_a_question(client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "system", "content": f"### Task:\n{QUESTION}"}]

    answer = client.chat.completions.create(model="rag", messages=messages)

    assert (answer.model_extra or {})["citations"]


# -- what cannot be asked -----------------------------------------------------------------

IMAGE = {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
BAD: list[tuple[dict[str, Any], str]] = [
    ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages.0.content.0.type"),
    ({"messages": [*ASKED, {"role": "tool", "content": "x"}]}, "messages.1.role"),
    ({"messages": [{"role": "assistant", "tool_calls": [CALL]}, *ASKED]}, "messages.0.role"),
    ({"messages": [{"role": "assistant", "content": "x"}]}, "messages.0.role"),
    ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
    ({"messages": [{"role": "user", "content": " "}]}, "messages.0.content"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
    ({"messages": []}, "messages"),
    ({"n": 2}, "n"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ({"logprobs": True}, "logprobs"),
    ({"response_format": {"type": "xml"}}, "response_format"),
    ({"response_format": {"type": "json_schema"}}, "response_format"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": 1}}}, "response_format"),
    ({"stop": 5}, "stop"),
    ({"stop": ["x"] * 17}, "stop"),
    ({"tool_choice": "required", "tools": [CALL]}, "tools"),
    ({"function_call": {"name": "f"}, "functions": [CALL]}, "functions"),
    ({"tool_choice": {"type": "function"}}, "tool_choice"),
    ({"temperature": 3}, "temperature"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_num_results": 0}, "max_num_results"),
    ({"generate": {"target": "nobody"}}, "generate.target"),
    ({"base_url": "http://evil.example"}, "base_url"),
    ({"model": "rag/hr", "collection": "default"}, "collection"),
]


@pytest.mark.parametrize(("change", "param"), BAD, ids=[str(change)[:60] for change, _ in BAD])
@pytest.mark.parametrize("stream", [False, True])
def test_refused(
    client: openai.OpenAI, change: dict[str, Any], param: str, *, stream: bool
) -> None:
    body = {"messages": ASKED, "model": "rag", "stream": stream, **change}

    with pytest.raises(openai.UnprocessableEntityError) as failed:
        client.post("/chat/completions", body=body, cast_to=object)

    assert failed.value.param == param
    assert param.rpartition(".")[0] in failed.value.message


@pytest.mark.parametrize(
    ("name", "code"),
    [("gpt-4o", "not_found"), ("rag/", "not_found"), ("rag/nowhere", "collection_not_found")],
)
def test_no_such_model(client: openai.OpenAI, name: str, code: str) -> None:
    with pytest.raises(openai.NotFoundError) as failed:
        client.chat.completions.create(model=name, messages=ASKED)

    assert failed.value.code == code


# -- models and keys ----------------------------------------------------------------------


def test_models(client: openai.OpenAI) -> None:
    assert [one.id for one in client.models.list()] == ["rag", "rag/default", "rag/hr"]
    assert client.models.retrieve("rag").object == "model"
    assert client.models.retrieve("rag/hr").id == "rag/hr"
    for unknown in ("gpt-4o", "rag/nowhere"):
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve(unknown)


def test_a_key_uses_its_collections(guarded: str) -> None:
    with openai.OpenAI(base_url=guarded, api_key="k-hr-0123456789abcdef0") as client:
        messages: list[Any] = [{"role": "user", "content": "How many days of leave?"}]
        answer = client.chat.completions.create(model="rag/hr", messages=messages)
        assert "25 days" in (answer.choices[0].message.content or "")
        assert [one.id for one in client.models.list()] == ["rag/hr"]
        for refused in ("rag", "rag/default"):
            with pytest.raises(openai.NotFoundError):
                client.models.retrieve(refused)
            with pytest.raises(openai.NotFoundError) as failed:
                client.chat.completions.create(model=refused, messages=ASKED)
            assert failed.value.code == "collection_not_found"


def test_without_a_valid_key(guarded: str) -> None:
    with (
        openai.OpenAI(base_url=guarded, api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as failed,
    ):
        client.chat.completions.create(model="rag", messages=ASKED)

    assert failed.value.code == "unauthenticated"
