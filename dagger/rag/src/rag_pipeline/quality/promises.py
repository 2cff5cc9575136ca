"""The promises of the contract that `conformance` checks, by step: each looks at one thing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeGuard

from pydantic import ValidationError

from rag_kit.errors import ErrorEnvelope, StepError, error_of
from rag_kit.request import explain

from ..outputs import AugmentOutput, GenerateOutput, Output, RetrieveOutput
from ..step import check_reply, read_reply

OUTPUTS: dict[str, type[Output]] = {
    "retrieve": RetrieveOutput,
    "augment": AugmentOutput,
    "generate": GenerateOutput,
}


class Unfit(Exception):  # noqa: N818, no error of ours: a finding
    """A promise is not kept; holds what came instead, and the field."""

    def __init__(self, got: str, field: str | None = None) -> None:
        super().__init__(got)
        self.got = got
        self.field = field


@dataclass(frozen=True)
class Asked:
    """What a step was sent, and what it replied, by kind of request."""

    step: str
    sent: dict[str, Any]
    replies: dict[str, str | StepError]

    @property
    def passages(self) -> list[dict[str, Any]]:
        """The passages sent to augment or generate."""
        sent: list[dict[str, Any]] = self.sent["results" if self.step == "augment" else "contexts"]
        return sent

    def object(self, kind: str) -> dict[str, Any]:
        """Return a reply as an object, an error envelope too."""
        reply = self.replies[kind]
        if isinstance(reply, StepError):
            raise Unfit(reply.message)
        try:
            data = json.loads(reply)
        except (TypeError, ValueError, RecursionError):
            raise Unfit(f"no JSON: {str(reply)[:60]!r}") from None
        if not isinstance(data, dict):
            raise Unfit(f"JSON that is no object: {str(reply)[:60]!r}")
        return data

    def response(self, kind: str = "normal") -> dict[str, Any]:
        """Return a reply that must be a response."""
        data = self.object(kind)
        if failed := error_of(data):
            raise Unfit(f"the error {failed['code']!r}: {failed.get('message')}", "error")
        return data

    def error(self, kind: str) -> dict[str, Any]:
        """Return the error of a reply that must be an envelope."""
        failed = error_of(self.object(kind))
        if failed is None:
            raise Unfit("no error envelope", "error")
        return failed

    def items(self, field: str, kind: str = "normal") -> list[dict[str, Any]]:
        """Return the objects in a field of a response."""
        found = self.response(kind).get(field)
        if not isinstance(found, list):
            raise Unfit("missing" if found is None else f"no list, but {found!r:.60}", field)
        return [item if isinstance(item, dict) else {} for item in found]


@dataclass(frozen=True)
class Rule:
    """A promise: its name, what is expected, and a test that raises `Unfit`."""

    id: str
    expected: str
    test: Callable[[Asked], None]


# -- promises of every step ---------------------------------------------------------------------


def _answers(asked: Asked) -> None:
    reply = asked.replies["normal"]
    if isinstance(reply, StepError):
        raise Unfit(reply.message)
    try:
        check_reply(asked.step, OUTPUTS[asked.step], read_reply(asked.step, reply))
    except StepError as error:
        raise Unfit(f"{error.code}: {error.message}", error.param) from None


def _refuses(kind: str) -> Callable[[Asked], None]:
    def test(asked: Asked) -> None:
        code = asked.error(kind)["code"]
        if code != "invalid_request":
            raise Unfit(f"the code {code!r}", "error.code")

    return test


def _whole_envelope(asked: Asked) -> None:
    for kind in ("blank", "invalid"):
        data = asked.object(kind)
        if "error" not in data:
            continue  # its own check says so
        try:
            ErrorEnvelope.model_validate(data, strict=True)
        except ValidationError as error:
            fault = explain(error)
            raise Unfit(f"for a {kind} request: {fault.message}", fault.param) from None


def _names_request(asked: Asked) -> None:
    failed = error_of(asked.object("blank"))
    if failed is not None and failed.get("request_id") != asked.sent["request_id"]:
        raise Unfit(f"{failed.get('request_id')!r} in the error", "error.request_id")
    if asked.step != "generate" and asked.response().get("request_id") != asked.sent["request_id"]:
        raise Unfit(f"{asked.response().get('request_id')!r} in the response", "request_id")


ALWAYS = [
    Rule(
        "invalid-json",
        "for text that is no JSON an error envelope with the code invalid_request",
        _refuses("invalid"),
    ),
    Rule(
        "blank-query",
        "for a blank query an error envelope with the code invalid_request",
        _refuses("blank"),
    ),
    Rule(
        "error-envelope",
        "an error with all fields of contract/error.schema.json",
        _whole_envelope,
    ),
    Rule(
        "request-id",
        "the request_id as sent in an error, and in the response of retrieve and augment",
        _names_request,
    ),
]


# -- promises of some steps ---------------------------------------------------------------------


def _carries(asked: Asked) -> None:
    response = asked.response()
    option = "augment" if asked.step == "retrieve" else "generate"
    for name in ("query", option, *(name for name in asked.sent if name.startswith("x_"))):
        if name not in response:
            raise Unfit("missing", name)
        if response[name] != asked.sent[name]:
            raise Unfit(f"changed to {response[name]!r:.80}", name)


def _finds(asked: Asked) -> None:
    if not asked.items("results"):
        raise Unfit("none", "results")


def _keeps_top_k(asked: Asked) -> None:
    for kind, top_k in (("normal", 3), ("one", 1)):
        found = len(asked.items("results", kind))
        if found > top_k:
            raise Unfit(f"{found} passages for top_k {top_k}", "results")


def _best_first(asked: Asked) -> None:
    scores = [item.get("score") for item in asked.items("results")]
    numbers = [score for score in scores if isinstance(score, int | float)]
    for rank, (one, other) in enumerate(pairwise(numbers)):
        if one < other:
            raise Unfit(f"{other:g} after {one:g}", f"results.{rank + 1}.score")


def _distinct(asked: Asked) -> None:
    seen: set[object] = set()
    for rank, item in enumerate(asked.items("results")):
        if (chunk_id := str(item.get("chunk_id"))) in seen:
            raise Unfit(f"{chunk_id!r} twice", f"results.{rank}.chunk_id")
        seen.add(chunk_id)


def _spans(asked: Asked) -> None:
    for rank, item in enumerate(asked.items("results")):
        text, span = item.get("text"), item.get("span")
        if not isinstance(text, str) or not _is_span(span):
            continue  # `answers` says so
        if span[1] - span[0] != len(text):
            raise Unfit(f"{span} for {len(text)} characters", f"results.{rank}.span")


def _is_span(span: Any) -> TypeGuard[list[int]]:
    return isinstance(span, list) and len(span) == 2 and all(type(end) is int for end in span)


def _finds_nothing(asked: Asked) -> None:
    if asked.items("results", "nothing"):
        raise Unfit("passages whose score is lower than min_score", "results")


def _keeps_passages(asked: Asked) -> None:
    sent = {passage["chunk_id"]: passage for passage in asked.passages}
    for rank, context in enumerate(asked.items("contexts")):
        for name, value in sent.get(str(context.get("chunk_id")), {}).items():
            if context.get(name) != value:
                got = f"changed to {context[name]!r:.80}" if name in context else "missing"
                raise Unfit(got, f"contexts.{rank}.{name}")


def _accounts(asked: Asked) -> None:
    told = [*asked.items("contexts"), *asked.items("left_out")]
    known = {str(item.get("chunk_id")) for item in told}
    sent = {str(passage["chunk_id"]) for passage in asked.passages}
    if missing := sorted(sent - known):
        raise Unfit(f"{missing[0]!r} in neither", "left_out")
    contexts = asked.items("contexts")
    for rank, context in enumerate(contexts):
        if str(context.get("chunk_id")) not in sent:
            raise Unfit(f"{context.get('chunk_id')!r} was not sent", f"contexts.{rank}.chunk_id")


def _numbers(asked: Asked) -> None:
    markers = [context.get("marker") for context in asked.items("contexts")]
    if markers != list(range(1, len(markers) + 1)):
        raise Unfit(f"{markers}", "contexts.0.marker")


def _replaces_results(asked: Asked) -> None:
    if "results" in asked.response():
        raise Unfit("still there", "results")


def _packs_nothing(asked: Asked) -> None:
    if asked.items("contexts", "nothing"):
        raise Unfit("passages that were not sent", "contexts")


def _gives_passages(asked: Asked) -> None:
    given = [context.get("chunk_id") for context in asked.items("contexts")]
    if given != [passage["chunk_id"] for passage in asked.passages]:
        raise Unfit(f"the chunk ids {given}", "contexts")
    _keeps_passages(asked)


def _cites(asked: Asked) -> None:
    known = {number: passage["chunk_id"] for number, passage in enumerate(asked.passages, 1)}
    for index, citation in enumerate(asked.items("citations")):
        marker, chunk_id = citation.get("marker"), citation.get("chunk_id")
        if not isinstance(marker, int) or known.get(marker) != chunk_id:
            raise Unfit(f"{chunk_id!r} as [{marker}]", f"citations.{index}.marker")


def _quotes(asked: Asked) -> None:
    sent = {passage["chunk_id"]: passage for passage in asked.passages}
    for index, citation in enumerate(asked.items("citations")):
        passage = sent.get(str(citation.get("chunk_id")))
        spans = citation.get("spans")
        if passage is None or not isinstance(spans, list) or not spans or not _is_span(spans[0]):
            continue  # `answers` and `cites-given-passages` say so
        start, end = (at - passage["span"][0] for at in spans[0])
        if start < 0 or citation.get("quote") != passage["text"][start:end]:
            raise Unfit(f"{citation.get('quote')!r:.80}", f"citations.{index}.quote")


def _abstains(asked: Asked) -> None:
    response = asked.response("nothing")
    if response.get("answerable") is not False:
        raise Unfit(f"{response.get('answerable')!r}", "answerable")
    if response.get("citations"):
        raise Unfit("citations of passages that were not sent", "citations")


CARRIES = Rule(
    "carries-unknown-fields", "every other field of the request, as it was sent", _carries
)


def _answers_rule(step: str) -> Rule:
    return Rule("answers", f"a response of contract/{step}.response.schema.json", _answers)


RULES: dict[str, Sequence[Rule]] = {
    "retrieve": [
        _answers_rule("retrieve"),
        Rule(
            "finds-passages",
            "at least one passage; choose a collection and a query for which there is one",
            _finds,
        ),
        Rule("top-k", "at most top_k passages", _keeps_top_k),
        Rule("best-first", "passages by descending score", _best_first),
        Rule("distinct-passages", "each chunk_id once", _distinct),
        Rule("spans", "a span as long as its text, in characters", _spans),
        Rule("no-results", "an empty list when no score reaches min_score", _finds_nothing),
        CARRIES,
    ],
    "augment": [
        _answers_rule("augment"),
        Rule("keeps-passages", "every field of a passage as it was sent", _keeps_passages),
        Rule(
            "accounts-for-passages",
            "each passage sent in contexts or left_out, and no other",
            _accounts,
        ),
        Rule("numbers-passages", "markers 1, 2, 3 … in the order of contexts", _numbers),
        Rule("replaces-results", "no results beside contexts", _replaces_results),
        Rule(
            "no-results", "a response without contexts when there are no passages", _packs_nothing
        ),
        CARRIES,
    ],
    "generate": [
        _answers_rule("generate"),
        Rule("keeps-passages", "contexts as they were sent", _gives_passages),
        Rule("cites-given-passages", "citations of passages by their marker", _cites),
        Rule("quotes", "a quote that stands in the passage at the first span", _quotes),
        Rule("no-results", "answerable false and no citation without passages", _abstains),
    ],
}
