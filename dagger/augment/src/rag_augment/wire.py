"""Open the step: read the settings, load tokenizer and template once, answer JSON with JSON."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from pydantic import ValidationError

from rag_kit.errors import StepError
from rag_kit.handler import Handler

from .models import AugmentRequest
from .settings import AugmentSettings
from .step import augment
from .template import load_template
from .tokenizer import load_tokenizer


@contextmanager
def open_step(settings: AugmentSettings | None = None) -> Iterator[Handler]:
    """Give the step's handler; its parts are loaded here, once, and never on a request.

    Args:
        settings: None: from the environment.

    Raises:
        StepError: `misconfigured`: a setting, the tokenizer or the template.
    """
    chosen = settings or _settings()
    run = partial(
        augment,
        tokenizer=load_tokenizer(chosen.tokenizer),
        template=load_template(chosen.template),
        min_relevance=chosen.min_relevance,
        no_context_text=chosen.no_context_text,
    )
    yield Handler("augment", AugmentRequest, run)


def _settings() -> AugmentSettings:
    try:
        return AugmentSettings()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = "RAG_" + "_".join(str(part) for part in first["loc"]).upper()
        raise StepError(
            "misconfigured", f"{name}: {first['msg']}, but got {first['input']!r}"
        ) from None
