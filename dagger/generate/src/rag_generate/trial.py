"""Try a model: how fast it is, whether it cites, and which settings fit it."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal

from rag_kit.errors import StepError

from .citations import verify
from .generator import Draft
from .llm_faults import explain_failure
from .models import GenerateRequest
from .openai_chat import NO_KEY, OpenAIChat
from .settings import Settings

FULL_PROMPT = 2600  # tokens: augment.max_context_tokens of passages, the rules and a question
ANSWER_TOKENS = 256  # of a long answer
MARGIN = 2.0  # a limit is this many times what was measured
REWRITE_S = 3.0  # what the pipeline gives a model to complete a follow-up
PATIENCE = {
    "llm_connect_s": 5.0,
    "llm_first_token_s": 600.0,  # nosec B105, seconds
    "llm_idle_s": 120.0,
    "llm_total_s": 900.0,
}
WINDOWS = ("max_model_len", "context_length", "context_window", "max_context_length", "n_ctx")


@dataclass(frozen=True)
class Trial:
    """What came of one question to a model.

    Args:
        model: Its name on the server.
        first_token_s: Seconds until its first token.
        tokens_per_s: Tokens a second from then on; None when the server does not count them.
        seconds: Seconds until the answer was complete.
        prompt_tokens: Tokens of the prompt, as the server counts them.
        answer_tokens: Tokens of the answer, with its reasoning.
        reasoning: Where its reasoning came, as in a draft.
        question: What was asked.
        answer: What it answered, citations checked.
        citations: The passages it cites.
        cites: Whether it cites the passage that answers, and no number that points nowhere.
        settings: Variables that fit it, by name.
    """

    model: str
    first_token_s: float
    tokens_per_s: float | None
    seconds: float
    prompt_tokens: int
    answer_tokens: int
    reasoning: Literal["none", "field", "tags", "unopened"]
    question: str
    answer: str
    citations: list[int]
    cites: bool
    settings: dict[str, str]


def try_model(request: GenerateRequest, right: int, settings: Settings) -> Trial:
    """Ask a model a question over passages: once to have it loaded, then to measure it.

    Args:
        request: The prompt.
        right: Number of the passage that answers it.
        settings: Server and key; without a model's name the server's only one is tried.

    Raises:
        StepError: `llm_…`: the server or the model cannot be used, or the server has several models.
    """
    model, window = find_model(settings)
    patient = settings.model_copy(update={**PATIENCE, "llm_attempts": 1})
    patient, draft = _first_that_works(request, model, patient)
    settings = settings.model_copy(update={"llm_max_tokens_field": patient.llm_max_tokens_field})
    verified = verify(draft.text, request.contexts, None)
    markers = [citation.marker for citation in verified.citations]
    return Trial(
        model=model,
        first_token_s=round(draft.first_token_s or 0.0, 3),
        tokens_per_s=_speed(draft),
        seconds=round(draft.seconds or 0.0, 3),
        prompt_tokens=draft.usage.prompt_tokens,
        answer_tokens=draft.usage.completion_tokens,
        reasoning=draft.reasoning,
        question=request.query,
        answer=verified.text,
        citations=markers,
        cites=right in markers and not verified.check.removed_markers,
        settings=fitting(draft, settings, model, window),
    )


def find_model(settings: Settings) -> tuple[str, int | None]:
    """Return the name of the model to try, and its context window where the server tells.

    Raises:
        StepError: `llm_misconfigured`, none is named and the server has none or several; or the
            server's failure.
    """
    from openai import OpenAI

    key = settings.api_key()
    client = OpenAI(
        base_url=settings.llm_base_url,
        api_key=key.get_secret_value() if key else NO_KEY,
        max_retries=0,
        timeout=PATIENCE["llm_connect_s"],
    )
    try:
        with closing(client):
            listed = {one.id: one for one in client.models.list().data}
    except Exception as error:
        if settings.llm_model:
            return settings.llm_model, None  # some servers list nothing
        raise explain_failure(error, started=False).error from None
    name = settings.llm_model or (next(iter(listed)) if len(listed) == 1 else "")
    if not name:
        raise StepError(
            "llm_misconfigured",
            f"the server has {len(listed)} models: {', '.join(sorted(listed)[:10])}; choose one with "
            "--model",
        )
    return name, _window(listed.get(name))


def _window(entry: Any) -> int | None:
    """Return the context window in a server's entry of a model, which has no standard name."""
    known = dict(getattr(entry, "model_extra", None) or {})
    known |= known["meta"] if isinstance(known.get("meta"), dict) else {}
    found = [known[name] for name in WINDOWS if isinstance(known.get(name), int)]
    return min(found) if found and min(found) >= 256 else None


