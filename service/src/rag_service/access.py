"""Access lists: which documents the groups of a caller may read.

A document's metadata may hold `allowed_groups`; without it everybody who may use the collection reads the
document. The rule is part of the request's filter, so that the store applies it before it ranks,
whatever runner answers; what comes back is checked again here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pydantic_core
from pydantic import JsonValue

from rag_kit.errors import StepError
from rag_kit.passages import ALLOWED_GROUPS

MAX_GROUPS = 256  # values in one `$in` of a filter
OWN = "filters.$and[0]"  # where a caller's own filter stands in the restricted one
Groups = frozenset[str]


def groups_of(header: str) -> Groups:
    """Return the groups that a header lists, separated by commas.

    Raises:
        StepError: `forbidden`, more than `MAX_GROUPS`.
    """
    return groups_in(header.split(","))


def groups_in(names: object) -> Groups:
    """Return the groups of a list of names; what is no name is left out. Errors as `groups_of`."""
    listed = names if isinstance(names, list) else []
    found = frozenset(filter(None, (one.strip() for one in listed if isinstance(one, str))))
    if len(found) > MAX_GROUPS:
        raise StepError("forbidden", f"{len(found)} groups; at most {MAX_GROUPS} can be checked")
    return found


def may_read(groups: Groups | None, metadata: Mapping[str, Any]) -> bool:
    """Whether groups may read a document; None stands for whoever may read all of them."""
    if groups is None or ALLOWED_GROUPS not in metadata:
        return True
    allowed = metadata[ALLOWED_GROUPS]
    values = allowed if isinstance(allowed, list) else [allowed]
    return not values or any(isinstance(one, str) and one in groups for one in values)


def restricted(
    filters: dict[str, JsonValue] | None, groups: Groups | None
) -> dict[str, JsonValue] | None:
    """Return a request's filter with the rule of `may_read` added."""
    if groups is None:
        return filters
    rule: list[JsonValue] = [{ALLOWED_GROUPS: {"$exists": False}}]
    if groups:
        rule.append({ALLOWED_GROUPS: {"$in": list[JsonValue](sorted(groups))}})
    access: dict[str, JsonValue] = {"$or": rule}
    return {"$and": [filters, access]} if filters else access


@contextmanager
def as_asked() -> Iterator[None]:
    """Have an error about a restricted filter name the caller's own."""
    try:
        yield
    except StepError as error:
        error.message = error.message.replace(OWN, "filters")
        error.param = error.param and error.param.replace(OWN, "filters")
        raise


def check_passages(groups: Groups | None, text: str) -> None:
    """Refuse a response with a passage that the groups may not read.

    Args:
        groups: The caller's.
        text: A response or an event with `results` or `contexts`, as JSON.

    Raises:
        StepError: `retriever_bad_response`.
    """
    if groups is None:
        return
    data = pydantic_core.from_json(text)
    passages: Iterable[Any] = (*data.get("results", ()), *data.get("contexts", ()))
    if not all(may_read(groups, one.get("metadata") or {}) for one in passages):
        raise StepError(
            "retriever_bad_response",
            "the search gave a passage that this caller may not read; nothing of it is used",
            step="retrieve",
        )
