"""Runs a guide as a reader would: its blocks in order, in one shell session, in an empty folder.

    ```sh                    run in the session; a line that ends in & runs on, and its server is waited for
    ```python                run by `python` in the session's folder and environment
    … as `path/file`:        the block below such a line, whatever its language, is written to that file
    ``` right below a run    what the run printed, errors included; … stands for what varies
    anything else            fails, unless it is listed with a reason

Two things differ from what the guide says: ports are free ones, and addresses that a test stands in for
(`replacements`) are its own.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

BIN = Path(sys.executable).parent
FENCE = re.compile(r"^( *)```(\S*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"\bas `([^`\s]+)`:\s*\Z")
BEHIND = re.compile(r"^(?P<command>[^#\n]*\S) &(?P<comment>\s+#.*)?$", re.MULTILINE)
PORT = re.compile(r"(?:--port |:)(\d{4,5})\b")
PORTS = ("8000", "8081", "8082", "8083", "8090")  # those the guides use, by what listens there
READY = """
ready_at() {  # PORT: return when a server answers there, and does not say that it is not ready
    local tries=0 status
    while :; do
        status=$(curl -s -o /dev/null -w '%{http_code}' "http://127.0.0.1:$1/readyz") || true
        case $status in 000 | 503) ;; *) return 0 ;; esac
        tries=$((tries + 1))
        [ $tries -lt 600 ] || { echo "nothing is ready at port $1"; return 1; }
        sleep 0.1
    done
}
"""


@dataclass(frozen=True)
class Block:
    """A fenced block: where it is, its language, its text, and what stands right before it."""

    guide: Path
    line: int
    language: str
    text: str
    before: str

    @property
    def where(self) -> str:
        return f"{self.guide.name}:{self.line}"

    @property
    def file(self) -> str | None:
        """The file it is to be saved as, when the guide says so."""
        found = FILE.search(self.before)
        return found[1] if found else None

    @property
    def calls_dagger(self) -> bool:
        return re.search(r"^\s*dagger ", self.text, re.MULTILINE) is not None


def blocks(guide: Path) -> list[Block]:
    """Return the fenced blocks of a guide, in order."""
    text, found, at = guide.read_text(encoding="utf-8"), [], 0
    for fence in FENCE.finditer(text):
        before = text[at : fence.start()]
        line = text.count("\n", 0, fence.start()) + 1
        inside = re.sub(rf"^{fence[1]}", "", fence[3], flags=re.MULTILINE)
        found.append(Block(guide, line, fence[2], inside, before))
        at = fence.end()
    return found


def is_output(block: Block, last: Block | None) -> bool:
    """Tell whether a block shows what the block above it printed."""
    shown = block.language in ("", "text", "json") and not block.before.strip()
    return shown and last is not None and last.file is None and last.language in ("sh", "python")


def pattern_of(shown: str) -> re.Pattern[str]:
    """Return a pattern of a shown output: … matches any text of a line, a line … any lines.

    How wide the columns of a table are, and blanks at the end of a line, do not count.
    """
    lines = []
    for line in shown.splitlines():
        if line.strip() == "…":
            lines.append(r"(?:[^\n]*\n)*?")
            continue
        text = r"[^\n]*?".join(map(re.escape, line.rstrip().split("…")))
        lines.append(re.sub(r"(?:\\ ){2,}", " +", text) + r" *\n")
    return re.compile("".join(lines))


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Session:
    """One shell, in a folder of its own.

    Args:
        folder: Where it begins.
        aside: Where scripts and logs are kept, so that the reader's folder holds the reader's files.
        replacements: What is read instead of what a guide says, longest first.
        environment: More variables.
    """

    folder: Path
    aside: Path
    replacements: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for each in (self.folder, self.aside):
            each.mkdir(parents=True, exist_ok=True)
        self.ports = {port: str(free_port()) for port in PORTS}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAG_")}
        self._count = 0
        self._shell = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            cwd=self.folder,
            env={
                **kept,
                "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
                "XDG_DATA_HOME": str(self.aside / "data"),
                "RAG_PORT": self.ports["8000"],
                "COLUMNS": "110",
                "NO_COLOR": "1",
                **self.environment,
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def instead(self, text: str) -> str:
        """Return a text with this session's ports and addresses."""
        for said, meant in sorted(self.replacements.items(), key=lambda pair: -len(pair[0])):
            text = text.replace(said, meant)
        return re.sub(
            rf"(?<![\w.])({'|'.join(PORTS)})(?![\w])", lambda port: self.ports[port[1]], text
        )

    def run(self, block: Block) -> str:
        """Run a block; returns what it printed.

        Raises:
            AssertionError: One of its commands failed, or a server it starts was not ready within a minute.
        """
        self._count += 1
        script = self.aside / f"{self._count}.{block.language}"
        output = script.with_suffix(".out")
        text = self.instead(block.text)
        servers = list(BEHIND.finditer(text)) if block.language == "sh" else []
        logs = [self.aside / f"{self._count}-{number}.log" for number in range(len(servers))]
        for found, log in reversed(list(zip(servers, logs, strict=True))):
            behind = f"{found['command']} >{log} 2>&1 </dev/null &"
            waits = [f"ready_at {port}" for port in self._ports_of(found[0])]
            text = text[: found.start()] + "\n".join([behind, *waits]) + text[found.end() :]
        script.write_text((READY if servers else "") + text, encoding="utf-8")
        line = f". {script}" if block.language == "sh" else f"python - <{script}"
        given = "" if block.language == "python" else "</dev/null"
        errors = script.with_suffix(".err") if block.calls_dagger else "&1"
        said = self._tell(f"set -e; {line} {given} >{output} 2>{errors}; echo done")
        printed = output.read_text(encoding="utf-8") if output.exists() else ""
        said_beside = (*logs, script.with_suffix(".err"))
        more = "".join(
            f"\n{log.read_text(encoding='utf-8')}" for log in said_beside if log.exists()
        )
        assert said == "done", f"{block.where} fails:\n{block.text}\nIt printed:\n{printed}{more}"
        return printed

    def _tell(self, line: str) -> str:
        """Give the shell a line, and return the word it answers with; nothing when it ended."""
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        try:
            self._shell.stdin.write(line + "\n")
            self._shell.stdin.flush()
        except BrokenPipeError:
            return ""
        return self._shell.stdout.readline().strip()

    def _ports_of(self, command: str) -> list[str]:
        """Return the ports that a command which runs on serves at."""
        return PORT.findall(command) or ([self.ports["8000"]] if "rag serve" in command else [])

    def close(self) -> None:
        """End the shell and all that it started."""
        os.killpg(self._shell.pid, signal.SIGTERM)
        try:
            self._shell.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(self._shell.pid, signal.SIGKILL)
            self._shell.communicate()


