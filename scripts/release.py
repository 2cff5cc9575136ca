"""Tag a release: each module and the SDK as dagger/<name>/vX.Y.Z, the whole as vX.Y.Z. Does not push.

    python scripts/release.py --set 1.2.3    write the version everywhere
    python scripts/release.py --dry-run      check, then print what would be tagged
    python scripts/release.py                check, then tag

The version is the one of the projects; it must be the same in all of them, in their locks, in the
Helm chart, in CHANGELOG.md, and in the references that the guides show. It is compared with the
previous release: a contract that breaks users of that one needs a new number in contract/VERSION
and a version that announces it. A module is published by its tag:
`dagger install github.com/o/r/dagger/rag@vX.Y.Z` finds the tag `dagger/rag/vX.Y.Z`.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from projects import PROJECTS, PUBLISHED, ROOT

SELF = ".venv/bin/python scripts/release.py"
CHART = "deploy/helm/dagger-rag/Chart.yaml"
VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
DATED = re.compile(r" - \d{4}-\d\d-\d\d$")
# A version in a file: the text before it, and the version.
PROJECT = re.compile(r'(?m)(^version = ")([^"]*)')
LITERAL = re.compile(r'(?m)(^__version__ = ")([^"]*)')
LOCKED = re.compile(
    r'(name = "[^"]*"\nversion = ")([^"]*)(?="\nsource = \{ (?:editable|virtual|directory) =)'
)
CHARTED = re.compile(r"""(?m)(^(?:version|appVersion): *["']?v?)([^"'\s]*)""")
REFERENCE = re.compile(r"(/(?:dagger|examples)/[a-z-]+@v|--tag v|/rag-[a-z]+:v)(\d+\.\d+\.\d+)")
ENGINE = re.compile(
    r'("engineVersion": *"v|dagger-io==|name = "dagger-io"\nversion = "'
    r'|registry\.dagger\.io/engine:v|DAGGER_VERSION[=:] *"?v?)(\d+\.\d+\.\d+)'
)
GUIDES = ("*.md", "*.sh", "*.json", "*.yaml", "*.yml")
HISTORY = ("CHANGELOG.md", "docs/decisions/", "tests/")  # never rewritten
PLACEHOLDER = "OWNER" + "/REPO"
Number = tuple[int, int, int]


@dataclass(frozen=True)
class Place:
    """A place in a file that has the release's version."""

    path: str
    pattern: re.Pattern[str]
    first_only: bool = False

    def found(self) -> list[str]:
        """Return the versions found there."""
        found = [match[2] for match in self.pattern.finditer(read(self.path))]
        return found[:1] if self.first_only else found

    def write(self, version: str) -> bool:
        """Write a version there; returns whether that changed the file."""
        text = read(self.path)
        made = self.pattern.sub(rf"\g<1>{version}", text, count=int(self.first_only))
        if made != text:
            (ROOT / self.path).write_text(made, encoding="utf-8")
        return made != text


def places() -> Iterator[Place]:
    """Yield every place that must have the release's version."""
    for project in PROJECTS:
        folder = ROOT / project
        yield Place(name(folder / "pyproject.toml"), PROJECT, first_only=True)
        yield Place(name(folder / "uv.lock"), LOCKED)
        for path in sorted(folder.glob("src/**/*.py")):
            if LITERAL.search(path.read_text(encoding="utf-8")):
                yield Place(name(path), LITERAL)
    if (ROOT / CHART).exists():
        yield Place(CHART, CHARTED)
    for path in tracked(*GUIDES):
        if not path.startswith(HISTORY) and REFERENCE.search(read(path)):
            yield Place(path, REFERENCE)


def set_version(version: str) -> int:
    """Write the version everywhere; returns the exit code."""
    if not VERSION.fullmatch(version):
        print(f"release: --set {version!r} is no version like 1.2.3", file=sys.stderr)
        return 1
    for place in places():
        if place.write(version):
            print(f"{place.path} written")
    print(
        f"release: the version is {version}; name what is under Unreleased in CHANGELOG.md "
        f"`## [{version}] - YYYY-MM-DD`, then commit"
    )
    return 0


def version_faults(version: str) -> Iterator[str]:
    """Yield each place that has another version than the release."""
    if not VERSION.fullmatch(version):
        yield f"pyproject.toml: {version!r} is no version like 1.2.3; modules are found by such tags"
    for place in places():
        for found in sorted(set(place.found()) - {version}):
            yield (
                f"{place.path} has {found}, pyproject.toml has {version}; write one everywhere: "
                f"{SELF} --set {version}"
            )


def engine_faults() -> Iterator[str]:
    """Yield each place with another Dagger version than dagger.json at the root."""
    wanted = json.loads(read("dagger.json"))["engineVersion"].removeprefix("v")
    for path in tracked("*.json", "*.toml", "*.lock", "*.yaml", "*.yml", "*.sh", "*Dockerfile*"):
        for found in sorted({match[2] for match in ENGINE.finditer(read(path))} - {wanted}):
            yield (
                f"{path} has Dagger {found}, engineVersion in dagger.json is v{wanted}; an engine "
                "and its SDK fit only together, so make them equal"
            )


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tracked(*patterns: str) -> list[str]:
    """Return the files git knows, by the patterns of their names."""
    return [
        path for path in git("ls-files", "--", *patterns).splitlines() if (ROOT / path).exists()
    ]


def changelog_faults(version: str) -> Iterator[str]:
    """Yield what is missing in CHANGELOG.md."""
    sections = re.split(r"^## ", read("CHANGELOG.md"), flags=re.MULTILINE)
    section = next((each for each in sections if each.startswith(f"[{version}]")), None)
    if section is None:
        yield (
            f"CHANGELOG.md has no section for {version}; name what is under Unreleased "
            f"`## [{version}] - YYYY-MM-DD`, with an empty Unreleased above it"
        )
    elif not DATED.search(section.partition("\n")[0].rstrip()):
        yield f"CHANGELOG.md: {section.partition(chr(10))[0]!r} has no date; add ` - YYYY-MM-DD`"
    elif "\n- " not in section:
        yield f"CHANGELOG.md says nothing under {version}; write what changed for users"


def tree_faults() -> Iterator[str]:
    """Yield the files that are not committed: a tag would not contain them."""
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


def released_before(version: str) -> str | None:
    """Return the tag of the newest release below a version, or None for the first one."""
    below = [
        (numbers(tag[1:]), tag)
        for tag in git("tag", "--list", "v*").splitlines()
        if VERSION.fullmatch(tag[1:]) and numbers(tag[1:]) < numbers(version)
    ]
    return max(below)[1] if below else None


def numbers(version: str) -> Number:
    major, minor, patch = map(int, version.split("."))
    return major, minor, patch


def base_faults(version: str, base: str | None) -> Iterator[str]:
    """Yield why this version cannot be compared with, or cannot follow, the release before it."""
    if git("rev-parse", "--is-shallow-repository") == "true":
        yield (
            "this clone is shallow, so the release before may be missing; "
            "run: git fetch --unshallow --tags"
        )
    if base is None:
        return
    old, new = git("show", f"{base}:contract/VERSION").strip(), read("contract/VERSION").strip()
    if int(new) < int(old):
        yield f"contract/VERSION is {new}, in {base} it is {old}; the number only rises"
    elif new != old and not says_breaking(numbers(base[1:]), numbers(version)):
        yield (
            f"contract/VERSION is {new}, in {base} it is {old}: users of {base} have to change "
            f"something, which {version} does not say; take {next_breaking(numbers(base[1:]))}"
        )


def says_breaking(old: Number, new: Number) -> bool:
    """Tell whether a version announces a breaking change: a new major, or a new minor below 1.0."""
    return new[0] > old[0] or (old[0] == 0 and new[1] > old[1])


def next_breaking(old: Number) -> str:
    return f"0.{old[1] + 1}.0" if old[0] == 0 else f"{old[0] + 1}.0.0"


def compared(base: str | None) -> str:
    """Return what the contract was compared with, once that passed."""
    if base is None:
        return "there is no release before this one to compare the contract with"
    number = read("contract/VERSION").strip()
    if git("show", f"{base}:contract/VERSION").strip() != number:
        return f"the contract has the new number {number} since {base}"
    return f"the contract breaks no user of {base}"


def check_faults(base: str | None) -> Iterator[str]:
    """Yield what the checks of contract and locks report."""
    checks = [
        [sys.executable, "scripts/contract.py", "--check", "--base", base or "HEAD"],
        ["scripts/lock-check", *PROJECTS],
    ]
    for command in checks:
        done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
        if done.returncode:
            yield (done.stderr.strip() or done.stdout.strip())


def placeholder_note() -> str | None:
    """Return a note while the placeholder of the public address is in use, with the way out."""
    found = [path for path in tracked(*GUIDES) if PLACEHOLDER in read(path)]
    if not found:
        return None
    return (
        f"note: {PLACEHOLDER} stands for the public address in {len(found)} files "
        f"({found[0]}, …); the modules work, but what is copied from there does not. Put yours in: "
        f"git grep -lz {PLACEHOLDER} -- {' '.join(repr(each) for each in GUIDES)} "
        f"| xargs -0 sed -i 's|{PLACEHOLDER}|acme/rag|g'"
    )


def git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.rstrip()


def main(arguments: list[str]) -> int:
    """Check and tag; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], prog="scripts/release.py"
    )
    parser.add_argument("--dry-run", action="store_true", help="check only, tag nothing")
    parser.add_argument(
        "--set", metavar="VERSION", help="write this version everywhere; tag nothing"
    )
    options = parser.parse_args(arguments)
    if options.set is not None:
        return set_version(options.set)

    version = tomllib.loads(read("pyproject.toml"))["project"]["version"]
    tags = [f"v{version}", *(f"dagger/{each}/v{version}" for each in PUBLISHED)]
    faults = [
        *tree_faults(),
        *version_faults(version),
        *engine_faults(),
        *changelog_faults(version),
        *tag_faults(tags),
    ]
    base = None
    if not faults:  # what follows takes seconds: only when all else is well
        base = released_before(version)
        faults = list(base_faults(version, base)) or list(check_faults(base))
    if faults:
        print(*(f"release: {fault}" for fault in faults), sep="\n", file=sys.stderr)
        print("release: nothing was tagged", file=sys.stderr)
        return 1
    print(f"release: {compared(base)}")
    if note := placeholder_note():
        print(f"release: {note}")
    push = f"git push --atomic origin {' '.join(tags)}"
    if options.dry_run:
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
