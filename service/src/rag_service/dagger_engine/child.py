"""The child process `dagger session`: started, read until it names its port, ended."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import cast

from ..settings import process_environment
from .errors import REMEDY, TRACE, unavailable
from .options import EngineOptions

ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "DAGGER_NO_NAG": "1",
    "DAGGER_NO_UPDATE_CHECK": "1",
    "NO_COLOR": "1",
}
NOT_INHERITED = ("RAG_", "DAGGER_SESSION_")  # our secrets, and another session


class Child(asyncio.SubprocessProtocol):
    """The process `dagger session`; it lives until its standard input is closed."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[int] = loop.create_future()
        self._line: asyncio.Future[bytes] = loop.create_future()
        self._closed: asyncio.Future[None] = loop.create_future()
        self._out, self._tail = b"", deque[bytes](maxlen=8)
        self._transport: asyncio.SubprocessTransport | None = None

    @classmethod
    async def spawn(cls, options: EngineOptions) -> Child:
        """Start the process."""
        own = process_environment()
        env = {name: text for name, text in own.items() if not name.startswith(NOT_INHERITED)}
        try:
            _, child = await asyncio.get_running_loop().subprocess_exec(
                cls,
                *(options.cli, "--silent", "session"),
                cwd=options.cwd,
                env={**env, **ENVIRONMENT},
                start_new_session=True,  # Ctrl-C must not reach it: calls are drained first
            )
        except OSError as error:
            raise unavailable(f"{options.cli!r} cannot be run: {error.strerror}") from None
        return child

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.SubprocessTransport", transport)  # uvloop's is no subclass

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Collect the first line of its output, and the end of its log."""
        if fd != 1:
            self._tail.append(data[-4096:])
        elif not self._line.done():
            self._out += data
            line, ended, _ = self._out.partition(b"\n")
            if ended:
                self._line.set_result(line)

    def process_exited(self) -> None:
        """Set the exit code."""
        assert self._transport is not None
        code = self._transport.get_returncode()
        self.exited.set_result(-1 if code is None else code)

    def connection_lost(self, exc: Exception | None) -> None:
        """Set that its output has ended."""
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
    def last_line(self) -> str:
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
            text = f"`dagger session` opened none: {self.last_line or 'it said nothing'}"
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
