"""`make release` checks and tags: on a copy of this repository, with a git history of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
VERSION = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
TAGS = [
    f"dagger/augment/v{VERSION}",
    f"dagger/generate/v{VERSION}",
    f"dagger/rag/v{VERSION}",
    f"dagger/retrieve/v{VERSION}",
    f"v{VERSION}",
]


class Clone:
    """A copy of the working tree that is its own repository."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def git(self, *arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=self.root, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace the first `old` in a file, and commit."""
        file = self.root / path
        text = file.read_text(encoding="utf-8")
        assert old in text
        file.write_text(text.replace(old, new, 1), encoding="utf-8")
        self.git("commit", "--quiet", "--all", "--message", "Edit")

    def release(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "scripts/release.py", *arguments],
            cwd=self.root,
            env={**os.environ, **self.environment()},
            check=False,
            capture_output=True,
            text=True,
        )

    def environment(self) -> dict[str, str]:
        """The copy's own packages, and the uv that is there already."""
        sources = [str(path) for path in sorted(self.root.glob("dagger/*/src"))]
        uv = [str(ROOT / ".tools/bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
        return {"PYTHONPATH": os.pathsep.join(sources), "PATH": os.pathsep.join(uv)}

    def tags(self) -> list[str]:
        return self.git("tag", "--list").splitlines()


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    """A clean copy whose changelog has a section for the version."""
    if not (ROOT / ".git").exists():
        pytest.skip("this copy has no git history; clone the repository")
    made = Clone(tmp_path / "clone")
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (made.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, made.root / name)
    made.git("init", "--quiet", "--initial-branch", "main")
    made.git("config", "user.name", "Test")
    made.git("config", "user.email", "test@example.com")
    changelog = made.root / "CHANGELOG.md"
    if f"## [{VERSION}]" not in (text := changelog.read_text()):
        released = f"## [Unreleased]\n\n## [{VERSION}] - 2026-01-02"
        changelog.write_text(text.replace("## [Unreleased]", released, 1))
    made.git("add", "--all")
    made.git("commit", "--quiet", "--message", "All")
    return made


def test_a_release_tags_every_module_and_the_whole(clone: Clone) -> None:
    """A dry run says which tags; the release makes them, annotated; a second one refuses."""
    tried = clone.release("--dry-run")
    assert (tried.returncode, tried.stderr, clone.tags()) == (0, "", [])
    assert sorted(re.findall(r"would tag (\S+)", tried.stdout)) == TAGS

    made = clone.release()
    assert (made.returncode, made.stderr, clone.tags()) == (0, "", TAGS)
    assert "not pushed yet" in made.stdout
    assert {clone.git("cat-file", "-t", tag) for tag in TAGS} == {"tag"}

    again = clone.release()
    assert again.returncode == 1
    assert f"the tag v{VERSION} exists" in again.stderr
    assert "raise the version" in again.stderr
    assert clone.tags() == TAGS


def test_one_tag_that_exists_is_enough_to_refuse(clone: Clone) -> None:
    """A published version never changes, and no release is made in part."""
    clone.git("tag", f"dagger/rag/v{VERSION}")

    refused = clone.release()

    assert (refused.returncode, clone.tags()) == (1, [f"dagger/rag/v{VERSION}"])
    assert f"git tag --delete dagger/rag/v{VERSION}" in refused.stderr


def test_what_is_not_committed_would_not_be_in_the_tag(clone: Clone) -> None:
    """Changed and new files are named, with the way out."""
    (clone.root / "README.md").write_text("changed")
    (clone.root / "new.txt").touch()

    refused = clone.release()

    assert (refused.returncode, clone.tags()) == (1, [])
    assert "not committed: README.md, new.txt; commit or stash them" in refused.stderr


@pytest.mark.parametrize(
    ("path", "old", "new", "said"),
    [
        (
            "dagger/augment/pyproject.toml",
            f'version = "{VERSION}"',
            'version = "9.9.9"',
            "dagger/augment/pyproject.toml has version 9.9.9",
        ),
        (
            "dagger/rag/uv.lock",
            f'name = "rag-pipeline"\nversion = "{VERSION}"',
            'name = "rag-pipeline"\nversion = "9.9.9"',
            "run: scripts/uv lock --project dagger/rag",
        ),
        (
            "uv.lock",
            f'name = "rag-retrieve"\nversion = "{VERSION}"',
            'name = "rag-retrieve"\nversion = "9.9.9"',
            "./uv.lock has rag-retrieve 9.9.9",
        ),
        (
            "dagger/rag/src/rag_pipeline/step.py",
            '__version__ = version("rag-pipeline")',
            '__version__ = "9.9.9"',
            f"has __version__ 9.9.9; make it {VERSION}",
        ),
        (
            "CHANGELOG.md",
            f"## [{VERSION}]",
            "## [0.0.9]",
            f"CHANGELOG.md has no section for {VERSION}",
        ),
        (
            "CHANGELOG.md",
            f"## [{VERSION}] - 2026-01-02",
            f"## [{VERSION}] - 2026-01-02\n\n## [0.0.9]",
            f"CHANGELOG.md says nothing under {VERSION}",
        ),
    ],
)
def test_one_version_everywhere(clone: Clone, path: str, old: str, new: str, said: str) -> None:
    """Each place with another version is named, and nothing is tagged."""
    clone.edit(path, old, new)

    refused = clone.release()

    assert (refused.returncode, clone.tags()) == (1, [])
    assert said in refused.stderr
    assert "nothing was tagged" in refused.stderr


def test_a_contract_that_does_not_fit_is_not_released(clone: Clone) -> None:
    """The contract's own check stops the release and says what to run."""
    clone.edit("contract/augment.response.schema.json", '"description"', '"title"')

    refused = clone.release()

    assert (refused.returncode, clone.tags()) == (1, [])
    assert "make contract" in refused.stderr


def test_a_lock_that_does_not_fit_is_not_released(clone: Clone) -> None:
    """The locks are checked as `make check` does."""
    clone.edit("dagger/generate/pyproject.toml", '"pytest>=9.0"', '"pytest>=9.0.1"')

    refused = clone.release()

    assert (refused.returncode, clone.tags()) == (1, [])
    assert "pyproject.toml; run: uv lock --project" in refused.stderr
