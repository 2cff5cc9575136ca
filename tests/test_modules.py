"""The Dagger modules without an engine: what the SDK's own loader sees, and what they ask for.

The engine is a double (`engine_double.py`); tests/engine has the same questions for a real one.
"""

from __future__ import annotations

import ast
import asyncio
import importlib.metadata
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest

pytest.importorskip("dagger.mod", reason="dagger-io is not installed")

import dagger
import gql
import httpx
from dagger._exceptions import QueryErrorValue
from engine_double import ContainerDouble, EngineDouble, SecretDouble, directory

from rag_augment.module import Augment
from rag_generate.module import Generate
from rag_kit import container as image
from rag_kit.errors import StepError
from rag_pipeline import module
from rag_pipeline.module import Rag
from rag_pipeline.steps import dagger as services
from rag_pipeline.steps.local import open_local
from rag_rerank.module import Rerank
from rag_retrieve import module as retrieve_module
from rag_retrieve.module import Retrieve

ROOT = Path(__file__).resolve().parent.parent
CORPUS = ROOT / "contract/examples/corpus"
MODULES: dict[str, type] = {
    "retrieve": Retrieve,
    "rerank": Rerank,
    "augment": Augment,
    "generate": Generate,
    "rag": Rag,
}
COMMON = {"run", "container", "serve", "publish", "check"}
FUNCTIONS = {
    "retrieve": COMMON
    | {"index", "ingest", "superlinked", "superlinked_container", "publish_superlinked"},
    "rerank": COMMON,
    "augment": COMMON,
    "generate": COMMON,
    "rag": COMMON
    | {"search", "index", "ingest", "eval", "replay", "conformance"}
    | {"service_container", "publish_service"},
}
# Whatever reads a store, a model or a registry is never answered from the engine's cache.
NEVER = {"publish", "publish_service", "publish_superlinked", "check", "ingest", "search"}
NEVER |= {"eval", "replay", "conformance"}
CACHE = {
    "retrieve": {"run": "never"},
    "rerank": {"run": "never"},
    "augment": {"run": "168h"},  # pure: the same passages give the same prompt
    "generate": {"run": "never"},
    "rag": {"run": "never"},
}


def functions(name: str) -> dict[str, Any]:
    """Return the functions the SDK registers for a module's main object."""
    main = MODULES[name]
    registered = main.__dagger_module__.get_object(main.__name__).functions  # type: ignore[attr-defined]
    return {each: function for each, function in registered.items() if each}  # "": constructor


@pytest.mark.parametrize("name", MODULES)
def test_the_sdk_finds_the_main_object_by_its_entry_point(name: str) -> None:
    """Each distribution names its object for the SDK; module and package names are our own."""
    points = importlib.metadata.entry_points(group="dagger.mod", name="main_object")
    loaded = {point.dist.name: point for point in points if point.dist}
    distribution = {"rag": "rag-pipeline"}.get(name, f"rag-{name}")

    assert loaded[distribution].load() is MODULES[name]


@pytest.mark.parametrize("name", MODULES)
def test_a_module_has_the_functions_the_guide_names(name: str) -> None:
    """Nothing is missing, and nothing private is offered."""
    assert set(functions(name)) == FUNCTIONS[name]


@pytest.mark.parametrize("name", MODULES)
def test_everything_offered_is_explained(name: str) -> None:
    """Objects, functions and every argument have help; it is what `--help` and the Daggerverse show."""
    main = MODULES[name]
    registered = main.__dagger_module__._objects  # type: ignore[attr-defined]

    assert main.__doc__
    for function in functions(name).values():
        assert function.doc, function
        for parameter in function.parameters.values():
            assert parameter.doc, (function, parameter.name)
            assert "`" not in parameter.doc  # the command line takes `word` for the option's type
    for parameter in registered[main.__name__].get_constructor().parameters.values():
        assert parameter.doc, (name, parameter.name)
        assert "`" not in parameter.doc


@pytest.mark.parametrize("name", MODULES)
def test_threat_stale_cached_answer_every_function_states_its_cache_policy(name: str) -> None:
    """The engine's own default is seven days: no function leaves it unsaid."""
    policies = {each: function.cache_policy for each, function in functions(name).items()}
    expected = {
        each: "never"
        if each in NEVER
        else "session"
        if each in ("serve", "superlinked")
        else "168h"
        for each in policies
    }

    assert policies == {**expected, **CACHE[name]}


