"""A socket between the service and the engine, where the engine can be made to fail.

The engine itself is left alone: connections are cut and refused, held, or answered with nonsense.
"""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

RUNNER_HOST = "_EXPERIMENTAL_DAGGER_RUNNER_HOST"
NONSENSE = b"HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/plain\r\ncontent-length: 4\r\n\r\nno!\n"


def engine_address() -> str | None:
    """Return where the engine listens, when it is a socket that can be forwarded to."""
    address = os.environ.get(RUNNER_HOST, "")
    return address if urlsplit(address).scheme in ("unix", "tcp") else None


class EngineProxy:
    """Forwards to the engine at `address` until a fault is set.

    Args:
        path: Where to listen, a Unix socket.
        address: The engine's, `unix://` or `tcp://`.
    """

    def __init__(self, path: Path, address: str) -> None:
        self._path, self._target = path, urlsplit(address)
        self._open: set[socket.socket] = set()
        self._lock, self._flows = threading.Lock(), threading.Event()
        self._nonsense = False
        self._listener: socket.socket | None = None
        self.work()

    @property
    def address(self) -> str:
        """The address that the service gets instead of the engine's."""
        return f"unix://{self._path}"

    def work(self) -> None:
        """Accept and forward, as a healthy engine does."""
        self._nonsense = False
        self._flows.set()
        self._listen()

    def die(self) -> None:
        """Cut every connection and refuse new ones, as an engine that was killed."""
        self._refuse()
        self._cut()

    def hang(self) -> None:
        """Keep every connection and pass nothing on."""
        self._flows.clear()

    def talk_nonsense(self) -> None:
        """Cut every connection, and answer new ones with an HTML page."""
        self._nonsense = True
        self._cut()

    def close(self) -> None:
        """End everything."""
        self.die()

    def _listen(self) -> None:
        if self._listener is None:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(self._path))
            self._listener.listen(64)
            threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _refuse(self) -> None:
        if self._listener is not None:
            self._path.unlink()
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None

    def _cut(self) -> None:
        with self._lock:
            cut = list(self._open)
        for each in cut:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._flows.set()  # what hung ends now

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        if self._nonsense:
            with suppress(OSError), client:
                client.recv(65536)
                client.sendall(NONSENSE)
            return
        try:
            if self._target.scheme == "unix":
                engine = socket.socket(socket.AF_UNIX)
                try:
                    engine.connect(self._target.path)
                except OSError:
                    engine.close()
                    raise
            else:
                engine = socket.create_connection((self._target.hostname, self._target.port or 0))
        except OSError:
            client.close()
            return
        with self._lock:
            self._open |= {client, engine}
        there = threading.Thread(target=self._pump, args=(client, engine), daemon=True)
        there.start()
        self._pump(engine, client)
        there.join()
        with self._lock:
            self._open -= {client, engine}
        client.close()
        engine.close()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self._flows.wait()
                target.sendall(data)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
