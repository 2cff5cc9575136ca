"""dagger/python-sdk on a real engine: types from the cache, modules of other teams, errors, the way back."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from engine_kit import Dagger, GitServer, commit, copy_of

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples/keyword-retriever"
README = (ROOT / "dagger/python-sdk/README.md").read_text(encoding="utf-8")
TAG = "v9.9.7"
REQUEST = ("--input-json", '{"query": "canoe paddles"}')
LOADED = "my module is imported"


@pytest.fixture(scope="module")
def published(git_server: GitServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """This repository behind a git address, with a version tag for the SDK."""
    repository = copy_of(ROOT, tmp_path_factory.mktemp("published"))
    commit(repository, f"dagger/python-sdk/{TAG}")
    return git_server.serve("sdk", repository)


@pytest.fixture
def foreign(published: str, tmp_path: Path) -> Path:
    """A module of another team, in a repository of its own, with the SDK by git reference."""
    copy = copy_of(EXAMPLE, tmp_path)
    configure(copy, source=f"{published}/dagger/python-sdk@{TAG}")
    return copy


def configure(project: Path, **sdk: Any) -> None:
    """Write the SDK into a module's dagger.json."""
    config = project / "dagger.json"
    data = json.loads(config.read_text())
    config.write_text(json.dumps({**data, "sdk": sdk}))
    commit(project)


def add(project: Path, text: str) -> None:
    """Append to the source of the foreign module."""
    with (project / "src/keyword_retriever/module.py").open("a") as source:
        source.write(text)


def test_a_module_of_another_team_runs_with_it_by_git_reference(
    dagger_cli: Dagger, foreign: Path
) -> None:
    """One line of dagger.json; the module, its project and its lock stay as they are."""
    ran = dagger_cli.at(foreign)("call", "run", *REQUEST)

    assert ran.json["results"], ran.log[-3000:]


def test_a_loaded_module_is_not_imported_again_for_its_types(
    dagger_cli: Dagger, foreign: Path
) -> None:
    """The engine keeps the types: only a changed module is started to read them."""
    add(foreign, f"\nimport sys\nprint({LOADED!r}, file=sys.stderr)  # {foreign}\n")
    dagger = dagger_cli.at(foreign)

    first, again = dagger("-vv", "functions"), dagger("-vv", "functions")
    called = dagger("-vv", "call", "run", *REQUEST)

    assert (first.out, first.code) == (again.out, again.code)
    assert first.log.count(LOADED) == 1, first.log[-3000:]
    assert again.log.count(LOADED) == 0
    assert called.log.count(LOADED) == 2  # the constructor and the function


def test_the_layout_of_dagger_init_needs_no_entry_point(dagger_cli: Dagger, foreign: Path) -> None:
    """The main object is then the class in the package that has the module's name."""
    project = foreign / "pyproject.toml"
    text = re.sub(r"\[project.entry-points.*?\n\n", "", project.read_text(), flags=re.DOTALL)
    project.write_text(text)
    package = foreign / "src/keyword_retriever/__init__.py"
    package.write_text("from .module import KeywordRetriever as KeywordRetriever\n")

    ran = dagger_cli.at(foreign)("call", "run", *REQUEST)

    assert "entry-points" not in text
    assert ran.json["results"], ran.log[-3000:]


def test_another_image_is_a_line_of_configuration(
    dagger_cli: Dagger, foreign: Path, published: str
) -> None:
    """`config.image` brings another Python; one that does not exist is named."""
    source = f"{published}/dagger/python-sdk@{TAG}"
    configure(foreign, source=source, config={"image": "python:3.11-slim"})
    found = dagger_cli.at(foreign)("call", "run", *REQUEST)
    configure(foreign, source=source, config={"image": "no-such-image:1"})
    missing = dagger_cli.at(foreign)("call", "run", *REQUEST)

    assert found.json["results"]
    assert missing.code != 0
    assert "no-such-image:1" in missing.log


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = (", "The module's types cannot be read: '(' was never closed"),
        ("import no_such", "The module's types cannot be read: No module named 'no_such'"),
    ],
)
def test_a_module_that_cannot_be_imported_says_why(
    dagger_cli: Dagger, foreign: Path, text: str, said: str
) -> None:
    """The reason is the last line of what the module's process printed."""
    add(foreign, f"\n{text}\n")

    ran = dagger_cli.at(foreign)("functions")

    assert ran.code != 0
    assert said in ran.log


def test_an_exception_in_a_function_fails_the_call_with_its_text(
    dagger_cli: Dagger, foreign: Path
) -> None:
    """Class and text are in the error, as with the plain SDK; nothing stands on standard output."""
    source = foreign / "src/keyword_retriever/module.py"
    broken = re.sub(
        r"return .*run\(.*", "raise LookupError('the shelf is empty')", source.read_text()
    )
    source.write_text(broken)
    assert "the shelf is empty" in broken

    ran = dagger_cli.at(foreign)("call", "run", *REQUEST)

    assert (ran.code != 0, ran.out) == (True, "")
    assert "the shelf is empty" in ran.log


def test_a_lock_that_does_not_fit_is_named(dagger_cli: Dagger, foreign: Path) -> None:
    """Versions come from uv.lock only: a project without one is told to make it."""
    (foreign / "uv.lock").unlink()
    commit(foreign)

    ran = dagger_cli.at(foreign)("functions")

    assert ran.code != 0
    assert "uv lock" in ran.log


def test_develop_changes_no_file(dagger_cli: Dagger, foreign: Path) -> None:
    """`dagger develop` writes no generated code into the module."""
    ran = dagger_cli.at(foreign)("develop")

    changed = subprocess.run(
        ["git", "status", "--porcelain", "--", "src", "pyproject.toml", "uv.lock"],
        cwd=foreign,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert (ran.code, changed) == (0, ""), ran.log[-3000:]


@pytest.mark.parametrize("module", ["retrieve", "rerank", "augment", "generate", "rag"])
def test_a_module_is_used_by_one_with_the_plain_sdk(dagger_cli: Dagger, module: str) -> None:
    """The example beside each module, in Python with the engine's own SDK, loads and lists its functions."""
    example = ROOT / f"dagger/{module}/examples/python/src/examples/module.py"
    functions = re.findall(r"def (\w+)\(\s*self", example.read_text(encoding="utf-8"))

    ran = dagger_cli("-m", f"dagger/{module}/examples/python", "functions")

    assert ran.code == 0, ran.log[-3000:]
    listed = re.findall(r"^(\S+)", ran.out, re.MULTILINE)
    assert {re.sub("_+", "-", name) for name in functions} <= set(listed)


def test_one_line_goes_back_to_the_plain_sdk(dagger_cli: Dagger, tmp_path: Path) -> None:
    """The README's command; every module loads with the engine's own SDK, and the pipeline answers."""
    repository = copy_of(ROOT, tmp_path)
    command = re.search(r"^sed -i .*$", README, re.MULTILINE)
    assert command
    subprocess.run(command[0], cwd=repository, shell=True, check=True)
    sources = {
        json.loads(each.read_text())["sdk"]["source"]
        for each in repository.glob("dagger/*/dagger.json")
    }
    assert sources == {"python", "dang"}

    ran = dagger_cli.at(repository)("call", "rag", "run", "--query", "What is a span?")

    assert ran.json["citations"], ran.log[-3000:]