@contextmanager
def session(
    folder: Path,
    aside: Path,
    replacements: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Session]:
    """Hold a session; what it started ends with the block."""
    opened = Session(folder, aside, replacements or {}, environment or {})
    try:
        yield opened
    finally:
        opened.close()


def follow(
    guide: Path, reader: Session, left: Mapping[str, str], *, engine: bool = False
) -> list[Block]:
    """Follow a guide to its end; returns the blocks that were run.

    Args:
        guide: The guide.
        reader: Who follows it.
        left: Reasons why blocks are not run, by how the block begins.
        engine: Run blocks that call `dagger`, too; without, they and what they show are left.

    Raises:
        AssertionError: A command failed, printed something else than what is shown, or a block is
            neither run nor left with a reason.
    """
    ran, last, printed = [], None, ""
    for block in blocks(guide):
        if block.file is not None:
            path = reader.folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(reader.instead(block.text), encoding="utf-8")
        elif any(block.text.startswith(beginning) for beginning in left):
            pass
        elif is_output(block, last):
            if last in ran:
                shown = reader.instead(block.text)
                fits = pattern_of(shown).fullmatch(
                    printed if printed.endswith("\n") else printed + "\n"
                )
                assert fits, (
                    f"{block.where} shows:\n{shown}\nThe block above it printed:\n{printed}"
                )
        elif block.language in ("sh", "python"):
            if engine or not block.calls_dagger:
                printed = reader.run(block)
                ran.append(block)
        else:
            raise AssertionError(
                f"{block.where} is neither run, nor saved as a file, nor the output of the block "
                f"above it, nor left with a reason:\n{block.text}"
            )
        last = block
    return ran
