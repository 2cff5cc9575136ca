"""Repeats the search of an earlier answer and compares the passages.

The answer holds what it needs: the question, the search part of the request, and a digest of the
passages found. Does not generate the answer again: only a search is repeatable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    field_validator,
    model_validator,
)

from rag_kit.errors import error_of
from rag_kit.handler import Handler
from rag_kit.request import explain

from ..models import RagRequest, SearchResponse
from ..outputs import with_fields
from ..stages import PIPELINE, Stage, search_stages
from ..step import SCORE_DIGITS, Step, search

CAUSES = {
    "corpus_digest": "the documents of the collection changed",
    "embedding_model": "another embedding model is used",
}


class Passage(BaseModel):
    """One passage as the answer shows it; `span` is null for one that was left out."""

    chunk_id: str
    document_id: str
    score: float
    span: list[int] | None = None


class Recorded(BaseModel):
    """What a replay needs of an answer or a search response; other fields are ignored."""

    class _Provenance(BaseModel):
        class _Rag(BaseModel):
            request: dict[str, JsonValue]
            results_digest: str

        model_config = ConfigDict(extra="allow")
        __pydantic_extra__: dict[str, dict[str, JsonValue]]

        rag: _Rag

    query: str
    collection: str
    provenance: _Provenance
    results: list[Passage] | None = None
    contexts: list[Passage] = Field(default_factory=list)
    left_out: list[Passage] = Field(default_factory=list)

    @field_validator("left_out", mode="before")
    @classmethod
    def _ranked(cls, value: Any) -> Any:
        """Keep the passages with a score: a foreign `augment` may report less."""
        return with_fields(value, *Passage.model_fields.keys() - {"span"})

    @model_validator(mode="before")
    @classmethod
    def _no_error(cls, data: Any) -> Any:
        failed = error_of(data) if isinstance(data, dict) else None
        if failed:
            raise ValueError(f"this is an error ({failed['code']}), not an answer to replay")
        return data

    def passages(self) -> list[Passage]:
        """Return the passages found, best first; equal scores by id, as `retrieve` ranks."""
        if self.results is not None:
            return self.results
        found = [*self.contexts, *self.left_out]
        return sorted(found, key=lambda passage: (-passage.score, passage.chunk_id))

    def request(self) -> RagRequest:
        """Return the request that was made, as far as a search depends on it.

        Raises:
            StepError: `invalid_request`, the recorded request is not valid in this version.
        """
        recorded = self.provenance.rag.request
        try:
            return RagRequest.model_validate(
                {**recorded, "query": self.query, "collection": self.collection}, strict=True
            )
        except ValidationError as error:
            raise explain(error) from None


class Difference(BaseModel):
    """One thing that changed."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["provenance", "gone", "new", "moved", "score", "span", "order"] = Field(
        description="provenance: who retrieved, from what; else what happened to a passage."
    )
    name: str = Field(description="The field of provenance, or the passage's chunk id.")
    before: JsonValue = Field(description="Then: value, rank from 1, score or span; null: none.")
    after: JsonValue = Field(description="Now, as `before`.")
    message: str = Field(description="The same in a sentence.")


class Digests(BaseModel):
    """The digests of both lists of passages."""

    model_config = ConfigDict(extra="forbid")

    before: str
    after: str


class ReplayReport(BaseModel):
    """Whether the search found the same passages with the same scores in the same order."""

    model_config = ConfigDict(extra="forbid")

    identical: bool = Field(description="Whether both digests are equal.")
    query: str = Field(description="The question of the answer.")
    collection: str = Field(description="Where was searched.")
    results_digest: Digests
    differences: list[Difference] = Field(
        description="Changes of provenance, also when the passages are identical; then of passages."
    )


async def replay(
    answer_json: str | bytes, steps: Mapping[str, Step], *, stages: Sequence[Stage] = PIPELINE
) -> str:
    """Repeat the search of an answer and compare.

    Args:
        answer_json: A `RagResponse` or `SearchResponse` as JSON.
        steps: What runs each stage of a search, by its name.
        stages: The stages in their order.

    Returns:
        A `ReplayReport` as JSON, or an error envelope: `invalid_request` names what the answer
        lacks; other codes are those of the steps.
    """
    run = partial(repeat_search, steps=steps, stages=stages)
    return await Handler("rag", Recorded, run).serve(answer_json)


