"""Web origins: scheme, host and port of the page that makes a browser send a request (RFC 6454)."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

DEFAULT_PORTS = {"http": "80", "https": "443"}
ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")


def normalize(origin: str) -> str | None:
    """Return an origin as browsers write it: lower case, no default port; None when it is none."""
    match = ORIGIN.fullmatch(origin.lower())
    if match is None:
        return None
    scheme, host, port = match.groups()
    return f"{scheme}://{host}" + (
        f":{port}" if port not in (None, DEFAULT_PORTS.get(scheme)) else ""
    )


def is_own(origin: str, *, host: str, scheme: str) -> bool:
    """Whether an origin is the service's own.

    Args:
        origin: Normalized.
        host: The request's Host header.
        scheme: The request's. `http` may be https for the browser: a proxy that ends TLS need not
            say so.
    """
    claimed = origin.partition("://")[0]
    if claimed not in DEFAULT_PORTS or (scheme == "https" and claimed == "http"):
        return False
    return normalize(f"{claimed}://{host}") == origin


def _normalized(values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(_checked, values))


def _checked(value: str) -> str:
    if value == "*":
        raise ValueError(
            '"*" would let every site a user visits read and change documents; list the sites'
        )
    origin = normalize(value)
    if origin is None:
        raise ValueError(
            f"{value!r} is not an origin; write scheme, host and a port that is not the default, "
            "without a path or a slash at the end: https://app.example.com"
        )
    return origin


AllowedOrigins = Annotated[tuple[str, ...], AfterValidator(_normalized)]
"""Origins as a setting."""
