"""The pipeline as three containers a question: retrieve, augment, generate, file to file.

One query runs all three. The files cross in a folder that stays mounted while the root file system
under it is changed from one step's image to the next; ids would take one round trip a step.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr, ValidationError

from rag_kit.errors import StepError
from rag_kit.request import explain, parse
from rag_pipeline.models import RagRequest
from rag_pipeline.step import answer, search

from ..runners.base import Say
from .base import OnEngine, probed
from .session import KILLED, Session, configured, dependencies, load_module, out_of_memory, secret

IMAGES = """{
  retrieve { container { id } }
  augment { container { rootfs { id } } }
  generate { container { rootfs { id } } }
  directory { id }
}"""
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
# RAG_RUN is new each time, so no process is answered from what an equal one gave before. What is
# retrieve's own (store, key) is taken away before the other steps run, and the model's key is there
# for generate alone. A step that fails leaves its error envelope, one that is killed an empty file.
RUN = """query (
  $retrieve: ID!, $augment: ID!, $generate: ID!, $folder: ID!, $run: String!, $request: String!,
  $llmBaseUrl: String!, $llmModel: String!, $llmApiKey: ID!
) {
  node(id: $retrieve) { ... on Container {
    withEnvVariable(name: "RAG_RUN", value: $run) {
    withMountedDirectory(path: "/carry", source: $folder, owner: "10001:10001") {
    withNewFile(path: "/carry/request.json", contents: $request, owner: "10001:10001") {
    withExec(
      args: ["python", "-m", "rag_retrieve", "--input", "/carry/request.json"]
      redirectStdout: "/carry/retrieve.json", expect: ANY
    ) {
      retrieveExit: exitCode
    withoutMount(path: "/data") {
    withoutSecretVariable(name: "RAG_QDRANT_API_KEY") {
    withRootfs(directory: $augment) {
    withExec(
      args: ["python", "-m", "rag_augment", "--input", "/carry/retrieve.json"]
      redirectStdout: "/carry/augment.json", expect: ANY
    ) {
      augmentExit: exitCode
    withRootfs(directory: $generate) {
    withEnvVariable(name: "RAG_LLM_BASE_URL", value: $llmBaseUrl) {
    withEnvVariable(name: "RAG_LLM_MODEL", value: $llmModel) {
    withSecretVariable(name: "RAG_LLM_API_KEY", secret: $llmApiKey) {
    withExec(
      args: ["python", "-m", "rag_generate", "--input", "/carry/augment.json"]
      redirectStdout: "/carry/generate.json", expect: ANY
    ) {
      generateExit: exitCode
      retrieve: file(path: "/carry/retrieve.json") { contents }
      augment: file(path: "/carry/augment.json") { contents }
      generate: file(path: "/carry/generate.json") { contents }
    } } } } } } } } } } } } }
  } }
}"""
SEARCH = """query ($retrieve: ID!, $folder: ID!, $run: String!, $request: String!) {
  node(id: $retrieve) { ... on Container {
    withEnvVariable(name: "RAG_RUN", value: $run) {
    withMountedDirectory(path: "/carry", source: $folder, owner: "10001:10001") {
    withNewFile(path: "/carry/request.json", contents: $request, owner: "10001:10001") {
    withExec(
      args: ["python", "-m", "rag_retrieve", "--input", "/carry/request.json"]
      redirectStdout: "/carry/retrieve.json", expect: ANY
    ) {
      retrieveExit: exitCode
      retrieve: file(path: "/carry/retrieve.json") { contents }
    } } } }
  } }
}"""


@dataclass(frozen=True)
class Images:
    """The steps' containers in a session, as variables of the two queries."""

    for_search: dict[str, Any]
    for_answer: dict[str, Any]

    async def ping(self) -> None:
        """Return: what is built stays as long as the session."""

    async def close(self) -> None:
        """Return: nothing is held here."""


