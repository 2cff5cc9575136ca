"""The context of one HTTP request: its id, its key, its deadline."""

from __future__ import annotations

import fnmatch
import time
from dataclasses import dataclass, field

from starlette.types import Scope

from rag_kit.errors import StepError

from ..access import Groups

LINKED = "link"  # name of who opens a signed link to a document
TRUSTED = "rag.trusted"  # key in a scope: whether a trusted proxy sent the request


@dataclass(frozen=True)
class Principal:
    """The holder of a key, and what they may do.

    Args:
        name: Name of the key; empty without keys.
        collections: Names or patterns (`hr-*`) of collections.
        write: Whether documents may be added and deleted.
        per_minute: Requests a minute, or None for the service's setting.
        groups: Their groups, which `access` checks; None: they may read every document.
    """

    name: str = ""
    collections: tuple[str, ...] = ("*",)
    write: bool = True
    per_minute: int | None = None
    groups: Groups | None = None

    def may_use(self, collection: str) -> bool:
        """Whether a collection is among those of this key."""
        return any(fnmatch.fnmatchcase(collection, pattern) for pattern in self.collections)


@dataclass
class Context:
    """One request: how it is authenticated, and what log, metrics and trace record of it.

    Args:
        request_id: In the response's header, its body and every log line.
        deadline: When it must be answered, on `time.monotonic`'s clock.
        principal: The holder of its key.
        tenant: Who shares slots and rates: the key's name, or the client's address without keys.
        route: Its route's pattern.
        code: The error code it failed with.
        step: The step that failed.
        collection: The collection it is about.
        timings_ms: Milliseconds by step.
    """

    request_id: str
    deadline: float
    principal: Principal = field(default_factory=Principal)
    tenant: str = ""
    route: str = ""
    code: str = ""
    step: str = ""
    collection: str = ""
    timings_ms: dict[str, float] = field(default_factory=dict)

    def remaining_s(self) -> float:
        """Return the seconds left.

        Raises:
            StepError: `deadline_exceeded`, there are none.
        """
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise StepError("deadline_exceeded", "the time for this request is over")
        return left


def path_of(scope: Scope) -> str:
    """Return the path of a request without the prefix that proxies put before it."""
    return str(scope["path"])[len(scope.get("root_path", "")) :] or "/"


def address_of(scope: Scope) -> str:
    """Return the client's address."""
    client = scope.get("client")
    return client[0] if client else ""


def context_of(scope: Scope) -> Context:
    """Return the context that `middleware.Requests` made."""
    context: Context = scope["state"]["rag"]
    return context
