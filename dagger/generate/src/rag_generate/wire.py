"""Open the step: read the settings, create the generators once, yield the JSON handler."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from rag_kit.errors import StepError
from rag_kit.handler import Event, Handler, message_event

from .answer_cache import AnswerCache
from .extractive import Extractive
from .generator import Generator
from .models import GenerateRequest
from .settings import Settings
from .step import generate, stream

if TYPE_CHECKING:
    from .openai_chat import OpenAIChat


@contextmanager
def open_step(settings: Settings | None = None) -> Iterator[Handler]:
    """Yield the step's handler; clients and connections live while it is open.

    Args:
        settings: None: from the environment.

    Raises:
        StepError: `misconfigured` or `llm_misconfigured`: a setting is wrong or missing.
    """
    chosen = settings or Settings.read()
    with open_generators(chosen) as generators:
        key = chosen.api_key() if "openai" in generators else None
        parts: dict[str, Any] = {
            "generators": generators,
            "default": chosen.default_generator(),
            "no_context_text": chosen.no_context_text,
            "filtered_text": chosen.filtered_text,
            "secrets": [key.get_secret_value()] if key else [],
            "canaries": chosen.canaries,
            "on_no_citations": chosen.on_no_citations,
            "answers": AnswerCache(chosen.answer_cache) if chosen.answer_cache else None,
        }
        run = partial(generate, **parts)
        found = [getattr(generator, "breaker", None) for generator in generators.values()]
        breakers = tuple(breaker for breaker in found if breaker is not None)
        events = partial(_events, **parts)
        yield Handler("generate", GenerateRequest, run, stream=events, breakers=breakers)


def _events(request: GenerateRequest, **parts: Any) -> Iterator[Event]:
    with closing(stream(request, **parts)) as pieces:
        for piece in pieces:
            if isinstance(piece, str):
                yield message_event(piece)
            else:
                yield Event("final_answer", piece.model_dump_json())


@contextmanager
def open_generators(settings: Settings) -> Iterator[dict[str, Generator]]:
    """Yield the generators by name; `openai` is among them when it is configured."""
    with ExitStack() as stack:
        generators: dict[str, Generator] = {
            "extractive": Extractive(min_support=settings.min_support)
        }
        if settings.llm_base_url or settings.llm_model or settings.generator == "openai":
            generators["openai"] = stack.enter_context(closing(_openai(settings)))
        yield generators


def _openai(settings: Settings) -> OpenAIChat:
    base_url, model = settings.llm_base_url, settings.llm_model
    if not base_url or not model:
        raise StepError(
            "llm_misconfigured",
            f"RAG_LLM_{'MODEL' if base_url else 'BASE_URL'} is not set; the generator openai needs "
            "RAG_LLM_BASE_URL and RAG_LLM_MODEL; unset both, and RAG_GENERATOR, to answer without",
        )
    # lazy: importing the client takes about a second
    from .openai_chat import OpenAIChat

    return OpenAIChat(base_url, model, settings)
