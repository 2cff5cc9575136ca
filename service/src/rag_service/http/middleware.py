"""Pure ASGI middleware, outermost first: (Proxies,) Gate, Requests, (SameOrigin,) Keys, Limits, (Paths).

Plain ASGI: Starlette's BaseHTTPMiddleware runs the application in another task, which hides the
client's disconnect.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import random
import re
import time
from dataclasses import replace
from functools import cache
from typing import Any
from urllib.parse import parse_qs

import pydantic_core
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rag_kit.errors import StepError, envelope
from rag_kit.origins import host_name, is_loopback

from ..access import groups_of
from ..links import METADATA, Signer, base_of
from ..settings import ApiKey, ServiceSettings
from .context import LINKED, TRUSTED, Context, Principal, address_of, context_of, path_of
from .errors import headers_of, refuse
from .fair_queue import Admission, Rates
from .metrics import Metrics
from .same_origin import cors_headers
from .tokens import Tokens, is_token
from .tracing import Traces

ACCESS = logging.getLogger("rag_service.access")
LOG = logging.getLogger(__name__)
REQUEST_ID = re.compile(r"^[A-Za-z0-9_.:/+=-]{1,128}$")
OPEN = (
    "/",
    "/eval",
    "/favicon.ico",
    "/healthz",
    "/readyz",
    "/v1/info",
    METADATA,
)  # need no key; nor does /page/…
PROBES = ("/healthz", "/metrics", "/readyz")  # polled all the time: any Host, no access log
UPLOADS = ("/v1/documents", "/v1/files")
VIEW = re.compile(r"/v1/documents/(.+)/view", re.DOTALL)
ADMITTED = "rag.admitted"  # key in a scope: tenant, and when the request was admitted
QUESTIONS = (
    "/rag_modules", "/rag", "/v1/search", "/v1/chat/completions", "/v1/responses", "/v1/embeddings",
    "/v1/rerank", "/v2/rerank", "/rerank",
)  # fmt: skip
HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}  # of every response

Refusal = tuple[int, list[tuple[bytes, bytes]], bytes]  # status, headers, body


class Keyring:
    """The configured API keys, and tokens; without any, the service is open to this machine.

    Args:
        keys: As configured.
        tokens: Verifies what is no key but a token; None: none are accepted.
    """

    def __init__(self, keys: tuple[ApiKey, ...], tokens: Tokens | None = None) -> None:
        self._known = [(_digest(key.key.get_secret_value()), _holder(key)) for key in keys]
        self._tokens = tokens

    def __bool__(self) -> bool:
        return bool(self._known) or self._tokens is not None

    async def prepare(self, header: str) -> None:
        """Get what a token in an Authorization header is verified with."""
        secret = _bearer(header)
        if self._tokens is not None and is_token(secret):
            await self._tokens.prepare(secret)

    def find(self, header: str) -> Principal:
        """Return who an Authorization header stands for.

        Raises:
            StepError: `unauthenticated`; `not_ready`, a token cannot be verified now.
        """
        secret = _bearer(header)
        if not secret:
            text = "this service wants a key: send `Authorization: Bearer <key>`"
            raise StepError("unauthenticated", text)
        digest = _digest(secret)
        found = None
        for known, holder in self._known:  # no early exit: constant time
            if hmac.compare_digest(known, digest):
                found = holder
        if found is None and self._tokens is not None and is_token(secret):
            found = self._tokens.find(secret)
        if found is None:
            raise StepError("unauthenticated", "the key is not known here")
        return found


def _bearer(header: str) -> str:
    """Return the credential of an Authorization header; "" when it has none."""
    scheme, _, secret = header.partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else ""


def _holder(key: ApiKey) -> Principal:
    groups = None if key.groups is None else frozenset(key.groups)
    return Principal(key.name, key.collections, key.write, key.per_minute, groups)


class Gate:
    """Refuses questions that would not get a slot, before any other work is done for them.

    Under a flood, cheap refusals leave the processor to the answers. So a refusal skips the other
    middleware, and is counted, not logged: one line a second has the number of them.
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
        self._headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
        self._refused, self._logged_at = 0, 0.0

    @property
    def keyed(self) -> bool:
        """Whether the key names the tenant; otherwise the client's address does."""
        return bool(self._keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        http = scope["type"] == "http"
        if http and self._keys:
            await self._keys.prepare(Headers(scope=scope).get("authorization", ""))
        refusal = self.refusal(scope) if http and ADMITTED not in scope else None
        if refusal is not None:
            status, headers, body = refusal
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        try:
            await self._app(scope, receive, send)
        finally:
            if ADMITTED in scope:
                self._admission.forget(*scope[ADMITTED])

    def refusal(self, scope: Scope) -> Refusal | None:
        """Return the response that refuses a question; None when it is admitted.

        `scope` then has tenant and time of its admission.
        """
        path = path_of(scope)
        if path not in QUESTIONS or scope["method"] != "POST":
            return None
        headers = dict(scope["headers"])
        tenant = self._tenant(scope, headers)
        if tenant is not None:
            try:
                scope[ADMITTED] = tenant, self._admission.admit(tenant, self._deadline_s)
            except StepError as error:
                return self._refuse(path, headers, error)
        return None

    def _tenant(self, scope: Scope, headers: dict[bytes, bytes]) -> str | None:
        """Return the tenant; None without a valid key, which `Keys` refuses."""
        if not self._keys:
            return address_of(scope)
        try:
            return self._keys.find(headers.get(b"authorization", b"").decode("latin-1")).name
        except StepError:
            return None

    def _refuse(self, path: str, headers: dict[bytes, bytes], error: StepError) -> Refusal:
        request_id = request_id_of(headers.get(b"x-request-id", b"").decode("latin-1"))
        body = self._bodies.get(error.message)
        if body is None:
            body = self._bodies[error.message] = envelope(error, step="service")["error"]
        wait = headers_of(error)["retry-after"]
        origin = headers.get(b"origin", b"").decode("latin-1")
        shared = cors_headers(origin, self._allowed_origins)
        error_body = {**body, "step": None, "request_id": request_id, "retry_after": int(wait)}
        text = pydantic_core.to_json({"error": error_body})
        response_headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(text)),
            (b"retry-after", wait.encode()),
            *self._headers,
            *((name.encode(), value.encode()) for name, value in shared.items()),
            (b"x-request-id", request_id.encode()),
        ]
        self._count(path, error)
        return error.status, response_headers, text

    def _count(self, path: str, error: StepError) -> None:
        self._counter(path, str(error.status), error.code, "").inc()
        self._refused += 1
        now = time.monotonic()
        if now - self._logged_at >= 1:
            LOG.warning("%d questions refused (%s)", self._refused, error.code)
            self._refused, self._logged_at = 0, now