def test_only_checks_are_checks() -> None:
    """`dagger check` runs the tests of each step and nothing else."""
    for name in MODULES:
        assert [each for each, function in functions(name).items() if function.check] == ["check"]


def test_keys_are_secrets_and_nothing_else_is_needed() -> None:
    """Every constructor argument is optional; every key is a Secret, so it never is an argument's text."""
    for name, main in MODULES.items():
        registered = main.__dagger_module__._objects  # type: ignore[attr-defined]
        for each in registered[main.__name__].get_constructor().parameters.values():
            assert each.is_optional, (name, each.name)
            if "key" in each.name.lower() or "password" in each.name.lower():
                assert dagger.Secret in get_args(each.resolved_type), (name, each.name)


def test_the_command_line_finds_no_reserved_argument() -> None:
    """Names that `dagger call` keeps for itself are not used."""
    reserved = {"id", "json", "output", "help", "debug", "mod", "interactive", "progress", "quiet"}
    for name in MODULES:
        for function in functions(name).values():
            assert not reserved & set(function.parameters), function


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[EngineDouble]:
    """The double, in the place of the engine's client; functions run in a folder of their own."""
    double = EngineDouble()
    for user in (image, retrieve_module, module):
        monkeypatch.setattr(user, "dag", double)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.chdir(scratch)
    yield double
    double.processes.stop()


def rag(**configured: Any) -> Rag:
    """Return the composite over the example corpus."""
    return Rag(docs=directory(CORPUS), docs_name="corpus", collection="handbook", **configured)


def example(step: str, name: str) -> tuple[str, dict[str, Any]]:
    """Return an example's request as text, and its response."""
    folder = ROOT / "contract/examples" / step
    request = (folder / f"ok-{name}.request.json").read_text()
    return request, json.loads((folder / f"ok-{name}.response.json").read_text())


def test_augment_and_generate_answer_as_the_contract_says(engine: EngineDouble) -> None:
    """`run` gives the step's response: text in, one process in the step's container, text out."""
    for step, run, name in (
        ("augment", Augment().run, "numbered"),
        ("generate", Generate().run, "cited"),
    ):
        request, expected = example(step, name)

        assert json.loads(asyncio.run(run(input_json=request))) == expected
    assert engine.processes.run == ["rag_augment", "rag_generate"]


def test_a_request_can_be_a_file(engine: EngineDouble) -> None:
    """`--input file` is the same as `--input-json`."""
    request, expected = example("augment", "numbered")
    file = directory(ROOT).with_new_file("request.json", request).file("request.json")

    assert json.loads(asyncio.run(Augment().run(input=file))) == expected


@pytest.mark.parametrize("both", [True, False])
def test_a_request_given_twice_or_not_at_all_is_refused(engine: EngineDouble, both: bool) -> None:
    """One of --input-json and --input; the error says so and no process is started."""
    file = directory(ROOT).file("README.md") if both else None

    answer = json.loads(asyncio.run(Augment().run("{}" if both else "", file)))

    assert answer["error"]["code"] == "invalid_request"
    assert "--input-json" in answer["error"]["message"]
    assert engine.processes.run == []


def test_a_bad_request_is_an_envelope_not_an_exception(engine: EngineDouble) -> None:
    """The step's own error comes back with its code, its step and the field."""
    answer = json.loads(asyncio.run(Augment().run('{"query": "x", "results": "none"}')))

    error = answer["error"]
    assert (error["code"], error["step"], error["param"]) == (
        "invalid_request",
        "augment",
        "results",
    )


def test_the_composite_gives_the_answer_of_the_contract(
    engine: EngineDouble, tmp_path: Path
) -> None:
    """`rag run` composes three resident steps, and answers as in one process."""
    request, _ = example("rag", "question")
    with open_local(home=tmp_path) as local:
        local.retriever.ingest([CORPUS], collection="handbook")
        expected = local.answer(json.loads(request))

    answer = json.loads(asyncio.run(rag().run(input_json=request)))

    for each in (expected, answer):
        assert each.pop("timings_ms")
        each.pop("id")
    assert answer == expected
    assert sorted(engine.processes.run) == [
        *("rag_augment", "rag_generate"),
        *("rag_retrieve", "rag_retrieve"),  # index, then serve
    ]


