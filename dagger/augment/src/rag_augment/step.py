"""The step: from passages and a question to a prompt.

    results -> bodies -> pack -> number -> decide -> prompt

Passages keep their fields as they are; only their copy in the prompt is cleaned, marked or cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from pydantic import JsonValue

from rag_kit.passages import Context, Result

from .decision import decide
from .duplicates import Passage
from .history import fold_history
from .models import AugmentOptions, AugmentRequest, AugmentResponse, AugmentUsage, LeftOut
from .packing import Candidate, Packing, pack
from .prompt import NO_CONTEXT_TEXT, Prompt, build_prompt, passage_body
from .template import Template
from .tokenizer import Tokenizer

__version__ = version("rag-augment")


def augment(
    request: AugmentRequest,
    *,
    tokenizer: Tokenizer,
    template: Template,
    min_relevance: float | None = None,
    no_context_text: str = NO_CONTEXT_TEXT,
) -> AugmentResponse:
    """Build a prompt over numbered passages, and report which passages were left out and why.

    The same request gives the same response, except for the random mark of spotlighting; with
    `augment.seed` that is the same, too.

    Args:
        request: Passages, best first, the question and the conversation before it.
        tokenizer: Counts tokens for the budgets and the usage.
        template: Wording of the prompt.
        min_relevance: Dense cosine at least one passage must reach, unless the request sets it; None:
            as `decide` has it.
        no_context_text: The answer a model is instructed to give when the passages hold none.

    Raises:
        StepError: `misconfigured`, the operator's template cannot be rendered.
    """
    options = request.augment
    packing = _pack(request.results, options, tokenizer)
    order = _order(packing, request.results, options)
    contexts = [_context(request.results[index], n) for n, index in enumerate(order, start=1)]
    decision = decide(
        request.query,
        contexts,
        found=len(request.results),
        min_relevance=min_relevance if options.min_relevance is None else options.min_relevance,
    )
    warnings = [*request.warnings, *_cut_warning(packing, options)]
    prompt = Prompt([], 0, "")
    if decision.answerable or request.no_context == "answer":
        history, dropped = fold_history(
            request.messages,
            max_messages=options.max_history_messages,
            max_tokens=options.max_history_tokens,
            tokenizer=tokenizer,
        )
        warnings += dropped
        prompt = build_prompt(
            request,
            [packing.packed[index] for index in order],
            history,
            tokenizer=tokenizer,
            template=template,
            no_context_text=no_context_text,
        )
    context_tokens = sum(packed.tokens for packed in packing.packed.values())
    return AugmentResponse(
        **_carried(request),
        query=request.query,
        messages=request.messages,
        no_context=request.no_context,
        prompt=prompt.messages,
        contexts=contexts,
        left_out=_left_out(packing, request.results),
        decision=decision,
        canaries=[prompt.mark] if prompt.mark else [],
        context_usage=AugmentUsage(context_tokens=context_tokens, prompt_tokens=prompt.tokens),
        warnings=warnings,
        provenance={**request.provenance, "augment": _provenance(tokenizer, template)},
    )


def _pack(results: Sequence[Result], options: AugmentOptions, tokenizer: Tokenizer) -> Packing:
    return pack(
        [
            Candidate(Passage(result.text, result.document_id, *result.span), passage_body(result))
            for result in results
        ],
        budget=options.max_context_tokens,
        threshold=options.near_duplicate,
        tokenizer=tokenizer,
    )


def _order(packing: Packing, results: Sequence[Result], options: AugmentOptions) -> list[int]:
    """Return the packed indices as they are numbered; documents come in order of their best."""
    ranked = list(packing.packed)
    if options.order == "score":
        return ranked
    documents = list(dict.fromkeys(results[index].document_id for index in ranked))
    return sorted(
        ranked,
        key=lambda index: (documents.index(results[index].document_id), results[index].span[0]),
    )


def _context(result: Result, marker: int) -> Context:
    return Context.model_construct(**{**dict(result), "marker": marker})


def _left_out(packing: Packing, results: Sequence[Result]) -> list[LeftOut]:
    return [
        LeftOut(
            chunk_id=results[rejected.index].chunk_id,
            document_id=results[rejected.index].document_id,
            score=results[rejected.index].score,
            reason=rejected.reason,
            duplicate_of=None
            if rejected.duplicate_of is None
            else results[rejected.duplicate_of].chunk_id,
        )
        for rejected in packing.rejected
    ]


def _cut_warning(packing: Packing, options: AugmentOptions) -> list[str]:
    if not packing.is_cut:
        return []
    return [
        "context_truncated: no passage fits in augment.max_context_tokens "
        f"({options.max_context_tokens}); the prompt holds the beginning of the best one only"
    ]


def _provenance(tokenizer: Tokenizer, template: Template) -> dict[str, JsonValue]:
    return {
        "version": __version__,
        "tokenizer": tokenizer.identity,
        "template_digest": template.digest,
    }


def _carried(request: AugmentRequest) -> dict[str, Any]:
    """Return the fields of the request that the response repeats but does not name."""
    fields = {
        name: value
        for name, value in (request.model_extra or {}).items()
        if name not in AugmentResponse.model_fields
    }
    if "augment" in request.model_fields_set:
        fields["augment"] = request.augment.model_dump(exclude_unset=True)
    return fields
