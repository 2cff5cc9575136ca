"""What a question costs in each form, on a Dagger engine, with the one-process figure beside it.

    python bench/engine.py [--calls 5] [--write] [--shell [--against COMMIT]]

The engine is found as `dagger` finds it. Every question is a new one, so nothing is answered from a
cache; before each form is timed, it is called once. Forms:

    one process       rag_pipeline.steps.local, as `make run`
    resident          POST /run to the composite's service, through the tunnel to this machine
    rag.run           one function call in an open session
    steps by hand     retrieve.run, augment.run, generate.run called one after the other (the naive chain)
    containers        the three images' commands chained over the core API in one query, no module call
    shell             `dagger call rag run`, a process, a session and the module's load each time; its
                      `--help` and `dagger functions`, the load alone. All also with the engine's own SDK
                      for Python, asked in turns, so that other load on the machine meets each form alike;
                      with --against also as they were at a commit, which gives the figure of a change
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path += [str(ROOT / folder) for folder in ("tests/doubles", "scripts")]

import httpx
from engine_kit import QUIET, Session, commit, copy_of, unpin
from projects import MODULES, PIPELINE
from report import machine, write_section
from rich.console import Console
from rich.table import Table

from rag_pipeline.stages import NEEDED
from rag_pipeline.steps.local import open_local

QUESTIONS = count(1)
SLOW_S = 0.5  # a call that takes longer is told as it ends
SDKS = "Modules ran with the SDK of this repository where a row does not say otherwise."


@dataclass(frozen=True)
class Row:
    """One form and its times, in seconds."""

    form: str
    first: float
    seconds: list[float]

    def cells(self) -> list[str]:
        """Return the row as text: median, fastest, slowest, and the untimed first call."""
        times = (statistics.median(self.seconds), min(self.seconds), max(self.seconds))
        return [self.form, *(spoken(each) for each in times), spoken(self.first)]


def spoken(seconds: float) -> str:
    """Return a time in the unit a person would use."""
    return f"{seconds * 1000:.1f} ms" if seconds < 0.1 else f"{seconds:.2f} s"


def question() -> str:
    """Return a question never asked before."""
    return (
        f"How does retrieval fuse dense and sparse results, asked for the {next(QUESTIONS)}. time?"
    )


Ask = Callable[[str], dict[str, Any]]


def timed(form: str, ask: Ask, calls: int) -> Row:
    """Ask once, then `calls` times; an error ends the benchmark."""
    [row] = in_turns({form: ask}, calls)
    return row


def in_turns(forms: dict[str, Ask], calls: int) -> list[Row]:
    """Ask every form once, then all of them `calls` times, one after the other."""
    seconds: dict[str, list[float]] = {form: [] for form in forms}
    for _ in range(calls + 1):
        for form, ask in forms.items():
            began = time.perf_counter()
            answer = ask(question())
            took = time.perf_counter() - began
            assert "error" not in answer, answer
            seconds[form].append(took)
            if took > SLOW_S:
                print(f"{form}: {spoken(took)}", file=sys.stderr, flush=True)
    return [Row(form, each[0], each[1:]) for form, each in seconds.items()]


@contextmanager
def session(repository: Path, *modules: str) -> Iterator[Session]:
    """Open a session with modules loaded."""
    opened = Session(repository)
    try:
        for module in modules:
            opened.load(module)
        yield opened
    finally:
        opened.close()


def one_process(calls: int) -> Row:
    """Time the embedded default over docs/."""
    with tempfile.TemporaryDirectory() as home, open_local(home=Path(home)) as rag:
        rag.retriever.ingest([ROOT / "docs"])
        return timed("one process", lambda text: rag.answer({"query": text}), calls)


def resident(opened: Session, calls: int) -> Row:
    """Time the composite's service through the tunnel."""
    service = opened.ask("{ rag { serve { id } } }")["rag"]["serve"]["id"]
    tunnel = opened.ask(
        "query($s: ID!) { host { tunnel(service: $s, ports: [{frontend: 0, backend: 8080}]) { id } } }",
        s=service,
    )["host"]["tunnel"]["id"]
    opened.ask("query($t: ID!) { node(id: $t) { ... on Service { start } } }", t=tunnel)
    url = opened.ask(
        'query($t: ID!) { node(id: $t) { ... on Service { endpoint(scheme: "http") } } }', t=tunnel
    )["node"]["endpoint"]
    with httpx.Client(trust_env=False, timeout=120) as client:
        while client.get(f"{url}/readyz").status_code != 200:
            pass

        def ask(text: str) -> dict[str, Any]:
            answer: dict[str, Any] = client.post(f"{url}/run", json={"query": text}).json()
            return answer

        return timed("resident", ask, calls)


