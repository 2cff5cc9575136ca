"""A step is swapped and the whole is reused by projects of other teams, from a git reference."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from engine_kit import Dagger, GitServer, commit, copy_of

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
TAG = "v9.9.9"
HANDBOOK = ("Who approves a release?", "Two people approve a release")
CATALOG = ("Until when can I cancel a booking?", "cancel")
MODULES = ("retrieve", "rerank", "augment", "generate", "rag", "python-sdk")


@pytest.fixture(scope="module")
def published(git_server: GitServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """This repository behind a git address, with a version tag for each module."""
    repository = copy_of(ROOT, tmp_path_factory.mktemp("published"))
    commit(
        repository,
        *(f"dagger/{module}/{TAG}" for module in MODULES),
        f"examples/keyword-retriever/{TAG}",
    )
    return git_server.serve("product", repository)


def project(name: str, published: str, target: Path) -> Path:
    """Copy an example into a repository of its own that depends by git reference and version only."""
    copy = copy_of(EXAMPLES / name, target)
    config = copy / "dagger.json"
    data = json.loads(config.read_text())
    for dependency in data["dependencies"]:
        inside = (EXAMPLES / name / dependency["source"]).resolve().relative_to(ROOT)
        dependency["source"] = f"{published}/{inside}@{TAG}"
    config.write_text(json.dumps(data))
    commit(copy)
    return copy


def test_a_team_uses_the_composite_unchanged_on_its_own_documents(
    dagger_cli: Dagger, published: str, tmp_path: Path
) -> None:
    """The first project of the validation: a git reference, its own documents, an answer with citations."""
    folder = project("team-handbook", published, tmp_path)

    ran = dagger_cli.at(folder)("call", "ask", "--query", HANDBOOK[0])

    assert ran.code == 0, ran.log[-3000:]
    assert HANDBOOK[1] in ran.out


def test_a_team_swaps_a_step_without_a_fork(
    dagger_cli: Dagger, published: str, tmp_path: Path
) -> None:
    """The second project: a third party's retriever by interface, our other steps, all by git reference."""
    folder = project("team-catalog", published, tmp_path)

    ran = dagger_cli.at(folder)("call", "ask", "--query", CATALOG[0])

    assert ran.code == 0, ran.log[-3000:]
    assert CATALOG[1] in ran.out


def test_the_author_of_a_step_checks_it_beforehand(
    dagger_cli: Dagger, published: str, tmp_path: Path
) -> None:
    """`conformance` names each promise of the contract and whether the step keeps it."""
    folder = project("team-catalog", published, tmp_path)

    ran = dagger_cli.at(folder)("call", "conformance")

    assert ran.code == 0, ran.log[-3000:]
    assert "kept" in ran.out
    assert "BROKEN" not in ran.out


def test_one_module_is_called_from_its_git_reference(dagger_cli: Dagger, published: str) -> None:
    """`-m ADDRESS/dagger/augment@VERSION` needs no clone of the repository."""
    examples = ROOT / "contract/examples/augment"
    request = (examples / "ok-numbered.request.json").read_text()

    ran = dagger_cli(
        *("-m", f"{published}/dagger/augment@{TAG}", "call", "run", "--input-json", request)
    )

    assert ran.json == json.loads((examples / "ok-numbered.response.json").read_text())


def test_the_composite_from_a_git_reference_asks_its_own_docs(
    dagger_cli: Dagger, published: str
) -> None:
    """Without --docs it answers from the documentation of that version."""
    ran = dagger_cli(
        *("-m", f"{published}/dagger/rag@{TAG}", "call", "run"),
        *("--query", "How does retrieval fuse dense and sparse results?"),
    )

    assert ran.json["citations"][0]["document_id"].startswith("docs/")