class ContainersRunner(OnEngine[Images]):
    """Every request runs the three steps' containers; each loads its own parts, which takes seconds."""

    name = "containers"

    async def answer(self, text: str) -> str:
        """Answer a request."""
        request = _accepted(text)
        async with self._supervisor.lease() as live:
            ran = _Ran(live.session, RUN, live.started.for_answer, self._options.deadline_s)
            return await ran.answer(request)

    async def search(self, text: str) -> str:
        """Find passages for a request."""
        request = _accepted(text)
        async with self._supervisor.lease() as live:
            ran = _Ran(live.session, SEARCH, live.started.for_search, self._options.deadline_s)
            found = await search(request, {"retrieve": ran.retrieve})
            return found.model_dump_json()

    async def _start(self, session: Session, say: Say) -> Images:
        options, limit = self._options, self._options.load_s
        await load_module(session, options, say, steps=True)
        given = await dependencies(session, options)
        say("dagger: building the steps' images, indexing the documents …")
        images = await session.ask(IMAGES, {}, deadline_s=limit)
        retrieve = images["retrieve"]["container"]["id"]

        async def extend(query: str, **more: str) -> None:
            nonlocal retrieve
            data = await session.ask(query, {"container": retrieve, **more}, deadline_s=limit)
            retrieve = data["node"]["with"]["id"]

        if given["qdrantUrl"]:
            await extend(WITH_VARIABLE, name="RAG_STORE", value="qdrant")
            await extend(WITH_VARIABLE, name="RAG_QDRANT_URL", value=given["qdrantUrl"])
        else:
            rag = await configured(session, options, given)
            made = await session.ask(INDEX, {"rag": rag}, deadline_s=limit)
            await extend(OVER_INDEX, index=made["node"]["index"]["id"])
        if given["qdrantApiKey"]:
            await extend(WITH_HIDDEN, name="RAG_QDRANT_API_KEY", value=given["qdrantApiKey"])
        for name in ("qdrant", "llm"):
            if given[name]:
                await extend(WITH_SERVICE, name=name, value=given[name])
        no_key = await secret(session, options, "no-llm-api-key", SecretStr(""))
        found = {"retrieve": retrieve, "folder": images["directory"]["id"]}
        started = Images(
            found,
            found
            | {step: images[step]["container"]["rootfs"]["id"] for step in ("augment", "generate")}
            | {"llmBaseUrl": given["llmBaseUrl"], "llmModel": given["llmModel"]}
            | {"llmApiKey": given["llmApiKey"] or no_key},
        )
        ran = _Ran(session, RUN, started.for_answer, limit)
        await probed(ran.answer(_accepted(options.probe_request)), say)
        return started


def _accepted(text: str) -> RagRequest:
    """Return the request, or raise what is wrong with it before a container is started."""
    try:
        return RagRequest.model_validate(parse(text), strict=True)
    except ValidationError as error:
        raise explain(error) from None


class _Ran:
    """One run of the chain: its query is sent when `retrieve` is asked, which gives all outputs."""

    def __init__(
        self, session: Session, query: str, variables: dict[str, Any], deadline_s: float
    ) -> None:
        self._session, self._query, self._deadline_s = session, query, deadline_s
        self._given = {**variables, "run": uuid.uuid4().hex}
        self._outputs: dict[str, Any] = {}

    async def answer(self, request: RagRequest) -> str:
        """Return what the composite makes of the three outputs."""
        began = time.perf_counter()
        steps = {
            "retrieve": self.retrieve,
            "augment": self._augment,
            "generate": self._generate,
        }
        response = await answer(request, steps)
        total = round((time.perf_counter() - began) * 1000, 3)  # one query: no step's own is known
        return response.model_copy(update={"timings_ms": {"total": total}}).model_dump_json()

    async def retrieve(self, text: str) -> str:
        """Run the containers; return the first output."""
        given = {**self._given, "request": text}
        try:
            data = await self._session.ask(self._query, given, deadline_s=self._deadline_s)
        except StepError as error:
            error.step = error.step or "rag"  # of the chain, not of retrieve
            raise
        self._outputs = dict(_leaves(data))
        return self._output("retrieve")

    async def _augment(self, _: str) -> str:
        return self._output("augment")

    async def _generate(self, _: str) -> str:
        return self._output("generate")

    def _output(self, step: str) -> str:
        output, code = self._outputs.get(step), self._outputs.get(f"{step}Exit")
        if output:
            return str(output)
        if code == KILLED:
            raise out_of_memory(step)
        text = f"the container of the step {step} ended with exit code {code} and no output"
        raise StepError("module_error", text, step=step)


def _leaves(data: Any) -> Iterator[tuple[str, Any]]:
    """Yield the files' contents and the exit codes of a chain, by name, however deep they are."""
    for name, value in data.items():
        if not isinstance(value, dict):
            yield name, value
        elif value.keys() == {"contents"}:
            yield name, value["contents"]
        else:
            yield from _leaves(value)