def in_session(opened: Session, calls: int) -> Row:
    """Time `rag.run` in an open session."""

    def ask(text: str) -> dict[str, Any]:
        data = opened.ask("query($q: String!) { rag { run(query: $q) } }", q=text)
        answer: dict[str, Any] = json.loads(data["rag"]["run"])
        return answer

    return timed("rag.run in a session", ask, calls)


def index_of(opened: Session) -> str:
    """Return the id of the index of docs/, as a directory."""
    made: str = opened.ask("{ rag { index { id } } }")["rag"]["index"]["id"]
    return made


def by_hand(opened: Session, store: str, calls: int) -> Row:
    """Time the three module functions one after the other."""
    queries = {step: f"query($i: String!) {{ {step} {{ run(inputJson: $i) }} }}" for step in NEEDED}
    queries["retrieve"] = (
        "query($i: String!, $s: ID!) { retrieve(store: $s) { run(inputJson: $i) } }"
    )

    def ask(text: str) -> dict[str, Any]:
        carried = json.dumps({"query": text})
        for step, query in queries.items():
            more = {"s": store} if step == "retrieve" else {}
            carried = opened.ask(query, i=carried, **more)[step]["run"]
        answer: dict[str, Any] = json.loads(carried)
        return answer

    return timed("steps by hand, three module calls", ask, calls)


def containers(opened: Session, store: str, calls: int) -> Row:
    """Time the pipeline without module calls: three commands in three images, file to file."""
    images = {
        step: opened.ask(f"{{ {step} {{ container {{ id }} }} }}")[step]["container"]["id"]
        for step in NEEDED
    }
    mounted = opened.ask(
        "query($c: ID!, $s: ID!) { node(id: $c) { ... on Container {"
        ' withMountedDirectory(path: "/data", source: $s, owner: "10001:10001") { id } } } }',
        c=images["retrieve"],
        s=store,
    )
    images["retrieve"] = mounted["node"]["withMountedDirectory"]["id"]
    run = (
        'withExec(args: ["--input", "/tmp/i", "--output", "/tmp/o"], useEntrypoint: true)'
        ' { file(path: "/tmp/o")'
    )
    first = (
        "query($c: ID!, $t: String!) { node(id: $c) { ... on Container {"
        f' withNewFile(path: "/tmp/i", contents: $t) {{ {run} {{ id }} }} }} }} }} }}'
    )
    later = (
        "query($c: ID!, $f: ID!) { node(id: $c) { ... on Container {"
        f' withMountedFile(path: "/tmp/i", source: $f, owner: "10001:10001") {{ {run} {{ %s }} }} }} }} }} }}'
    )

    def file(data: dict[str, Any], step: str) -> dict[str, Any]:
        found: dict[str, Any] = data["node"][step]["withExec"]["file"]
        return found

    def ask(text: str) -> dict[str, Any]:
        request = json.dumps({"query": text})
        made = file(opened.ask(first, c=images[NEEDED[0]], t=request), "withNewFile")
        for step in NEEDED[1:]:
            query = later % ("contents" if step == NEEDED[-1] else "id")
            made = file(opened.ask(query, c=images[step], f=made["id"]), "withMountedFile")
        answer: dict[str, Any] = json.loads(made["contents"])
        return answer

    return timed("three container steps, chained", ask, calls)


def dagger(repository: Path, *arguments: str) -> str:
    """Run the command line; return its standard output."""
    return subprocess.run(
        ["dagger", "-s", *arguments],
        cwd=repository,
        env={**os.environ, **QUIET},
        capture_output=True,
        text=True,
        check=True,
        timeout=900,
        stdin=subprocess.DEVNULL,
    ).stdout


def with_plain_sdk(folder: Path) -> Path:
    """Return a copy of this repository whose modules run with the engine's own SDK."""
    repository = copy_of(ROOT, folder)
    for name in MODULES:
        config = repository / "dagger" / name / "dagger.json"
        config.write_text(config.read_text().replace('"../python-sdk"', '"python"'))
    commit(repository)
    return repository


