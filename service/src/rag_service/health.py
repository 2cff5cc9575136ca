"""Is it alive, can it answer, what did it do: `/healthz`, `/readyz`, `/metrics`, `/v1/info`."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Request, Response

from .answers import service_of
from .errors import refuse

router = APIRouter(tags=["operation"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Say that this process runs; nothing else is asked."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(request: Request) -> Any:
    """Say whether a question can be answered now: a real one passed before."""
    service = service_of(request)
    if service.missing is not None:
        return refuse(request, service.missing)
    return {"status": "ready", "runner": service.runner.name}


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Give the counters in the Prometheus text format."""
    text = service_of(request).metrics.text()
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/v1/info")
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
