"""From a prompt over numbered passages to an answer whose citations are verified."""

from __future__ import annotations

from collections import abc
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import Literal, NamedTuple

from pydantic import JsonValue

from rag_kit.errors import StepError
from rag_kit.request import clean

from .answer_cache import AnswerCache, KeptAnswer, Recorded, is_repeatable, key_of
from .citations import Verified, is_only_citations, verify, verify_json
from .generator import Draft, Generator, Restart
from .markers import find_markers
from .models import CitationCheck, GenerateRequest, GenerateResponse, Usage
from .output_filter import OutputFilter
from .questions import asked_in, read_question
from .refusal import is_refusal
from .removal import start_of_last_sentence
from .scoring import score_sentences, support_of

__version__ = version("rag-generate")

OnNoCitations = Literal["abstain", "warn"]
FILTERED_TEXT = "The answer was withheld because it held something that may not be passed on."
FALLBACK = "extractive"  # answers when the model fails
MODEL_SHARE = 0.8  # of a deadline; the rest is for answering without the model


def generate(
    request: GenerateRequest,
    *,
    generators: Mapping[str, Generator],
    default: str,
    no_context_text: str,
    filtered_text: str = FILTERED_TEXT,
    secrets: Sequence[str] = (),
    canaries: Sequence[str] = (),
    on_no_citations: OnNoCitations = "abstain",
    answers: AnswerCache | None = None,
) -> GenerateResponse:
    """Answer a prompt.

    Args:
        request: Question, passages, prompt, and whether the passages are enough.
        generators: What can answer, by name.
        default: The name used when the request names none.
        no_context_text: The answer when no passage supports one; a model that replies with it
            counts as declining.
        filtered_text: The answer when a model's own holds what may not leave.
        secrets: Keys no answer of a model may hold.
        canaries: Further texts it may not hold, in addition to those of the request.
        on_no_citations: What becomes of a model's answer that cites no passage, unless the request
            says so.
        answers: Keeps answers of models; None: none are kept.

    Raises:
        StepError: Nothing supports an answer and the caller asked for an error, the generator is
            not configured, or it fails.
    """
    for event in stream(
        request,
        generators=generators,
        default=default,
        no_context_text=no_context_text,
        filtered_text=filtered_text,
        secrets=secrets,
        canaries=canaries,
        on_no_citations=on_no_citations,
        answers=answers,
    ):
        if isinstance(event, GenerateResponse):
            return event
    raise AssertionError("a stream ends with its response")


def stream(
    request: GenerateRequest,
    *,
    generators: Mapping[str, Generator],
    default: str,
    no_context_text: str,
    filtered_text: str = FILTERED_TEXT,
    secrets: Sequence[str] = (),
    canaries: Sequence[str] = (),
    on_no_citations: OnNoCitations = "abstain",
    answers: AnswerCache | None = None,
) -> abc.Generator[str | GenerateResponse, None, None]:
    """Answer a prompt piece by piece: text as it is written, then the response of `generate`.

    Citations are verified in the response only. The pieces are filtered: none holds what may not
    leave, and the first such find ends them. Where an answer must cite, they begin with the first
    number that points to a passage, so none is shown of an answer that is then withheld. Refusals
    come before the first piece; closing early aborts the model's call.
    """
    generator = _choose(request, generators, default)
    if request.generate.on_no_citations is None:
        chosen = request.generate.model_copy(update={"on_no_citations": on_no_citations})
        request = request.model_copy(update={"generate": chosen})
    texts = _Texts(no_context_text, filtered_text, secrets, canaries, answers)
    fallback = generators.get(FALLBACK) if request.generate.allow_degraded else None
    if generator.model is None or fallback is None:
        yield from _answer(request, generator, texts)
    else:
        yield from _answer_or_degrade(request, generator, fallback, texts)


class _Texts(NamedTuple):
    """What replaces an answer: another text, or a kept one; and what no answer may contain."""

    no_context: str
    filtered: str
    secrets: Sequence[str]
    canaries: Sequence[str]
    answers: AnswerCache | None


