"""Where `rag sync` brings documents from: a folder, a git repository, a bucket, a web site."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from rag_kit.errors import StepError

from .source import Source, without_credentials

Kind = Literal["folder", "git", "s3", "web"]


@dataclass(frozen=True)
class Access:
    """How sources are reached.

    Args:
        endpoint: URL of an S3-compatible server; None: `AWS_ENDPOINT_URL`, or Amazon's.
        region: Of a bucket; None: `AWS_REGION`, or us-east-1.
        private: A web site may be on this machine or in a private network.
        max_pages: Pages of a web site requested at most.
        depth: Links that are followed from its first page at most, without a sitemap.
        delay_s: Seconds between two requests to it.
    """

    endpoint: str | None = None
    region: str | None = None
    private: bool = False
    max_pages: int = 1000
    depth: int = 10
    delay_s: float = 0.2


def kind_of(address: str) -> Kind:
    """Return what an address names.

    Raises:
        StepError: `invalid_request`, it is none of a source.
    """
    from .git import SCP_LIKE, is_bare

    scheme, separator, _ = address.partition("://")
    if not separator:
        path = Path(address)
        if path.is_dir():
            return "git" if is_bare(path) else "folder"
        return "git" if "#" in address or SCP_LIKE.fullmatch(address) else "folder"
    if scheme == "s3":
        return "s3"
    if scheme in ("git", "ssh") or scheme.startswith("git+"):
        return "git"
    if scheme in ("http", "https"):
        return "git" if _is_git(address) else "web"
    if scheme == "file":
        return "git" if _is_git(address) else "folder"
    raise _no_source(address)


def _no_source(address: str) -> StepError:
    return StepError(
        "invalid_request",
        f"'{without_credentials(address)}' is no source; give a folder, a git repository "
        "(URL#BRANCH:FOLDER), s3://BUCKET/PREFIX or https://HOST/PATH",
        param="source",
    )


def _is_git(address: str) -> bool:
    """Whether an HTTP address is that of a repository: by its end, a `#ref`, or a forge's layout."""
    from .git import PAGES

    parts = urlsplit(address)
    path = parts.path.strip("/")
    on_forge = parts.hostname in PAGES and path.count("/") == 1
    return bool(parts.fragment) or path.endswith(".git") or on_forge


def open_source(address: str, *, kind: Kind | None = None, access: Access = Access()) -> Source:
    """Return the source at an address.

    Args:
        address: A folder, `REPOSITORY#REF:FOLDER`, `s3://BUCKET/PREFIX` or `https://HOST/PATH`.
        kind: What it is, where the address does not tell.
        access: How it is reached.

    Raises:
        StepError: `invalid_request`, `misconfigured`.
    """
    chosen = kind or kind_of(address)
    if chosen == "folder":
        from .folder import FolderSource

        return FolderSource(_path(address))
    if chosen == "s3":
        return _bucket(address, access)
    if chosen == "web":
        from .web.site import WebAccess, WebSource

        limits = WebAccess(access.private, access.max_pages, access.depth, access.delay_s)
        return WebSource(address, limits)
    from .git import GitSource

    return GitSource(address)


def _path(address: str) -> Path:
    parts = urlsplit(address)
    return Path(unquote(parts.path)) if parts.scheme == "file" else Path(address)


def _bucket(address: str, access: Access) -> Source:
    from ..settings import aws_environment
    from .bucket import BucketSource, S3Access
    from .signature import Credentials

    variables = aws_environment()
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    access_key, secret_key = (variables.get(name) for name in names)
    if bool(access_key) != bool(secret_key):
        raise StepError("misconfigured", f"only one of {' and '.join(names)} is set; set both")
    endpoint = access.endpoint or variables.get(
        "AWS_ENDPOINT_URL_S3", variables.get("AWS_ENDPOINT_URL")
    )
    if endpoint and not re.match(r"https?://[^\s/]+", endpoint):
        raise StepError(
            "invalid_request",
            f"'{endpoint}' is no URL of a server; write https://HOST:PORT",
            param="endpoint",
        )
    region = variables.get("AWS_REGION", variables.get("AWS_DEFAULT_REGION", "us-east-1"))
    credentials = None
    if access_key and secret_key:
        credentials = Credentials(access_key, secret_key, variables.get("AWS_SESSION_TOKEN"))
    return BucketSource(address, S3Access(endpoint, access.region or region, credentials))