def test_options_of_the_command_line_stand_over_the_json(engine: EngineDouble) -> None:
    """--query, --top-k and --filters win over --input-json; the collection is the constructor's."""
    given = rag().search(
        query="Who may sign?",
        top_k=1,
        filters='{"none": {"$eq": 1}}',
        input_json='{"query": "x", "top_k": 9}',
    )

    found = json.loads(asyncio.run(given))

    assert (found["query"], found["collection"]) == ("Who may sign?", "handbook")
    assert found["provenance"]["rag"]["request"]["top_k"] == 1
    assert found["results"] == []


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        ({"query": "x", "filters": "{no json"}, "filters"),
        ({"query": "x", "top_k": 101}, "top_k"),
        ({}, "query"),
        ({"input_json": '{"qdrant_host": "10.0.0.1"}', "query": "x"}, "qdrant_host"),
        ({"input_json": "[]"}, None),
        ({"input_json": "Who may sign?"}, None),
        ({"input_json": '{"rerank": {"top_n": 3}}', "query": "x"}, "rerank"),
    ],
)
def test_the_composite_refuses_what_the_contract_refuses(
    engine: EngineDouble, arguments: dict[str, Any], param: str | None
) -> None:
    """A bad request is an envelope that names the field, before any container is started."""
    error = json.loads(asyncio.run(rag().run(**arguments)))["error"]

    assert (error["code"], error["param"]) == ("invalid_request", param)
    assert engine.processes.run == engine.processes.serving == []


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("no answer", "not valid JSON"),
        ("{}", "query: required, but missing"),
        (
            json.dumps(
                {
                    "query": "x",
                    "collection": "handbook",
                    "provenance": {
                        "rag": {"request": {"rerank": {"top_n": 3}}, "results_digest": ""}
                    },
                }
            ),
            "rerank: this pipeline has no such step",
        ),
    ],
    ids=["no JSON", "no answer", "no reranker"],
)
def test_what_cannot_be_replayed_starts_no_service(
    engine: EngineDouble, answer: str, said: str
) -> None:
    """It is read, and compared with the steps there are, before they are started."""
    file = directory(ROOT).with_new_file("answer.json", answer).file("answer.json")

    error = json.loads(asyncio.run(rag().replay(file)))["error"]

    assert error["code"] == "invalid_request"
    assert said in error["message"]
    assert engine.processes.serving == []


def test_an_error_fails_the_call_where_that_is_asked_for(engine: EngineDouble) -> None:
    """With `strict` the envelope's code, step and message are an exception; a response comes as it is."""
    file = directory(ROOT).with_new_file("answer.json", "{}").file("answer.json")
    refused = {
        "invalid_request in rag: query: the query is empty": rag().run(query=" ", strict=True),
        "invalid_request in rag: quer: .*'query'": rag().search(
            input_json='{"quer": "x"}', strict=True
        ),
        "invalid_request in augment: give the request": Augment().run(strict=True),
        "invalid_request in generate: query: required": Generate().run("{}", strict=True),
        "invalid_request in retrieve: give the request": Retrieve().run("{}", file, strict=True),
        "retriever_misconfigured in retrieve": Retrieve().ingest(directory(CORPUS), strict=True),
    }
    for said, call in refused.items():
        with pytest.raises(ValueError, match=said):
            asyncio.run(call)
    request, expected = example("augment", "numbered")

    assert json.loads(asyncio.run(Augment().run(request, strict=True))) == expected


def test_every_function_that_may_return_an_error_can_be_strict() -> None:
    """Those whose help names an error envelope have the argument, with the same help."""
    for name in MODULES:
        for function in functions(name).values():
            told = "error envelope" in (function.doc or "") or function.name in ("eval", "replay")
            assert ("strict" in function.parameters) == told, (name, function.name)


def test_what_reads_a_model_or_a_server_is_run_anew_each_time(engine: EngineDouble) -> None:
    """Without a buster the engine would answer an equal question from its cache."""
    store = directory(CORPUS)
    asked = [
        Generate(),
        Retrieve(store=store),
        Generate(llm_base_url="http://127.0.0.1:9/v1", llm_model="m"),
        Retrieve(qdrant_url="http://127.0.0.1:9"),
    ]

    for step in [*asked, asked[-1]]:
        asyncio.run(step.run("{}"))

    busters = [given.get("RAG_RUN") for given in engine.processes.variables]
    assert busters[:2] == [None, None]
    assert len({*busters[2:]} - {None}) == 3


