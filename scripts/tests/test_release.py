"""`make release` checks and tags: on a copy of this repository, with a git history of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
VERSION = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
TAGS = [
    f"dagger/augment/v{VERSION}",
    f"dagger/generate/v{VERSION}",
    f"dagger/python-sdk/v{VERSION}",
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

    def sign(self) -> None:
        self.git("config", "user.name", "Test")
        self.git("config", "user.email", "test@example.com")

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace the first `old` in a file, and commit."""
        file = self.root / path
        text = file.read_text(encoding="utf-8")
        assert old in text
        file.write_text(text.replace(old, new, 1), encoding="utf-8")
        self.git("commit", "--quiet", "--all", "--message", "Edit")

    def release(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.script("release", *arguments)

    def next(self, version: str) -> None:
        """Write a version everywhere and a changelog for it, and commit."""
        made = self.release("--set", version)
        assert (made.returncode, made.stderr) == (0, "")
        section = f"## [{version}] - 2026-02-03\n\n- More.\n\n## [{VERSION}]"
        self.edit("CHANGELOG.md", f"## [{VERSION}]", section)

    def script(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, f"scripts/{name}.py", *arguments],
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


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working tree as a repository of its own, whose changelog has a section for the version."""
    if not (ROOT / ".git").exists():
        pytest.skip("this copy has no git history; clone the repository")
    made = Clone(tmp_path_factory.mktemp("original"))
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (made.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, made.root / name)
    made.git("init", "--quiet", "--initial-branch", "main")
    made.sign()
    changelog = made.root / "CHANGELOG.md"
    released = f"## [{VERSION}] - 2026-01-02"
    text, found = re.subn(
        rf"## \[{re.escape(VERSION)}\].*", released, changelog.read_text(), count=1
    )
    if not found:
        text = text.replace("## [Unreleased]", f"## [Unreleased]\n\n{released}", 1)
    changelog.write_text(text)
    made.git("add", "--all")
    made.git("commit", "--quiet", "--message", "All")
    return made.root


@pytest.fixture
def clone(original: Path, tmp_path: Path) -> Clone:
    """A clean clone for one test."""
    made = Clone(tmp_path / "clone")
    subprocess.run(["git", "clone", "--quiet", "--local", original, made.root], check=True)
    made.sign()
    return made


def test_a_release_tags_every_module_and_the_whole(clone: Clone) -> None:
    """A dry run says which tags; the release makes them, annotated; a second one refuses."""
    tried = clone.release("--dry-run")
    assert (tried.returncode, tried.stderr, clone.tags()) == (0, "", [])
    assert sorted(re.findall(r"would tag (\S+)", tried.stdout)) == TAGS

    made = clone.release()
    assert (made.returncode, made.stderr, clone.tags()) == (0, "", TAGS)
    assert "no release before this one" in made.stdout
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


WRONG = {
    "dagger/kit/pyproject.toml": (f'version = "{VERSION}"', 'version = "9.9.9"'),
    "dagger/augment/pyproject.toml": (f'version = "{VERSION}"', 'version = "9.9.9"'),
    "dagger/rag/uv.lock": (
        f'name = "rag-pipeline"\nversion = "{VERSION}"',
        'name = "rag-pipeline"\nversion = "9.9.9"',
    ),
    "uv.lock": (
        f'name = "rag-retrieve"\nversion = "{VERSION}"',
        'name = "rag-retrieve"\nversion = "9.9.9"',
    ),
    "dagger/rag/src/rag_pipeline/step.py": (
        '__version__ = version("rag-pipeline")',
        '__version__ = "9.9.9"',
    ),
    "README.md": (f"REPO/dagger/rag@v{VERSION}", "REPO/dagger/rag@v9.9.9"),
    "docs/publishing.md": (f"/rag-augment:v{VERSION}@sha256", "/rag-augment:v9.9.9@sha256"),
    "docs/dagger.md": (f"--tag v{VERSION}", "--tag v9.9.9"),
    "examples/README.md": (f"/dagger/rag@v{VERSION}", "/dagger/rag@v9.9.9"),
    "dagger/rag/examples/shell/rag_run.sh": (f"dagger/rag@v{VERSION}", "dagger/rag@v9.9.9"),
}


def test_one_version_everywhere(clone: Clone) -> None:
    """Each place with another version is named with the way out, and nothing is tagged."""
    for path, (old, new) in WRONG.items():
        clone.edit(path, old, new)

    refused = clone.release()

    assert (refused.returncode, clone.tags()) == (1, [])
    way_out = f"write one everywhere: .venv/bin/python scripts/release.py --set {VERSION}"
    named = f"release: {{}} has 9.9.9, pyproject.toml has {VERSION}; {way_out}"
    assert sorted(refused.stderr.splitlines()) == sorted(
        [*(named.format(path) for path in WRONG), "release: nothing was tagged"]
    )


@pytest.mark.parametrize(
    ("new", "said"),
    [
        ("## [0.0.9] - 2026-01-02", f"CHANGELOG.md has no section for {VERSION}"),
        (f"## [{VERSION}] - 2026-01-02\n\n## [0.0.9]", f"says nothing under {VERSION}"),
        (f"## [{VERSION}]", f"CHANGELOG.md: '[{VERSION}]' has no date"),
    ],
)
def test_the_changelog_tells_of_the_release(clone: Clone, new: str, said: str) -> None:
    """It has the version, a date, and something to read."""
    clone.edit("CHANGELOG.md", f"## [{VERSION}] - 2026-01-02", new)

    refused = clone.release()

    assert (refused.returncode, clone.tags()) == (1, [])
    assert said in refused.stderr


def test_the_chart_has_the_version_of_the_release(clone: Clone) -> None:
    """The Helm chart's own version and the version of what it runs are both looked at, and set."""
    chart = clone.root / "deploy/helm/dagger-rag/Chart.yaml"
    chart.parent.mkdir(parents=True, exist_ok=True)
    chart.write_text('apiVersion: v2\nname: dagger-rag\nversion: 9.9.8\nappVersion: "9.9.9"\n')
    clone.git("add", "--all")
    clone.git("commit", "--quiet", "--message", "Chart")

    refused = clone.release()
    made = clone.release("--set", VERSION)

    assert (refused.returncode, clone.tags()) == (1, [])
    assert "deploy/helm/dagger-rag/Chart.yaml has 9.9.8" in refused.stderr
    assert "deploy/helm/dagger-rag/Chart.yaml has 9.9.9" in refused.stderr
    assert "deploy/helm/dagger-rag/Chart.yaml written" in made.stdout
    assert chart.read_text().endswith(f'version: {VERSION}\nappVersion: "{VERSION}"\n')


def test_one_engine_everywhere(clone: Clone) -> None:
    """The engine and its SDK have the same version wherever they are named."""
    clone.edit(
        "examples/team-catalog/dagger.json", '"engineVersion": "v0.', '"engineVersion": "v9.'
    )
    clone.edit("dagger/rag/pyproject.toml", "dagger-io==0.", "dagger-io==9.")
    locked = 'name = "dagger-io"\nversion = "'
    clone.edit("dagger/rag/uv.lock", f"{locked}0.", f"{locked}9.")

    refused = clone.release()

    assert (refused.returncode, clone.tags()) == (1, [])
    assert "examples/team-catalog/dagger.json has Dagger 9." in refused.stderr
    assert "dagger/rag/pyproject.toml has Dagger 9." in refused.stderr
    assert "dagger/rag/uv.lock has Dagger 9." in refused.stderr


def test_the_next_version_is_written_everywhere_and_released(clone: Clone) -> None:
    """`--set` leaves no place behind, and the release says which one its contract was compared with."""
    clone.git("tag", f"v{VERSION}")
    clone.next("12.0.1")

    made = clone.release()

    assert (made.returncode, made.stderr) == (0, "")
    assert f"the contract breaks no user of v{VERSION}" in made.stdout
    made_now = [tag.replace(VERSION, "12.0.1") for tag in TAGS]
    assert sorted(clone.tags()) == sorted([f"v{VERSION}", *made_now])
    assert f"@v{VERSION}" not in (clone.root / "docs/dagger.md").read_text()


def test_a_version_that_is_none_is_not_written(clone: Clone) -> None:
    """Modules are found by tags like v1.2.3 only."""
    refused = clone.release("--set", "1.2.3-rc1")

    assert refused.returncode == 1
    assert "'1.2.3-rc1' is no version like 1.2.3" in refused.stderr
    assert clone.git("status", "--porcelain") == ""


def test_a_breaking_contract_needs_a_number_and_a_version_that_says_so(clone: Clone) -> None:
    """The contract is compared with the last release's tag, however many commits ago that was."""
    clone.git("tag", f"v{VERSION}")
    models = "dagger/retrieve/src/rag_retrieve/models.py"
    clone.edit(models, "rrf_k: int = Field(60, ge=1, le=1000", "rrf_k: int = Field(60, ge=1, le=99")
    assert clone.script("contract").returncode == 0
    clone.next("0.1.1")

    refused = clone.release()
    assert refused.returncode == 1
    assert f"breaks the contract of v{VERSION}: retrieve.request" in refused.stderr
    assert "needs a new number in contract/VERSION" in refused.stderr

    (clone.root / "contract/VERSION").write_text("2\n")
    assert clone.script("contract").returncode == 0
    clone.git("commit", "--quiet", "--all", "--message", "A new number")
    refused = clone.release()
    assert refused.returncode == 1
    assert "users of v0.1.0 have to change something, which 0.1.1 does not say" in refused.stderr
    assert "take 0.2.0" in refused.stderr

    assert clone.release("--set", "0.2.0").returncode == 0
    clone.edit("CHANGELOG.md", "## [0.1.1]", "## [0.2.0]")
    made = clone.release("--dry-run")
    assert (made.returncode, made.stderr) == (0, "")
    assert "the contract has the new number 2 since v0.1.0" in made.stdout


def test_the_release_before_is_the_newest_one_below(clone: Clone) -> None:
    """Also for a correction of an older line, and when that release is on another branch."""
    clone.git("tag", "v0.0.9")
    clone.git("tag", "v9.0.0")
    clone.git("commit", "--quiet", "--amend", "--message", "v0.0.10 is on no branch")
    clone.git("tag", "v0.0.10")
    clone.git("commit", "--quiet", "--amend", "--message", "Another")

    tried = clone.release("--dry-run")

    assert (tried.returncode, tried.stderr) == (0, "")
    assert "the contract breaks no user of v0.0.10\n" in tried.stdout


def test_a_shallow_clone_is_not_released(clone: Clone, tmp_path: Path) -> None:
    """It may lack the tag of the release before, and nothing would be compared."""
    shallow = Clone(tmp_path / "shallow")
    clone.git("clone", "--quiet", "--depth", "1", f"file://{clone.root}", str(shallow.root))

    refused = shallow.release()

    assert (refused.returncode, shallow.tags()) == (1, [])
    assert "run: git fetch --unshallow --tags" in refused.stderr


def test_the_placeholder_of_the_public_address_is_named(clone: Clone) -> None:
    """The note's own command puts an address in, and then there is no note."""
    noted = clone.release("--dry-run").stdout
    command = re.search(r"Put yours in: (.*)", noted)
    assert command, noted
    subprocess.run(["sh", "-c", command[1]], cwd=clone.root, check=True)
    clone.git("commit", "--quiet", "--all", "--message", "Our address")

    tried = clone.release("--dry-run")

    assert (tried.returncode, tried.stderr) == (0, "")
    assert "note:" not in tried.stdout
    assert f"github.com/acme/rag/dagger/rag@v{VERSION}" in (clone.root / "README.md").read_text()


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
