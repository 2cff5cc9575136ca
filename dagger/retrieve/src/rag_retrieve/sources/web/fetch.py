"""GET requests to one site: checked before each connection, redirects followed on the site only."""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from rag_kit.retry_after import retry_after

from ..http import TooLargeError, body_of, reason
from .addresses import resolve

AGENT = "dagger-rag"  # as robots.txt names it
HEADERS = {
    "user-agent": f"{AGENT} (rag sync)",
    "accept": "text/html,application/xhtml+xml,*/*;q=0.8",
    "accept-encoding": "gzip",
}
CONNECT_S, READ_S, BODY_S = 5.0, 20.0, 120.0
REDIRECTS = 5
TRIES = 3
PAUSE_S = 1.0  # before the second try, unless the server says how long
BUSY = (429, 502, 503, 504)


class RefusedError(Exception):
    """A page is not read; says why."""


class UnreachableError(RefusedError):
    """The site does not answer."""


@dataclass(frozen=True)
class Response:
    """What came: the address it came from after redirects, status, headers, body."""

    url: httpx.URL
    status: int
    headers: httpx.Headers
    body: bytes


class Fetcher:
    """Requests to the host of one URL, one after the other.

    Args:
        start: Its scheme may become https; host and port stay.
        private: See `resolve`.
        delay_s: Seconds between two requests at least.
    """

    def __init__(self, start: httpx.URL, *, private: bool, delay_s: float) -> None:
        self._start = start
        self._private = private
        self.delay_s = delay_s
        self._next = 0.0
        # httpx would compare the certificate with the address; `sni_hostname` is what it must name.
        self._client = httpx.Client(
            verify=_trusted(),
            timeout=httpx.Timeout(READ_S, connect=CONNECT_S),
            trust_env=False,
        )

    def get(
        self, url: httpx.URL, *, limit: int, headers: Mapping[str, str] | None = None
    ) -> Response:
        """Request a page.

        Args:
            url: On the site.
            limit: Bytes it may have.
            headers: For a conditional request.

        Raises:
            RefusedError: It is too large, redirects elsewhere, or cannot be reached.
            StepError: `target_not_allowed`.
        """
        for _ in range(REDIRECTS + 1):
            self.check(url)
            response = self._patiently(url, limit, dict(headers or {}))
            if not (300 <= response.status < 400 and "location" in response.headers):
                return response
            try:
                target = url.join(response.headers["location"])
            except (httpx.InvalidURL, ValueError):
                raise RefusedError("it redirects to something that is no address") from None
            if url.scheme == "https" and target.scheme == "http":
                raise RefusedError(f"it redirects from https to {target}")
            url = target.copy_with(fragment=None)
        raise RefusedError(f"it redirects more than {REDIRECTS} times")

    def check(self, url: httpx.URL) -> None:
        """Refuse an address that is not on the site."""
        if not self.on_site(url):
            raise RefusedError(f"it redirects to {url.scheme}://{url.host}, which is another site")

    def on_site(self, url: httpx.URL) -> bool:
        """Whether an address is one of the site: its host and port, over HTTP or HTTPS."""
        return (
            url.scheme in ("http", "https")
            and url.host == self._start.host
            and url.port == self._start.port
            and not url.userinfo
        )

    def _patiently(self, url: httpx.URL, limit: int, headers: dict[str, str]) -> Response:
        """Request once, or again after a pause while the server is busy."""
        for attempt in range(TRIES):
            last = attempt == TRIES - 1
            try:
                response = self._once(url, limit, headers)
            except TooLargeError:
                raise RefusedError(f"it has more than {limit} bytes") from None
            except httpx.HTTPError as error:
                if last:
                    raise UnreachableError(reason(error)) from None
                self._pause(PAUSE_S)
                continue
            if response.status not in BUSY or last:
                return response
            told = retry_after(response.headers.get("retry-after"))
            self._pause(PAUSE_S if told is None else told)
        raise AssertionError

    def _pause(self, seconds: float) -> None:
        self._next = max(self._next, time.monotonic() + seconds)

    def _once(self, url: httpx.URL, limit: int, headers: dict[str, str]) -> Response:
        time.sleep(max(0.0, self._next - time.monotonic()))
        self._pause(self.delay_s)
        port = url.port or (443 if url.scheme == "https" else 80)
        addresses = resolve(url.host, port, private=self._private)
        sent = {**HEADERS, **headers, "host": url.netloc.decode("ascii")}
        for address in addresses:
            request = httpx.Request(
                "GET",
                url.copy_with(host=address),
                headers=sent,
                extensions={**self._timeouts(), "sni_hostname": url.raw_host.decode("ascii")},
            )
            try:
                response = self._client.send(request, stream=True)
            except httpx.ConnectError:
                if address == addresses[-1]:
                    raise
                continue
            try:
                body = (
                    b"" if response.is_redirect else body_of(response, limit=limit, seconds=BODY_S)
                )
            finally:
                response.close()
            return Response(url, response.status_code, response.headers, body)
        raise AssertionError

    def _timeouts(self) -> dict[str, object]:
        return {"timeout": self._client.timeout.as_dict()}

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def _trusted() -> ssl.SSLContext:
    """Return a context that trusts the packaged authorities, and those of this machine."""
    context = httpx.create_ssl_context(trust_env=False)
    context.load_default_certs()
    return context