def test_a_reranker_is_a_container_only_where_one_is_named(engine: EngineDouble) -> None:
    """Without one no fourth container starts; its key is a secret of its own step."""
    key: Any = object()
    plain = rag()._searching(None, None)
    asking = rag(rerank="http://tei:80", rerank_kind="tei", rerank_model="m", rerank_api_key=key)
    container = asking._rerank()
    given = {name: value for name, value in container.variables.items() if "RERANK" in name}

    assert list(plain) == ["retrieve"]
    assert list(asking._searching(None, None)) == ["retrieve", "rerank"]
    assert list(rag()._steps(None, "theirs", None, None)) == [
        *("retrieve", "rerank", "augment", "generate"),
    ]
    assert given == {
        "RAG_RERANKER_URL": "http://tei:80",
        "RAG_RERANKER": "tei",
        "RAG_RERANKER_MODEL": "m",
    }
    assert container.secrets == {"RAG_RERANKER_API_KEY": key}


def test_a_resident_step_is_the_same_in_the_whole_session(engine: EngineDouble) -> None:
    """Nothing volatile is in a service, or each question would start another one."""
    asking = rag(llm_base_url="http://llm:8000/v1", llm_model="m", qdrant_url="http://q:6333")

    assert asking._retrieve().variables == asking._retrieve().variables
    assert asking._generate().variables == asking._generate().variables


def test_the_pace_of_the_model_and_the_rewriting_are_given_to_who_needs_them(
    engine: EngineDouble,
) -> None:
    """The pace sets deadlines of `generate` and of the pipeline, which alone completes follow-ups."""
    asking = rag(llm_base_url="u", llm_pace="local", rewriting="off")

    pipeline = asking._pipeline().variables
    generate = asking._generate().variables

    assert {"RAG_LLM_PACE": "local", "RAG_REWRITING": "off"}.items() <= pipeline.items()
    assert generate["RAG_LLM_PACE"] == "local" and "RAG_REWRITING" not in generate
    assert not {"RAG_LLM_PACE", "RAG_REWRITING"} & rag()._pipeline().variables.keys()


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"rewriting": "magic"}, "RAG_REWRITING"), ({"llm_pace": "fast"}, "RAG_LLM_PACE")],
)
def test_a_way_of_rewriting_or_a_pace_that_is_none_is_an_error(
    engine: EngineDouble, settings: dict[str, str], named: str
) -> None:
    """The error names the setting and the value."""
    given = rag(**settings)
    (value,) = settings.values()

    answered = json.loads(asyncio.run(given.search(query="q")))

    assert answered["error"]["code"] == "misconfigured"
    assert named in answered["error"]["message"] and value in answered["error"]["message"]


def test_keys_are_given_as_secret_variables_only(engine: EngineDouble) -> None:
    """A key never becomes a plain variable, an argument or part of an image."""
    key: Any = object()
    asking = rag(
        llm_base_url="http://llm:8000/v1", llm_api_key=key, qdrant_url="u", qdrant_api_key=key
    )

    retrieve, generate = asking._retrieve(), asking._generate()

    assert retrieve.secrets == {"RAG_QDRANT_API_KEY": key}
    assert generate.secrets == {"RAG_LLM_API_KEY": key}
    assert key not in [*retrieve.variables.values(), *generate.variables.values()]


@pytest.mark.parametrize("name", MODULES)
def test_the_image_is_not_root_and_says_what_it_is(engine: EngineDouble, name: str) -> None:
    """Every image has a numeric user, the step's command as entrypoint, and its version."""
    main = rag() if name == "rag" else MODULES[name]()
    container = main.container()

    distribution = {"rag": "rag-pipeline"}.get(name, f"rag-{name}")
    assert container.user == "10001:10001"
    assert container.entrypoint == ("python", "-m", distribution.replace("-", "_"))
    assert container.labels["org.opencontainers.image.version"] == importlib.metadata.version(
        distribution
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"address": "r.example.com/x:v1"}, "give the tag as --tag"),
        ({"address": "r.example.com/x@sha256:0"}, "give the tag as --tag"),
        ({"address": "r.example.com/x", "username": "me"}, "give both"),
    ],
)
def test_publish_says_what_does_not_fit(
    engine: EngineDouble, arguments: dict[str, Any], said: str
) -> None:
    """An address with a tag, or a user without a password, is refused before anything is pushed."""
    with pytest.raises(ValueError, match=said):
        asyncio.run(Augment().publish(**arguments))


