"""Questions to begin with, from the headings of the documents; no model writes them."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import pydantic_core
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from rag_kit.errors import StepError
from rag_kit.reports import DocumentInfo
from rag_pipeline.models import RagRequest

from ..access import may_read
from ..http.context import context_of
from ..http.openapi import FAILURES
from ..service import Service
from .dependencies import ReadableCollection, ServiceDep
from .documents import LibraryDep

QUESTIONS = 3
TRIED = 8  # documents at most
REMEMBERED = 64  # states of collections, as their readers see them
LONGEST = 80  # characters of a title or heading
NUMBER = re.compile(r"^\d+(\.\d+)*[.)]?\s+")

router = APIRouter(tags=["questions"], responses=FAILURES)


class Examples(BaseModel):
    """Questions to begin with."""

    questions: list[str] = Field(description="At most three; their answers name a source.")


Seen = tuple[str, str, tuple[str, ...] | None]  # collection, its digest, the reader's groups


class Remembered:
    """The questions of collections as they are now: a change of a document makes new ones."""

    def __init__(self) -> None:
        self._known: OrderedDict[Seen, list[str]] = OrderedDict()

    def get(self, seen: Seen) -> list[str] | None:
        """Return the questions of a state of a collection, or None."""
        return self._known.get(seen)

    def keep(self, seen: Seen, questions: list[str]) -> None:
        """Keep questions, and forget the oldest."""
        self._known[seen] = questions
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)


@router.get("/v1/examples", summary="Questions to begin with")
async def examples(
    request: Request, service: ServiceDep, library: LibraryDep, collection: ReadableCollection
) -> Examples:
    """Return questions that the documents of a collection answer.

    They are made of titles and headings, and tried without a language model. They are kept until a
    document changes.
    """
    await request.body()  # it is empty; the next message is that the client went away
    groups = context_of(request.scope).principal.groups
    digests = {one.name: one.corpus_digest for one in await library.collections()}
    seen = (collection, digests.get(collection, ""), None if groups is None else tuple(groups))
    remembered: Remembered = request.app.state.examples
    found = remembered.get(seen)
    if found is None:
        documents = await library.documents(collection)
        readable = [one for one in documents if may_read(groups, one.metadata)]
        found = await _questions(service, request, collection, spread(readable, TRIED))
        remembered.keep(seen, found)
    return Examples(questions=found)


def spread(documents: Sequence[DocumentInfo], number: int) -> list[DocumentInfo]:
    """Return documents from all over a list, those of several passages first."""
    rich = [one for one in documents if one.chunks > 1] or list(documents)
    step = max(1, len(rich) // number)
    return rich[::step][:number]


async def _questions(
    service: Service, request: Request, collection: str, documents: Iterable[DocumentInfo]
) -> list[str]:
    """Return a question about each of the first documents that answer one."""
    found: list[str] = []
    for document in documents:
        if len(found) == QUESTIONS:
            break
        for question in await _candidates(service, request, collection, document):
            if question not in found and await _answers(service, request, collection, question):
                found.append(question)
                break
    return found


async def _candidates(
    service: Service, request: Request, collection: str, document: DocumentInfo
) -> list[str]:
    """Return questions about the headings of a document that its title finds."""
    title = _title(document)
    ask = RagRequest(query=title, collection=collection, rerank={"enabled": False})
    results = pydantic_core.from_json(await service.search(request, ask))["results"]
    own = [one for one in results if one["document_id"] == document.document_id]
    headings = [unnumbered(one["headings"][-1]) for one in own if one.get("headings")]
    below = [heading for heading in headings if heading != title]
    return [ask_about(title, heading) for heading in dict.fromkeys(below or [title])][:2]


def _title(document: DocumentInfo) -> str:
    return unnumbered(document.title or document.document_id)[:LONGEST]


def unnumbered(heading: str) -> str:
    """Return a heading without the number before it, as in `2.1 Travel`."""
    return NUMBER.sub("", heading) or heading


def ask_about(title: str, heading: str) -> str:
    """Return the question a heading answers: itself, when it is one."""
    if heading.endswith("?"):
        return heading
    if heading == title or len(heading) > LONGEST:
        return f"What is “{title}” about?"
    return f"What does “{title}” say about “{heading}”?"


async def _answers(service: Service, request: Request, collection: str, question: str) -> bool:
    """Whether the documents answer a question, tried without a language model."""
    ask = RagRequest(
        query=question,
        collection=collection,
        rerank={"enabled": False},
        generate={"target": "extractive"},
    )
    try:
        answer = pydantic_core.from_json(await service.answer(request, ask))
    except StepError as error:
        if error.code in ("overloaded", "deadline_exceeded"):
            raise
        return False
    return bool(answer["answerable"] and answer["citations"])
