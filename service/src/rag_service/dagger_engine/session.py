"""The Dagger engine behind the service: one session, supervised; constant queries, values as variables.

    connect ──▶ load the module ──▶ start what a runner needs ──▶ probe ──▶ lease | ping | rotate

The SDK has no public way to send a query to a module's function, sends a request again by itself up
to five times, and hangs for minutes once its engine died. What is needed is one POST; it is here.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import shutil
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import httpx
from pydantic import SecretStr

from rag_kit.errors import StepError
from rag_kit.handler import Event
from rag_kit.server import EventQueue

from ..runners.base import Say
from ..settings import is_loopback, process_environment

LOG = logging.getLogger(__name__)
Result = TypeVar("Result")

VERSION = "{ version }"
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

QUIET = {"DO_NOT_TRACK": "1", "DAGGER_NO_NAG": "1", "DAGGER_NO_UPDATE_CHECK": "1", "NO_COLOR": "1"}
RUNNER_HOST = "_EXPERIMENTAL_DAGGER_RUNNER_HOST"
OURS = ("RAG_", "DAGGER_SESSION_")  # keys of ours, and a session that is not the child's
TRACE = re.compile(r" ?\[traceparent:[^\]]*\]")
KILLED = 137  # exit code of a process that was killed, most often for its memory
ENDING = ("engine is shutting down", "session not found")
REMEDY = (
    "install the Dagger CLI (https://docs.dagger.io/install) and a container runtime such as "
    "Docker, or point _EXPERIMENTAL_DAGGER_RUNNER_HOST to a running engine; or set "
    "RAG_RUNNER=local, which needs neither"
)


@dataclass(frozen=True)
class EngineOptions:
    """Which engine, which module, what the pipeline is over, and how long things may take.

    Args:
        cli: The command line, a name on PATH or a path.
        module: The module `rag`: a folder or a git reference.
        module_digest: The digest it must have, or the commit of a git reference; None: any.
        cwd: Where the session is opened; None: here.
        docs: Folder of this machine to answer from; None: the module's own documents.
        collection: Name of the collection they are indexed into.
        qdrant_url: Search a Qdrant server instead; one on this machine is forwarded.
        qdrant_api_key: Its key.
        llm_base_url: OpenAI-compatible server; one on this machine is forwarded.
        llm_model: Name of the model there.
        llm_api_key: Its key.
        session_port: Session to use instead of a child of ours (under `dagger run`).
        session_token: Its token.
        connect_s: Seconds until a session answers, where the engine's address is given.
        provision_s: The same where the CLI first has to fetch and start an engine.
        load_s: Seconds one step of start-up may take: building and loading, indexing, starting.
        deadline_s: Seconds one call may take.
        ping_s: Seconds between two pings.
        ping_timeout_s: Seconds without an answer until the service is not ready.
        hung_s: Seconds without an answer until the session is given up.
        rotate_calls: Calls of one session before it is replaced.
        rotate_s: Seconds of one session before it is replaced.
        rotate_mib: MiB its process may grow before it is replaced, where /proc tells.
        same_errors: Equal internal errors in a row before it is replaced.
        mend_s: Seconds a session must be old to be replaced for its errors.
        drain_s: Seconds the calls of a replaced session may go on.
        stop_s: Seconds a session may take to end before it is killed.
        retry_s: Longest wait between two attempts to build a session.
        probe: The question that must be answered before a session is used.
    """

    cli: str = "dagger"
    module: str = "dagger/rag"
    module_digest: str | None = None
    cwd: Path | None = None
    docs: Path | None = None
    collection: str = "default"
    qdrant_url: str | None = None
    qdrant_api_key: SecretStr | None = None
    llm_base_url: str | None = None
    llm_model: str | None = None
    llm_api_key: SecretStr | None = None
    session_port: int | None = None
    session_token: SecretStr | None = None
    connect_s: float = 10.0
    provision_s: float = 300.0
    load_s: float = 600.0
    deadline_s: float = 60.0
    ping_s: float = 0.25
    ping_timeout_s: float = 0.6
    hung_s: float = 10.0
    rotate_calls: int = 5000
    rotate_s: float = 1800.0
    rotate_mib: float = 256.0
    same_errors: int = 5
    mend_s: float = 60.0
    drain_s: float = 25.0
    stop_s: float = 5.0
    retry_s: float = 30.0
    probe: str = "What is this about?"

    @property
    def probe_request(self) -> str:
        """The probe as a request; it is not worth a model's call."""
        return json.dumps(
            {
                "query": self.probe,
                "collection": self.collection,
                "generate": {"target": "extractive"},
            }
        )

    def check(self) -> None:
        """Return when a session can be tried.

        Raises:
            StepError: `engine_unavailable`, there is no CLI; `misconfigured`, a folder is missing,
                or the engine is reached in the clear.
        """
        check_address(process_environment().get(RUNNER_HOST, ""))
        if self.session_port is None and shutil.which(self.cli) is None:
            text = f"there is no Dagger CLI: {self.cli!r} is no command here; {REMEDY}"
            raise unavailable(text)
        here = self.cwd or Path()
        remote = self.module.startswith("github.com/") or "@" in self.module or "://" in self.module
        if not remote and not (here / self.module / "dagger.json").is_file():
            text = f"there is no Dagger module at {self.module!r}; set RAG_DAGGER_MODULE"
            raise StepError("misconfigured", text)
        if self.docs is not None and not self.docs.is_dir():
            raise StepError("misconfigured", f"there is no folder {str(self.docs)!r}; set RAG_DOCS")