def test_publish_takes_a_port_for_no_tag(engine: EngineDouble) -> None:
    """`localhost:5000/x` has a port, not a tag; the reference returned is by digest."""
    pushed = asyncio.run(Augment().publish("localhost:5000/x", tag="v1"))

    assert pushed.startswith("localhost:5000/x:v1@sha256:")


@pytest.mark.parametrize("text", ["a-token", "a-token\n", "a-token\r\n"])
def test_a_token_is_given_without_the_line_end_of_its_file(engine: EngineDouble, text: str) -> None:
    """`cmd:` and `file:` keep it, and a registry refuses a token with one."""

    @dataclass(frozen=True)
    class Registry(ContainerDouble):
        async def publish(self, address: str, **_: Any) -> str:
            assert self.auth is not None
            return f"{address} by {self.auth[1]} with {await self.auth[2].plaintext()!r}"

    container = Registry(engine.processes)
    pushed = asyncio.run(image.push(container, "r.example.com/x", "v1", "me", SecretDouble(text)))

    assert pushed == "r.example.com/x:v1 by me with 'a-token'"


def test_a_push_that_failed_says_what_to_check(engine: EngineDouble) -> None:
    """What the registry said comes with the address and the way out; the token does not."""
    said = "unexpected status: 401 Unauthorized"

    @dataclass(frozen=True)
    class Registry(ContainerDouble):
        async def publish(self, address: str, **_: Any) -> str:
            raise dagger.QueryError([QueryErrorValue(said)], gql.gql("{ x }"))

    push = image.push(
        Registry(engine.processes), "r.example.com/x", "v1", "me", SecretDouble("a-token")
    )
    with pytest.raises(ValueError, match="check --username and --password") as caught:
        asyncio.run(push)

    assert str(caught.value).startswith(f"r.example.com/x:v1 was not pushed: {said}; ")
    assert "a-token" not in str(caught.value)


def test_a_folder_without_documents_is_still_a_store(engine: EngineDouble, tmp_path: Path) -> None:
    """`index` of an empty folder gives a collection in which nothing is found."""
    answer = json.loads(asyncio.run(Rag(docs=directory(tmp_path)).run("Who may sign?")))

    assert (answer["answerable"], answer["citations"]) == (False, [])


def test_index_reports_beside_the_collection(engine: EngineDouble, tmp_path: Path) -> None:
    """The store can be opened by the embedded default, and tells what it was made of."""
    made = asyncio.run(Retrieve().index(directory(CORPUS), collection="handbook", name="handbook"))
    home = asyncio.run(made.path())  # type: ignore[attr-defined]
    report = json.loads((home / "ingest-report.json").read_text())

    assert "handbook/travel.md" in report["added"]
    from rag_retrieve import Retriever, RetrieveSettings

    with Retriever.open(RetrieveSettings(home=home)) as retriever:
        assert [each.name for each in retriever.collections()] == ["handbook"]


def test_index_says_why_it_cannot(engine: EngineDouble) -> None:
    """A collection name that cannot be is an error that holds the name, not an empty folder."""
    with pytest.raises(ValueError, match="a/b"):
        asyncio.run(Retrieve().index(directory(CORPUS), collection="a/b"))


@pytest.mark.parametrize("name", ["", ".", "..", "../docs", "my/docs", "docs/", "/docs", "a\nb"])
def test_a_folder_has_a_name_and_no_path(engine: EngineDouble, name: str) -> None:
    """Document ids begin with it, so it is one part of a path; nothing is run for another."""
    retrieve = Retrieve(qdrant_url="http://qdrant:6333")
    with pytest.raises(ValueError, match=r"invalid_request: name: .* give one without a path"):
        asyncio.run(retrieve.index(directory(CORPUS), name=name))
    error = json.loads(asyncio.run(retrieve.ingest(directory(CORPUS), name=name)))["error"]

    assert error["code"] == "invalid_request"
    assert repr(name) in error["message"]
    assert engine.processes.run == []


