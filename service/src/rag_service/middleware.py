"""Pure ASGI middleware, outermost first: Requests, Keys, Limits.

Plain ASGI, because a wrapper that runs the application in a task of its own hides that the client
went away.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import time
import uuid
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rag_pipeline.errors import StepError

from .admission import Rates
from .context import Context, Principal, context_of
from .errors import refuse
from .metrics import Metrics
from .settings import ApiKey, ServiceSettings, is_loopback
from .tracing import Traces

ACCESS = logging.getLogger("rag_service.access")
LOG = logging.getLogger(__name__)
REQUEST_ID = re.compile(r"^[A-Za-z0-9_.:/+=-]{1,128}$")
OPEN = ("/", "/favicon.ico", "/healthz", "/readyz", "/v1/info")  # without a key; and /page/…
QUIET = ("/healthz", "/metrics", "/readyz")  # asked all the time
UPLOADS = "/v1/documents"


class Requests:
    """Gives each request its id, deadline, log line, metrics and trace."""

    def __init__(
        self, app: ASGIApp, *, settings: ServiceSettings, metrics: Metrics, traces: Traces
    ) -> None:
        self._app, self._settings = app, settings
        self._metrics, self._traces = metrics, traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = Headers(scope=scope).get("x-request-id", "")
        request_id = asked if REQUEST_ID.match(asked) else f"req_{uuid.uuid4().hex}"
        began = time.monotonic()
        context = Context(request_id, began + self._settings.deadline_s)
        scope.setdefault("state", {})["rag"] = context
        status = 499  # until an answer starts: the client went away

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                headers.setdefault("cache-control", "no-store")
                headers["x-content-type-options"] = "nosniff"
            await send(message)

        with self._traces.request(scope, context) as span:
            try:
                await self._app(scope, receive, sending)
            except Exception:
                LOG.exception("request %s: unexpected error", request_id)
                if status != 499:
                    raise
                text = "the service failed unexpectedly; its log has the details"
                response = refuse(Request(scope), StepError("internal_error", text))
                await response(scope, receive, sending)
            finally:
                context.route = _route(scope)
                self._finish(scope, context, status, time.monotonic() - began)
                self._traces.finish(span, context, status)

    def _finish(self, scope: Scope, context: Context, status: int, seconds: float) -> None:
        route = context.route
        self._metrics.requests.labels(route, str(status), context.code, context.step).inc()
        self._metrics.request_seconds.labels(route).observe(seconds)
        if status == 499:
            self._metrics.cancelled.inc()
        if context.code == "deadline_exceeded":
            self._metrics.deadline.labels(context.step).inc()
        quiet = route in QUIET
        client = scope.get("client")
        ACCESS.log(
            logging.DEBUG if quiet else logging.INFO,
            "%s %s %d",
            scope["method"],
            scope["path"],
            status,
            extra={
                "request_id": context.request_id,
                "key": context.principal.name,
                "client": client[0] if client else "",
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "code": context.code,
                "step": context.step,
                "collection": context.collection,
                "ms": round(seconds * 1000, 3),
                "timings_ms": context.timings_ms,
            },
        )


def _route(scope: Scope) -> str:
    """Return the route's pattern: a label must not have as many values as there are documents."""
    return getattr(scope.get("route"), "path", "") or "other"


class Keys:
    """Lets in who has a key, when keys are configured, and counts their rate."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: tuple[ApiKey, ...],
        rates: Rates,
        settings: ServiceSettings,
        metrics: Metrics,
    ) -> None:
        self._app, self._rates = app, rates
        self._settings, self._metrics = settings, metrics
        self._known = [(_digest(key.key.get_secret_value()), key) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._admit(scope)
        except StepError as error:
            await refuse(Request(scope), error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _admit(self, scope: Scope) -> None:
        path, context = scope["path"], context_of(scope)
        headers = Headers(scope=scope)
        if not self._known and path not in QUIET:
            self._check_host(headers.get("host", ""))
        if path in OPEN or path.startswith("/page/"):
            return
        if self._known:
            context.principal = self._principal(headers.get("authorization", ""))
        per_minute = context.principal.per_minute or self._settings.rate_per_minute
        if per_minute and path != "/metrics":
            client = scope.get("client")
            who = context.principal.name or (client[0] if client else "")
            try:
                self._rates.take(who, per_minute)
            except StepError:
                self._metrics.quota.labels("rate").inc()
                raise

    def _check_host(self, header: str) -> None:
        """Refuse a name that is not this machine's: one that a web page made point here."""
        name = _name(header)
        if not is_loopback(name) and name not in self._settings.allowed_hosts:
            raise StepError(
                "forbidden",
                "without keys only requests to 127.0.0.1 and localhost are answered; set "
                "RAG_API_KEYS_FILE, or name this host in RAG_ALLOWED_HOSTS",
            )

    def _principal(self, header: str) -> Principal:
        scheme, _, given = header.partition(" ")
        digest = _digest(given.strip())
        found = None
        for known, key in self._known:  # all of them, so that the time tells nothing
            if hmac.compare_digest(known, digest):
                found = key
        if scheme.lower() != "bearer" or found is None:
            self._metrics.auth_fail.inc()
            raise StepError(
                "unauthenticated",
                "this service wants a key: send `Authorization: Bearer <key>`"
                if not given
                else "the key is not known here",
            )
        return Principal(found.name, found.collections, found.write, found.per_minute)


def _name(header: str) -> str:
    """Return the host of a Host header without its port; "" when it is none."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


class Limits:
    """Refuses a body that is too large before anybody reads it, with or without a length."""

    def __init__(self, app: ASGIApp, *, settings: ServiceSettings, metrics: Metrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        upload = scope["path"] == UPLOADS
        most = self._settings.max_upload_bytes if upload else self._settings.max_body_bytes
        length = Headers(scope=scope).get("content-length", "")
        if length.isascii() and length.isdigit() and int(length) > most:
            await refuse(Request(scope), self._too_large(most))(scope, receive, send)
            return
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > most:
                raise self._too_large(most)
            return message

        await self._app(scope, counted, send)

    def _too_large(self, most: int) -> StepError:
        self._metrics.rejected.labels("size").inc()
        return StepError("body_too_large", f"the request has more than {most} bytes")