def at_commit(commitish: str, folder: Path) -> Path:
    """Return a copy of this repository as it was at a commit."""
    subprocess.run(["git", "clone", "-q", ROOT, folder], check=True)
    subprocess.run(["git", "checkout", "-q", "--detach", commitish], cwd=folder, check=True)
    unpin(folder)
    commit(folder)
    return folder


def shells(folder: Path, against: str | None) -> dict[str, Path]:
    """Return what the command line is timed in: this repository, with the plain SDK, and at a commit."""
    for name in ("own", "plain"):
        (folder / name).mkdir()
    made = {"": copy_of(ROOT, folder / "own"), ", plain SDK": with_plain_sdk(folder / "plain")}
    return {**made, f", {against}": at_commit(against, folder / "then")} if against else made


def shell(repositories: dict[str, Path], calls: int) -> list[Row]:
    """Time the command line in each repository; the name of each follows the form's."""
    forms: dict[str, Ask] = {}
    for name, repository in repositories.items():
        forms[f"dagger call rag run{name}"] = partial(_run, repository)
        for told in (("call", "rag", "run", "--help"), ("functions",)):
            forms[f"dagger {' '.join(told)}{name}"] = partial(_told, repository, told)
    return in_turns(forms, calls)


def _run(repository: Path, text: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(dagger(repository, "call", "rag", "run", "--query", text))
    return answer


def _told(repository: Path, arguments: tuple[str, ...], _: str) -> dict[str, Any]:
    return {"told": dagger(repository, *arguments)}


def table(rows: list[Row]) -> str:
    """Return the table as Markdown."""
    lines = [f"Measured {date.today()} on {machine()}. {SDKS}", ""]
    lines += ["| Form | median | fastest | slowest | call before |", "|---|---|---|---|---|"]
    lines += [f"| {' | '.join(row.cells())} |" for row in rows]
    added = statistics.median(rows[1].seconds) - statistics.median(rows[0].seconds)
    lines += ["", f"The resident pipeline adds {added * 1000:.1f} ms to the one process (medians)."]
    return "\n".join(lines)


def repeat(rows: list[Row], guide: Path) -> None:
    """Put the medians into a guide, where its table and its text have those of the benchmarks."""
    text = guide.read_text(encoding="utf-8")
    for row in rows:
        found = re.search(rf"^\| {row.form} \| ([\d.]+ m?s) \|", text, re.MULTILINE)
        if found:
            text = re.sub(rf"\b{re.escape(found[1])}\b", row.cells()[1], text)
    text = re.sub(r"(`make bench-engine` on )[\d-]+", rf"\g<1>{date.today()}", text)
    guide.write_text(text, encoding="utf-8")


def show(rows: list[Row]) -> None:
    """Print the rows."""
    shown = Table("form", "median", "fastest", "slowest", "call before")
    for row in rows:
        shown.add_row(*row.cells())
    Console(width=110).print(shown)


def main() -> None:
    """Measure, print, and with --write put the table into docs/benchmarks.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=5, help="calls of a slow form (default 5)")
    parser.add_argument(
        "--write", action="store_true", help="into docs/benchmarks.md and docs/transition.md"
    )
    parser.add_argument("--shell", action="store_true", help="the command line only; minutes less")
    parser.add_argument(
        "--against", metavar="COMMIT", help="with --shell: also this repository at that commit"
    )
    options = parser.parse_args()
    if options.against and not options.shell:
        parser.error("--against needs --shell")
    if options.shell:
        with tempfile.TemporaryDirectory() as folder:
            repositories = shells(Path(folder), options.against)
            show(shell(repositories, options.calls))
        return
    fast = 40 * options.calls
    rows = [one_process(fast)]
    with tempfile.TemporaryDirectory() as folder:
        repository = copy_of(ROOT, Path(folder))
        with session(repository, f"dagger/{PIPELINE}") as opened:
            rows.append(resident(opened, fast))
            rows.append(in_session(opened, options.calls))
        with session(repository, *(f"dagger/{name}" for name in MODULES)) as opened:
            store = index_of(opened)
            rows.append(containers(opened, store, options.calls))
            rows.append(by_hand(opened, store, options.calls))
    with tempfile.TemporaryDirectory() as folder:
        rows += shell(shells(Path(folder), None), options.calls)
    show(rows)
    text = table(rows)
    print(text)
    if options.write:
        write_section("engine", text)
        repeat(rows, ROOT / "docs/transition.md")


if __name__ == "__main__":
    main()
