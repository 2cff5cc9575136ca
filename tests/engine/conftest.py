"""Fixtures of the tests on a real engine: the engine, a copy of this repository, a git server.

They find the engine by themselves: `dagger` on PATH and, where it is not the default one, its
address in the environment. Where there is none they are skipped with the reason.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_kit import CALL_S, QUIET, Dagger, GitHttp, GitServer, Session, copy_of, registry_in

ROOT = Path(__file__).resolve().parents[2]


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.engine)
            item.add_marker(pytest.mark.xdist_group("engine"))
            if not item.get_closest_marker("timeout"):
                item.add_marker(pytest.mark.timeout(2 * CALL_S))


@pytest.fixture(scope="session")
def engine() -> None:
    """Skip where no engine answers."""
    if shutil.which("dagger") is None:
        pytest.skip("no Dagger engine: there is no `dagger` on PATH")
    try:
        asked = subprocess.run(
            ["dagger", "core", "version"],
            env={**os.environ, **QUIET},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        pytest.skip("no Dagger engine: `dagger core version` did not answer within 60 s")
    if asked.returncode:
        said = asked.stderr.strip().rpartition("\n")[2].partition(" [traceparent:")[0]
        pytest.skip(f"no Dagger engine answers `dagger core version`: {said}")


@pytest.fixture(scope="session")
def repository(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This repository as it stands now, in a folder that no other process edits."""
    return copy_of(ROOT, tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="session")
def dagger_cli(repository: Path) -> Dagger:
    """`dagger` at the repository's root."""
    return Dagger(repository)


@pytest.fixture
def my_docs(tmp_path: Path) -> Path:
    """A user's folder: two documents that nothing else here says."""
    docs = tmp_path / "my-docs"
    docs.mkdir()
    (docs / "kettle.md").write_text("# Kettle\n\nThe kettle on the third floor holds 1.7 litres.\n")
    (docs / "bicycles.md").write_text("# Bicycles\n\nBicycles are parked behind the east gate.\n")
    return docs


@pytest.fixture(scope="session")
def git_server(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitServer]:
    """A git server on port 80: the engine drops any other port of an http reference."""
    folder = tmp_path_factory.mktemp("git")
    try:
        server = GitHttp(folder)
    except OSError as error:
        pytest.skip(f"a git reference needs port 80 of this machine: {error.strerror}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield GitServer(folder)
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def session(repository: Path) -> Iterator[Session]:
    """A session with `rag` loaded."""
    opened = Session(repository)
    try:
        opened.load("dagger/rag")
        yield opened
    finally:
        opened.close()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """A registry on this machine that wants no login: RAG_TEST_REGISTRY, or one of its own."""
    if given := os.environ.get("RAG_TEST_REGISTRY"):
        yield given
        return
    with registry_in(tmp_path) as address:
        yield address


@pytest.fixture(autouse=True)
def _engine_first(engine: None) -> None:
    """Every test here needs the engine."""
