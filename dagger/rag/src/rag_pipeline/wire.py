"""Opens the pipeline: over servers when the step URLs are set, else in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from rag_kit.handler import Handler

from .pipeline import Pipeline
from .settings import RagSettings, read_settings


def open_pipeline(
    settings: RagSettings | None = None, *, preload: bool = False
) -> AbstractContextManager[Pipeline]:
    """Return the configured pipeline; its resident parts are loaded while it is open.

    Args:
        settings: None: from the environment.
        preload: Open every local collection now, or wait until the servers are ready, so that no
            request has to.

    Raises:
        StepError: `misconfigured`, or what keeps a step from opening.
    """
    settings = settings or read_settings()
    urls = settings.step_urls()
    if urls:
        from .steps.remote import open_remote

        stages = settings.stages()
        return open_remote(urls, deadline_s=settings.step_deadline_s, wait=preload, stages=stages)
    from .steps.local import open_local

    return open_local(preload=preload, stages=settings.stages())


@contextmanager
def open_step(settings: RagSettings | None = None) -> Iterator[Handler]:
    """Yield the pipeline as JSON in, JSON out."""
    with open_pipeline(settings, preload=True) as pipeline:
        yield pipeline.handler
