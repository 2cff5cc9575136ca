"""Choose the passages of a prompt: best first, nothing twice, within a token budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from .duplicates import Passage, find_duplicate
from .tokenizer import Tokenizer


@dataclass(frozen=True)
class Candidate:
    """A passage that may go into the prompt.

    Args:
        passage: The text as retrieved and its place, for the comparison with others.
        body: The text as it would stand in the prompt, cleaned; empty: nothing to read.
    """

    passage: Passage
    body: str


@dataclass(frozen=True)
class Rejected:
    """Why a candidate was left out; `duplicate_of` is the index of the candidate kept instead."""

    index: int
    reason: Literal["near_duplicate", "token_budget", "empty"]
    duplicate_of: int | None = None


@dataclass(frozen=True)
class Packed:
    """A body as it goes into the prompt, and its tokens."""

    body: str
    tokens: int


@dataclass
class Packing:
    """What goes into the prompt.

    Attributes:
        packed: Bodies by candidate index, in order of rank.
        rejected: Every other candidate, in order of rank.
        is_cut: Whether the only body packed is the beginning of one too long for the budget.
    """

    packed: dict[int, Packed] = field(default_factory=dict)
    rejected: list[Rejected] = field(default_factory=list)
    is_cut: bool = False


def pack(
    candidates: Sequence[Candidate], *, budget: int, threshold: float, tokenizer: Tokenizer
) -> Packing:
    """Pack candidates greedily by rank.

    One pass: a candidate that does not fit is skipped and later, smaller ones still get their
    chance; a candidate is a duplicate only of one that is in the prompt, so nothing is dropped for
    the sake of a passage that is dropped itself. When not one fits, the best is packed alone and
    cut to the budget: a beginning to answer from is better than nothing.

    Args:
        candidates: N candidates, best first.
        budget: Tokens of all packed bodies together, > 0.
        threshold: See `find_duplicate`.
        tokenizer: Counts the tokens of a body.
    """
    packing = Packing()
    kept: list[Passage] = []
    remaining = budget
    for index, candidate in enumerate(candidates):
        if not candidate.body:
            packing.rejected.append(Rejected(index, "empty"))
            continue
        duplicate = find_duplicate(candidate.passage, kept, threshold=threshold)
        if duplicate is not None:
            packing.rejected.append(
                Rejected(index, "near_duplicate", duplicate_of=list(packing.packed)[duplicate])
            )
            continue
        tokens = tokenizer.count_within(candidate.body, remaining)
        if tokens is None:
            packing.rejected.append(Rejected(index, "token_budget"))
            continue
        packing.packed[index] = Packed(candidate.body, tokens)
        kept.append(candidate.passage)
        remaining -= tokens
    if not kept:
        _pack_beginning(packing, candidates, budget, tokenizer)
    return packing


def _pack_beginning(
    packing: Packing, candidates: Sequence[Candidate], budget: int, tokenizer: Tokenizer
) -> None:
    best = next((r for r in packing.rejected if r.reason == "token_budget"), None)
    if best:
        body = tokenizer.cut(candidates[best.index].body, budget)
        packing.rejected.remove(best)
        packing.packed[best.index] = Packed(body, tokenizer.count(body))
        packing.is_cut = True
