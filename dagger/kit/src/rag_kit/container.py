"""The step as a container: its locked image, one request in it, and the step kept resident.

    pyproject.toml + uv.lock + src ──▶ build ──▶ image (no uv, no SDK, not root) ──▶ ask | resident | publish

Only modules import it, since it needs the Dagger SDK; it stays light, because every module call
starts a new process.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Sequence
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit
from urllib.request import url2pathname

import dagger
from dagger import Doc, dag

# For amd64 and arm64. A newer one: docker buildx imagetools inspect python:3.11-slim
BASE = "python:3.11-slim@sha256:9c900dea9e8fb7e16277c179b555cc72d29a352dbc33cff48ad5a0412fd5bfc7"
UV = """uv==0.13.9 \\
    --hash=sha256:d7f459fe4fd247d830351c75686d3996ace3c6f3f728eb0e85a30b7ada0cef19 \\
    --hash=sha256:5435c5ce14a56431208ca0996416d310f1598e8c2c8ba707688985a16bb82dbe
"""
PIP = ["pip", "install", "--no-cache-dir", "--root-user-action=ignore"]
PORT = 8080
USER = "10001:10001"
HOME = "/data"  # RAG_HOME, the embedded store
APP = "/app"
PROJECT_FILES = ("pyproject.toml", "uv.lock", "README.md")
INPUT, OUTPUT = "/tmp/input.json", "/tmp/output.json"  # noqa: S108, alone in its container

# Cache policies. PURE is the longest the engine keeps a result (its own default): the key holds the
# module's source and every argument. FRESH is for whatever reads a store, a model or a registry.
PURE, FRESH = "168h", "never"

# Arguments of several modules: a Qdrant server, a language model, a reranking server, and a registry
# that takes an image.
Qdrant = Annotated[
    dagger.Service | None,
    Doc("A Qdrant server as a service, e.g. tcp://localhost:6333; reached as http://qdrant:6333."),
]
QdrantApiKey = Annotated[
    dagger.Secret | None, Doc("Key of the Qdrant server, e.g. env:QDRANT_API_KEY.")
]
LlmBaseUrl = Annotated[
    str, Doc("OpenAI-compatible server, e.g. http://llm:8000/v1; none: extractive answers.")
]
LlmModel = Annotated[str, Doc("Name of the model on that server.")]
LlmPace = Annotated[
    str, Doc("How fast it is, which sets the deadlines: hosted, local or reasoning; none: hosted.")
]
LlmApiKey = Annotated[
    dagger.Secret | None, Doc("Its key, where it wants one, e.g. env:OPENAI_API_KEY.")
]
Llm = Annotated[
    dagger.Service | None,
    Doc("The server as a service, reached as host llm, e.g. tcp://localhost:8000."),
]
RerankerUrl = Annotated[
    str, Doc("Reranking server, e.g. http://reranker:80; none: passages keep their order.")
]
RerankerKind = Annotated[
    str, Doc("What it speaks: cohere (also Jina, vLLM, LiteLLM) or tei; none: cohere.")
]
RerankerModel = Annotated[str, Doc("Name of the model on that server.")]
RerankerApiKey = Annotated[
    dagger.Secret | None, Doc("Its key, where it wants one, e.g. env:COHERE_API_KEY.")
]
Reranker = Annotated[
    dagger.Service | None,
    Doc("The server as a service, reached as host reranker, e.g. tcp://localhost:8080."),
]
Strict = Annotated[
    bool,
    Doc("Fail the call on an error, with its code and message, instead of returning it as JSON."),
]
Tag = Annotated[str, Doc("Tag to give the image.")]
Username = Annotated[str, Doc("Who pushes; leave out for a registry without login.")]
Password = Annotated[dagger.Secret | None, Doc("Their password or token, e.g. env:REGISTRY_TOKEN.")]


def sources(folder: str) -> dagger.Directory:
    """Return this module's project in `folder`, and the kit beside it as in the repository.

    The engine hands a module its own folder only, so the kit is taken from where it was installed from.
    """
    module = dag.current_module()
    unneeded = shutil.ignore_patterns("__pycache__", "tests", ".*")
    shutil.copytree(kit_project(), "kit", dirs_exist_ok=True, ignore=unneeded)
    return (
        dag.directory()
        .with_directory(folder, module.source())
        .with_directory("kit", module.workdir("kit"))
    )


def kit_project() -> Path:
    """Return the folder that rag-kit was installed from (PEP 610)."""
    recorded = json.loads(distribution("rag-kit").read_text("direct_url.json") or "{}")
    return Path(url2pathname(urlsplit(recorded["url"]).path))


def build(
    package: str,
    source: dagger.Directory,
    *,
    folder: str,
    kit: str = "kit",
    beside: Sequence[str] = (),
    extras: Sequence[str] = (),
    tests: bool = False,
) -> dagger.Container:
    """Build a project's image from its locked source: first what it depends on, then its code.

    Args:
        package: The project's Python package; it is also the entrypoint, `python -m package`.
        source: Holds the folders of all projects.
        folder: The project's own.
        kit: The folder of rag-kit.
        beside: Folders of the other projects that the lock installs by path.
        extras: Optional dependencies of the project to install.
        tests: Also install the `dev` group and bring the project's tests.
    """
    projects = (folder, kit, *beside)
    files = [f"{each}/{name}" for each in projects for name in PROJECT_FILES]
    code = [f"{each}/src/rag_*/**" for each in projects]
    sync = ["uv", "sync", "--locked", "--no-editable", "--no-default-groups"]
    sync += ["--group", "dev"] if tests else []
    sync += [f"--extra={each}" for each in extras]
    builder = (
        dag.container()
        .from_(BASE)
        .with_new_file("/uv.txt", UV)
        .with_exec([*PIP, "--require-hashes", "--only-binary=:all:", "-r", "/uv.txt"])
        .with_mounted_cache("/root/.cache/uv", dag.cache_volume("rag-uv"))
        .with_env_variable("UV_LINK_MODE", "copy")
        .with_env_variable("UV_COMPILE_BYTECODE", "1")
        .with_env_variable("UV_PYTHON_DOWNLOADS", "never")
        .with_env_variable("UV_SYSTEM_CERTS", "1")  # certificates the engine brings are trusted
        .with_env_variable("UV_PROJECT_ENVIRONMENT", f"{APP}/.venv")
        .with_workdir(f"{APP}/{folder}")
        .with_directory(APP, source.filter(include=files))
        .with_exec([*sync, "--no-install-local"])
        .with_directory(APP, source.filter(include=code))
        .with_exec(sync)
    )
    image = (
        dag.container()
        .from_(BASE)
        .with_directory(f"{APP}/.venv", builder.directory(f"{APP}/.venv"))
        .with_env_variable("PATH", f"{APP}/.venv/bin:$PATH", expand=True)
        .with_env_variable("PYTHONUNBUFFERED", "1")
        .with_env_variable("PYTHONDONTWRITEBYTECODE", "1")
        .with_env_variable("HOME", "/tmp")  # noqa: S108, the user has no other
        .with_env_variable("RAG_HOME", HOME)
        .with_directory(HOME, dag.directory(), owner=USER)
        .with_label("org.opencontainers.image.title", project(package))
        .with_label("org.opencontainers.image.version", version("rag-kit"))
        .with_label("org.opencontainers.image.licenses", "Apache-2.0")
        .with_user(USER)
        .with_workdir(HOME)
        .with_exposed_port(PORT)
        .with_entrypoint(["python", "-m", package])
        .with_default_args(serving())
    )
    if tests:
        own = [f"{folder}/{name}" for name in ("pyproject.toml", "README.md", "tests/**")]
        image = image.with_directory(APP, source.filter(include=own))
    return image


def project(package: str) -> str:
    """Return the distribution of a package: rag_retrieve is rag-retrieve."""
    return package.replace("_", "-")


def serving() -> list[str]:
    """Return the arguments that keep a step resident in its container."""
    return ["serve", "--host", "0.0.0.0", "--port", str(PORT)]  # noqa: S104


def resident(container: dagger.Container) -> dagger.Service:
    """Return the step as a service: POST /run, GET /healthz, GET /readyz on port 8080."""
    return container.as_service(args=serving(), use_entrypoint=True)


def fresh(container: dagger.Container) -> dagger.Container:
    """Return a container whose next process is run, even if the same one ran before."""
    return container.with_env_variable("RAG_RUN", uuid.uuid4().hex)


def file_of(container: dagger.Container, request: dagger.File) -> dagger.File:
    """Return the response to a request as a file; nothing runs before it is read."""
    return (
        container.with_mounted_file(INPUT, request, owner=USER)
        .with_exec(
            ["--input", INPUT, "--output", OUTPUT],
            use_entrypoint=True,
            expect=dagger.ReturnType.ANY,  # a failure is an envelope in the output
        )
        .file(OUTPUT)
    )


def as_file(text: str) -> dagger.File:
    """Return a request as a file."""
    return dag.directory().with_new_file("input.json", text).file("input.json")


async def read(step: str, response: dagger.File) -> str:
    """Run what gives the response and return its text; a process that died is an envelope too."""
    try:
        return await response.contents()
    except dagger.QueryError as error:
        return failure(step, error)


async def ask(
    step: str, container: dagger.Container, text: str, file: dagger.File | None, strict: bool
) -> str:
    """Answer one request, given as text or as a file, in the step's container.

    Returns:
        The response, or the error envelope.

    Raises:
        ValueError: There is an error, and `strict`.
    """
    if bool(text) == (file is not None):
        told = "give the request as --input-json or as --input, one of both"
        answer = envelope_of(step, "invalid_request", told)
    else:
        answer = await read(step, file_of(container, file or as_file(text)))
    return checked(answer, strict)


def checked(answer: str, strict: bool) -> str:
    """Return an answer; with `strict`, fail where it is an error envelope.

    Raises:
        ValueError: Code, step and message of the envelope.
    """
    error = json.loads(answer).get("error") if strict else None
    if error:
        raise ValueError(f"{error['code']} in {error['step']}: {error['message']}")
    return answer


def failure(step: str, error: dagger.QueryError) -> str:
    """Return the envelope of a step that could not be run; the trace has what it printed."""
    code = getattr(error, "exit_code", None)
    why = {137: "it was killed, most likely out of memory", 139: "it crashed"}.get(
        code or 0, f"it ended with exit code {code}" if code else "it could not be run"
    )
    return envelope_of(
        step, "module_error", f"the container of the step {step} failed: {why}; see the trace"
    )


def envelope_of(step: str, code: str, message: str) -> str:
    """Return an error envelope as JSON text."""
    from .errors import StepError, dump_error

    return dump_error(StepError(code, message), step=step)


async def push(
    container: dagger.Container, address: str, tag: str, username: str, password: object
) -> str:
    """Push an image and return its reference by digest.

    Args:
        container: The image.
        address: Repository without a tag, e.g. `registry.example.com/team/rag-retrieve`.
        tag: Tag to give it.
        username: Who pushes; empty: without a login.
        password: Their password or token, a `dagger.Secret`, or None.

    Raises:
        ValueError: What of the above does not fit, or what the registry said.
    """
    if "@" in address or ":" in address.rpartition("/")[2]:
        raise ValueError(f"address: {address!r} holds a tag or digest; give the tag as --tag")
    if bool(username) != (password is not None):
        raise ValueError("username and password: give both, or none for a registry without login")
    if isinstance(password, dagger.Secret):
        token = await _without_line_end(password)
        container = container.with_registry_auth(address, username, token)
    try:
        return await container.publish(f"{address}:{tag}")
    except dagger.QueryError as error:
        raise ValueError(
            f"{address}:{tag} was not pushed: {error}; check --username and --password, what they "
            "may push, and the address"
        ) from None


async def _without_line_end(secret: dagger.Secret) -> dagger.Secret:
    """Return a secret without the line end that most commands and files have, and no token."""
    text = await secret.plaintext()
    token = text.rstrip("\r\n")
    return secret if token == text else dag.set_secret("registry-token", token)


async def run_tests(package: str, source: dagger.Directory, *, folder: str) -> str:
    """Run a project's own tests in its container; returns pytest's last line, or fails with all."""
    root = f"{APP}/{folder}"
    command = ["python", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    ran = build(package, source, folder=folder, tests=True).with_exec(
        [*command, "-c", f"{root}/pyproject.toml", "--rootdir", root, f"{root}/tests"]
    )
    return (await ran.stdout()).strip().rpartition("\n")[2]
