"""Embeddings for OpenAI clients: `POST /v1/embeddings`, by the embedder that the documents have."""

from __future__ import annotations

import base64
from array import array
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from rag_kit.errors import StepError

from ..http.openapi import FAILURES
from ..http.requests import NOT_BLANK, otherwise, takes
from .dependencies import Caller, ServiceDep, json_body
from .documents import LibraryDep
from .openai_input import ignored, warned

router = APIRouter(prefix="/v1", tags=["OpenAI"], responses=FAILURES)

MAX_TEXTS = 2048  # in one request, as OpenAI has it
Text = Annotated[str, Field(json_schema_extra=NOT_BLANK)]


class EmbeddingRequest(BaseModel):
    """Texts to embed; unknown fields are ignored, and a header names them."""

    model_config = ConfigDict(extra="allow")

    model: str | None = Field(None, description="Ignored: the configured embedder is used.")
    input: Annotated[
        Text | Annotated[list[Text], Field(min_length=1, max_length=MAX_TEXTS)],
        otherwise(f"send a text, or a list of 1 to {MAX_TEXTS} texts; tokens cannot be embedded"),
    ] = Field(description="A text, or several; what is longer than the embedder reads is cut.")
    encoding_format: Literal["float", "base64"] | None = Field(None, description="Default: float.")
    dimensions: int | None = Field(None, ge=1, description="Those of the embedder, and no others.")


class Embedding(BaseModel):
    """A text as a vector of length 1."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """What was read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    """OpenAI's list of embeddings."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


@router.post(
    "/embeddings", summary="Embed texts, as OpenAI's API", openapi_extra=takes(EmbeddingRequest)
)
async def embeddings(
    request: Request,
    response: Response,
    service: ServiceDep,
    library: LibraryDep,
    caller: Caller,
    body: Annotated[EmbeddingRequest, Depends(json_body(EmbeddingRequest))],
) -> EmbeddingList:
    """Embed texts as the passages of documents are."""
    warned(response, ignored(body.model_extra, {}, {}))
    texts = [body.input] if isinstance(body.input, str) else body.input
    for at, text in enumerate(texts):
        if not text.strip():
            where = "input" if isinstance(body.input, str) else f"input.{at}"
            raise StepError("invalid_request", f"{where}: it is empty", param=where)
    made = await service.in_slot(request, lambda: library.embed(texts, caller.tenant))
    if body.dimensions not in (None, len(made.vectors[0])):
        text = f"dimensions: {made.model} has {len(made.vectors[0])}, not {body.dimensions}"
        raise StepError("invalid_request", text, param="dimensions")
    encoded = body.encoding_format == "base64"
    return EmbeddingList(
        data=[
            Embedding(index=at, embedding=_base64(vector) if encoded else vector)
            for at, vector in enumerate(made.vectors)
        ],
        model=made.model,
        usage=EmbeddingUsage(prompt_tokens=made.tokens, total_tokens=made.tokens),
    )


def _base64(vector: list[float]) -> str:
    """Return the numbers as little-endian 32-bit floats, in base64."""
    return base64.b64encode(array("f", vector).tobytes()).decode()
