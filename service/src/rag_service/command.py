"""`rag serve`: check the settings, then serve until a signal."""

from __future__ import annotations

import gc
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import pydantic_core
import uvicorn

from rag_kit.errors import StepError
from rag_pipeline.running import announced
from rag_pipeline.settings import read_settings as rag_settings

from .app import CLOSE_S, create_app
from .http.uvicorn_protocol import protocol_with
from .service import Service
from .settings import ServiceSettings, is_specific, read_settings

EXITS = {"misconfigured": 78, "module_pin_mismatch": 78, "store_locked": 75}  # others: 1
BACKLOG = 512  # connections that wait to be accepted
SWITCH_S = 0.001  # GIL switch interval: the event loop waits less for threads; default 5 ms
FLUSH_S = 2  # seconds to send the rest of responses to slow clients
CLOSING_S = 2 * CLOSE_S + FLUSH_S + 1  # seconds until the process exits although a part hangs

FIELDS = (
    "request_id", "key", "client", "method", "path", "status", "code", "step", "collection", "ms",
    "timings_ms",
)  # fmt: skip


def serve(notify: Callable[[str], None], **overrides: Any) -> int:
    """Serve the page and the API until Ctrl-C or SIGTERM; returns the exit code.

    Args:
        notify: Takes a line of progress.
        overrides: Settings that take precedence over the environment.

    Raises:
        StepError: `misconfigured`, a setting cannot work.
    """
    settings = read_settings(**overrides)
    settings.check_exposure()
    configure_logs(settings)
    listening = _listen(settings)
    app = create_app(settings, notify=notify)
    config = uvicorn.Config(
        app,
        http=protocol_with(app.state.gate),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # the application does that, with more headers
        ws="none",
        timeout_graceful_shutdown=FLUSH_S,
    )
    sys.setswitchinterval(SWITCH_S)
    server = _Server(config, app.state.service)
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    notify(f"http://{shown}:{port} has the page, /docs the API; Ctrl-C ends")
    reachable = shown if is_specific(host) else "127.0.0.1"
    with announced(rag_settings().home, f"http://{reachable}:{port}"):
        server.run(sockets=[listening])
    return server.code if server.started else 1


def _listen(settings: ServiceSettings) -> socket.socket:
    """Return a listening socket.

    Raises:
        StepError: `misconfigured`: the address is taken, or not this machine's.
    """
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((settings.host, settings.port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise StepError(
            "misconfigured",
            f"cannot listen on {settings.host} port {settings.port}: {error.strerror}; choose "
            "another with --port (0: any free one) or --host",
        ) from None


class _Server(uvicorn.Server):
    """Drains on a signal, and exits by itself when the runner can never start.

    While it drains it still listens, so that probes and clients get a response that says so.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.code = 0
        self._service = service
        self._drain_ends: float | None = None  # when requests under way are given up
        service.on_fatal = self._fatal
        service.on_ready = _freeze

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain; a second signal does not wait for requests under way.

        Unlike uvicorn's own handler it does not raise the signal again: draining is a clean exit.
        """
        if self._drain_ends is None:
            self._drain_ends = time.monotonic() + self._service.settings.drain_s
            self._service.drain()
        else:
            self.force_exit = self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Return whether to exit now; called ten times a second."""
        ending = await super().on_tick(counter)
        if not ending and self._drain_ends is not None:
            ending = not self.server_state.tasks
            if time.monotonic() >= self._drain_ends:
                self._service.give_up()
                ending = True
        return ending

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Flush and close; the process exits even if a thread hangs."""
        watchdog = threading.Timer(CLOSING_S, os._exit, (self.code or 1,))
        watchdog.daemon = True
        watchdog.start()  # not cancelled: Python waits for threads after this
        await super().shutdown(sockets)

    def _fatal(self) -> None:
        why = self._service.missing
        self.code = EXITS.get(why.code, 1) if why else 1
        self.should_exit = True


def _freeze() -> None:
    """Exclude loaded objects from garbage collection; scanning them takes 0.1 s each time."""
    gc.collect()
    gc.freeze()


class JsonLines(logging.Formatter):
    """A log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: getattr(record, name) for name in FIELDS if getattr(record, name, "")}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return pydantic_core.to_json(line, serialize_unknown=True).decode()


class TextLines(logging.Formatter):
    """A log record as one line of text."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = f"{self.formatTime(record, '%H:%M:%S')} {record.getMessage()}"
        if record.name == "rag_service.access":
            fields = {
                name: getattr(record, name, "") for name in ("ms", "code", "key", "request_id")
            }
            line += "".join(f" {name}={value}" for name, value in fields.items() if value)
        else:
            line += f" ({record.levelname.lower()}, {record.name})"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def configure_logs(settings: ServiceSettings) -> None:
    """Write logs to standard error, as text or as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if settings.log_format == "json" else TextLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    logging.getLogger("rag_service").setLevel(logging.INFO)
