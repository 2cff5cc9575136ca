"""The promises of the contract that `conformance` checks, by step; each looks at one thing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeGuard

from pydantic import ValidationError

from rag_kit.errors import ErrorEnvelope, StepError, error_of
from rag_kit.request import explain

from ..outputs import RetrieveOutput, check_reply, read_reply
from ..stages import Stage


class Finding(Exception):  # noqa: N818, a result of the check, not a failure of it
    """A promise is broken; holds what came instead, and the field."""

    def __init__(self, got: str, field: str | None = None) -> None:
        super().__init__(got)
        self.got = got
        self.field = field


@dataclass(frozen=True)
class Exchange:
    """What a step was sent, and what it replied, by kind of request.

    Args:
        stage: What the step stands for.
        following: Name of the stage after it, or None for the last one.
        sent: The normal request.
        replies: The replies, by kind of request.
    """

    stage: Stage
    following: str | None
    sent: dict[str, Any]
    replies: dict[str, str | StepError]

    @property
    def passages(self) -> list[dict[str, Any]]:
        """The passages sent to a step that takes some."""
        sent: list[dict[str, Any]] = self.sent.get("results") or self.sent["contexts"]
        return sent

    def object(self, kind: str) -> dict[str, Any]:
        """Return a reply as an object, an error envelope too."""
        reply = self.replies[kind]
        if isinstance(reply, StepError):
            raise Finding(reply.message)
        try:
            data = json.loads(reply)
        except (TypeError, ValueError, RecursionError):
            raise Finding(f"no JSON: {str(reply)[:60]!r}") from None
        if not isinstance(data, dict):
            raise Finding(f"JSON that is no object: {str(reply)[:60]!r}")
        return data

    def response(self, kind: str = "normal") -> dict[str, Any]:
        """Return a reply that must be a response."""
        data = self.object(kind)
        if failed := error_of(data):
            raise Finding(f"the error {failed['code']!r}: {failed.get('message')}", "error")
        return data

    def error(self, kind: str) -> dict[str, Any]:
        """Return the error of a reply that must be an envelope."""
        failed = error_of(self.object(kind))
        if failed is None:
            raise Finding("no error envelope", "error")
        return failed

    def items(self, field: str, kind: str = "normal") -> list[dict[str, Any]]:
        """Return the objects in a field of a response."""
        found = self.response(kind).get(field)
        if not isinstance(found, list):
            raise Finding("missing" if found is None else f"no list, but {found!r:.60}", field)
        return [item if isinstance(item, dict) else {} for item in found]


@dataclass(frozen=True)
class Rule:
    """A promise: its name, what is expected, and a test that raises `Finding`."""

    id: str
    expected: str
    test: Callable[[Exchange], None]


# -- promises of every step ---------------------------------------------------------------------


def _answers(exchange: Exchange) -> None:
    stage, reply = exchange.stage, exchange.replies["normal"]
    if isinstance(reply, StepError):
        raise Finding(reply.message)
    try:
        check_reply(stage.name, stage.output, read_reply(stage.name, reply))
    except StepError as error:
        raise Finding(f"{error.code}: {error.message}", error.param) from None


def _refuses(kind: str) -> Callable[[Exchange], None]:
    def test(exchange: Exchange) -> None:
        code = exchange.error(kind)["code"]
        if code != "invalid_request":
            raise Finding(f"the code {code!r}", "error.code")

    return test


def _complete_envelope(exchange: Exchange) -> None:
    for kind in ("blank", "invalid"):
        data = exchange.object(kind)
        if "error" not in data:
            continue  # another rule reports it
        try:
            ErrorEnvelope.model_validate(data, strict=True)
        except ValidationError as error:
            fault = explain(error)
            raise Finding(f"for a {kind} request: {fault.message}", fault.param) from None


def _names_request(exchange: Exchange) -> None:
    expected = exchange.sent["request_id"]
    failed = error_of(exchange.object("blank"))
    if failed is not None and failed.get("request_id") != expected:
        raise Finding(f"{failed.get('request_id')!r} in the error", "error.request_id")
    if exchange.following and exchange.response().get("request_id") != expected:
        raise Finding(f"{exchange.response().get('request_id')!r} in the response", "request_id")


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
        _complete_envelope,
    ),
    Rule(
        "request-id",
        "the request_id as sent, in an error and in the response of every step but the last",
        _names_request,
    ),
]


# -- promises of some steps ---------------------------------------------------------------------


def _carries(exchange: Exchange) -> None:
    response = exchange.response()
    carried = ["query", *filter(None, [exchange.following])]
    for name in [*carried, *(name for name in exchange.sent if name.startswith("x_"))]:
        if name not in response:
            raise Finding("missing", name)
        if response[name] != exchange.sent[name]:
            raise Finding(f"changed to {response[name]!r:.80}", name)


def _finds(exchange: Exchange) -> None:
    if not exchange.items("results"):
        raise Finding("none", "results")


def _keeps_top_k(exchange: Exchange) -> None:
    for kind, top_k in (("normal", 3), ("one", 1)):
        found = len(exchange.items("results", kind))
        if found > top_k:
            raise Finding(f"{found} passages for top_k {top_k}", "results")


def _best_first(exchange: Exchange) -> None:
    scores = [item.get("score") for item in exchange.items("results")]
    numbers = [score for score in scores if isinstance(score, int | float)]
    for rank, (one, other) in enumerate(pairwise(numbers)):
        if one < other:
            raise Finding(f"{other:g} after {one:g}", f"results.{rank + 1}.score")


def _distinct(exchange: Exchange) -> None:
    seen: set[object] = set()
    for rank, item in enumerate(exchange.items("results")):
        if (chunk_id := str(item.get("chunk_id"))) in seen:
            raise Finding(f"{chunk_id!r} twice", f"results.{rank}.chunk_id")
        seen.add(chunk_id)


def _spans(exchange: Exchange) -> None:
    for rank, item in enumerate(exchange.items("results")):
        text, span = item.get("text"), item.get("span")
        if not isinstance(text, str) or not _is_span(span):
            continue  # the rule `answers` reports it
        if span[1] - span[0] != len(text):
            raise Finding(f"{span} for {len(text)} characters", f"results.{rank}.span")


def _is_span(span: Any) -> TypeGuard[list[int]]:
    return isinstance(span, list) and len(span) == 2 and all(type(end) is int for end in span)


def _finds_nothing(exchange: Exchange) -> None:
    if exchange.items("results", "nothing"):
        raise Finding("passages whose score is lower than min_score", "results")


def _keeps_passages(exchange: Exchange) -> None:
    sent = {passage["chunk_id"]: passage for passage in exchange.passages}
    for rank, context in enumerate(exchange.items("contexts")):
        for name, value in sent.get(str(context.get("chunk_id")), {}).items():
            if context.get(name) != value:
                got = f"changed to {context[name]!r:.80}" if name in context else "missing"
                raise Finding(got, f"contexts.{rank}.{name}")


def _reranks_passages(exchange: Exchange) -> None:
    sent = {passage["chunk_id"]: passage for passage in exchange.passages}
    for rank, item in enumerate(exchange.items("results")):
        given = sent.get(str(item.get("chunk_id")))
        if given is None:
            raise Finding(f"{item.get('chunk_id')!r} was not sent", f"results.{rank}.chunk_id")
        scores = item.get("scores")
        kept = {**item, "score": given["score"]}
        if isinstance(scores, dict):
            kept["scores"] = {name: scores.get(name) for name in given["scores"]}
        for name, value in given.items():
            if kept.get(name) != value:
                got = f"changed to {kept[name]!r:.80}" if name in kept else "missing"
                raise Finding(got, f"results.{rank}.{name}")


def _accounts(exchange: Exchange) -> None:
    listed = [*exchange.items("contexts"), *exchange.items("left_out")]
    known = {str(item.get("chunk_id")) for item in listed}
    sent = {str(passage["chunk_id"]) for passage in exchange.passages}
    if missing := sorted(sent - known):
        raise Finding(f"{missing[0]!r} in neither", "left_out")
    contexts = exchange.items("contexts")
    for rank, context in enumerate(contexts):
        if str(context.get("chunk_id")) not in sent:
            raise Finding(f"{context.get('chunk_id')!r} was not sent", f"contexts.{rank}.chunk_id")


def _numbers(exchange: Exchange) -> None:
    markers = [context.get("marker") for context in exchange.items("contexts")]
    if markers != list(range(1, len(markers) + 1)):
        raise Finding(f"{markers}", "contexts.0.marker")


def _replaces_results(exchange: Exchange) -> None:
    if "results" in exchange.response():
        raise Finding("still there", "results")


def _packs_nothing(exchange: Exchange) -> None:
    if exchange.items("contexts", "nothing"):
        raise Finding("passages that were not sent", "contexts")


def _gives_passages(exchange: Exchange) -> None:
    returned = [context.get("chunk_id") for context in exchange.items("contexts")]
    if returned != [passage["chunk_id"] for passage in exchange.passages]:
        raise Finding(f"the chunk ids {returned}", "contexts")
    _keeps_passages(exchange)


def _cites(exchange: Exchange) -> None:
    known = {number: passage["chunk_id"] for number, passage in enumerate(exchange.passages, 1)}
    for index, citation in enumerate(exchange.items("citations")):
        marker, chunk_id = citation.get("marker"), citation.get("chunk_id")
        if not isinstance(marker, int) or known.get(marker) != chunk_id:
            raise Finding(f"{chunk_id!r} as [{marker}]", f"citations.{index}.marker")


def _quotes(exchange: Exchange) -> None:
    sent = {passage["chunk_id"]: passage for passage in exchange.passages}
    for index, citation in enumerate(exchange.items("citations")):
        passage = sent.get(str(citation.get("chunk_id")))
        spans = citation.get("spans")
        if passage is None or not isinstance(spans, list) or not spans or not _is_span(spans[0]):
            continue  # the rules `answers` and `cites-given-passages` report it
        start, end = (at - passage["span"][0] for at in spans[0])
        if start < 0 or citation.get("quote") != passage["text"][start:end]:
            raise Finding(f"{citation.get('quote')!r:.80}", f"citations.{index}.quote")
        texts = [_cut(passage, span) for span in spans if _is_span(span)]
        if (quotes := citation.get("quotes")) and quotes != texts:
            raise Finding(f"{quotes!r:.80}", f"citations.{index}.quotes")


def _cut(passage: dict[str, Any], span: list[int]) -> str:
    """Return a passage's text at a span of its document."""
    start, end = (at - passage["span"][0] for at in span)
    text: str = passage["text"][max(start, 0) : max(end, 0)]
    return text


