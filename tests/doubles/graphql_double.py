"""A double of a Dagger session: GraphQL over real HTTP with the responses of a real engine 0.21.8.

It runs no containers. What a module answers comes from a composite that is run here. Faults are set
per query; its command line is a real process that lives until its standard input is closed.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Composite = Callable[[str, str], str]
"""Takes a verb (`run`, `search`, or a step) and a request, gives a response."""

DIGEST = "xxh3:2999cb7bb6832f1b"
TRACE = "[traceparent:7ce727af80aef574c83e690f07bf6f48-2f663fb5e5cfe301]"
EXEC_ERROR: dict[str, Any] = {
    "errors": [
        {
            "message": f"exit code: 137 {TRACE}",
            "path": ["container", "from", "withExec", "stdout"],
            "extensions": {
                "_type": "EXEC_ERROR",
                "cmd": ["sh", "-c", "kill -9 $$"],
                "exitCode": 137,
                "stderr": "hi",
                "stdout": "",
            },
        }
    ],
    "data": None,
}
FUNCTION_ERROR: dict[str, Any] = {
    "errors": [
        {
            "message": f"FunctionError: the index is broken {TRACE}",
            "path": ["rag", "run"],
            "extensions": {
                "exception.message": f"the index is broken {TRACE}",
                "exception.type": "FunctionError",
                "traceparent": "00-7ce727af80aef574c83e690f07bf6f48-2f663fb5e5cfe301-00",
            },
        }
    ],
    "data": None,
}
BUILD_ERROR: dict[str, Any] = {
    "errors": [
        {
            "message": f"exit code: 2 {TRACE}",
            "path": ["container", "withExec", "asService"],
            "extensions": {
                "_type": "EXEC_ERROR",
                "cmd": ["uv", "sync", "--locked"],
                "exitCode": 2,
                "stderr": "Resolved 65 packages in 17ms\nerror: Failed to download `httpx-sse==0.4.3`\n",
                "stdout": "",
            },
        }
    ],
    "data": None,
}
MISFIT: dict[str, Any] = {
    "errors": [
        {
            "message": 'Cannot query field "runn" on type "Rag". Did you mean "run"?',
            "locations": [{"line": 1, "column": 53}],
            "extensions": {"code": "GRAPHQL_VALIDATION_FAILED"},
        }
    ],
    "data": None,
}
STOPPING: dict[str, Any] = {
    "errors": [{"message": f"engine is shutting down {TRACE}"}],
    "data": None,
}
BAD_ID: dict[str, Any] = {
    "errors": [
        {
            "message": "query:\nquery($r:ID!){ node(id:$r){ id } }\n\nerror: parse selections: parse "
            'field "node": init arg "id" value as dagql.AnyID (ID!) using dagql.AnyID: invalid ID '
            "string: failed to decode base64: illegal base64 data at input byte 4"
        }
    ],
    "data": None,
}


@dataclass
class Fault:
    """The fault of a query that contains `match`.

    Args:
        match: Part of the query's text.
        kind: `gateway`, `answer`, `text`, `short`, `no data`, `reset`, `wait` or `die`.
        answer: For `answer`: the JSON; `status` goes with it.
        status: Its HTTP status.
        times: How often; None: always.
    """

    match: str
    kind: str
    answer: dict[str, Any] = field(default_factory=dict)
    status: int = 200
    times: int | None = 1
    met: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Asked:
    """One query as received."""

    token: str
    query: str
    variables: dict[str, Any]


class EngineDouble(ThreadingHTTPServer):
    """The HTTP side of all sessions; a session is a token."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, composite: Composite, url: str = "") -> None:
        self.composite, self.url = composite, url
        self.asked: list[Asked] = []
        self.faults: list[Fault] = []
        self.sockets: set[socket.socket] = set()
        self.over = threading.Event()
        super().__init__(("127.0.0.1", 0), _Exchange)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def fail(self, match: str, kind: str, **more: Any) -> Fault:
        """Make the next query that contains `match` fail."""
        fault = Fault(match, kind, **more)
        self.faults.append(fault)
        return fault

    def die(self) -> None:
        """Stop like a killed engine: nothing listens, every connection is closed."""
        self.over.set()
        threading.Thread(target=self.shutdown).start()
        self.socket.close()
        for each in list(self.sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def asked_with(self, part: str) -> list[Asked]:
        """The queries so far that contain `part`."""
        return [each for each in self.asked if part in each.query]

    def data(self, query: str, given: dict[str, Any]) -> Any:
        """The answer of a healthy engine."""
        if query == "{ version }":
            return {"version": "v0.21.8"}
        if "moduleSource" in query:
            return {"moduleSource": {"id": _id("source"), "digest": DIGEST, "commit": ""}}
        if "asModule" in query:
            return {"node": {"asModule": {"serve": None}}}
        if "setSecret" in query:
            return {"setSecret": {"id": _id(f"secret {given['name']}")}}
        if "host { directory" in query:
            return {"host": {"directory": {"id": _id("directory")}}}
        if "service(host:" in query:
            return {"host": {"service": {"id": _id(f"forward {given['host']}")}}}
        if "tunnel" in query:
            return {"host": {"tunnel": {"id": _id("tunnel")}}}
        if "endpoint" in query:
            return {"node": {"endpoint": self.url}}
        if "{ start }" in query:
            return {"node": {"start": _id("tunnel")}}
        if "serve { id }" in query:
            return {"node": {"serve": {"id": _id("service")}}}
        if "index { id }" in query:
            return {"node": {"index": {"id": _id("index")}}}
        if "run(inputJson" in query:
            return {"node": {"run": self.composite("run", given["request"])}}
        if "search(inputJson" in query:
            return {"node": {"search": self.composite("search", given["request"])}}
        if "directory { id }" in query:
            steps = {"rerank": "rootfs", "augment": "rootfs", "generate": "rootfs"}
            images: dict[str, Any] = {
                s: {"container": {f: {"id": _id(s)}}} for s, f in steps.items()
            }
            images["retrieve"] = {"container": {"id": _id("retrieve")}}
            return images | {"directory": {"id": _id("folder")}}
        if "with:" in query:
            return {"node": {"with": {"id": _id("retrieve+")}}}
        if "redirectStdout" in query:
            return {"node": {"withEnvVariable": self._chain(query, given)}}
        if "rag(" in query:
            return {"rag": {"id": _id("rag")}}
        raise AssertionError(f"the double does not know this query: {query}")

    def _chain(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        """Run the steps a chain of containers names, each on what the one before gave."""
        text, files, codes = given["request"], {}, {}
        for step in ("retrieve", "rerank", "augment", "generate"):
            if f"rag_{step}" in query:
                text = self.composite(step, text)
                files[step] = {"contents": text}
                codes[f"{step}Exit"] = (
                    (137 if not text else 1) if text[:8] in ("", '{"error"') else 0
                )
        return {"withNewFile": {"withExec": codes | {"withRootfs": {"withExec": files}}}}


def _id(name: str) -> str:
    return base64.b64encode(name.encode()).decode()


class _Exchange(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: EngineDouble

    def setup(self) -> None:
        super().setup()
        self.server.sockets.add(self.connection)

    def finish(self) -> None:
        self.server.sockets.discard(self.connection)
        with suppress(OSError):
            super().finish()

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        basic = base64.b64decode(self.headers["authorization"].removeprefix("Basic ")).decode()
        query, given = asked["query"], asked["variables"]
        self.server.asked.append(Asked(basic.removesuffix(":"), query, given))
        fault = self._fault(query)
        if fault is None:
            self._send(200, json.dumps({"data": self.server.data(query, given)}))
            return
        fault.met.set()
        if fault.kind == "wait":
            while not fault.go_on.wait(0.02) and not self.server.over.is_set():
                pass
            self._send(200, json.dumps({"data": self.server.data(query, given)}))
        elif fault.kind == "die":
            self.server.die()
        elif fault.kind == "reset":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif fault.kind == "short":  # the header promises more than comes
            self.close_connection = True
            self._head(200, 1000)
            self.wfile.write(b'{"data": {"node"')
        else:
            texts = {
                "gateway": (502, "Bad Gateway"),
                "text": (200, '{"data": {"node"'),
                "no data": (200, "{}"),
                "answer": (fault.status, json.dumps(fault.answer)),
            }
            self._send(*texts[fault.kind])

    def _fault(self, query: str) -> Fault | None:
        for fault in self.server.faults:
            if fault.match in query and fault.times != 0:
                if fault.times is not None:
                    fault.times -= 1
                return fault
        return None

    def _head(self, status: int, length: int) -> None:
        self.send_response(status)
        self.send_header("content-length", str(length))
        self.end_headers()

    def _send(self, status: int, text: str) -> None:
        body = text.encode()
        with suppress(OSError):
            self._head(status, len(body))
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def engine_double(composite: Composite, url: str = "") -> Iterator[EngineDouble]:
    """Run a double until the block ends."""
    double = EngineDouble(composite, url)
    thread = threading.Thread(target=double.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield double
    finally:
        double.over.set()
        if thread.is_alive():
            double.shutdown()
        thread.join()
        double.server_close()


CLI = """#!{python} -SE
import json, os, signal, sys
folder = {folder!r}
with open(os.path.join(folder, "pids"), "a") as file:
    file.write(f"{{os.getpid()}}\\n")
how, port = open(os.path.join(folder, "how")).read().split()
with open(os.path.join(folder, "environment"), "w") as file:
    json.dump(dict(os.environ), file)
if how == "fails":
    said = "start engine: failed to run command [docker version]: exit status 1"
    print("Error:", said, {trace!r}, file=sys.stderr)
    sys.exit(1)
kept = []
signal.signal(signal.SIGUSR1, lambda *_: kept.append(b"x" * (64 << 20)))
if how == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if how != "silent":
    print(json.dumps({{"port": int(port), "session_token": f"session-{{os.getpid()}}"}}), flush=True)
sys.stdin.read()
if how == "stubborn":
    signal.pause()
"""


class Cli:
    """The command line: `how` decides the behaviour of the next process."""

    def __init__(self, folder: Path, engine: EngineDouble) -> None:
        self.folder, self.path = folder, folder / "dagger"
        text = CLI.format(python=sys.executable, folder=str(folder), trace=TRACE)
        self.path.write_text(text, encoding="utf-8")
        self.path.chmod(0o755)
        self.use(engine)

    def use(self, engine: EngineDouble, how: str = "works") -> None:
        """Make the next session one of `engine`; `fails`, `silent` and `stubborn` are faults."""
        (self.folder / "how").write_text(f"{how} {engine.port}", encoding="utf-8")

    @property
    def pids(self) -> list[int]:
        """Every process so far, oldest first."""
        file = self.folder / "pids"
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    @property
    def running(self) -> list[int]:
        """Those that still run."""
        return [pid for pid in self.pids if _runs(pid)]

    @property
    def environment(self) -> dict[str, str]:
        """What the last one was started with."""
        found: dict[str, str] = json.loads((self.folder / "environment").read_text())
        return found


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
