"""uvicorn's HTTP/1.1, which does not notice that a client left when more requests wait behind one."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from .heads import BoundedHeads

BEHIND = 8  # requests behind the one at work until nothing more is read


class Protocol(BoundedHeads):
    """Tells the request at work, not only the last one that came, that the client went away."""

    _working: RequestResponseCycle | None = None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._working = cycle
        super()._start_asgi_task(cycle, app)

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
