"""Pure ASGI middleware, outermost first: Gate, Requests, (SameOrigin,) Keys, Limits.

Plain ASGI, because a wrapper that runs the application in a task of its own hides that the client
went away.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import random
import re
import time
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import pydantic_core
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rag_kit.errors import StepError, envelope

from ..settings import ApiKey, ServiceSettings, is_loopback
from .context import Context, Principal, context_of
from .errors import headers_of, refuse
from .fair_queue import Admission, Rates
from .metrics import Metrics
from .same_origin import cors_headers
from .tracing import Traces

ACCESS = logging.getLogger("rag_service.access")
LOG = logging.getLogger(__name__)
REQUEST_ID = re.compile(r"^[A-Za-z0-9_.:/+=-]{1,128}$")
OPEN = ("/", "/favicon.ico", "/healthz", "/readyz", "/v1/info")  # without a key; and /page/…
QUIET = ("/healthz", "/metrics", "/readyz")  # asked all the time
UPLOADS = "/v1/documents"
COMING = "rag.coming"  # in a scope: whom it comes from, and when it was let in
QUESTIONS = ("/rag_modules", "/rag", "/v1/search", "/v1/chat/completions")
ALWAYS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}  # in every answer

Refusal = tuple[int, list[tuple[bytes, bytes]], bytes]  # status, headers, body


class Keyring:
    """The keys that let in; none: everybody may come in.

    Args:
        keys: As configured.
    """

    def __init__(self, keys: tuple[ApiKey, ...]) -> None:
        self._known = [(_digest(key.key.get_secret_value()), key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._known)

    def find(self, header: str) -> ApiKey | None:
        """Return the key of an Authorization header, or None."""
        scheme, _, given = header.partition(" ")
        digest = _digest(given.strip())
        found = None
        for known, key in self._known:  # all of them, so that the time tells nothing
            if hmac.compare_digest(known, digest):
                found = key
        return found if scheme.lower() == "bearer" else None


class Gate:
    """Refuses a question for which there is no room, before anything else is done for it.

    What a refusal costs decides how much is left for answers under a flood. So it is made of few
    parts, and counted, not logged: one line a second says how many there were.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        admission: Admission,
        keys: Keyring,
        settings: ServiceSettings,
        metrics: Metrics,
    ) -> None:
        self._app, self._admission, self._keys = app, admission, keys
        self._deadline_s = settings.deadline_s
        self._allowed_origins = settings.allowed_origins
        self._counter = cache(metrics.requests.labels)
        self._bodies: dict[str, dict[str, Any]] = {}
        self._always = [(name.encode(), value.encode()) for name, value in ALWAYS.items()]
        self._refused, self._said = 0, 0.0

    @property
    def keyed(self) -> bool:
        """Whether a key says who asks; otherwise the client's address does."""
        return bool(self._keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        http = scope["type"] == "http"
        refusal = self.refusal(scope) if http and COMING not in scope else None
        if refusal is not None:
            status, headers, body = refusal
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        try:
            await self._app(scope, receive, send)
        finally:
            if COMING in scope:
                self._admission.forget(*scope[COMING])

    def refusal(self, scope: Scope) -> Refusal | None:
        """Return the status, headers and body of a question for which there is no room.

        None: it is let in, and `scope` notes that it was.
        """
        if scope["path"] not in QUESTIONS or scope["method"] != "POST":
            return None
        headers = dict(scope["headers"])
        tenant = self._tenant(scope, headers)
        if tenant is not None:
            try:
                scope[COMING] = tenant, self._admission.expect(tenant, self._deadline_s)
            except StepError as error:
                return self._refuse(scope["path"], headers, error)
        return None

    def _tenant(self, scope: Scope, headers: dict[bytes, bytes]) -> str | None:
        """Return who asks; None: nobody who is let in."""
        if self._keys:
            key = self._keys.find(headers.get(b"authorization", b"").decode("latin-1"))
            return key.name if key else None
        return address_of(scope)

    def _refuse(self, path: str, headers: dict[bytes, bytes], error: StepError) -> Refusal:
        request_id = request_id_of(headers.get(b"x-request-id", b"").decode("latin-1"))
        body = self._bodies.get(error.message)
        if body is None:
            body = self._bodies[error.message] = envelope(error, step="service")["error"]
        wait = headers_of(error)["retry-after"]
        origin = headers.get(b"origin", b"").decode("latin-1")
        shared = cors_headers(origin, self._allowed_origins)
        told = {**body, "step": None, "request_id": request_id, "retry_after": int(wait)}
        text = pydantic_core.to_json({"error": told})
        answer = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(text)),
            (b"retry-after", wait.encode()),
            *self._always,
            *((name.encode(), value.encode()) for name, value in shared.items()),
            (b"x-request-id", request_id.encode()),
        ]
        self._count(path, error)
        return error.status, answer, text

    def _count(self, path: str, error: StepError) -> None:
        self._counter(path, str(error.status), error.code, "").inc()
        self._refused += 1
        now = time.monotonic()
        if now - self._said >= 1:
            LOG.warning("%d questions refused (%s)", self._refused, error.code)
            self._refused, self._said = 0, now


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
        received = Headers(scope=scope)
        request_id = request_id_of(received.get("x-request-id", ""))
        always = ALWAYS | cors_headers(received.get("origin", ""), self._settings.allowed_origins)
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
                for name, value in always.items():
                    headers.setdefault(name, value)
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
                if status == 499:
                    context.code = "client_cancelled"
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
        if context.code == "target_not_allowed":
            self._metrics.ssrf_block.inc()
        if context.code in ("retriever_bad_response", "module_bad_output"):
            self._metrics.contract_violation.inc()
        if context.code in ("module_error", "module_oom"):
            self._metrics.module_fail.labels(context.code, context.step).inc()
        if context.code.startswith("llm_"):
            self._metrics.llm_fail.labels(context.code.removeprefix("llm_")).inc()
        quiet = route in QUIET
        ACCESS.log(
            logging.DEBUG if quiet else logging.INFO,
            "%s %s %d",
            scope["method"],
            scope["path"],
            status,
            extra={
                "request_id": context.request_id,
                "key": context.principal.name,
                "client": address_of(scope),
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


def request_id_of(asked: str) -> str:
    """Return the id a request has: the caller's when it can be one."""
    # no secret; and a uuid4 would be a call of the kernel for each refusal of a flood
    return asked if REQUEST_ID.match(asked) else f"req_{random.getrandbits(128):032x}"


def address_of(scope: Scope) -> str:
    """Return the client's address."""
    client = scope.get("client")
    return client[0] if client else ""


def _route(scope: Scope) -> str:
    """Return the route's pattern: a label must not have as many values as there are documents."""
    return getattr(scope.get("route"), "path", "") or "other"


class Keys:
    """Lets in who has a key, when keys are configured, and counts their rate."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: Keyring,
        rates: Rates,
        settings: ServiceSettings,
        metrics: Metrics,
    ) -> None:
        self._app, self._known, self._rates = app, keys, rates
        self._settings, self._metrics = settings, metrics

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
        context.tenant = context.principal.name or address_of(scope)
        per_minute = context.principal.per_minute or self._settings.rate_per_minute
        if per_minute and path != "/metrics":
            try:
                self._rates.take(context.tenant, per_minute)
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
        found = self._known.find(header)
        if found is None:
            self._metrics.auth_fail.inc()
            raise StepError(
                "unauthenticated",
                "this service wants a key: send `Authorization: Bearer <key>`"
                if not header.partition(" ")[2]
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
    return hashlib.blake2s(key.encode()).digest()  # half the time of SHA-256


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