def check_address(address: str) -> None:
    """Refuse an engine beyond this machine over plain TCP: who reaches its port is root there.

    Raises:
        StepError: `misconfigured`.
    """
    parts = urlsplit(address.strip())
    if parts.scheme == "tcp" and not is_loopback(parts.hostname or ""):
        text = (
            f"{RUNNER_HOST} names an engine at plain tcp:// beyond this machine, where anybody on "
            "the network commands it as root; let it listen on unix:// or with mTLS, and name it "
            "as unix:// or tls://"
        )
        raise StepError("misconfigured", text)


def unavailable(text: str) -> StepError:
    """Return the error of a request that meets no ready session."""
    return StepError("engine_unavailable", text, retry_after=2)


def _lost(why: str) -> StepError:
    text = f"the Dagger session ended before it answered: {why}; send the request again"
    return StepError("engine_lost", text, retry_after=2)


def _is_closed(work: asyncio.Future[Any]) -> bool:
    """Whether this met a client that was closed under it: httpx has no error of its own for it."""
    return work.cancelled() or isinstance(work.exception(), RuntimeError)


def out_of_memory(step: str | None = None) -> StepError:
    """Return the error of a container that was killed."""
    which = f"the container of the step {step}" if step else "a container of the pipeline"
    text = (
        f"{which} was killed (exit code {KILLED}), most likely out of memory; give the engine "
        "more, or send fewer questions at once"
    )
    return StepError("module_oom", text, step=step, retry_after=5)


