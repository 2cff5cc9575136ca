"""Where `rag sync` brings documents from: a folder, a git repository, a bucket, a web site."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from rag_kit.errors import StepError

from .source import Source, without_credentials

Kind = Literal["folder", "git", "s3", "web"]


@dataclass(frozen=True)
class Access:
    """How sources are reached."""


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
        f"'{without_credentials(address)}' is no source; give a folder or a git repository "
        "(URL#BRANCH:FOLDER)",
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
    if chosen not in ("folder", "git"):
        raise _no_source(address)
    if chosen == "folder":
        from .folder import FolderSource

        return FolderSource(Path(address.removeprefix("file://")))
    from .git import GitSource

    return GitSource(address)