def test_ingest_without_a_server_is_refused(engine: EngineDouble) -> None:
    """What would be written would be gone with the container: the error names the way out."""
    answer = json.loads(asyncio.run(Retrieve().ingest(directory(CORPUS))))

    assert answer["error"]["code"] == "retriever_misconfigured"
    assert "--qdrant-url" in answer["error"]["message"]


class Foreign:
    """A step of another module: one function, from JSON to JSON."""

    def __init__(self, response: str) -> None:
        self.response = response
        self.asked: list[str] = []

    async def run(self, input_json: str) -> str:
        self.asked.append(input_json)
        return self.response


def test_a_foreign_retriever_takes_the_place_of_ours(engine: EngineDouble) -> None:
    """Its passages are packed, answered and cited; our retriever is not even built."""
    text = "Only the board may sign contracts."
    passage = {"chunk_id": "c1", "document_id": "bylaws", "text": text, "span": [0, len(text)]}
    foreign = Foreign(
        json.dumps(
            {
                "query": "Who may sign contracts?",
                "results": [
                    {**passage, "title": "", "source": "", "score": 1.0, "scores": {"dense": 0.9}}
                ],
            }
        )
    )

    answer = json.loads(
        asyncio.run(rag().run("Who may sign contracts?", retrieve_with=foreign))  # type: ignore[arg-type]
    )

    assert answer["citations"][0]["document_id"] == "bylaws"
    assert json.loads(foreign.asked[0])["query"] == "Who may sign contracts?"
    assert sorted(engine.processes.run) == ["rag_augment", "rag_generate"]


@pytest.mark.parametrize(
    ("response", "code", "param"),
    [
        ('{"results": [{"chunk_id": "c1"}]}', "module_bad_output", "results.0.document_id"),
        ("no json", "module_bad_output", None),
        ('{"query": "x"}', "module_bad_output", "results"),
    ],
)
def test_a_foreign_step_off_contract_is_named_with_the_field(
    engine: EngineDouble, response: str, code: str, param: str | None
) -> None:
    """The fault is put down to the step that made it, not to the one that stumbles over it."""
    answer = json.loads(
        asyncio.run(rag().run("x", retrieve_with=Foreign(response)))  # type: ignore[arg-type]
    )

    error = answer["error"]
    assert (error["code"], error["step"], error["param"]) == (code, "retrieve", param)


READY = (200, '{"status": "ready"}')
LOADING = (503, '{"error": {"code": "not_ready", "message": "it is loading"}}')
BROKEN = (503, '{"error": {"code": "misconfigured", "message": "RAG_TEMPLATE: no such file"}}')


class Starting(dagger.Service):
    """A double of a service: the engine's answer to `start`, and its server's to `/readyz`, in turn."""

    def __init__(self, begun: asyncio.Future[str], *replies: tuple[int, str]) -> None:
        self.begun, self.replies = begun, list(replies)

    async def start(self) -> str:  # type: ignore[override]
        return await self.begun

    async def endpoint(self, **_: Any) -> str:
        return "http://service:8080"

    def answer(self, _: httpx.Request) -> httpx.Response:
        if not self.replies:
            raise httpx.ConnectError("no such host")
        status, text = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        return httpx.Response(status, text=text)


def opened(
    monkeypatch: pytest.MonkeyPatch, begun: Any, *replies: tuple[int, str]
) -> tuple[str, bool]:
    """Open one step; return what comes of it, and whether nobody waits for its start any more."""

    async def main() -> tuple[str, bool]:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        begun(future)
        service = Starting(future, *replies)
        client = httpx.AsyncClient(transport=httpx.MockTransport(service.answer))
        monkeypatch.setattr(services, "new_client", lambda _: client)
        try:
            async with services.open_steps({"augment": service}) as steps:
                return f"open: {', '.join(steps)}", future.cancelled()
        except StepError as error:
            return f"{error.code}: {error.message}", future.cancelled()

    return asyncio.run(main())