def _answer_or_degrade(
    request: GenerateRequest, generator: Generator, fallback: Generator, texts: _Texts
) -> abc.Generator[str | GenerateResponse, None, None]:
    """Answer with a model; if it fails before its first text, with the fallback."""
    sent = False
    try:
        for event in _answer(_hurried(request), generator, texts):
            sent = True
            yield event
        return
    except StepError as error:
        if sent or not error.code.startswith("llm_"):
            raise
        warnings = [*request.warnings, f"degraded: {error.code}"]
    for event in _answer(request.model_copy(update={"warnings": warnings}), fallback, texts):
        if isinstance(event, GenerateResponse):
            event = event.model_copy(update={"degraded": True})
        yield event


def _hurried(request: GenerateRequest) -> GenerateRequest:
    """Return the request with a shorter deadline, which leaves time for the fallback."""
    options = request.generate
    if options.deadline_s is None:
        return request
    sooner = options.model_copy(update={"deadline_s": options.deadline_s * MODEL_SHARE})
    return request.model_copy(update={"generate": sooner})


def _answer(
    request: GenerateRequest, generator: Generator, texts: _Texts
) -> abc.Generator[str | GenerateResponse, None, None]:
    """Answer with one generator, unless the context is not enough; a model's text is filtered."""
    reason, support = _missing(request, generator)
    if reason:
        yield _no_context(request, generator, texts.no_context, reason, support=support)
    elif generator.model is None:
        draft = yield from _write(request, generator)
        yield _respond(request, generator, draft, texts.no_context, support)
    elif texts.answers is not None and is_repeatable(request):
        yield from _answer_kept(request, generator, texts, support, texts.answers)
    else:
        yield from _answer_filtered(request, generator, texts, support)


def _answer_kept(
    request: GenerateRequest,
    generator: Generator,
    texts: _Texts,
    support: float | None,
    answers: AnswerCache,
) -> abc.Generator[str | GenerateResponse, None, None]:
    """Answer with a kept draft, or with the model, whose complete and cited answer is then kept."""
    key = key_of(request, generator)
    kept = answers.find(key) if request.generate.cache else None
    recorded = Recorded(generator if kept is None else KeptAnswer(generator, kept))
    for event in _answer_filtered(request, recorded, texts, support):
        if isinstance(event, GenerateResponse):
            if kept is None and event.finish_reason == "stop" and recorded.draft is not None:
                answers.keep(key, recorded.draft)
            own = {**event.provenance["generate"], "cache": "miss" if kept is None else "hit"}
            event = event.model_copy(update={"provenance": {**event.provenance, "generate": own}})
        yield event


def _answer_filtered(
    request: GenerateRequest, generator: Generator, texts: _Texts, support: float | None
) -> abc.Generator[str | GenerateResponse, None, None]:
    """Answer with a model until its text holds something that may not leave."""
    new_filter = partial(
        OutputFilter,
        request,
        secrets=texts.secrets,
        canaries=texts.canaries,
        allowed=texts.no_context,
    )
    outlet = _Outlet(new_filter, request)
    draft = yield from _write(request, generator, outlet)
    output = outlet.filter
    if output.hit:
        yield _withheld(request, generator, texts.filtered, output.hit, draft.usage)
        return
    draft = replace(draft, text=clean(draft.text))
    response = _respond(request, generator, draft, texts.no_context, support)
    rest = outlet.finish()
    # without the numbers that the check removes, the words around them are adjacent
    if rule := output.hit or output.find(response.answer):
        yield _withheld(request, generator, texts.filtered, rule, draft.usage)
        return
    if rest and (response.answerable or not _must_cite(request)):
        yield rest
    yield response