def _abstains(exchange: Exchange) -> None:
    response = exchange.response("nothing")
    if response.get("answerable") is not False:
        raise Finding(f"{response.get('answerable')!r}", "answerable")
    if response.get("citations"):
        raise Finding("citations of passages that were not sent", "citations")


CARRIES = Rule(
    "carries-unknown-fields", "every other field of the request, as it was sent", _carries
)
RANKING = [
    Rule("best-first", "passages by descending score", _best_first),
    Rule("distinct-passages", "each chunk_id once", _distinct),
    Rule("spans", "a span as long as its text, in characters", _spans),
]
RULES: dict[str, Sequence[Rule]] = {
    "retrieve": [
        Rule(
            "finds-passages",
            "at least one passage; choose a collection and a query for which there is one",
            _finds,
        ),
        Rule("top-k", "at most top_k passages", _keeps_top_k),
        *RANKING,
        Rule("no-results", "an empty list when no score reaches min_score", _finds_nothing),
        CARRIES,
    ],
    "rerank": [
        Rule(
            "keeps-passages",
            "passages that were sent, every field as it was but score, and scores added",
            _reranks_passages,
        ),
        Rule("top-n", "at most rerank.top_n passages", _keeps_top_k),
        *RANKING,
        Rule("no-results", "an empty list when there are no passages", _finds_nothing),
        CARRIES,
    ],
    "augment": [
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
        Rule("keeps-passages", "contexts as they were sent", _gives_passages),
        Rule("cites-given-passages", "citations of passages by their marker", _cites),
        Rule("quotes", "a quote that stands in the passage at the first span", _quotes),
        Rule("no-results", "answerable false and no citation without passages", _abstains),
    ],
}


def rules_of(stage: Stage) -> list[Rule]:
    """Return the promises of a stage; those of its kind of output when it has none of its own."""
    answers = Rule("answers", f"a response of contract/{stage.name}.response.schema.json", _answers)
    ranking = RANKING if issubclass(stage.output, RetrieveOutput) else []
    return [answers, *RULES.get(stage.name, [*ranking, CARRIES]), *ALWAYS]
