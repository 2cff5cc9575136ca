"""Reverse proxies in front: which to believe, the path they put before the service's, HEAD.

`Proxies` is outermost: it brings `path` and `root_path` into the form of the ASGI standard, whether a
proxy cuts its prefix off the path or not. Everything behind it asks `path_of`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import anyio
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from ..settings import ROOT_PATH, ServiceSettings
from .context import TRUSTED, address_of

PREFIX = "x-forwarded-prefix"
Networks = tuple[IPv4Network | IPv6Network, ...]


class Proxies:
    """Believes the `X-Forwarded-…` headers of trusted proxies: client, scheme and prefix.

    Args:
        app: What it stands in front of.
        settings: Trusted proxies, and the prefix when it is configured.
        paths: Paths of routes without parameters: a slash at their end is ignored.
    """

    def __init__(self, app: ASGIApp, *, settings: ServiceSettings, paths: Collection[str]) -> None:
        trusted = settings.trusted_proxies
        self._app = ProxyHeadersMiddleware(app, trusted_hosts=list(trusted))  # type: ignore[arg-type]
        self._networks = networks_of(trusted)
        self._root, self._paths = settings.root_path, frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] == "http":
            scope[TRUSTED] = self._trusts(address_of(scope))
            root = self._root or self._forwarded_prefix(scope)
            path = scope["path"]
            if root and f"{path}/".startswith(f"{root}/"):  # the proxy did not cut it off
                path = path[len(root) :]
            if path.endswith("/") and path[:-1] in self._paths:
                path = path[:-1]
            scope["root_path"], scope["path"] = root, root + path
        await self._app(scope, receive, send)  # type: ignore[arg-type]

    def _forwarded_prefix(self, scope: Scope) -> str:
        """Return a trusted proxy's prefix; "" without one, or when it is no path."""
        prefix = Headers(scope=scope).get(PREFIX, "").rstrip("/")
        known = prefix and re.fullmatch(ROOT_PATH, prefix) and scope[TRUSTED]
        return prefix if known else ""

    def _trusts(self, address: str) -> bool:
        try:
            found = ip_address(address)
        except ValueError:
            return False
        return any(found in network for network in self._networks)


def networks_of(addresses: Iterable[str]) -> Networks:
    """Return addresses and networks (CIDR) as networks; raises ValueError for one that is none."""
    return tuple(ip_network(address, strict=False) for address in addresses)


class Paths:
    """Answers HEAD as GET without the body, and sends a prefix without its slash to the page."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        method = scope.get("method")
        if scope["type"] == "http" and scope["path"] == scope["root_path"]:
            location = f"{scope['root_path']}/"  # the page's links are relative to it
            await Response(status_code=307, headers={"location": location})(scope, receive, send)
        elif method == "HEAD":
            await self._head(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _head(self, scope: Scope, receive: Receive, send: Send) -> None:
        with anyio.CancelScope() as limit:

            async def sending(message: Message) -> None:
                if message["type"] == "http.response.start":
                    await send(message)
                    await send({"type": "http.response.body", "body": b""})
                    limit.cancel()  # a stream would go on for as long as an ingest

            inner = {**scope, "method": "GET"}
            try:
                await self._app(inner, receive, sending)
            finally:
                if "route" in inner:
                    scope["route"] = inner["route"]  # for the metrics
