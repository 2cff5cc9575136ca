"""Checks a step of your own against the contract, before it is used in the pipeline.

A few small requests are sent; each check looks at one promise. The requests are made here, the
checks in `promises.py`. Does not judge how good the step is.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from rag_kit.errors import CODES, StepError

from ..outputs import AugmentOutput, Output, RetrieveOutput
from ..settings import URL
from ..stages import PIPELINE, Stage
from ..step import Step
from .promises import Exchange, Finding, Rule, rules_of

LOG = logging.getLogger(__name__)
QUERY = "Who may sign contracts?"
REQUEST_ID = "conformance-1"
UNKNOWN: dict[str, Any] = {"x_conformance": {"kept": [1, "Zürich", None, {"deep": True}]}}
TOO_HIGH = 1e9  # a score no passage reaches


def _passage(
    chunk_id: str, document_id: str, start: int, text: str, score: float
) -> dict[str, Any]:
    return {
        "chunk_id": chunk_id,
        "document_id": document_id,
        "title": document_id.partition(".")[0],
        "source": f"papers/{document_id}",
        "text": text,
        "span": [start, start + len(text)],
        "page": 2,
        "score": score,
        "scores": {"dense": score, "own": 3.5},
        "metadata": {"year": 2024, "tags": ["a", "ü"], "nested": {"deep": None}},
        "x_own_field": {"of": ["a", "foreign", "retriever"]},
    }


PASSAGES = [
    _passage("c1", "bylaws.md", 11, "Only the board may sign contracts above 10 000 euros.", 0.9),
    _passage("c2", "travel.md", 70, "Every journey needs a travel request in advance.", 0.4),
]
PROMPT = [
    {"role": "system", "content": "Answer from the numbered passages and cite them like [1]."},
    {
        "role": "user",
        "content": "\n\n".join(
            [*(f"[{number}] {p['text']}" for number, p in enumerate(PASSAGES, 1)), QUERY]
        ),
    },
]
PROVENANCE = {"retrieve": {"version": "1.0", "corpus_digest": "sha256:0"}}
# What a step is sent by the one before, by the kind of its output: with passages, and without.
FULL: dict[type[Output], dict[str, Any]] = {
    RetrieveOutput: {"results": PASSAGES},
    AugmentOutput: {
        "contexts": [{**passage, "marker": n} for n, passage in enumerate(PASSAGES, 1)],
        "prompt": PROMPT,
        "decision": {"answerable": True, "reason": "there are passages"},
    },
}
EMPTY: dict[type[Output], dict[str, Any]] = {
    RetrieveOutput: {"results": []},
    AugmentOutput: {
        "contexts": [],
        "prompt": [],
        "decision": {"answerable": False, "reason": "no passages"},
    },
}


class Check(BaseModel):
    """One promise of the contract, and whether the step keeps it."""

    model_config = ConfigDict(extra="forbid")

    id: str
    passed: bool
    expected: str = Field(description="What the contract requires.")
    got: str = Field(description="What came instead; `as expected` when passed.")
    field: str | None = Field(description="The field at fault, dotted, or null.")


class ConformanceReport(BaseModel):
    """Whether a step keeps the contract."""

    model_config = ConfigDict(extra="forbid")

    step: str
    passed: bool = Field(description="Whether every check passed.")
    checks: list[Check]


def samples(
    name: str,
    *,
    collection: str = "default",
    query: str = QUERY,
    stages: Sequence[Stage] = PIPELINE,
) -> dict[str, str]:
    """Return the requests a step is sent, by kind, as JSON text; `invalid` is not JSON."""
    before, following = _neighbours(name, stages)
    stage = next(stage for stage in stages if stage.name == name)
    normal: dict[str, Any] = {"request_id": REQUEST_ID, **UNKNOWN}
    if following:
        normal[following.name] = {"seed": 7}
    if before is None:
        normal |= {"query": query, "collection": collection, "top_k": 3}
        nothing: dict[str, Any] = {"min_score": TOO_HIGH}
    else:
        normal |= {"query": QUERY, "provenance": PROVENANCE, "warnings": [], **FULL[before.output]}
        nothing = EMPTY[before.output]
    requests = {
        "normal": normal,
        "nothing": {**normal, **nothing},
        "blank": {**normal, "query": " \n"},
    }
    if before is None:
        requests["one"] = {**normal, "top_k": 1}
    elif stage.candidates is not None:
        requests["one"] = {**normal, name: {"top_n": 1}}
    texts = {kind: json.dumps(request) for kind, request in requests.items()}
    return {**texts, "invalid": '{"query": "cut'}


def _neighbours(name: str, stages: Sequence[Stage]) -> tuple[Stage | None, Stage | None]:
    """Return the stages before and after the one of this name."""
    place = [stage.name for stage in stages].index(name)
    padded = [None, *stages, None]
    return padded[place], padded[place + 2]


async def check_step(
    name: str,
    step: Step,
    *,
    collection: str = "default",
    query: str = QUERY,
    stages: Sequence[Stage] = PIPELINE,
) -> ConformanceReport:
    """Send a step a few requests and report which promises of the contract it keeps.

    Args:
        name: A step of the pipeline: what it stands for.
        step: The step, from JSON text to JSON text.
        collection: For `retrieve`: where it searches.
        query: For `retrieve`: a question it finds passages for.
        stages: The stages in their order.

    Raises:
        StepError: `invalid_request` for another name; or the step cannot be reached at all.
    """
    stage = next((stage for stage in stages if stage.name == name), None)
    if stage is None:
        known = ", ".join(stage.name for stage in stages)
        raise StepError("invalid_request", f"there is no step {name!r}; choose from {known}")
    requests = samples(name, collection=collection, query=query, stages=stages)
    replies: dict[str, str | StepError] = {}
    for kind, text in requests.items():  # the normal request first
        reply = await _ask(step, text)
        if kind == "normal" and isinstance(reply, StepError) and CODES[reply.code].retryable:
            raise reply
        replies[kind] = reply
    following = _neighbours(name, stages)[1]
    sent = json.loads(requests["normal"])
    exchange = Exchange(stage, following.name if following else None, sent, replies)
    checks = [_check(rule, exchange) for rule in rules_of(stage)]
    return ConformanceReport(step=name, passed=all(check.passed for check in checks), checks=checks)


async def check_url(
    name: str, url: str, *, collection: str = "default", query: str = QUERY, deadline_s: float = 60
) -> ConformanceReport:
    """Check the step that serves `POST {url}/run`; arguments and errors as for `check_step`.

    Args:
        name: What it stands for.
        url: Where it serves.
        collection: For `retrieve`.
        query: For `retrieve`.
        deadline_s: Seconds one call may take in all.
    """
    from rag_kit.client import new_client

    from ..steps.remote import step_client

    if not re.match(URL, url):
        raise StepError("invalid_request", f"{url!r} is no URL; give one like http://host:8080")
    async with new_client(deadline_s) as client:
        step = step_client(name, url, lambda: client, deadline_s)
        try:
            return await check_step(name, step, collection=collection, query=query)
        except StepError as error:
            if error.code not in ("retriever_unavailable", "not_ready"):
                raise
            text = f"nothing answers at {url}; start the step's server, or give another URL"
            raise StepError(error.code, text, step=name) from None


async def _ask(step: Step, text: str) -> str | StepError:
    try:
        return await step(text)
    except StepError as error:
        return error
    except Exception as error:
        LOG.exception("the step raised instead of answering")
        return StepError("module_error", f"raised {type(error).__name__} instead of answering")


def _check(rule: Rule, exchange: Exchange) -> Check:
    got, field = "as expected", None
    try:
        rule.test(exchange)
    except Finding as finding:
        got, field = finding.got, finding.field
    passed = got == "as expected"
    return Check(id=rule.id, passed=passed, expected=rule.expected, got=got, field=field)
