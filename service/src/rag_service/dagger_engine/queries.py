"""The constant GraphQL queries that load and configure the module; values are variables."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from rag_kit.errors import StepError

from ..runners.base import Say
from ..settings import is_loopback
from .options import EngineOptions
from .session import Session

SOURCE = """query ($module: String!) {
  moduleSource(refString: $module) { id digest commit }
}"""
LOAD = """query ($source: ID!, $steps: Boolean!) {
  node(id: $source) { ... on ModuleSource { asModule { serve(includeDependencies: $steps) } } }
}"""
HIDE = """query ($name: String!, $plaintext: String!) {
  setSecret(name: $name, plaintext: $plaintext) { id }
}"""
FOLDER = "query ($path: String!) { host { directory(path: $path) { id } } }"
FORWARD = """query ($host: String!, $ports: [PortForward!]!) {
  host { service(host: $host, ports: $ports) { id } }
}"""
# A variable that is left out counts as null, and null is no default: so one query with docs, one
# without, and a value for every text.
RAG = """query (
  $docs: ID!, $docsName: String!, $collection: String!, $qdrantUrl: String!, $qdrant: ID,
  $qdrantApiKey: ID, $llmBaseUrl: String!, $llmModel: String!, $llmApiKey: ID, $llm: ID
) {
  rag(
    docs: $docs, docsName: $docsName, collection: $collection, qdrantUrl: $qdrantUrl,
    qdrant: $qdrant, qdrantApiKey: $qdrantApiKey, llmBaseUrl: $llmBaseUrl, llmModel: $llmModel,
    llmApiKey: $llmApiKey, llm: $llm
  ) { id }
}"""
RAG_OWN_DOCS = """query (
  $collection: String!, $qdrantUrl: String!, $qdrant: ID, $qdrantApiKey: ID,
  $llmBaseUrl: String!, $llmModel: String!, $llmApiKey: ID, $llm: ID
) {
  rag(
    collection: $collection, qdrantUrl: $qdrantUrl, qdrant: $qdrant,
    qdrantApiKey: $qdrantApiKey, llmBaseUrl: $llmBaseUrl, llmModel: $llmModel,
    llmApiKey: $llmApiKey, llm: $llm
  ) { id }
}"""


async def load_module(
    session: Session, options: EngineOptions, say: Say, *, steps: bool = False
) -> None:
    """Build and load the module, and with `steps` those it depends on, to ask their functions."""
    say(f"dagger: building and loading {options.module} …")
    began, limit = time.perf_counter(), options.load_s
    data = await session.ask(SOURCE, {"module": options.module}, deadline_s=limit)
    source = data["moduleSource"]
    check_pin(options, source["digest"], source["commit"])
    say(f"dagger: the module's digest is {source['digest']} (RAG_DAGGER_MODULE_DIGEST pins it)")
    await session.ask(LOAD, {"source": source["id"], "steps": steps}, deadline_s=limit)
    say(f"dagger: {options.module} loaded in {time.perf_counter() - began:.1f} s")


def check_pin(options: EngineOptions, digest: str, commit: str) -> None:
    """Refuse a module that is not the pinned one; nothing of it has run yet.

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
    """Return where Qdrant and the model are, as the arguments of `rag`: URLs, services, secrets."""
    given: dict[str, Any] = {"llmModel": options.llm_model or ""}
    for alias, url, argument in (
        ("qdrant", options.qdrant_url, "qdrantUrl"),
        ("llm", options.llm_base_url, "llmBaseUrl"),
    ):
        service, reached = await forwarded(session, options, alias, url or "")
        given |= {alias: service, argument: reached}
    given["qdrantApiKey"] = await secret(session, options, "qdrant-api-key", options.qdrant_api_key)
    given["llmApiKey"] = await secret(session, options, "llm-api-key", options.llm_api_key)
    return given


async def configured(session: Session, options: EngineOptions, given: dict[str, Any]) -> str:
    """Return the id of the object `rag` over documents and dependencies; its functions need it."""
    given = {**given, "collection": options.collection}
    if options.docs is None:
        data = await session.ask(RAG_OWN_DOCS, given, deadline_s=options.load_s)
    else:
        folder = options.docs.resolve()
        made = await session.ask(FOLDER, {"path": str(folder)}, deadline_s=options.load_s)
        given |= {"docs": made["host"]["directory"]["id"], "docsName": folder.name}
        data = await session.ask(RAG, given, deadline_s=options.load_s)
    return str(data["rag"]["id"])


async def secret(
    session: Session, options: EngineOptions, name: str, value: SecretStr | None
) -> str | None:
    """Return the id of a secret, or None without one; the engine keeps its text out of traces."""
    if value is None:
        return None
    given = {"name": name, "plaintext": value.get_secret_value()}
    data = await session.ask(HIDE, given, deadline_s=options.load_s)
    return str(data["setSecret"]["id"])


async def forwarded(
    session: Session, options: EngineOptions, name: str, url: str
) -> tuple[str | None, str]:
    """Return the id of a service that forwards to this machine, and the URL a container reaches.

    A URL of another machine is reached as it is; of this one, a container sees nothing.
    """
    parts = urlsplit(url)
    if not is_loopback(parts.hostname or ""):
        return None, url
    port = parts.port or (443 if parts.scheme == "https" else 80)
    ports = [{"frontend": port, "backend": port, "protocol": "TCP"}]
    given = {"host": parts.hostname, "ports": ports}
    data = await session.ask(FORWARD, given, deadline_s=options.load_s)
    return str(data["host"]["service"]["id"]), parts._replace(netloc=f"{name}:{port}").geturl()
