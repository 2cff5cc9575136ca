"""A session on a Dagger engine: constant GraphQL queries over HTTP, values as variables.

    connect ──▶ load the module ──▶ start what a runner needs ──▶ probe ──▶ lease | ping | rotate

The SDK has no public way to send a query to a module's function, retries a request by itself up to
five times, and hangs for minutes once its engine has died. All that is needed is one POST.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

import httpx
from pydantic import SecretStr

from rag_kit.errors import StepError
from rag_kit.handler import Event
from rag_kit.server import EventQueue

from ..settings import process_environment
from .child import Child
from .errors import KILLED, REMEDY, TRACE, lost, out_of_memory, unavailable
from .options import RUNNER_HOST, EngineOptions

LOG = logging.getLogger(__name__)
Result = TypeVar("Result")

VERSION = "{ version }"
CLOSING = ("engine is shutting down", "session not found")


class Session:
    """An open session: queried over HTTP, watched until it is lost or closed.

    Attributes:
        lost: Why the session is of no use any more, once it is.
        late: Whether a ping takes longer than `ping_timeout_s`.
        serving: Whether requests are under way, whose text must not get into errors.
    """

    def __init__(
        self, port: int, token: str, options: EngineOptions, child: Child | None = None
    ) -> None:
        self._url = f"http://127.0.0.1:{port}/query"
        self._options, self._child = options, child
        self._client = httpx.AsyncClient(
            auth=(token, ""),
            timeout=None,  # every call brings its own deadline  # noqa: S113
            limits=httpx.Limits(max_connections=None),
            trust_env=False,  # no proxy: the session is on this machine
        )
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.late, self.serving, self._doubt = False, False, asyncio.Event()
        self._calls: set[asyncio.Future[Any]] = set()
        if child is not None:
            child.exited.add_done_callback(self._exited)

    @classmethod
    async def open(cls, options: EngineOptions) -> Session:
        """Open a session, or connect to the existing one of the options.

        Raises:
            StepError: `engine_unavailable`, with the last line of the CLI's log.
        """
        provisions = RUNNER_HOST not in process_environment() and options.session_port is None
        limit_s = options.provision_s if provisions else options.connect_s
        child: Child | None = None
        session: Session | None = None
        try:
            async with asyncio.timeout(limit_s):
                if options.session_port is not None:
                    token = options.session_token or SecretStr("")
                    port, text = options.session_port, token.get_secret_value()
                else:
                    child = await Child.spawn(options)
                    port, text = await child.opened()
                session = cls(port, text, options, child)
                await session.ask(VERSION, {}, deadline_s=2 * limit_s)
            return session
        except BaseException as error:
            log = child.last_line if child else ""
            if session is not None:
                await session.close()
            elif child is not None:
                await child.end(options.stop_s)
            if isinstance(error, TimeoutError):
                text = f"no Dagger engine answered within {limit_s:g} s"
                raise unavailable(f"{text}{log and f' ({log})'}; {REMEDY}") from None
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
        # ASCII escapes: UTF-8 cannot encode a lone surrogate
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
            raise lost(f"the connection to it broke ({type(error).__name__})") from None
        return self._data(response)

    def _data(self, response: httpx.Response) -> Any:
        if response.status_code in (401, 502):
            why = f"its engine is gone (HTTP {response.status_code})"
            self.give_up(why)
            raise lost(why)
        try:
            body = response.json()
            errors, data = body.get("errors"), body.get("data")
        except (ValueError, AttributeError):
            text = f"the Dagger engine answered HTTP {response.status_code} with what is no JSON"
            raise StepError("module_bad_output", f"{text} object") from None
        if errors:
            raise self._error(errors[0], response.status_code)
        if data is None:
            raise StepError("module_bad_output", "the Dagger engine answered without data")
        return data

    def _error(self, error: dict[str, Any], status: int) -> StepError:
        message = TRACE.sub("", str(error.get("message", "")))
        extensions = error.get("extensions") or {}
        if "exception.type" not in extensions and any(mark in message for mark in CLOSING):
            self.give_up(message)
            return lost(message)
        if status == 422:
            text = f"the module does not fit this service: {message}; deploy both from one version"
            return StepError("module_error", text)
        if extensions.get("_type") == "EXEC_ERROR" and extensions.get("exitCode") == KILLED:
            return out_of_memory()
        if message.startswith("query:"):  # the query is repeated before the error
            message = message.rpartition("error: ")[2]
        log = str(extensions.get("stderr") or "").strip()
        if log:
            LOG.warning("dagger: a process in the engine failed: %s\n%s", message, log)
        if self.serving or not log:  # a log of a request may contain the request
            return StepError("module_error", message)
        lines = log.splitlines()
        why = next((line for line in lines if line.lower().startswith("error")), lines[-1])
        return StepError("module_error", f"{message}: {why}")

    async def guard(self, work: Awaitable[Result]) -> Result:
        """Return the result of the work; cancel it when the session is lost.

        Raises:
            StepError: `engine_lost`.
        """
        call = asyncio.ensure_future(work)
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        try:
            if not self.lost.done():
                await asyncio.wait((call, self.lost), return_when=asyncio.FIRST_COMPLETED)
            if call.done() and not (self.lost.done() and _is_closed(call)):
                return call.result()
            raise lost(self.lost.result())
        finally:
            call.cancel()

    async def relay(self, events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
        """Yield the events of a generator, which runs in one task of its own; raises as `guard`."""
        queue = EventQueue(events, maxsize=16)
        try:
            while (event := await self.guard(queue.next())) is not None:
                yield event
        finally:
            await queue.close()

    def _exited(self, code: asyncio.Future[int]) -> None:
        if not code.cancelled():
            self.give_up(f"its process exited with code {code.result()}")

    def give_up(self, why: str) -> None:
        """Count the session as lost: its calls fail, and the supervisor builds a new one."""
        if not self.lost.done():
            self.lost.set_result(why)

    def doubt(self) -> None:
        """Ping now: a call failed as if the engine had ended."""
        self._doubt.set()

    async def watch(self, ping: Callable[[], Awaitable[None]]) -> None:
        """Ping until the session is lost; a slow ping first makes it late.

        One ping may take `hung_s`: an engine that builds on a busy machine is slow, not gone.
        """
        options = self._options
        while not self.lost.done():
            woken = asyncio.ensure_future(self._doubt.wait())
            await asyncio.wait(
                (self.lost, woken), timeout=options.ping_s, return_when="FIRST_COMPLETED"
            )
            woken.cancel()
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
        """Resident memory of its process; 0 where it is not known."""
        return 0.0 if self._child is None else self._child.memory_mib

    async def close(self) -> None:
        """End the session, and its services with it, within `stop_s`."""
        self.give_up("it was closed")  # `guard` cancels its calls
        if self._calls:  # first: a connection opened after the client was closed would stay open
            await asyncio.wait(self._calls, timeout=self._options.stop_s)
        with suppress(Exception):
            await self._client.aclose()
        if self._child is not None:
            await self._child.end(self._options.stop_s)


def _is_closed(call: asyncio.Future[Any]) -> bool:
    """Whether a call failed because its client was closed; httpx has no error class for that."""
    return call.cancelled() or isinstance(call.exception(), RuntimeError)