class _Outlet:
    """Lets a model's text pass to the reader: filtered, and not before it states and cites where it must.

    Attributes:
        filter: The filter of the present text.
    """

    def __init__(self, new_filter: Callable[[], OutputFilter], request: GenerateRequest) -> None:
        self._new_filter = new_filter
        self._known = frozenset(context.marker for context in request.contexts)
        self._must_cite = _must_cite(request)
        self.restart()

    def restart(self) -> None:
        """Forget what was written so far."""
        self.filter = self._new_filter()
        self._held, self._holds = "", self._must_cite

    def feed(self, piece: str) -> str:
        """Take in the next piece; returns what may be sent now."""
        return self._pass(self.filter.feed(piece))

    def finish(self) -> str:
        """Return what is still held back, when the answer is complete."""
        rest, self._holds = self._held + self.filter.finish(), False
        return rest

    def _pass(self, text: str) -> str:
        if not self._holds:
            return text
        self._held += text
        if not self._cites():
            return ""
        text, self._held, self._holds = self._held, "", False
        return text

    def _cites(self) -> bool:
        found = find_markers(self._held, self._known)
        valid = [marker.start for marker in found if self._known.intersection(marker.numbers)]
        if not valid:
            return False
        begun = start_of_last_sentence(self._held)
        # without a number, a sentence that has only begun may become "It says: [1]"
        return not is_only_citations(self._held[: None if valid[-1] >= begun else begun])


def _must_cite(request: GenerateRequest) -> bool:
    """Whether a model's answer is withheld when it cites no passage."""
    free = request.no_context == "answer" or request.generate.response_format is not None
    return request.generate.on_no_citations != "warn" and not free


def _write(
    request: GenerateRequest, generator: Generator, outlet: _Outlet | None = None
) -> abc.Generator[str, None, Draft]:
    """Yield what a generator writes, as far as it may pass, and return its draft."""
    draft = None
    with closing(generator.stream(request)) as pieces:
        for piece in pieces:
            if isinstance(piece, Draft):
                draft = piece
            elif outlet is None:
                yield str(piece)
            elif isinstance(piece, Restart):
                outlet.restart()
            elif text := outlet.feed(piece):
                yield text
            elif outlet.filter.hit:
                return Draft("", "stop", Usage(llm_calls=1))
    if draft is None:
        raise StepError("module_bad_output", f"the generator '{generator.name}' gave no draft")
    return draft


def _choose(
    request: GenerateRequest, generators: Mapping[str, Generator], default: str
) -> Generator:
    name = request.generate.target or default
    if name not in generators:
        raise StepError(
            "invalid_request",
            f"generate.target: no generator '{name[:80]}' is configured; "
            f"there is {', '.join(sorted(generators))}",
            param="generate.target",
        )
    if request.generate.response_format is not None and generators[name].model is None:
        raise StepError(
            "not_supported",
            f"generate.response_format: the generator '{name}' writes the passages' own sentences; a "
            "language model is needed, which the operator sets with RAG_LLM_BASE_URL and RAG_LLM_MODEL",
            param="generate.response_format",
        )
    return generators[name]


def _missing(request: GenerateRequest, generator: Generator) -> tuple[str, float | None]:
    """Return why no answer should be tried ("" when one should), and the support when scored.

    A model is called without support only for `no_context: answer`. With a `min_support` in the
    request, the passages are scored before the model is called.
    """
    least = request.generate.min_support
    support = None
    if generator.model is not None and least is not None and request.contexts:
        support = support_of(
            score_sentences(read_question(asked_in(request.question())), request.contexts)[1]
        )
    if generator.model is not None and request.no_context == "answer":
        return "", support
    if not request.decision.answerable:
        return request.decision.reason or "The passages were judged not to be enough.", support
    if not request.contexts:
        return "No passage was found.", support
    if support is not None and least is not None and support < least:
        return f"The passages' support is {support:.2f}, below {least:g}.", support
    return "", support


