"""The real toxiproxy between a client and a server: what networks do to connections.

`scripts/go-tools` builds it (`make test` calls that). It is spoken to over its HTTP interface.
"""

from __future__ import annotations

import itertools
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from service_kit import free_port

SERVER = Path(__file__).resolve().parents[2] / ".tools/toxiproxy-v2.12.0/server"
START_S = 30.0


class Proxy:
    """One listening port that passes everything on, with toxics in it."""

    def __init__(self, http: httpx.Client, name: str, upstream: str) -> None:
        self._http = http
        self._asked = {"name": name, "listen": "127.0.0.1:0", "upstream": upstream}
        self._asked["listen"] = self._make()["listen"]
        self.url = f"http://{self._asked['listen']}"

    def _make(self) -> dict[str, str]:
        made: dict[str, str] = (
            self._http.post("/proxies", json=self._asked).raise_for_status().json()
        )
        return made

    @contextmanager
    def toxic(self, kind: str, stream: str, **attributes: int) -> Iterator[None]:
        """Put a toxic in until the block ends; then every connection is closed.

        Args:
            kind: latency, bandwidth, reset_peer, timeout, slicer, limit_data or slow_close.
            stream: upstream (what the client sends) or downstream (what the server answers).
            attributes: As toxiproxy's own documentation names them.
        """
        path = f"/proxies/{self._asked['name']}"
        asked = {"name": kind, "type": kind, "stream": stream, "attributes": attributes}
        self._http.post(f"{path}/toxics", json=asked).raise_for_status()
        try:
            yield
        finally:
            # taking a toxic out of a connection that is being closed can hang toxiproxy
            self._http.delete(path).raise_for_status()
            self._make()


class Toxiproxy:
    """The server process."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http
        self._names = (f"proxy-{n}" for n in itertools.count())

    def before(self, url: str) -> Proxy:
        """Return a proxy in front of a server on this machine."""
        upstream = url.removeprefix("http://").partition("/")[0]
        return Proxy(self._http, next(self._names), upstream)


def missing() -> str:
    """Return why toxiproxy cannot run here; "" when it can."""
    built = SERVER.is_file()
    return "" if built else f"no {SERVER.name} in {SERVER.parent.name}: scripts/go-tools, needs Go"


@contextmanager
def toxiproxy() -> Iterator[Toxiproxy]:
    """Run the server until the block ends."""
    port = free_port()
    command = [str(SERVER), "-host", "127.0.0.1", "-port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
            _wait(process, http)
            yield Toxiproxy(http)
    finally:
        process.terminate()
        process.wait(START_S)


def _wait(process: subprocess.Popen[bytes], http: httpx.Client) -> None:
    end = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < end:
        try:
            http.get("/version").raise_for_status()
            return
        except httpx.TransportError:
            time.sleep(0.02)
    raise AssertionError("toxiproxy did not start")