def _first_that_works(
    request: GenerateRequest, model: str, settings: Settings
) -> tuple[Settings, Draft]:
    """Ask with each name of the limit of tokens until the server takes one."""
    try:
        return settings, _ask(request, model, settings)
    except StepError as error:
        if "refused the request (400" not in error.message:
            raise
    other = settings.model_copy(update={"llm_max_tokens_field": "max_completion_tokens"})
    return other, _ask(request, model, other)


def _ask(request: GenerateRequest, model: str, settings: Settings) -> Draft:
    """Return the second answer: the first call may load the model."""
    chat = OpenAIChat(str(settings.llm_base_url), model, settings)
    with closing(chat):
        options = request.generate.model_copy(update={"max_answer_tokens": 1})
        try:
            _draft(chat, request.model_copy(update={"generate": options}))
        except StepError as error:
            if "limit of tokens" not in error.message:
                raise
        return _draft(chat, request)


def _draft(chat: OpenAIChat, request: GenerateRequest) -> Draft:
    *_, draft = chat.stream(request)
    assert isinstance(draft, Draft)
    return draft


def _speed(draft: Draft) -> float | None:
    """Return tokens a second after the first one."""
    tokens, seconds = (
        draft.usage.completion_tokens - 1,
        (draft.seconds or 0) - (draft.first_token_s or 0),
    )
    return round(tokens / seconds, 1) if tokens > 0 and seconds > 0 else None


def fitting(draft: Draft, settings: Settings, model: str, window: int | None) -> dict[str, str]:
    """Return the variables that fit a model, given one answer of it.

    The time to the first token is taken to grow with the prompt, which is right for a processor and
    cautious for anything faster.
    """
    first = (draft.first_token_s or 0.0) * max(1.0, FULL_PROMPT / max(draft.usage.prompt_tokens, 1))
    whole = first + ANSWER_TOKENS / (_speed(draft) or math.inf)
    chosen = {"RAG_LLM_BASE_URL": str(settings.llm_base_url), "RAG_LLM_MODEL": model}
    if draft.reasoning != "none":
        pace = "reasoning"
    else:
        limits = Settings.model_fields
        quick = MARGIN * first <= limits["llm_first_token_s"].default
        pace = "hosted" if quick and MARGIN * whole <= limits["llm_total_s"].default else "local"
    if pace != "hosted":
        chosen["RAG_LLM_PACE"] = pace
        chosen |= _longer(pace, first, whole)
    if draft.reasoning == "unopened":
        chosen["RAG_LLM_STARTS_IN_REASONING"] = "true"
    if settings.llm_max_tokens_field != "max_tokens":
        chosen["RAG_LLM_MAX_TOKENS_FIELD"] = settings.llm_max_tokens_field
    if window is not None:
        chosen["RAG_LLM_CONTEXT_WINDOW"] = str(window)
    if (draft.first_token_s or 0.0) * MARGIN > REWRITE_S or pace == "reasoning":
        chosen["RAG_REWRITING"] = "terms"
    return chosen


def _longer(pace: str, first: float, whole: float) -> dict[str, str]:
    """Return the deadlines that a pace's own are too short for."""
    limits = Settings.PACES[pace]
    longer: dict[str, str] = {}
    if MARGIN * first > limits["llm_first_token_s"]:
        longer["RAG_LLM_FIRST_TOKEN_S"] = f"{MARGIN * first:.0f}"
    if MARGIN * whole > limits["llm_total_s"]:
        total = math.ceil(MARGIN * whole)
        longer |= {"RAG_LLM_TOTAL_S": str(total), "RAG_DEADLINE_S": str(total + 30)}
        longer["RAG_STEP_DEADLINE_S"] = str(total + 30)
    return longer
