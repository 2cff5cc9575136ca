"""Operation: `/healthz`, `/readyz`, `/metrics`, `/v1/info`."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from rag_kit.errors import StepError
from rag_pipeline.settings import read_settings as rag_settings

from ..http.errors import for_callers, refuse
from ..http.openapi import failures
from .dependencies import Home, ServiceDep

router = APIRouter(tags=["operation"])
PUBLIC = failures({403: "Without keys, another machine's name was asked."})
NOT_READY = failures({503: "Not ready; `message` says why."})


class Alive(BaseModel):
    """This process runs."""

    status: Literal["ok"]


class Ready(BaseModel):
    """A question can be answered, or in a new installation the first documents can be added."""

    status: Literal["ready"]
    runner: str
    note: str | None = Field(description='"no collection … yet": there is nothing to ask so far.')


class Info(BaseModel):
    """What this service is and can do."""

    version: str
    runner: str
    collection: str
    documents: bool
    authentication: bool
    feedback: bool = Field(description="Whether ratings of answers can be stored.")


@router.get("/healthz", responses=PUBLIC)
async def healthz() -> Alive:
    """Tell that this process runs; nothing else is checked."""
    return Alive(status="ok")


@router.get("/readyz", response_model=Ready, responses={**PUBLIC, **NOT_READY})
async def readyz(request: Request, service: ServiceDep) -> Any:
    """Tell whether a question can be answered now: a real one was before.

    A service without a collection is ready, too, and says so in `note`: it takes documents.
    """
    if (missing := service.missing) is not None:
        unavailable = missing.status == 503
        return refuse(
            request,
            missing if unavailable else StepError("not_ready", for_callers(missing).message),
        )
    return Ready(status="ready", runner=service.runner.name, note=service.note or None)


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
        **failures({401: "No valid key.", 403: "Another machine's name."}),
    },
)
async def metrics(service: ServiceDep) -> Response:
    """Return the metrics in the Prometheus text format."""
    with suppress(OSError, StepError):
        service.metrics.free_bytes.set(_free_bytes(rag_settings().home))
    text = service.metrics.text()
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


def _free_bytes(folder: Path) -> int:
    """Return the bytes free on the disk of a folder that may not exist yet."""
    return shutil.disk_usage(_existing(folder)).free


def _existing(folder: Path) -> Path:
    return next(each for each in (folder, *folder.absolute().parents) if each.exists())


@router.get("/v1/info", responses=PUBLIC)
async def info(service: ServiceDep, home: Home) -> Info:
    """Tell what this service is and can do."""
    return Info(
        version=version("rag-service"),
        runner=service.runner.name,
        collection=service.settings.collection,
        documents=service.library is not None,
        authentication=service.keyed,
        feedback=os.access(_existing(home), os.W_OK),
    )
