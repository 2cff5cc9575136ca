"""The interface of a generator: it streams the text of an answer and ends with a draft."""

from __future__ import annotations

from collections import abc
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from .models import GenerateRequest, Usage


class Quote(NamedTuple):
    """A piece of a passage: `text[start:end]` of the context with this marker."""

    marker: int
    start: int
    end: int


@dataclass(frozen=True)
class Draft:
    """An answer whose citations are not verified yet.

    Args:
        text: The answer with numbers in brackets; empty when the generator abstains.
        finish_reason: Why it ends; `no_context` when the passages do not support an answer.
        usage: What it cost.
        support: How well the passages support an answer, 0 to 1, or None when not scored.
        quotes: The passages' own words the answer is made of; None when it was written freely.
        warnings: What the caller should know.
        first_token_s: Seconds until a model's first token, of its reasoning or its answer.
        seconds: Seconds until the answer was complete.
        reasoning: Where the model's reasoning came: nowhere, in a field of its own, between tags, or
            in text whose beginning no tag marked.
    """

    text: str
    finish_reason: Literal["stop", "length", "no_context", "filtered"]
    usage: Usage = field(default_factory=Usage)
    support: float | None = None
    quotes: tuple[Quote, ...] | None = None
    warnings: tuple[str, ...] = ()
    first_token_s: float | None = None
    seconds: float | None = None
    reasoning: Literal["none", "field", "tags", "unopened"] = "none"


class Restart:
    """Says that what a generator wrote so far is no part of the answer, which begins now."""


RESTART = Restart()


class Generator(Protocol):
    """Answers a prompt over numbered passages."""

    @property
    def name(self) -> str:
        """Name a request selects it by."""

    @property
    def model(self) -> str | None:
        """Name of the language model behind it; None when there is none."""

    def stream(self, request: GenerateRequest) -> abc.Generator[str | Restart | Draft, None, None]:
        """Yield pieces of the answer's text as they come, then the draft, last.

        Closing the iterator early cancels the answer and frees its resources.

        Raises:
            StepError: There is no answer; the code tells why.
        """
