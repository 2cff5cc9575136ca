"""Ratings of answers: one append-only file of JSON Lines per tenant, and the questions they make.

The files stand in `RAG_HOME/feedback`. What a reader approved or corrected is a dataset for `rag eval`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator

from rag_kit.errors import StepError
from rag_kit.passages import COLLECTION, Message
from rag_kit.request import check_query

from .evaluate import Question
from .kept import keeping

MAX_BYTES = 16 * 2**20  # of a file; the one before it is kept, too
MAX_TEXT = 32_768  # characters of an answer
MAX_RIGHT = 8192
FOLDER = "feedback"  # in RAG_HOME
ANONYMOUS = "everybody"  # the tenant of a service without keys


class Cited(BaseModel):
    """A source of the rated answer; more fields of a citation are kept as they are."""

    model_config = ConfigDict(extra="allow")

    document_id: str = Field(min_length=1, description="The document.")


class Feedback(BaseModel):
    """What a reader says about an answer, with what the answer said about itself."""

    model_config = ConfigDict(extra="forbid")

    rating: Literal["up", "down"] = Field(description="Whether the answer was right.")
    query: str = Field(description="The question, 1 character to 8 KiB of UTF-8.")
    collection: str = Field("default", pattern=COLLECTION, description="The collection asked.")
    id: str = Field(
        "", max_length=128, description="Id of the answer; a later rating of it replaces this one."
    )
    answer: str = Field("", max_length=MAX_TEXT, description="The answer.")
    answerable: bool | None = Field(None, description="What the answer said; null: not known.")
    right_answer: str | None = Field(
        None, max_length=MAX_RIGHT, description="What would have been right."
    )
    citations: list[Cited] = Field(
        default_factory=list, max_length=100, description="The answer's citations."
    )
    messages: list[Message] = Field(
        default_factory=list, max_length=20, description="The conversation before the question."
    )
    filters: dict[str, JsonValue] | None = Field(
        None, description="Conditions on metadata of the request."
    )
    provenance: dict[str, JsonValue] = Field(
        default_factory=dict, description="The answer's provenance, as it gave it."
    )

    @field_validator("query")
    @classmethod
    def _query(cls, value: str) -> str:
        return check_query(value)


class Rated(Feedback):
    """A rating as it is stored."""

    at: datetime = Field(description="When it came, UTC.")
    tenant: str = Field(description="The key it came with.")


class Ratings(NamedTuple):
    """Ratings, and how many lines could not be read."""

    ratings: list[Rated]
    unreadable: int


class FromFeedback(NamedTuple):
    """The questions that ratings make, and how many ratings tell nothing about a right answer."""

    questions: list[Question]
    silent: int


# -- the files ----------------------------------------------------------------------------------


def append(folder: Path, tenant: str, feedback: Feedback) -> Rated:
    """Write a rating to the end of its tenant's file.

    A file that has grown to `MAX_BYTES` becomes the file before, whose ratings are dropped.

    Raises:
        StepError: `storage_full`: it cannot be written.
    """
    rated = Rated(**feedback.model_dump(), at=datetime.now(UTC), tenant=tenant)
    line = f"{rated.model_dump_json(exclude_defaults=True)}\n".encode()
    with keeping("the rating", folder):
        _write(path_of(folder, tenant), line)
    return rated


def _write(path: Path, line: bytes) -> None:
    with open(path, "a+b", opener=_private) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        end = file.seek(0, os.SEEK_END)
        if end and end + len(line) > MAX_BYTES:
            path.replace(_before(path))
            _write(path, line)
            return
        if end:
            file.seek(end - 1)
            line = line if file.read(1) == b"\n" else b"\n" + line  # a writer died in its line
        file.write(line)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def path_of(folder: Path, tenant: str) -> Path:
    """Return the file of a tenant; any name makes a file name of its own."""
    name = quote(tenant or ANONYMOUS, safe="")
    if len(name) > 120:
        name = f"{name[:80]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return folder / f"{name}.jsonl"


def _before(path: Path) -> Path:
    return path.with_name(f"{path.name}.before")


def read_tenant(folder: Path, tenant: str) -> Ratings:
    """Return the ratings of one tenant, oldest first, of each answer the last one."""
    path = path_of(folder, tenant)
    return parse(b"\n".join(_bytes(one) for one in (_before(path), path)))


def read_all(folder: Path) -> Ratings:
    """Return the ratings of every tenant, oldest first, of each answer the last one."""
    return parse(b"\n".join(_bytes(path) for path in sorted(folder.glob("*.jsonl*"))))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise StepError("invalid_request", f"cannot read {path}: {error.strerror}") from None


def parse(raw: bytes) -> Ratings:
    """Return the ratings in JSON Lines; a line that is none, e.g. cut off, is counted."""
    lines = [line for line in raw.split(b"\n") if line.strip()]
    found = sorted(_read(lines), key=lambda rated: rated.at)
    latest = {(one.tenant, one.id or number): one for number, one in enumerate(found)}
    kept = sorted(latest.values(), key=lambda rated: rated.at)
    return Ratings(kept, len(lines) - len(found))


def _read(lines: Iterable[bytes]) -> Iterator[Rated]:
    for line in lines:
        try:
            yield Rated.model_validate_json(line)
        except ValidationError:
            continue


# -- the dataset --------------------------------------------------------------------------------


def to_questions(ratings: Sequence[Rated], collection: str) -> FromFeedback:
    """Return the questions about a collection whose right answer a reader told.

    An answer that was right makes its cited documents relevant, or the question one without an answer.
    A correction is what the answer should say. A question rated again keeps its last rating.
    """
    about = [one for one in ratings if one.collection == collection]
    latest = {(one.query, *[(m.role, m.content) for m in one.messages]): one for one in about}
    questions = [question for one in latest.values() if (question := _question(one))]
    return FromFeedback(questions, len(latest) - len(questions))


def _question(rated: Rated) -> Question | None:
    known: dict[str, object] = {}
    if rated.right_answer:
        known = {"answerable": True, "answer": rated.right_answer}
    elif rated.rating == "up" and rated.citations:
        relevant = {cited.document_id: 1 for cited in rated.citations}
        known = {"answerable": True, "relevant": relevant}
    elif rated.rating == "up" and rated.answerable is False:
        known = {"answerable": False}
    if not known:
        return None
    return Question.model_validate(
        {
            "id": rated.id or f"rated {rated.at:%Y-%m-%d %H:%M:%S}",
            "query": rated.query,
            "messages": rated.messages,
            "filters": rated.filters,
            **known,
        }
    )
