"""Another configuration to measure with: lines `RAG_NAME=value`, as files of environment variables have."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from difflib import get_close_matches
from importlib import import_module

from rag_kit.errors import StepError
from rag_kit.settings import SENSITIVE, StepSettings

from ..stages import STEPS

LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")


def read_configuration(text: str) -> dict[str, str]:
    """Return the variables of a file; blank lines and `#` comments are skipped, an empty value unsets.

    Raises:
        StepError: `invalid_request`: a line is no `RAG_NAME=value`, or of no setting, or there is none.
    """
    known = set(_names(StepSettings))
    values: dict[str, str] = {}
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = LINE.fullmatch(line.strip())
        if found is None:
            raise StepError("invalid_request", f"line {number}: not RAG_NAME=value: {line[:60]!r}")
        name, value = found[1], found[2].strip()
        if name not in known:
            raise StepError("invalid_request", f"line {number}: {_unknown(name, known)}")
        values[name] = value[1:-1] if re.fullmatch(r"\"[^\"]*\"|'[^']*'", value) else value
    if not values:
        raise StepError("invalid_request", "no setting; a line is, e.g., RAG_LLM_MODEL=small")
    return values


def _unknown(name: str, known: set[str]) -> str:
    near = get_close_matches(name.upper(), known, 1)
    return f"no setting {name}" + (f"; did you mean {near[0]}?" if near else "")


def _names(settings: type[StepSettings]) -> Iterator[str]:
    """Yield the variables of all settings of the steps that are installed here."""
    for step in STEPS:
        with suppress(ModuleNotFoundError):
            import_module(f"rag_{step}.settings")
    prefix = settings.model_config.get("env_prefix", "")
    yield from (f"{prefix}{name}".upper() for name in settings.model_fields)
    for one in settings.__subclasses__():
        yield from _names(one)


def without_secrets(values: Mapping[str, str]) -> dict[str, str]:
    """Return settings for a report: those that may be secret without their value."""
    return {
        name: "…" if value and SENSITIVE & set(name.split("_")) else value
        for name, value in values.items()
    }
