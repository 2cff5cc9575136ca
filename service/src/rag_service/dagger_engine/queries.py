"""The constant GraphQL queries that load and configure the module; values are variables."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from rag_kit.errors import StepError
from rag_kit.origins import is_loopback

from ..runners.base import Notify
from .options import EngineOptions
from .session import Session

SOURCE = """query ($module: String!) {
  moduleSource(refString: $module) { id digest commit }
}"""
LOAD = """query ($source: ID!, $steps: Boolean!) {
  node(id: $source) { ... on ModuleSource { asModule { serve(includeDependencies: $steps) } } }
}"""
SET_SECRET = """query ($name: String!, $plaintext: String!) {
  setSecret(name: $name, plaintext: $plaintext) { id }
}"""  # noqa: S105  # nosec B105
FOLDER = "query ($path: String!) { host { directory(path: $path) { id } } }"
FORWARD = """query ($host: String!, $ports: [PortForward!]!) {
  host { service(host: $host, ports: $ports) { id } }
}"""
# An omitted variable is null, and null does not select an argument's default: hence one query with
# `docs` and one without, and a value for every string.
RAG = """query (
  $docs: ID!, $docsName: String!, $collection: String!, $qdrantUrl: String!, $qdrant: ID,
  $qdrantApiKey: ID, $llmBaseUrl: String!, $llmModel: String!, $llmApiKey: ID, $llm: ID,
  $llmPace: String!, $rewriting: String!, $rerank: String!, $rerankKind: String!,
  $rerankModel: String!, $rerankApiKey: ID, $reranker: ID
) {
  rag(
    docs: $docs, docsName: $docsName, collection: $collection, qdrantUrl: $qdrantUrl,
    qdrant: $qdrant, qdrantApiKey: $qdrantApiKey, llmBaseUrl: $llmBaseUrl, llmModel: $llmModel,
    llmApiKey: $llmApiKey, llm: $llm, llmPace: $llmPace, rewriting: $rewriting,
    rerank: $rerank, rerankKind: $rerankKind, rerankModel: $rerankModel,
    rerankApiKey: $rerankApiKey, reranker: $reranker
  ) { id }
}"""
RAG_OWN_DOCS = """query (
  $collection: String!, $qdrantUrl: String!, $qdrant: ID, $qdrantApiKey: ID,
  $llmBaseUrl: String!, $llmModel: String!, $llmApiKey: ID, $llm: ID, $llmPace: String!,
  $rewriting: String!, $rerank: String!, $rerankKind: String!, $rerankModel: String!,
  $rerankApiKey: ID, $reranker: ID
) {
  rag(
    collection: $collection, qdrantUrl: $qdrantUrl, qdrant: $qdrant,
    qdrantApiKey: $qdrantApiKey, llmBaseUrl: $llmBaseUrl, llmModel: $llmModel,
    llmApiKey: $llmApiKey, llm: $llm, llmPace: $llmPace, rewriting: $rewriting,
    rerank: $rerank, rerankKind: $rerankKind, rerankModel: $rerankModel,
    rerankApiKey: $rerankApiKey, reranker: $reranker
  ) { id }
}"""


async def load_module(
    session: Session, options: EngineOptions, notify: Notify, *, steps: bool = False
) -> None:
    """Build and load the module; with `steps`, the modules it depends on can be called, too."""
    notify(f"dagger: building and loading {options.module} …")
    began, limit = time.perf_counter(), options.load_s
    data = await session.ask(SOURCE, {"module": options.module}, deadline_s=limit)
    source = data["moduleSource"]
    check_pin(options, source["digest"], source["commit"])
    notify(f"dagger: the module's digest is {source['digest']} (RAG_DAGGER_MODULE_DIGEST pins it)")
    await session.ask(LOAD, {"source": source["id"], "steps": steps}, deadline_s=limit)
    notify(f"dagger: {options.module} loaded in {time.perf_counter() - began:.1f} s")


def check_pin(options: EngineOptions, digest: str, commit: str) -> None:
    """Refuse a module that is not the pinned one, before any of its code runs.

    Raises:
        StepError: `module_pin_mismatch`.
    """
    if options.module_digest not in (None, digest, commit or digest):
        text = (
            f"RAG_DAGGER_MODULE_DIGEST pins {options.module_digest}, but {options.module} is "
            f"{digest}{f' (commit {commit})' if commit else ''}; deploy the pinned module, or set "
            "the variable to this one after a look at what changed"
        )
        raise StepError("module_pin_mismatch", text)


async def dependencies(session: Session, options: EngineOptions) -> dict[str, Any]:
    """Return Qdrant, the model and the reranker as arguments of `rag`: URLs, services, secrets."""
    arguments: dict[str, Any] = {
        "llmModel": options.llm_model or "",
        "llmPace": options.llm_pace or "",
        "rewriting": options.rewriting or "",
        "rerankKind": options.reranker or "",
        "rerankModel": options.reranker_model or "",
    }
    for alias, url, argument in (
        ("qdrant", options.qdrant_url, "qdrantUrl"),
        ("llm", options.llm_base_url, "llmBaseUrl"),
        ("reranker", options.reranker_url, "rerank"),
    ):
        service, reached = await forwarded(session, options, alias, url or "")
        arguments |= {alias: service, argument: reached}
    arguments["qdrantApiKey"] = await secret(
        session, options, "qdrant-api-key", options.qdrant_api_key
    )
    arguments["llmApiKey"] = await secret(session, options, "llm-api-key", options.llm_api_key)
    arguments["rerankApiKey"] = await secret(
        session, options, "reranker-api-key", options.reranker_api_key
    )
    return arguments


async def configured(session: Session, options: EngineOptions, arguments: dict[str, Any]) -> str:
    """Return the id of the object `rag` with its documents and dependencies; its functions need it."""
    variables = {**arguments, "collection": options.collection}
    if options.docs is None:
        data = await session.ask(RAG_OWN_DOCS, variables, deadline_s=options.load_s)
    else:
        folder = options.docs.resolve()
        data = await session.ask(FOLDER, {"path": str(folder)}, deadline_s=options.load_s)
        variables |= {"docs": data["host"]["directory"]["id"], "docsName": folder.name}
        data = await session.ask(RAG, variables, deadline_s=options.load_s)
    return str(data["rag"]["id"])


async def secret(
    session: Session, options: EngineOptions, name: str, value: SecretStr | None
) -> str | None:
    """Return the id of a secret, or None without one; the engine keeps its text out of traces."""
    if value is None:
        return None
    variables = {"name": name, "plaintext": value.get_secret_value()}
    data = await session.ask(SET_SECRET, variables, deadline_s=options.load_s)
    return str(data["setSecret"]["id"])


async def forwarded(
    session: Session, options: EngineOptions, name: str, url: str
) -> tuple[str | None, str]:
    """Return the id of a service that forwards to this machine, and the URL for a container.

    Another machine's URL needs no such service; a container cannot reach this machine's loopback.
    """
    parts = urlsplit(url)
    if not is_loopback(parts.hostname or ""):
        return None, url
    port = parts.port or (443 if parts.scheme == "https" else 80)
    ports = [{"frontend": port, "backend": port, "protocol": "TCP"}]
    variables = {"host": parts.hostname, "ports": ports}
    data = await session.ask(FORWARD, variables, deadline_s=options.load_s)
    return str(data["host"]["service"]["id"]), parts._replace(netloc=f"{name}:{port}").geturl()