def test_a_service_that_answers_is_used_before_the_engine_has_seen_its_port(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The engine looks at a port with growing pauses; nobody waits for it."""
    assert opened(monkeypatch, lambda _: None, LOADING, READY) == ("open: augment", True)


def test_a_service_is_waited_for_until_it_has_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that is open is not enough."""
    came = opened(monkeypatch, lambda begun: begun.set_result("started"), LOADING, LOADING, READY)

    assert came == ("open: augment", False)


def test_a_service_that_cannot_start_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what the engine says of it, or what its server says."""
    value = QueryErrorValue(message="exit code: 137 [traceparent:00-1]", path=["start"])
    failed = dagger.QueryError([value], gql.gql("{ start }"))

    assert opened(monkeypatch, lambda begun: begun.set_exception(failed))[0] == (
        "module_error: the step augment cannot be started: exit code: 137"
    )
    assert opened(monkeypatch, lambda _: None, BROKEN)[0] == (
        "not_ready: the step augment cannot start: RAG_TEMPLATE: no such file"
    )


def test_a_request_that_is_no_object_is_handed_on_as_it_is() -> None:
    """The handler says what is wrong with it; nothing is guessed."""
    assert services.request_of("[1]", defaults={"a": 1}, overrides={"b": 2}) == "[1]"
    assert services.request_of("{", defaults={}, overrides={}) == "{"


MANIFESTS = [
    path
    for path in (*ROOT.glob("dagger.json"), *ROOT.glob("*/**/dagger.json"))
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
]
SOURCES = [
    path
    for folder in ("dagger/*/src", "dagger/*/examples/*/src", "examples/*/src")
    for path in ROOT.glob(f"{folder}/**/*.py")
]


@pytest.mark.parametrize(
    "manifest", MANIFESTS, ids=lambda path: path.relative_to(ROOT).parent.as_posix()
)
def test_threat_poisoned_module_every_reference_is_pinned(manifest: Path) -> None:
    """What a module depends on is a folder of this repository, or a version with its commit."""
    read = json.loads(manifest.read_text(encoding="utf-8"))
    assert re.fullmatch(r"v\d+\.\d+\.\d+", read["engineVersion"])
    sdk = read.get("sdk", {}).get("source", "python")
    own = (manifest.parent / sdk / "dagger.json").resolve()
    of_the_engine = sdk in ("python", "dang")
    assert of_the_engine or own.is_relative_to(ROOT) or re.search(r"@[0-9a-f]{40}$", sdk)
    assert of_the_engine or "@" in sdk or own.is_file()
    for each in [*read.get("dependencies", ()), *read.get("toolchains", ())]:
        folder = (manifest.parent / each["source"]).resolve()
        ours = folder.is_relative_to(ROOT) and (folder / "dagger.json").is_file()
        pinned = "@" in each["source"] and re.fullmatch(r"[0-9a-f]{40}", each.get("pin", ""))
        assert ours or pinned, f"{manifest.relative_to(ROOT)}: {each}"


def test_threat_poisoned_module_every_image_is_named_by_its_digest() -> None:
    """No image by a tag alone, nothing fetched by a module from elsewhere, the installer by hash."""
    images, fetches = [], []
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        texts = {
            target.id: statement.value.value
            for statement in tree.body
            if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant)
            for target in statement.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if node.func.attr == "from_":
                [address] = node.args
                named = texts.get(address.id) if isinstance(address, ast.Name) else None
                images.append(named or ast.unparse(address))
            if ast.unparse(node.func) in (
                "dag.git",
                "dag.http",
                "dag.module_source",
                "dag.address",
            ):
                fetches.append(f"{path.relative_to(ROOT)}: {ast.unparse(node)}")
    assert len(images) >= 2 and fetches == []
    assert [each for each in images if not re.search(r"@sha256:[0-9a-f]{64}$", each)] == []
    installed = [line for line in image.UV.splitlines() if line.strip()]
    assert installed[0].startswith("uv==") and len(installed) > 1
    assert all("--hash=sha256:" in line for line in installed[1:])


def test_threat_exposed_engine_no_module_asks_for_root() -> None:
    """Ours need neither root of the engine's host nor nesting: `insecureRootCapabilities` can be off."""
    asked = [
        f"{path.relative_to(ROOT)}: {word}"
        for path in SOURCES
        for word in (
            *("insecure_root_capabilities", "experimental_privileged_nesting"),
            *("insecureRootCapabilities", "experimentalPrivilegedNesting"),
        )
        if word in path.read_text(encoding="utf-8")
    ]
    assert len(SOURCES) > 50 and asked == []
