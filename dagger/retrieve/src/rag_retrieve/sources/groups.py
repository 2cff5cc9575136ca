"""Which groups may read the documents of a source, from a file of patterns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from rag_kit.errors import StepError

FORM = "write a pattern, white space, and groups with commas between: hr/* hr, board"


@dataclass(frozen=True)
class Rule:
    """One line of the file: documents whose path fits the pattern are for these groups."""

    line: int
    pattern: str
    groups: tuple[str, ...]

    def fits(self, path: str) -> bool:
        """Whether a path fits; `*` also stands for `/`, and a folder for all that is in it."""
        pattern = self.pattern.strip("/")
        return fnmatchcase(path, pattern) or fnmatchcase(path, f"{pattern}/*")


@dataclass(frozen=True)
class GroupRules:
    """The lines of the file; the last one that fits counts, as in CODEOWNERS."""

    rules: tuple[Rule, ...] = ()

    def groups_of(self, path: str) -> tuple[str, ...]:
        """Return the groups of a path in the source; none: what the document itself says."""
        return next((rule.groups for rule in reversed(self.rules) if rule.fits(path)), ())

    def unused(self, paths: Iterable[str]) -> list[str]:
        """Return a warning for each line that fits none of the paths: it may be misspelt."""
        paths = list(paths)
        return [
            f"line {rule.line} of the groups file: '{rule.pattern}' fits no document"
            for rule in self.rules
            if not any(rule.fits(path) for path in paths)
        ]


def read_rules(file: Path) -> GroupRules:
    """Read a file of lines `PATTERN GROUP[, GROUP…]`; `#` begins a comment.

    Raises:
        StepError: `invalid_request`, with the line at fault.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise StepError(
            "invalid_request", f"cannot read the groups file '{file}': {why}", param="groups"
        ) from None
    told = [(number, line.strip()) for number, line in enumerate(lines, 1)]
    return GroupRules(
        tuple(_rule(file, number, line) for number, line in told if line and line[0] != "#")
    )


def _rule(file: Path, number: int, line: str) -> Rule:
    pattern, _, rest = line.partition("\t") if "\t" in line else line.partition(" ")
    groups = tuple(dict.fromkeys(filter(None, (one.strip() for one in rest.split(",")))))
    if not groups:
        raise StepError(
            "invalid_request",
            f"line {number} of '{file}' names no group: '{line[:80]}'; {FORM}",
            param="groups",
        )
    return Rule(number, pattern, groups)
