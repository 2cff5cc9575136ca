"""uvicorn's HTTP/1.1; it refuses questions as they are read, and notices that a client left."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from .header_limit import BoundedHeads
from .middleware import Gate

FORWARDED = b"x-forwarded-for"
BEHIND = 8  # requests behind the one at work until nothing more is read


class Protocol(BoundedHeads):
    """Answers itself what the gate refuses, without a task and the application.

    And tells the request at work, not only the last one that came, that the client went away.
    """

    gate: Gate | None = None
    _working: RequestResponseCycle | None = None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if self._refused(cycle):
            return
        self._unset_keepalive_if_required()  # one that was refused just before set it
        self._working = cycle
        super()._start_asgi_task(cycle, app)

    def _refused(self, cycle: RequestResponseCycle) -> bool:
        """Answer a question for which there is no room, without a task for it."""
        if self.gate is None or not cycle.keep_alive or self.flow.write_paused:
            return False
        scope: Any = cycle.scope
        if not self.gate.keyed and any(name == FORWARDED for name, _ in scope["headers"]):
            return False  # who asks is known to the application, which knows its proxies
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
        """Go on reading: the end of the connection would not be seen otherwise."""
        super().on_headers_complete()
        if 0 < len(self.pipeline) <= BEHIND:
            self.flow.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request at work."""
        super().connection_lost(exc)
        if self._working is not None and not self._working.response_complete:
            self._working.disconnected = True
            self._working.message_event.set()


def behind(gate: Gate) -> type[Protocol]:
    """Return the protocol of a server whose application has this gate."""
    return type("Protocol", (Protocol,), {"gate": gate})
