"""Tag a release: each module as dagger/<module>/vX.Y.Z, the whole as vX.Y.Z. Does not push.

    python scripts/release.py              check, then tag
    python scripts/release.py --dry-run    check, then say what would be tagged

The version is the one of the projects; it must be the same in all of them, in their locks and in
CHANGELOG.md. A module is published by its tag: `dagger install github.com/o/r/dagger/rag@vX.Y.Z`
finds the tag `dagger/rag/vX.Y.Z`.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MODULES = ["retrieve", "augment", "generate", "rag"]
PROJECTS = [".", *(f"dagger/{name}" for name in MODULES), "dagger/retrieve/superlinked", "service"]
VERSION = re.compile(r"\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?")
LITERAL = re.compile(r'^__version__ = "(.*)"', re.MULTILINE)


def version_faults(version: str) -> Iterator[str]:
    """Yield each place that has another version than the release."""
    if not VERSION.fullmatch(version):
        yield f"pyproject.toml: {version!r} is no version like 1.2.3; modules are found by such tags"
    for project in PROJECTS:
        folder = ROOT / project
        metadata = read_toml(folder / "pyproject.toml")["project"]
        if metadata["version"] != version:
            yield (
                f"{project}/pyproject.toml has version {metadata['version']}, pyproject.toml has "
                f"{version}; give all the same, then: scripts/uv lock --project {project}"
            )
        for path in sorted(folder.glob("src/*/*.py")):
            for found in LITERAL.findall(path.read_text(encoding="utf-8")):
                if found != version:
                    yield f"{path.relative_to(ROOT)} has __version__ {found}; make it {version}"
        for name, locked in locked_versions(folder / "uv.lock"):
            if locked != version:
                yield (
                    f"{project}/uv.lock has {name} {locked}; run: scripts/uv lock --project {project}"
                )


def read_toml(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def locked_versions(lock: Path) -> Iterator[tuple[str, str]]:
    """Yield (name, version) of each project of this repository in a lock."""
    for package in read_toml(lock)["package"]:
        if package["source"].keys() & {"editable", "virtual", "directory"}:
            yield package["name"], package["version"]


def changelog_faults(version: str) -> Iterator[str]:
    """Yield what is missing in CHANGELOG.md."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.split(r"^## ", text, flags=re.MULTILINE)
    section = next((each for each in sections if each.startswith(f"[{version}]")), None)
    if section is None:
        yield (
            f"CHANGELOG.md has no section for {version}; name what is under Unreleased "
            f"`## [{version}] - YYYY-MM-DD`, with an empty Unreleased above it"
        )
    elif "\n- " not in section:
        yield f"CHANGELOG.md says nothing under {version}; write what changed for users"


def tree_faults() -> Iterator[str]:
    """Yield the files that are not committed: a tag would not hold them."""
    if changed := git("status", "--porcelain").splitlines():
        names = ", ".join(line[3:] for line in changed[:5])
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        yield f"not committed: {names}{more}; commit or stash them"


def tag_faults(tags: list[str]) -> Iterator[str]:
    """Yield the tags that exist: a published version never changes."""
    for tag in tags:
        if git("tag", "--list", tag):
            at = git("rev-parse", "--short", f"{tag}^{{commit}}")
            yield (
                f"the tag {tag} exists, at {at}; raise the version, or, if it was never pushed, "
                f"delete it: git tag --delete {tag}"
            )


def check_faults() -> Iterator[str]:
    """Yield what the contract's and the locks' own checks say."""
    checks = [
        [sys.executable, "scripts/contract.py", "--check"],
        ["scripts/lock-check", *PROJECTS],
    ]
    for command in checks:
        done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
        if done.returncode:
            yield (done.stderr.strip() or done.stdout.strip())


def git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.rstrip()


def main(arguments: list[str]) -> int:
    """Check and tag; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dry-run", action="store_true", help="check only, tag nothing")
    dry_run = parser.parse_args(arguments).dry_run

    version = read_toml(ROOT / "pyproject.toml")["project"]["version"]
    tags = [f"v{version}", *(f"dagger/{name}/v{version}" for name in MODULES)]
    faults = [
        *tree_faults(),
        *version_faults(version),
        *changelog_faults(version),
        *tag_faults(tags),
    ]
    faults = faults or list(check_faults())  # seconds: only when all else is well
    if faults:
        print(*(f"release: {fault}" for fault in faults), sep="\n", file=sys.stderr)
        print("release: nothing was tagged", file=sys.stderr)
        return 1
    push = f"git push --atomic origin {' '.join(tags)}"
    if dry_run:
        print(*(f"would tag {tag}" for tag in tags), sep="\n")
        print(f"release: all checks passed; nothing was tagged; make release, then: {push}")
        return 0
    for tag in tags:
        git("tag", "--annotate", "--message", f"{tag}: see CHANGELOG.md", tag)
        print(f"tagged {tag}")
    print(f"release: not pushed yet; now: {push}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except subprocess.CalledProcessError as error:
        sys.exit(f"release: {' '.join(error.cmd)}: {error.stderr.strip()}")
