"""A loopback web site whose pages a test writes; it remembers what was asked for."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from http_kit import served

HTML = "text/html"


@dataclass
class Page:
    """What the site answers with; a body that is None never ends."""

    body: bytes | None = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    conditional: bool = True


class Site:
    """The pages by path, and the requests.

    Args:
        url: Of the site.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.pages: dict[str, Page] = {}
        self.asked: list[str] = []
        self.hosts: set[str] = set()
        self.unchanged: list[str] = []  # answered with 304

    def page(self, path: str, text: str, *links: str, **headers: str) -> None:
        """Put an HTML page."""
        anchors = "".join(f'<a href="{link}">more</a> ' for link in links)
        body = f"<html><title>{path}</title><body><p>{text}</p>{anchors}</body></html>"
        given = {"content-type": HTML} | {n.replace("_", "-"): v for n, v in headers.items()}
        self.pages[path] = Page(body.encode(), headers=given)

    def sitemap(self, path: str, *urls: str, index: bool = False, packed: bool = False) -> None:
        """Put a sitemap, or an index of sitemaps."""
        root, entry = ("sitemapindex", "sitemap") if index else ("urlset", "url")
        entries = "".join(f"<{entry}><loc>{url}</loc></{entry}>" for url in urls)
        namespace = "http://www.sitemaps.org/schemas/sitemap/0.9"
        text = f'<?xml version="1.0"?><{root} xmlns="{namespace}">{entries}</{root}>'.encode()
        self.pages[path] = Page(gzip.compress(text) if packed else text)

    def redirect(self, path: str, target: str, status: int = 302) -> None:
        """Put a redirect."""
        self.pages[path] = Page(status=status, headers={"location": target})

    def requests(self) -> list[str]:
        """Return what was asked for since the last call, without robots.txt and sitemaps."""
        asked, self.asked = self.asked, []
        return [path for path in asked if path != "/robots.txt" and "sitemap" not in path]


class _Handler(BaseHTTPRequestHandler):
    site: Site
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        site = self.site
        site.asked.append(self.path)
        site.hosts.add(self.headers["host"])
        page = site.pages.get(self.path, Page(status=404))
        if page.body is None:
            self._endless()
            return
        etag = f'"{hashlib.sha256(page.body).hexdigest()[:12]}"'
        if page.conditional and self.headers.get("if-none-match") == etag:
            site.unchanged.append(self.path)
            page = Page(status=304)
        self.send_response(page.status)
        for name, value in page.headers.items():
            self.send_header(name, value)
        if page.conditional and page.status == 200:
            self.send_header("etag", etag)
        self.send_header("content-length", str(len(page.body or b"")))
        self.end_headers()
        self.wfile.write(page.body or b"")

    def _endless(self) -> None:
        self.close_connection = True
        self.send_response(200)
        self.send_header("content-type", HTML)
        self.end_headers()
        try:
            while True:
                self.wfile.write(b"x" * 65_536)
        except OSError:
            return

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@contextmanager
def serving() -> Iterator[Site]:
    """Serve a site on a free port."""
    handler = type("Handler", (_Handler,), {})
    with served(handler) as url:
        handler.site = Site(url)
        yield handler.site