def _respond(
    request: GenerateRequest,
    generator: Generator,
    draft: Draft,
    no_context_text: str,
    support: float | None,
) -> GenerateResponse:
    support = draft.support if support is None else support
    if draft.finish_reason == "no_context":
        reason = f"The passages' support is {support:.2f}." if support is not None else ""
        return _no_context(
            request, generator, no_context_text, reason, draft=draft, support=support
        )
    verified = _verified(request, draft)
    free = request.no_context == "answer"
    if draft.finish_reason == "stop" and not free and is_refusal(verified, no_context_text):
        return _no_context(
            request, generator, no_context_text, "The model finds no answer.",
            draft=draft, support=support,
        )  # fmt: skip
    uncited = not verified.citations
    must_cite = generator.model and draft.finish_reason != "filtered" and _must_cite(request)
    if must_cite and (uncited or is_only_citations(verified.text)):
        draft = replace(draft, warnings=(*draft.warnings, "no_citations"))
        reason = "cites no passage" if uncited else "is nothing but numbers of passages"
        return _no_context(
            request, generator, no_context_text, f"The model's answer {reason}.",
            draft=draft, support=support,
        )  # fmt: skip
    warnings = [*request.warnings, *draft.warnings, *verified.warnings]
    warnings += ["no_citations"] * (uncited and bool(verified.text))
    grounded = bool(verified.citations) or not (free and generator.model)
    return GenerateResponse(
        query=request.query,
        answer=verified.text,
        answerable=grounded and bool(verified.text),
        finish_reason=draft.finish_reason,
        llm_generated=generator.model is not None,
        support=support,
        citations=verified.citations,
        citation_check=verified.check,
        contexts=request.contexts,
        usage=draft.usage,
        warnings=warnings,
        provenance=_provenance(request, generator),
    )


def _verified(request: GenerateRequest, draft: Draft) -> Verified:
    """Return a draft with verified citations; raises `llm_bad_response` when it should be JSON and is not."""
    if request.generate.response_format is None or draft.finish_reason != "stop":
        return verify(draft.text, request.contexts, draft.quotes)
    try:
        return verify_json(draft.text, request.contexts)
    except ValueError:
        raise StepError(
            "llm_bad_response",
            "generate.response_format: the model did not answer in JSON; it may not be able to",
            param="generate.response_format",
        ) from None


def _no_context(
    request: GenerateRequest,
    generator: Generator,
    text: str,
    reason: str,
    *,
    draft: Draft | None = None,
    support: float | None = None,
) -> GenerateResponse:
    if request.no_context == "error":
        raise StepError(
            "no_context",
            f"nothing found supports an answer. {reason} Ask otherwise, add documents, or send "
            '{"no_context": "abstain"} to get the configured text instead',
            param="no_context",
        )
    return _unanswered(
        request,
        generator,
        text,
        "no_context",
        support=support,
        usage=draft.usage if draft else Usage(),
        warnings=draft.warnings if draft else (),
    )


def _withheld(
    request: GenerateRequest, generator: Generator, text: str, rule: str, usage: Usage
) -> GenerateResponse:
    return _unanswered(
        request, generator, text, "filtered", usage=usage, warnings=[f"filtered: {rule}"]
    )


def _unanswered(
    request: GenerateRequest,
    generator: Generator,
    text: str,
    finish_reason: Literal["no_context", "filtered"],
    *,
    usage: Usage,
    warnings: Sequence[str],
    support: float | None = None,
) -> GenerateResponse:
    return GenerateResponse(
        query=request.query,
        answer=text,
        answerable=False,
        finish_reason=finish_reason,
        llm_generated=False,
        support=support,
        citations=[],
        citation_check=CitationCheck(removed_markers=[], uncited_sentences=0),
        contexts=request.contexts,
        usage=usage,
        warnings=[*request.warnings, *warnings],
        provenance=_provenance(request, generator),
    )


def _provenance(request: GenerateRequest, generator: Generator) -> dict[str, dict[str, JsonValue]]:
    own: dict[str, JsonValue] = {
        "version": __version__,
        "generator": generator.name,
        "model": generator.model,
    }
    return {**request.provenance, "generate": own}
