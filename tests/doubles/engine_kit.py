"""How the tests on a real engine call it: the command line, an open session, a git server."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import socket
import subprocess
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

QUIET = {"DO_NOT_TRACK": "1", "DAGGER_NO_NAG": "1", "DAGGER_NO_UPDATE_CHECK": "1", "NO_COLOR": "1"}
CALL_S = 900  # seconds; the first call of a module builds its environment
HOST = os.environ.get("RAG_TEST_HOST", "127.0.0.1")
"""This machine, as the engine reaches it for git."""
GIT_USER, GIT_TOKEN = "x-access-token", "a-git-token-of-the-test"
"""Who may read the repositories whose names begin with `private`."""


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Ran:
    """What a call of the command line gave."""

    code: int
    out: str
    log: str

    @property
    def json(self) -> dict[str, Any]:
        """Standard output as JSON; the log is shown when it is none."""
        assert self.code == 0, self.log[-3000:]
        data: dict[str, Any] = json.loads(self.out)
        return data


@dataclass(frozen=True)
class Dagger:
    """The command line, run in one folder."""

    cwd: Path

    def __call__(
        self, *arguments: str, env: dict[str, str] | None = None, timeout: float = CALL_S
    ) -> Ran:
        """Run `dagger ARGUMENTS`; plain progress goes to the log."""
        done = subprocess.run(
            ["dagger", "--progress=plain", *arguments],
            cwd=self.cwd,
            env={**os.environ, **QUIET, **(env or {})},
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def at(self, cwd: Path) -> Dagger:
        """Return the command line in another folder."""
        return Dagger(cwd)


def copy_of(source: Path, target: Path) -> Path:
    """Copy what git knows or would add, as it stands now, into a repository of its own."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=source,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    for name in filter(None, listed):
        if (source / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, target / name)
    unpin(target)
    commit(target)
    return target


def unpin(folder: Path) -> None:
    """Where the engine's registry has images of its own (RAG_TEST_UNPINNED), take them by tag."""
    if os.environ.get("RAG_TEST_UNPINNED"):
        for name in ("kit/src/rag_kit/container.py", "python-sdk/main.dang"):
            for file in folder.glob(f"dagger/{name}"):  # an example has none
                text = file.read_text(encoding="utf-8")
                file.write_text(re.sub(r"@sha256:[0-9a-f]{64}", "", text), encoding="utf-8")


def commit(folder: Path, *tags: str) -> None:
    """Commit everything in a folder, with tags."""
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.com"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "test", "--allow-empty"]):
        subprocess.run([*git, *command], cwd=folder, check=True)
    for tag in tags:
        subprocess.run([*git, "tag", "-f", tag], cwd=folder, check=True, capture_output=True)


class _Git(BaseHTTPRequestHandler):
    """git's own smart HTTP server (`git http-backend`, a CGI program) behind HTTP."""

    server: GitHttp
    protocol_version = "HTTP/1.0"

    def do_GET(self) -> None:
        allowed = base64.b64encode(f"{GIT_USER}:{GIT_TOKEN}".encode()).decode()
        if self.path.startswith("/private") and self.headers["authorization"] != f"Basic {allowed}":
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.end_headers()
            return
        path, _, query = self.path.partition("?")
        length = int(self.headers.get("content-length") or 0)
        ran = subprocess.run(
            ["git", "http-backend"],
            input=self.rfile.read(length),
            env={
                **os.environ,
                "GIT_PROJECT_ROOT": str(self.server.folder),
                "GIT_HTTP_EXPORT_ALL": "1",
                "GIT_PROTOCOL": self.headers.get("git-protocol", ""),
                "HTTP_CONTENT_ENCODING": self.headers.get("content-encoding", ""),
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("content-type", ""),
                "CONTENT_LENGTH": str(length),
            },
            capture_output=True,
            check=False,
        )
        head, _, body = ran.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().splitlines() if ": " in line)
        self.send_response(int(fields.pop("Status", "200").split()[0]))
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *args: object) -> None:
        pass


class GitHttp(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__(("0.0.0.0", 80), _Git)


@dataclass(frozen=True)
class GitServer:
    """Repositories served over HTTP, as a hosting service would."""

    folder: Path

    def serve(self, name: str, source: Path) -> str:
        """Serve a bare copy of a repository with its tags; return its address."""
        bare = self.folder / f"{name}.git"
        subprocess.run(["git", "clone", "-q", "--bare", source, bare], check=True)
        return f"http://{HOST}/{name}.git"


@contextmanager
def running(command: list[str], until: str, **more: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a process from when it says `until` to the end of the block.

    What it says goes on being read: a pipe that is full stops who writes.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )
    said: deque[str] = deque(maxlen=40)
    heard = threading.Event()

    def read() -> None:
        assert process.stderr is not None
        with process.stderr:
            for line in process.stderr:
                said.append(line)
                if until in line:
                    heard.set()
        heard.set()  # it ended

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert heard.wait(CALL_S), "".join(said)
        assert process.poll() is None, "".join(said)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(60)
        reader.join()


class Session:
    """One open session, asked over GraphQL with variables only."""

    def __init__(self, cwd: Path) -> None:
        self._process = subprocess.Popen(
            ["dagger", "session"],
            cwd=cwd,
            env={**os.environ, **QUIET},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        opened = json.loads(self._process.stdout.readline())
        self._url = f"http://127.0.0.1:{opened['port']}/query"
        self._token = opened["session_token"]

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """Send a query; return its data, or fail with its errors."""
        response = httpx.post(
            self._url,
            json={"query": query, "variables": variables},
            auth=(self._token, ""),
            timeout=CALL_S,
            trust_env=False,
        )
        answer = response.json()
        assert not answer.get("errors"), answer["errors"]
        data: dict[str, Any] = answer["data"]
        return data

    def load(self, module: str) -> None:
        """Load a module, so that its functions can be asked."""
        self.ask(
            "query($ref: String!) { moduleSource(refString: $ref) { asModule { serve } } }",
            ref=module,
        )

    def close(self) -> None:
        """End the session: its services stop with it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(60)
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextmanager
def registry_in(folder: Path, auth: str = "") -> Iterator[str]:
    """Run Debian's docker-registry over a folder; give its address."""
    binary = shutil.which("docker-registry")
    if binary is None:
        pytest.skip("no registry: install docker-registry")
    port = free_port()
    config = folder / "registry.yml"
    config.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {folder}/images}}}}\n"
        f"http: {{addr: 127.0.0.1:{port}}}\n{auth}"
    )
    with running([binary, "serve", str(config)], "listening on"):
        yield f"localhost:{port}"


@contextmanager
def served(cwd: Path, *arguments: str) -> Iterator[str]:
    """Run `dagger ARGUMENTS serve up` on a free port until the block ends; give its URL once ready."""
    port = free_port()
    command = ["dagger", "--progress=plain", *arguments, "serve", "up"]
    command += ["--ports", f"{port}:8080"]
    url = f"http://127.0.0.1:{port}"
    with (
        running(command, "tunnel started", cwd=cwd, env={**os.environ, **QUIET}) as process,
        httpx.Client(trust_env=False, timeout=120) as client,
    ):
        while client.get(f"{url}/readyz").status_code != 200:
            assert process.poll() is None
        yield url