class Session:
    """One open session: asked over HTTP, watched until it is lost or closed."""

    def __init__(
        self, port: int, token: str, options: EngineOptions, child: _Child | None = None
    ) -> None:
        self._url = f"http://127.0.0.1:{port}/query"
        self._options, self._child = options, child
        self._client = httpx.AsyncClient(
            auth=(token, ""),
            timeout=None,  # every call brings its own deadline  # noqa: S113
            limits=httpx.Limits(max_connections=None),
            trust_env=False,  # a proxy is for the outside; the session is a child of ours
        )
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.late, self.serving, self._doubt = False, False, asyncio.Event()
        self._working: set[asyncio.Future[Any]] = set()
        if child is not None:
            child.exited.add_done_callback(self._exited)

    @classmethod
    async def open(cls, options: EngineOptions) -> Session:
        """Open a session, or join the given one.

        Raises:
            StepError: `engine_unavailable`, with what the CLI said.
        """
        provisions = RUNNER_HOST not in process_environment() and options.session_port is None
        limit_s = options.provision_s if provisions else options.connect_s
        child: _Child | None = None
        session: Session | None = None
        try:
            async with asyncio.timeout(limit_s):
                if options.session_port is not None:
                    token = options.session_token or SecretStr("")
                    port, text = options.session_port, token.get_secret_value()
                else:
                    child = await _Child.spawn(options)
                    port, text = await child.opened()
                session = cls(port, text, options, child)
                await session.ask(VERSION, {}, deadline_s=2 * limit_s)
            return session
        except BaseException as error:
            said = child.said if child else ""
            if session is not None:
                await session.close()
            elif child is not None:
                await child.end(options.stop_s)
            if isinstance(error, TimeoutError):
                text = f"no Dagger engine answered within {limit_s:g} s"
                raise unavailable(f"{text}{said and f' ({said})'}; {REMEDY}") from None
            if isinstance(error, StepError) and error.code != "engine_unavailable":
                text = f"the Dagger session does not answer: {error.message}"
                raise unavailable(text) from None
            raise

    async def ask(self, query: str, variables: dict[str, Any], *, deadline_s: float) -> Any:
        """Send a constant query once and return its data.

        Raises:
            StepError: `engine_lost`, `deadline_exceeded`, `module_error`, `module_oom`,
                `module_bad_output`.
        """
        # ASCII escapes: a lone surrogate cannot be encoded otherwise
        body = json.dumps({"query": query, "variables": variables}).encode("ascii")
        headers = {"content-type": "application/json"}
        try:
            async with asyncio.timeout(deadline_s):
                response = await self.guard(
                    self._client.post(self._url, content=body, headers=headers)
                )
        except TimeoutError:
            text = f"the Dagger engine did not answer within {deadline_s:g} s"
            raise StepError("deadline_exceeded", text) from None
        except httpx.TransportError as error:
            self.doubt()
            raise _lost(f"the connection to it broke ({type(error).__name__})") from None
        return self._data(response)

    def _data(self, response: httpx.Response) -> Any:
        if response.status_code in (401, 502):
            why = f"its engine is gone (HTTP {response.status_code})"
            self.give_up(why)
            raise _lost(why)
        try:
            answer = response.json()
            errors, data = answer.get("errors"), answer.get("data")
        except (ValueError, AttributeError):
            text = f"the Dagger engine answered HTTP {response.status_code} with what is no JSON"
            raise StepError("module_bad_output", f"{text} object") from None
        if errors:
            raise self._error(errors[0], response.status_code)
        if data is None:
            raise StepError("module_bad_output", "the Dagger engine answered without data")
        return data

    def _error(self, error: dict[str, Any], status: int) -> StepError:
        said = TRACE.sub("", str(error.get("message", "")))
        more = error.get("extensions") or {}
        if "exception.type" not in more and any(mark in said for mark in ENDING):
            self.give_up(said)
            return _lost(said)
        if status == 422:
            text = f"the module does not fit this service: {said}; deploy both from one version"
            return StepError("module_error", text)
        if more.get("_type") == "EXEC_ERROR" and more.get("exitCode") == KILLED:
            return out_of_memory()
        if said.startswith("query:"):  # it repeats the query before it says what is wrong
            said = said.rpartition("error: ")[2]
        log = str(more.get("stderr") or "").strip()
        if log:
            LOG.warning("dagger: a process in the engine failed: %s\n%s", said, log)
        if self.serving or not log:  # what a process says of a request may hold the request
            return StepError("module_error", said)
        lines = log.splitlines()
        why = next((line for line in lines if line.lower().startswith("error")), lines[-1])
        return StepError("module_error", f"{said}: {why}")

    async def guard(self, work: Awaitable[Result]) -> Result:
        """Return what the work gives; give it up when the session is lost.

        Raises:
            StepError: `engine_lost`.
        """
        working = asyncio.ensure_future(work)
        self._working.add(working)
        working.add_done_callback(self._working.discard)
        try:
            if not self.lost.done():
                await asyncio.wait((working, self.lost), return_when=asyncio.FIRST_COMPLETED)
            if working.done() and not (self.lost.done() and _is_closed(working)):
                return working.result()
            raise _lost(self.lost.result())
        finally:
            working.cancel()

    async def relay(self, events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
        """Yield what a generator yields, run in one task of its own; raises as `guard`."""
        pump = EventQueue(events, maxsize=16)
        try:
            while (event := await self.guard(pump.next())) is not None:
                yield event
        finally:
            await pump.close()

    def _exited(self, code: asyncio.Future[int]) -> None:
        if not code.cancelled():
            self.give_up(f"its process exited with code {code.result()}")

    def give_up(self, why: str) -> None:
        """Count the session as lost: calls that wait for it end, and the supervisor builds anew."""
        if not self.lost.done():
            self.lost.set_result(why)

    def doubt(self) -> None:
        """Ping now: a call met something that looks like the end of the engine."""
        self._doubt.set()

    async def watch(self, ping: Callable[[], Awaitable[None]]) -> None:
        """Ping until the session is lost; a silence makes it late first.

        One ping may take `hung_s`: an engine that builds on a busy machine is slow, not gone.
        """
        options = self._options
        while not self.lost.done():
            looking = asyncio.ensure_future(self._doubt.wait())
            await asyncio.wait(
                (self.lost, looking), timeout=options.ping_s, return_when="FIRST_COMPLETED"
            )
            looking.cancel()
            self._doubt.clear()
            slow = asyncio.get_running_loop().call_later(options.ping_timeout_s, self._slow)
            try:
                async with asyncio.timeout(options.hung_s):
                    await self.ask(VERSION, {}, deadline_s=2 * options.hung_s)
                    await self.guard(ping())
                self.late = False
            except TimeoutError:
                self.give_up(f"the engine has not answered for {options.hung_s:g} s")
            except StepError as error:
                self.give_up(error.message)
            finally:
                slow.cancel()

    def _slow(self) -> None:
        self.late = True

    @property
    def memory_mib(self) -> float:
        """Memory of its process; 0 where it cannot be told."""
        return 0.0 if self._child is None else self._child.memory_mib

    async def close(self) -> None:
        """End the session: its services stop with it; bounded by `stop_s`."""
        self.give_up("it was closed")  # whoever waits in `guard` cancels what it waits for
        if self._working:  # first: a connection made after the client was closed stays open
            await asyncio.wait(self._working, timeout=self._options.stop_s)
        with suppress(Exception):
            await self._client.aclose()
        if self._child is not None:
            await self._child.end(self._options.stop_s)


class _Child(asyncio.SubprocessProtocol):
    """The process `dagger session`; it lives until its standard input is closed."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[int] = loop.create_future()
        self._line: asyncio.Future[bytes] = loop.create_future()
        self._closed: asyncio.Future[None] = loop.create_future()
        self._out, self._tail = b"", deque[bytes](maxlen=8)
        self._transport: asyncio.SubprocessTransport | None = None

    @classmethod
    async def spawn(cls, options: EngineOptions) -> _Child:
        """Start the process."""
        own = process_environment()
        env = {name: text for name, text in own.items() if not name.startswith(OURS)}
        try:
            _, child = await asyncio.get_running_loop().subprocess_exec(
                cls,
                *(options.cli, "--silent", "session"),
                cwd=options.cwd,
                env={**env, **QUIET},
                start_new_session=True,  # Ctrl-C is for us first: calls are drained before it ends
            )
        except OSError as error:
            raise unavailable(f"{options.cli!r} cannot be run: {error.strerror}") from None
        return child

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what the process is ended by."""
        self._transport = cast("asyncio.SubprocessTransport", transport)  # uvloop's is no subclass

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Take the first line of its output; keep the end of its log."""
        if fd != 1:
            self._tail.append(data[-4096:])
        elif not self._line.done():
            self._out += data
            line, ended, _ = self._out.partition(b"\n")
            if ended:
                self._line.set_result(line)

    def process_exited(self) -> None:
        """Note its exit code."""
        assert self._transport is not None
        code = self._transport.get_returncode()
        self.exited.set_result(-1 if code is None else code)

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that its output has ended, too."""
        self._closed.set_result(None)

    @property
    def memory_mib(self) -> float:
        """Its resident memory; 0 where there is no /proc, or it has ended."""
        assert self._transport is not None
        try:
            status = Path(f"/proc/{self._transport.get_pid()}/status").read_text(encoding="ascii")
            return int(status.partition("VmRSS:")[2].split()[0]) / 1024
        except (OSError, IndexError, ValueError):
            return 0.0

    @property
    def said(self) -> str:
        """The last line of its log."""
        lines = b"".join(self._tail).decode(errors="replace").strip().splitlines()
        return TRACE.sub("", lines[-1]).strip() if lines else ""

    async def opened(self) -> tuple[int, str]:
        """Return port and token of the session.

        Raises:
            StepError: `engine_unavailable`, it opened none.
        """
        await asyncio.wait((self._line, self._closed), return_when=asyncio.FIRST_COMPLETED)
        try:
            opened = json.loads(self._line.result() if self._line.done() else self._out)
            return int(opened["port"]), str(opened["session_token"])
        except (ValueError, KeyError, TypeError):
            text = f"`dagger session` opened none: {self.said or 'it said nothing'}"
            raise unavailable(f"{text}; {REMEDY}") from None

    async def end(self, stop_s: float) -> None:
        """Close its input; kill it when it does not end."""
        assert self._transport is not None
        stdin = self._transport.get_pipe_transport(0)
        if stdin is not None:
            stdin.close()
        try:
            await asyncio.wait((self.exited,), timeout=stop_s)
        finally:
            if not self.exited.done():
                with suppress(ProcessLookupError):
                    self._transport.kill()
            self._transport.close()
            await asyncio.wait((self.exited,), timeout=stop_s)
            await asyncio.wait((self._closed,), timeout=1)


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
