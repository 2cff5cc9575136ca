"""Open the step: read the settings, load tokenizer and template once, yield the JSON handler."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from rag_kit.handler import Handler

from .models import AugmentRequest
from .settings import AugmentSettings
from .step import augment
from .template import load_template
from .tokenizer import load_tokenizer


@contextmanager
def open_step(settings: AugmentSettings | None = None) -> Iterator[Handler]:
    """Yield the step's handler; its parts are loaded here, once, and never on a request.

    Args:
        settings: None: from the environment.

    Raises:
        StepError: `misconfigured`: a setting, the tokenizer or the template.
    """
    chosen = settings or AugmentSettings.read()
    run = partial(
        augment,
        tokenizer=load_tokenizer(chosen.tokenizer),
        template=load_template(chosen.template),
        min_relevance=chosen.min_relevance,
        no_context_text=chosen.no_context_text,
    )
    yield Handler("augment", AugmentRequest, run)
