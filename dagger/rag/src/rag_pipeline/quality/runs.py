"""Reports of `rag eval` that were kept, to be looked at side by side."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rag_kit.errors import StepError

from .evaluate import Comparison, EvalReport, with_comparison
from .kept import keeping

FOLDER = "evaluations"  # in RAG_HOME
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}")


class Run(BaseModel):
    """A report of `rag eval` that was kept."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="As given to `--save`.")
    at: datetime = Field(description="When it was measured, UTC.")
    report: EvalReport


def check_name(name: str) -> None:
    """Refuse what is no name of a run.

    Raises:
        StepError: `invalid_request`.
    """
    if not NAME.fullmatch(name):
        raise StepError(
            "invalid_request",
            f"{name[:80]!r} is no name of a run; use letters, digits, dot, hyphen and underscore, "
            "at most 63",
        )


def save_run(home: Path, name: str, report: EvalReport) -> Path:
    """Write a run; one of the same name is replaced as a whole.

    Raises:
        StepError: `invalid_request`, as `check_name`; `storage_full`: it cannot be written.
    """
    check_name(name)
    path = home / FOLDER / f"{name}.json"
    run = Run(name=name, at=datetime.now(UTC), report=report)
    with keeping("the report", path.parent):
        fresh = path.with_suffix(".new")
        fresh.write_text(run.model_dump_json(), encoding="utf-8")
        fresh.replace(path)
    return path


def read_run(home: Path, name: str) -> Run:
    """Return a run.

    Raises:
        StepError: `not_found`; `invalid_request`: it is of another version, or damaged.
    """
    if not NAME.fullmatch(name):
        raise _missing(name)
    path = home / FOLDER / f"{name}.json"
    try:
        return Run.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise _missing(name) from None
    except (OSError, ValidationError) as error:
        raise StepError(
            "invalid_request",
            f"the run {name!r} cannot be read ({type(error).__name__}); measure it again with "
            f"`rag eval --save {name}`",
        ) from None


def _missing(name: str) -> StepError:
    return StepError(
        "not_found", f"there is no run {name[:80]!r}; `rag eval --save` keeps one", param="name"
    )


def read_runs(home: Path) -> list[Run]:
    """Return the runs that can be read, newest first."""
    runs = []
    for path in (home / FOLDER).glob("*.json"):
        try:
            runs.append(read_run(home, path.stem))
        except StepError:
            continue
    return sorted(runs, key=lambda run: run.at, reverse=True)


def compare_runs(first: Run, second: Run) -> Comparison:
    """Return what differs between two runs over the questions they share.

    Raises:
        StepError: `invalid_request`: they share none, or ranked another number of passages.
    """
    shared = {(one.id, one.query) for one in first.report.scored} & {
        (one.id, one.query) for one in second.report.scored
    }
    if not shared or first.report.top_k != second.report.top_k:
        raise StepError(
            "invalid_request",
            f"{first.name} and {second.name} share {len(shared)} questions, at top_k "
            f"{first.report.top_k} and {second.report.top_k}; measure both on one dataset and --top-k",
        )
    found = with_comparison(first.report, second.report).comparison
    assert found is not None
    return found
