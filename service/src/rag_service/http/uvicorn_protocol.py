"""uvicorn's HTTP/1.1 protocol: refuses questions as they are read, and notices every disconnect."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from .header_limit import HeaderLimit
from .middleware import Gate

FORWARDED = b"x-forwarded-for"
MAX_PIPELINED = 8  # requests behind the current one until reading pauses


class Protocol(HeaderLimit):
    """Writes the gate's refusals itself, without a task and the application.

    On a disconnect it also notifies the current request; uvicorn notifies only the last pipelined one.
    """

    gate: Gate | None = None
    _current: RequestResponseCycle | None = None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if self._refused(cycle):
            return
        self._unset_keepalive_if_required()  # set by a refusal just before
        self._current = cycle
        super()._start_asgi_task(cycle, app)

    def _refused(self, cycle: RequestResponseCycle) -> bool:
        """Write the gate's refusal of a question; returns whether there was one."""
        if self.gate is None or not cycle.keep_alive or self.flow.write_paused:
            return False
        scope: Any = cycle.scope
        if not self.gate.keyed and any(name == FORWARDED for name, _ in scope["headers"]):
            return False  # only the application knows which proxies to trust
        refusal = self.gate.refusal(scope)
        if refusal is None:
            return False
        status, headers, body = refusal
        lines = [b"%s: %s\r\n" % header for header in (*cycle.default_headers, *headers)]
        self.transport.write(b"".join((STATUS_LINE[status], *lines, b"\r\n", body)))
        cycle.response_started = cycle.response_complete = True
        cycle.on_response()
        return True

    def on_headers_complete(self) -> None:
        """Keep reading while requests are pipelined: a disconnect would not be noticed otherwise."""
        super().on_headers_complete()
        if 0 < len(self.pipeline) <= MAX_PIPELINED:
            self.flow.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Notify the current request."""
        super().connection_lost(exc)
        if self._current is not None and not self._current.response_complete:
            self._current.disconnected = True
            self._current.message_event.set()


def protocol_with(gate: Gate) -> type[Protocol]:
    """Return the protocol class for a server whose application has this gate."""
    return type("Protocol", (Protocol,), {"gate": gate})
