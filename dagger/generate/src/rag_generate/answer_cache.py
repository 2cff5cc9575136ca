"""Answers of the model that are kept, and given again to the same question over the same passages.

The key is everything the answer follows from, so nothing has to be deleted when something changes: passages,
prompt, conversation, filters, options, the corpus and the versions in the provenance, the model, and whose
question it is. The search runs each time, and citations are verified and the text is filtered each time.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Generator as Iterating
from contextlib import closing
from dataclasses import replace
from typing import Any

import pydantic_core

from .generator import Draft, Generator, Restart
from .models import GenerateRequest, Usage

Pieces = Iterating[str | Restart | Draft, None, None]
MARK_LENGTH = 4  # of a mark that is told from words by chance
MAX_CHARACTERS = 20_000  # of an answer that is kept
# What an answer does not follow from: its id, its time limit, and what is said beside it.
PASSING = {"request_id", "warnings", "canaries", "debug"}
PASSING_OPTIONS = {"deadline_s", "cache", "allow_degraded"}


class AnswerCache:
    """Keeps the drafts of a model, those used last; for any thread, in memory.

    Args:
        most: How many.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._drafts: OrderedDict[str, Draft] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, key: str) -> Draft | None:
        """Return the kept draft, which costs nothing; None where there is none."""
        with self._lock:
            draft = self._drafts.get(key)
            if draft is not None:
                self._drafts.move_to_end(key)
        return draft and replace(draft, usage=Usage(), first_token_s=None, seconds=None)

    def keep(self, key: str, draft: Draft) -> None:
        """Keep a draft; the one used longest ago makes room."""
        if len(draft.text) > MAX_CHARACTERS:
            return
        with self._lock:
            self._drafts[key] = draft
            self._drafts.move_to_end(key)
            if len(self._drafts) > self._most:
                self._drafts.popitem(last=False)


class KeptAnswer:
    """A generator that gives a kept draft in place of its own.

    Args:
        generator: The one that wrote it.
        draft: What it wrote.
    """

    def __init__(self, generator: Generator, draft: Draft) -> None:
        self.name, self.model = generator.name, generator.model
        self._draft = draft

    def stream(self, request: GenerateRequest) -> Pieces:
        """Yield the text in one piece, then the draft."""
        yield self._draft.text
        yield self._draft


class Recorded:
    """A generator whose draft is known afterwards.

    Args:
        generator: Answers.

    Attributes:
        draft: What it wrote; None until it has ended.
    """

    def __init__(self, generator: Generator) -> None:
        self.name, self.model = generator.name, generator.model
        self.draft: Draft | None = None
        self._generator = generator

    def stream(self, request: GenerateRequest) -> Pieces:
        """Yield what the generator does."""
        with closing(self._generator.stream(request)) as pieces:
            for piece in pieces:
                if isinstance(piece, Draft):
                    self.draft = piece
                yield piece


def is_repeatable(request: GenerateRequest) -> bool:
    """Whether the same answer may be given again: it is about passages, and not drawn at random."""
    options = request.generate
    drawn = options.temperature > 0 and options.seed is None
    return bool(request.contexts) and not drawn


def key_of(request: GenerateRequest, generator: Generator) -> str:
    """Return a digest of everything that an answer follows from."""
    fields: dict[str, Any] = request.model_dump(exclude=PASSING | {"generate", "prompt"})
    fields["generate"] = request.generate.model_dump(exclude=PASSING_OPTIONS)
    fields["generator"] = [generator.name, generator.model]
    fields["prompt"] = [
        [message.role, _unmarked(request, message.content)] for message in request.prompt
    ]
    return hashlib.sha256(pydantic_core.to_json(_sorted(fields))).hexdigest()


def _unmarked(request: GenerateRequest, text: str) -> str:
    """Return a message as if the random mark of its prompt were always the same."""
    for number, mark in enumerate(request.canaries):
        if len(mark) >= MARK_LENGTH:
            text = text.replace(mark, f"\0{number}")  # no message has a NUL of its own
    return text


def _sorted(value: Any) -> Any:
    """Return JSON with the names of each object sorted: a client may send them in any order."""
    if isinstance(value, dict):
        return {name: _sorted(value[name]) for name in sorted(value)}
    return [_sorted(one) for one in value] if isinstance(value, list) else value
