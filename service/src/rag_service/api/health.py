"""Is it alive, can it answer, what did it do: `/healthz`, `/readyz`, `/metrics`, `/v1/info`."""

from __future__ import annotations

import shutil
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response

from rag_kit.errors import StepError
from rag_pipeline.settings import read_settings as rag_settings

from ..http import openapi as replies
from ..http.errors import refuse
from .questions import service_of

router = APIRouter(tags=["operation"])
PUBLIC = replies.failures({403: "Without keys, another machine's name was asked."})
NOT_READY = replies.failures({503: "Not ready; `message` says why."})


@router.get("/healthz", responses={200: replies.answers(replies.Alive), **PUBLIC})
async def healthz() -> dict[str, str]:
    """Say that this process runs; nothing else is asked."""
    return {"status": "ok"}


@router.get("/readyz", responses={200: replies.answers(replies.Ready), **PUBLIC, **NOT_READY})
async def readyz(request: Request) -> Any:
    """Say whether a question can be answered now: a real one passed before."""
    service = service_of(request)
    if (missing := service.missing) is not None:
        late = missing.status != 503
        return refuse(request, StepError("not_ready", missing.message) if late else missing)
    return {"status": "ready", "runner": service.runner.name}


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
        **replies.failures({401: "No valid key.", 403: "Another machine's name."}),
    },
)
async def metrics(request: Request) -> Response:
    """Give the counters in the Prometheus text format."""
    service = service_of(request)
    with suppress(OSError, StepError):
        service.metrics.free_bytes.set(_free_bytes(rag_settings().home))
    text = service.metrics.text()
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


def _free_bytes(folder: Path) -> int:
    """Return what is free on the disk of a folder that may not be there yet."""
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    return shutil.disk_usage(there).free


@router.get("/v1/info", responses={200: replies.answers(replies.Info), **PUBLIC})
async def info(request: Request) -> dict[str, Any]:
    """Say what this service is and can do."""
    service = service_of(request)
    return {
        "version": version("rag-service"),
        "runner": service.runner.name,
        "collection": service.settings.collection,
        "documents": service.library is not None,
        "authentication": bool(service.keys),
    }