async def repeat_search(
    recorded: Recorded, steps: Mapping[str, Step], *, stages: Sequence[Stage] = PIPELINE
) -> ReplayReport:
    """Repeat the search of an answer that was read; arguments as for `replay`, errors are raised."""
    found = await search(recorded.request(), steps, stages=stages)
    digests = Digests(
        before=recorded.provenance.rag.results_digest,
        after=str(found.provenance["rag"]["results_digest"]),
    )
    identical = digests.before == digests.after
    before = recorded.provenance.__pydantic_extra__
    causes = [
        cause
        for stage in search_stages(stages)
        for cause in _compare_provenance(
            stage.name, before.get(stage.name, {}), found.provenance.get(stage.name, {})
        )
    ]
    return ReplayReport(
        identical=identical,
        query=recorded.query,
        collection=recorded.collection,
        results_digest=digests,
        differences=causes if identical else causes + _compare(recorded.passages(), found),
    )


def _compare_provenance(
    step: str, before: dict[str, JsonValue], after: dict[str, JsonValue]
) -> list[Difference]:
    return [
        _difference(
            "provenance",
            name,
            before.get(name),
            after.get(name),
            f"{_cause(step, name)}: {before.get(name)}, now {after.get(name)}",
        )
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def _cause(step: str, name: str) -> str:
    if name == "version":
        return f"another version of {step} answered"
    return CAUSES.get(name, f"{name} of {step} changed")


def _compare(before: Sequence[Passage], found: SearchResponse) -> list[Difference]:
    """Compare passages by chunk id; rank is counted among those found both times."""
    after = [Passage.model_validate(result.model_dump()) for result in found.results]
    old, new = ({passage.chunk_id: passage for passage in side} for side in (before, after))
    kept = [[id_ for id_ in side if id_ in old and id_ in new] for side in (old, new)]
    ranks = [{id_: rank for rank, id_ in enumerate(side, 1)} for side in kept]
    differences = [_gone(old[id_], rank) for rank, id_ in _only(old, new)]
    differences += [_new(new[id_], rank) for rank, id_ in _only(new, old)]
    for id_ in kept[0]:
        differences += _changed(old[id_], new[id_], ranks[0][id_], ranks[1][id_])
    if not differences:
        text = "the order of the passages or a span of one left out of the prompt is another"
        differences.append(_difference("order", "", None, None, text))
    return differences


def _only(one: dict[str, Passage], other: dict[str, Passage]) -> list[tuple[int, str]]:
    return [(rank, id_) for rank, id_ in enumerate(one, 1) if id_ not in other]


def _gone(passage: Passage, rank: int) -> Difference:
    text = f"{_name(passage)} was number {rank} and is no longer found"
    return _difference("gone", passage.chunk_id, rank, None, text)


def _new(passage: Passage, rank: int) -> Difference:
    text = f"{_name(passage)} is new at number {rank}"
    return _difference("new", passage.chunk_id, None, rank, text)


def _changed(old: Passage, new: Passage, was: int, is_: int) -> list[Difference]:
    changes = []
    if was != is_:
        text = f"{_name(old)} was number {was} of the passages kept and is number {is_}"
        changes.append(_difference("moved", old.chunk_id, was, is_, text))
    then, now = round(old.score, SCORE_DIGITS), round(new.score, SCORE_DIGITS)
    if then != now:
        text = f"{_name(old)} had the score {then:g} and has {now:g}"
        changes.append(_difference("score", old.chunk_id, then, now, text))
    if old.span is not None and old.span != new.span:
        text = f"{_name(old)} had the span {old.span} and has {new.span}"
        changes.append(_difference("span", old.chunk_id, [*old.span], [*(new.span or [])], text))
    return changes


def _name(passage: Passage) -> str:
    return f"the passage {passage.chunk_id} of {passage.document_id}"


def _difference(
    kind: Literal["provenance", "gone", "new", "moved", "score", "span", "order"],
    name: str,
    before: JsonValue,
    after: JsonValue,
    message: str,
) -> Difference:
    return Difference(kind=kind, name=name, before=before, after=after, message=message)
