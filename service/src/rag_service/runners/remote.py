"""The runner `remote`: a pipeline served elsewhere: Compose, Kubernetes, `dagger call rag serve up`."""

from __future__ import annotations

from rag_kit.errors import StepError

from ..settings import ServiceSettings
from .base import Notify, Runner
from .pipeline_client import PipelineClient


class RemoteRunner(PipelineClient, Runner):
    """The pipeline at RAG_COMPOSITE_URL."""

    name = "remote"

    def __init__(self, settings: ServiceSettings) -> None:
        if settings.composite_url is None:
            raise StepError(
                "misconfigured",
                "RAG_COMPOSITE_URL is not set; the runner remote needs the address of a running "
                "composite, e.g. that of `python -m rag_pipeline serve`",
            )
        super().__init__(settings.composite_url, deadline_s=settings.deadline_s)

    async def start(self, notify: Notify) -> None:
        """Return at once: the pipeline is started elsewhere."""
        notify(f"asking the composite at {self.url}")
