"""The runner `containers`: every request runs a container per step, which pass on files.

One query runs them all. The files are in a folder that stays mounted while the root file system
is exchanged for the next step's image; to ask for a container's id would cost a round trip per step.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pydantic import SecretStr, ValidationError

from rag_kit.errors import StepError
from rag_kit.request import explain, parse
from rag_pipeline.models import RagRequest
from rag_pipeline.rewriting import Rewriting
from rag_pipeline.stages import NEEDED, PIPELINE, STEPS, search_stages
from rag_pipeline.step import answer, running, search

from ..runners.base import Notify
from .base import EngineRunner, probed
from .errors import KILLED, out_of_memory
from .options import EngineOptions
from .queries import configured, dependencies, load_module, secret
from .session import Session

INDEX = "query ($rag: ID!) { node(id: $rag) { ... on Rag { index { id } } } }"
OVER_INDEX = """query ($container: ID!, $index: ID!) {
  node(id: $container) { ... on Container {
    with: withMountedDirectory(path: "/data", source: $index, owner: "10001:10001") { id }
  } }
}"""
WITH_VARIABLE = """query ($container: ID!, $name: String!, $value: String!) {
  node(id: $container) { ... on Container {
    with: withEnvVariable(name: $name, value: $value) { id }
  } }
}"""
WITH_HIDDEN = """query ($container: ID!, $name: String!, $value: ID!) {
  node(id: $container) { ... on Container {
    with: withSecretVariable(name: $name, secret: $value) { id }
  } }
}"""
WITH_SERVICE = """query ($container: ID!, $name: String!, $value: ID!) {
  node(id: $container) { ... on Container {
    with: withServiceBinding(alias: $name, service: $value) { id }
  } }
}"""
# RAG_RUN is new for each request, so the engine's cache never answers a step.
ENTER = """) { node(id: $retrieve) { ... on Container {
  withEnvVariable(name: "RAG_RUN", value: $run) {
  withMountedDirectory(path: "/carry", source: $folder, owner: "10001:10001") {
  withNewFile(path: "/carry/request.json", contents: $request, owner: "10001:10001") {"""
LEAVE = {  # what is a step's alone
    "retrieve": """  withoutMount(path: "/data") {
  withoutSecretVariable(name: "RAG_QDRANT_API_KEY") {""",
    "rerank": '  withoutSecretVariable(name: "RAG_RERANKER_API_KEY") {',
}
VARIABLES = {
    "rerank": "  $rerankUrl: String!, $rerankKind: String!, $rerankModel: String!, $rerankApiKey: ID!",
    "generate": "  $llmBaseUrl: String!, $llmModel: String!, $llmPace: String!,\n  $llmApiKey: ID!",
}
SETTINGS = {
    "rerank": """  withEnvVariable(name: "RAG_RERANKER_URL", value: $rerankUrl) {
  withEnvVariable(name: "RAG_RERANKER", value: $rerankKind) {
  withEnvVariable(name: "RAG_RERANKER_MODEL", value: $rerankModel) {
  withSecretVariable(name: "RAG_RERANKER_API_KEY", secret: $rerankApiKey) {""",
    "generate": """  withEnvVariable(name: "RAG_LLM_BASE_URL", value: $llmBaseUrl) {
  withEnvVariable(name: "RAG_LLM_MODEL", value: $llmModel) {
  withEnvVariable(name: "RAG_LLM_PACE", value: $llmPace) {
  withSecretVariable(name: "RAG_LLM_API_KEY", secret: $llmApiKey) {""",
}


def chain(*steps: str) -> str:
    """Return the query that runs steps in one container, each on the output file of the one before.

    A step that fails leaves its error envelope as its output; one that is killed, an empty file.
    """
    lines = ["query (", "  $folder: ID!, $run: String!, $request: String!"]
    lines += [f"  ${step}: ID!" for step in steps]
    lines += [VARIABLES[step] for step in steps if step in VARIABLES]
    lines.append(ENTER)
    source = "request"
    for index, step in enumerate(steps):
        lines += [LEAVE[source]] if source in LEAVE else []
        lines += [f"  withRootfs(directory: ${step}) {{"] if index else []
        lines += [SETTINGS[step]] if step in SETTINGS else []
        lines.append(_execution(step, source))
        source = step
    lines += [f'  {step}: file(path: "/carry/{step}.json") {{ contents }}' for step in steps]
    text = "\n".join(lines)
    return f"{text}\n{'}' * (text.count('{') - text.count('}'))}"


def _execution(step: str, source: str) -> str:
    return f"""  withExec(
    args: ["python", "-m", "rag_{step}", "--input", "/carry/{source}.json"]
    redirectStdout: "/carry/{step}.json", expect: ANY
  ) {{
    {step}Exit: exitCode"""


def images(first: str, *others: str) -> str:
    """Return the query for the first step's container, the root file systems of the others, and a folder."""
    lines = [f"  {step} {{ container {{ rootfs {{ id }} }} }}" for step in others]
    return "\n".join(
        ["{", f"  {first} {{ container {{ id }} }}", *lines, "  directory { id }", "}"]
    )


SEARCHING = tuple(stage.name for stage in search_stages(PIPELINE))
IMAGES = images(*NEEDED)
IMAGES_RERANKED = images(*STEPS)
RUN = chain(*NEEDED)
RUN_RERANKED = chain(*STEPS)
SEARCH = chain(STEPS[0])
SEARCH_RERANKED = chain(*SEARCHING)


@dataclass(frozen=True)
class Images:
    """The steps in a session, and their images among the variables of the queries."""

    steps: tuple[str, ...]
    variables: dict[str, Any]

    async def ping(self) -> None:
        """Do nothing: the images live as long as their session."""

    async def close(self) -> None:
        """Do nothing: this process holds nothing."""


class ContainersRunner(EngineRunner[Images]):
    """Every request runs each step in a container; each loads its own parts, which takes seconds."""

    name = "containers"
    runs_containers = True

    async def answer(self, text: str) -> str:
        """Answer a request."""
        request = _validated(text)
        async with self._supervisor.lease() as live:
            run = _Run(live.session, live.started, self._options)
            return await run.answer(request)

    async def search(self, text: str) -> str:
        """Find passages for a request."""
        request = _validated(text)
        async with self._supervisor.lease() as live:
            run = _Run(live.session, live.started, self._options)
            return await run.search(request)

    async def _start(self, session: Session, notify: Notify) -> Images:
        options, limit = self._options, self._options.load_s
        await load_module(session, options, notify, steps=True)
        arguments = await dependencies(session, options)
        notify("dagger: building the steps' images, indexing the documents …")
        query, steps = (IMAGES_RERANKED, STEPS) if options.reranker_url else (IMAGES, NEEDED)
        built = await session.ask(query, {}, deadline_s=limit)
        retrieve = built["retrieve"]["container"]["id"]

        async def extend(query: str, **values: str) -> None:
            nonlocal retrieve
            data = await session.ask(query, {"container": retrieve, **values}, deadline_s=limit)
            retrieve = data["node"]["with"]["id"]

        if arguments["qdrantUrl"]:
            await extend(WITH_VARIABLE, name="RAG_STORE", value="qdrant")
            await extend(WITH_VARIABLE, name="RAG_QDRANT_URL", value=arguments["qdrantUrl"])
        else:
            rag = await configured(session, options, arguments)
            data = await session.ask(INDEX, {"rag": rag}, deadline_s=limit)
            await extend(OVER_INDEX, index=data["node"]["index"]["id"])
        if arguments["qdrantApiKey"]:
            await extend(WITH_HIDDEN, name="RAG_QDRANT_API_KEY", value=arguments["qdrantApiKey"])
        for name in ("qdrant", "llm", "reranker"):
            if arguments[name]:
                await extend(WITH_SERVICE, name=name, value=arguments[name])
        no_key = await secret(session, options, "no-api-key", SecretStr(""))
        given = {name: arguments[name] for name in ("llmBaseUrl", "llmModel", "llmPace")}
        given |= {name: arguments[name] for name in ("rerankKind", "rerankModel")}
        given |= {name: arguments[name] or no_key for name in ("llmApiKey", "rerankApiKey")}
        images_of = {step: built[step]["container"]["rootfs"]["id"] for step in steps[1:]}
        started = Images(
            steps,
            {**given, **images_of, "rerankUrl": arguments["rerank"]}
            | {"retrieve": retrieve, "folder": built["directory"]["id"]},
        )
        run = _Run(session, started, replace(options, deadline_s=limit))
        await probed(run.answer(_validated(options.probe_request)), notify)
        return started


def _validated(text: str) -> RagRequest:
    """Return the request; raises `invalid_request` before a container is started."""
    try:
        return RagRequest.model_validate(parse(text), strict=True)
    except ValidationError as error:
        raise explain(error) from None


class _Run:
    """One run of the chain: the query is sent when `retrieve` is called, and has all outputs."""

    def __init__(self, session: Session, images: Images, options: EngineOptions) -> None:
        self._session, self._images, self._deadline_s = session, images, options.deadline_s
        # `generate` runs only after `retrieve`: no model can complete a question before the search
        self._rewriting: Rewriting = "off" if options.rewriting == "off" else "terms"
        self._query = ""
        self._outputs: dict[str, Any] = {}

    async def answer(self, request: RagRequest) -> str:
        """Return the response made of the outputs of all steps."""
        began = time.perf_counter()
        self._query = RUN_RERANKED if self._reranks(request) else RUN
        response = await answer(request, self._steps(), rewriting=self._rewriting)
        total = round((time.perf_counter() - began) * 1000, 3)  # no times by step
        return response.model_copy(update={"timings_ms": {"total": total}}).model_dump_json()

    async def search(self, request: RagRequest) -> str:
        """Return the passages found."""
        self._query = SEARCH_RERANKED if self._reranks(request) else SEARCH
        found = await search(request, self._steps(), rewriting=self._rewriting)
        return found.model_dump_json()

    def _reranks(self, request: RagRequest) -> bool:
        return "rerank" in [stage.name for stage in running(request, PIPELINE, self._images.steps)]

    def _steps(self) -> dict[str, Any]:
        later = {step: partial(self._reply, step) for step in self._images.steps[1:]}
        return {"retrieve": self.retrieve, **later}

    async def retrieve(self, text: str) -> str:
        """Run the containers; return the first output."""
        given = {**self._images.variables, "run": uuid.uuid4().hex, "request": text}
        variables = {name: value for name, value in given.items() if f"${name}:" in self._query}
        try:
            data = await self._session.ask(self._query, variables, deadline_s=self._deadline_s)
        except StepError as error:
            error.step = error.step or "rag"  # the whole chain failed, not retrieve
            raise
        self._outputs = dict(_leaves(data))
        return self._output("retrieve")

    async def _reply(self, step: str, _: str) -> str:
        return self._output(step)

    def _output(self, step: str) -> str:
        output, code = self._outputs.get(step), self._outputs.get(f"{step}Exit")
        if output:
            return str(output)
        if code == KILLED:
            raise out_of_memory(step)
        text = f"the container of the step {step} ended with exit code {code} and no output"
        raise StepError("module_error", text, step=step)


def _leaves(data: Any) -> Iterator[tuple[str, Any]]:
    """Yield the contents of files and the exit codes in a chain's data, by name, at any depth."""
    for name, value in data.items():
        if not isinstance(value, dict):
            yield name, value
        elif value.keys() == {"contents"}:
            yield name, value["contents"]
        else:
            yield from _leaves(value)
