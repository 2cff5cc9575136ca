"""What clients look up before they sign in: whose access tokens are accepted (RFC 9728)."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from rag_kit.errors import StepError

from ..http.openapi import failures
from ..links import METADATA, base_of
from .dependencies import ServiceDep

router = APIRouter(
    tags=["operation"],
    responses=failures(
        {
            403: "Without keys, another machine's name was asked.",
            404: "No access tokens are accepted here.",
        }
    ),
)


class ProtectedResource(BaseModel):
    """The metadata of a resource that wants access tokens."""

    resource: str = Field(description="Address of the resource.")
    resource_name: str
    authorization_servers: list[str] = Field(description="Whose tokens are accepted.")
    bearer_methods_supported: list[str]


@router.get(METADATA, summary="Say whose access tokens are accepted")
@router.get(f"{METADATA}/{{resource:path}}", include_in_schema=False)
async def protected_resource(
    request: Request, service: ServiceDep, resource: str = ""
) -> ProtectedResource:
    """Name the OpenID Connect provider whose tokens open this service, for clients that sign in."""
    issuer = service.settings.oidc_issuer
    if issuer is None:
        raise StepError("not_found", "no access tokens are accepted here; send an API key")
    base = base_of(request, service.settings.public_url)
    return ProtectedResource(
        resource=f"{base}/{resource}".rstrip("/"),
        resource_name="rag",
        authorization_servers=[issuer],
        bearer_methods_supported=["header"],
    )