class Requests:
    """Gives each request its context, access log line, metrics and trace."""

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
        always = HEADERS | cors_headers(received.get("origin", ""), self._settings.allowed_origins)
        began = time.monotonic()
        context = Context(request_id, began + self._settings.deadline_s)
        scope.setdefault("state", {})["rag"] = context
        status = 499  # the client went away, unless a response starts

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
        level = logging.DEBUG if route in PROBES else logging.INFO
        ACCESS.log(
            level,
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


def request_id_of(header: str) -> str:
    """Return the caller's X-Request-Id, or a new id when it is none or not valid."""
    # no secret; uuid4 would cost a system call for each refusal of a flood
    return header if REQUEST_ID.match(header) else f"req_{random.getrandbits(128):032x}"


def _route(scope: Scope) -> str:
    """Return the route's pattern, not the path: a metrics label must have few values."""
    return getattr(scope.get("route"), "path", "") or "other"


class Keys:
    """Authenticates by API key, or by Host header without keys, and limits the rate of a tenant."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: Keyring,
        rates: Rates,
        settings: ServiceSettings,
        metrics: Metrics,
        signer: Signer | None = None,
    ) -> None:
        self._app, self._keys, self._rates = app, keys, rates
        self._settings, self._metrics, self._signer = settings, metrics, signer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._authenticate(scope)
        except StepError as error:
            response = refuse(Request(scope), error)
            if error.status == 401 and self._settings.oidc_issuer is not None:
                base = base_of(Request(scope), self._settings.public_url)
                resource = "/mcp" if path_of(scope).startswith("/mcp") else ""
                metadata = f'Bearer resource_metadata="{base}{METADATA}{resource}"'
                response.headers["www-authenticate"] = metadata
            await response(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _authenticate(self, scope: Scope) -> None:
        path, context = path_of(scope), context_of(scope)
        headers = Headers(scope=scope)
        if not self._keys and path not in PROBES:
            self._check_host(headers.get("host", ""))
        if path in OPEN or path.startswith(("/page/", METADATA)):
            return
        if self._keys:
            context.principal = self._linked(scope) or self._principal(
                headers.get("authorization", "")
            )
        context.principal = self._with_groups(context.principal, scope)
        context.tenant = context.principal.name or address_of(scope)
        per_minute = context.principal.per_minute or self._settings.rate_per_minute
        if per_minute and path != "/metrics":
            try:
                self._rates.take(context.tenant, per_minute)
            except StepError:
                self._metrics.quota.labels("rate").inc()
                raise

    def _check_host(self, header: str) -> None:
        """Reject foreign Host headers (DNS rebinding)."""
        name = host_name(header)
        if not is_loopback(name) and name not in self._settings.allowed_hosts:
            raise StepError(
                "forbidden",
                "without keys only requests to 127.0.0.1 and localhost are answered; set "
                "RAG_API_KEYS_FILE, or name this host in RAG_ALLOWED_HOSTS",
            )

    def _linked(self, scope: Scope) -> Principal | None:
        """Return who a signed link to a document stands for; None where it is no such link."""
        found = VIEW.fullmatch(path_of(scope))
        given = parse_qs(scope["query_string"].decode("latin-1"))
        values = [given.get(name, []) for name in ("collection", "expires", "signature")]
        if self._signer is None or found is None or [len(one) for one in values] != [1, 1, 1]:
            return None
        [collection], [expires], [signature] = values
        safe = scope["method"] in ("GET", "HEAD") and signature.isascii() and expires.isdecimal()
        if not safe or not self._signer.opens(found[1], collection, expires, signature):
            return None
        return Principal(LINKED, (collection,), write=False)

    def _principal(self, header: str) -> Principal:
        try:
            return self._keys.find(header)
        except StepError:
            self._metrics.auth_fail.inc()
            raise

    def _with_groups(self, principal: Principal, scope: Scope) -> Principal:
        """Return a principal with the groups that a trusted proxy tells of the user, at most its own."""
        name = self._settings.groups_header
        if name is None:
            return principal
        told = Headers(scope=scope).get(name) if scope.get(TRUSTED) else None
        if told is None and principal.groups is not None:
            return principal
        groups = groups_of(told or "")
        return replace(
            principal, groups=groups if principal.groups is None else groups & principal.groups
        )


def _digest(key: str) -> bytes:
    return hashlib.blake2s(key.encode()).digest()  # half the time of SHA-256


class Limits:
    """Limits the size of bodies: by Content-Length at once, of others as they are read."""

    def __init__(self, app: ASGIApp, *, settings: ServiceSettings, metrics: Metrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        upload = path_of(scope) in UPLOADS
        limit = self._settings.max_upload_bytes if upload else self._settings.max_body_bytes
        length = Headers(scope=scope).get("content-length", "")
        if length.isascii() and length.isdigit() and int(length) > limit:
            await refuse(Request(scope), self._too_large(limit))(scope, receive, send)
            return
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > limit:
                raise self._too_large(limit)
            return message

        await self._app(scope, counted, send)

    def _too_large(self, limit: int) -> StepError:
        self._metrics.rejected.labels("size").inc()
        return StepError("body_too_large", f"the request has more than {limit} bytes")
