"""Which page makes a browser send a request, and which name it uses for this server.

A browser sends what any page tells it to, also to a server on this machine. It says in `Origin` (scheme,
host and port, RFC 6454) and `Sec-Fetch-Site` which page it was, and no page can change these headers
(Fetch standard); other clients send neither. A page can give its own name this machine's address (DNS
rebinding): then `Host` is that name.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping
from typing import Annotated
from urllib.parse import urlsplit

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


def foreign_header(
    headers: Mapping[str, str], *, scheme: str, allowed: Collection[str] = ()
) -> str | None:
    """Return the header that shows that a request comes from another site, or None.

    Args:
        headers: Of the request, by lower-case name.
        scheme: Of the request.
        allowed: Origins of other sites that may send it, normalized.
    """
    site = headers.get("sec-fetch-site", "none")
    if site == "same-origin":  # the browser compared; holds where a proxy replaces the Host header
        return None
    origin = headers.get("origin")
    if not origin:
        return None if site == "none" else f"Sec-Fetch-Site: {site}"
    sender = normalize(origin)
    if sender is None:
        return f"Origin: {origin}"
    own = is_own(sender, host=headers.get("host", ""), scheme=scheme)
    return None if own or sender in allowed else f"Origin: {origin}"


def is_loopback(host: str) -> bool:
    """Whether an address or name is a loopback one."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def host_name(header: str) -> str:
    """Return the name in a Host header, without its port; "" when it is malformed."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


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
