"""A web site as a source: the pages of its sitemap, or those its pages lead to, below one address."""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from protego import Protego

from rag_kit.errors import StepError
from rag_kit.reports import Progress

from ...documents import MAX_DOCUMENT_BYTES, Origin
from ...index.places import skipped_of
from ..source import Item, Listing, OnProgress, is_hidden, unavailable
from .fetch import AGENT, Fetcher, RefusedError, Response, UnreachableError
from .pages import HTML, Page, as_utf8, content_type, key_of, may_be_read, path_of
from .sitemaps import Sitemaps

ROBOTS_BYTES = 500 * 1024  # RFC 9309: at least so much of robots.txt is read
MAX_TOTAL = 2 * 2**30  # bytes kept on disk in one run
FAILURES = 5  # pages in a row that cannot be reached: the site is down


@dataclass(frozen=True)
class WebAccess:
    """How a site is read.

    Args:
        private: It may be on this machine or in a private network.
        max_pages: Pages requested at most.
        depth: Links between the first page and another at most, without a sitemap.
        delay_s: Seconds between two requests; more where robots.txt says so.
    """

    private: bool = False
    max_pages: int = 1000
    depth: int = 10
    delay_s: float = 0.2


class WebSource:
    """The pages below an address; one counts as changed when the site or its bytes say so."""

    def __init__(self, address: str, access: WebAccess) -> None:
        self._access = access
        self._start = _checked(address)
        self._below = _folder(self._start)
        self.address = str(self._start)
        self.name = self._start.host
        self._fetcher = Fetcher(self._start, private=access.private, delay_s=access.delay_s)
        self._robots = Protego.parse("")
        self._folder = tempfile.TemporaryDirectory(prefix="rag-sync-")
        self._files: dict[str, Path] = {}

    def list_items(self, known: Mapping[str, Origin], progress: OnProgress) -> Listing:
        """Request every page, those that are known on condition that they have changed."""
        self._read_robots()
        sitemaps = Sitemaps(self._fetcher)
        self._read_sitemaps(sitemaps)
        crawl = _Crawl(self, known, progress)
        pages = [url for text in sitemaps.urls if (url := self._wanted(text)) is not None]
        if pages:
            crawl.run(pages)
        else:
            crawl.follow(self._start)
        crawl.listing.warnings += sitemaps.warnings
        return crawl.listing

    def _read_robots(self) -> None:
        try:
            response = self._fetcher.get(self._start.join("/robots.txt"), limit=ROBOTS_BYTES)
        except RefusedError as error:
            raise unavailable(
                self.address, f"robots.txt is not read, so nothing is: {error}"
            ) from None
        if response.status >= 500:
            why = f"robots.txt gives HTTP {response.status}, so nothing is read (RFC 9309)"
            raise unavailable(self.address, why)
        if response.status == 200:
            self._robots = Protego.parse(response.body.decode("utf-8", "replace"))
        pause = self._robots.crawl_delay(AGENT) or 0.0
        self._fetcher.delay_s = max(self._access.delay_s, pause)

    def _read_sitemaps(self, sitemaps: Sitemaps) -> None:
        """Read the sitemap that was named, those of robots.txt, or those at the usual places."""
        most = 2 * self._access.max_pages  # some may lie elsewhere
        if self._is_sitemap():
            sitemaps.read([self._start], most, optional=False)
            return
        told = [url for one in self._robots.sitemaps if (url := self._joined(one)) is not None]
        if told:
            sitemaps.read(told, most, optional=False)
        else:
            usual = [
                self._start.join("/sitemap.xml"),
                self._start.join(self._below + "sitemap.xml"),
            ]
            sitemaps.read(usual, most, optional=True)

    def _is_sitemap(self) -> bool:
        return self._start.path.endswith((".xml", ".xml.gz"))

    def _wanted(self, text: str) -> httpx.URL | None:
        """Return the address of a page that belongs to the source, or None."""
        url = self._joined(text)
        if url is None or not self._fetcher.on_site(url) or not self._is_below(url):
            return None
        return url if may_be_read(url) else None

    def _joined(self, text: str) -> httpx.URL | None:
        try:
            return self._start.join(text).copy_with(fragment=None)
        except (httpx.InvalidURL, ValueError):
            return None

    def _is_below(self, url: httpx.URL) -> bool:
        return url.path.startswith(self._below) or url.path == self._start.path

    def allowed(self, url: httpx.URL) -> bool:
        """Whether robots.txt lets this page be requested."""
        return bool(self._robots.can_fetch(str(url), AGENT))

    def request(self, url: httpx.URL, stored: Origin | None) -> Response:
        """Request a page, on condition that it is another than the stored one."""
        etag, modified = stored.validators if stored else ("", "")
        conditions = {"if-none-match": etag, "if-modified-since": modified}
        headers = {name: value for name, value in conditions.items() if value}
        return self._fetcher.get(url, limit=MAX_DOCUMENT_BYTES, headers=headers)

    def keep(self, key: str, body: bytes) -> None:
        """Keep a page's content until it is read."""
        path = Path(self._folder.name, str(len(self._files)))
        path.write_bytes(body)
        self._files[key] = path

    def wanted(self, links: Sequence[str]) -> list[str]:
        """Return those of the links that belong to the source."""
        return [str(url) for one in links if (url := self._wanted(one)) is not None]

    def is_wanted(self, url: httpx.URL) -> bool:
        """Whether a page that a request was redirected to belongs to the source."""
        return self._is_below(url) or self._is_sitemap()

    def read(self, items: Sequence[Item]) -> Iterator[tuple[Item, bytes | StepError]]:
        """Yield the content of pages as it came with the list."""
        for item in items:
            yield item, self._files[item.key].read_bytes()

    def close(self) -> None:
        """Close the connections and remove what was kept."""
        self._fetcher.close()
        self._folder.cleanup()

    @property
    def limits(self) -> WebAccess:
        """How the site is read."""
        return self._access


class _Crawl:
    """One pass over a site."""

    def __init__(self, site: WebSource, known: Mapping[str, Origin], progress: OnProgress) -> None:
        self.listing = Listing()
        self._site = site
        self._known = known
        self._progress = progress
        self._skipped: Counter[tuple[str, str]] = Counter()
        self._queue: deque[tuple[httpx.URL, int]] = deque()
        self._seen: set[str] = set()  # keys
        self._requested = 0
        self._must: str | None = None
        self._failed = 0  # in a row
        self._bytes = 0

    def follow(self, start: httpx.URL) -> None:
        """Request a page, which must be there, and those it leads to."""
        self._must = key_of(start)
        self.run([start])

    def run(self, first: Sequence[httpx.URL]) -> None:
        """Request pages."""
        for url in first:
            self._enqueue(url, 0)
        while self._queue and not self.listing.partial:
            url, depth = self._queue.popleft()
            if self._requested == self._site.limits.max_pages:
                self._stop(f"{self._requested} pages were requested; --max-pages allows more")
                break
            links = self._visit(url)
            if self._must is not None and depth < self._site.limits.depth:
                for link in links:
                    self._enqueue(httpx.URL(link), depth + 1)
            done = self._requested
            self._progress(Progress(done, done + len(self._queue), str(url)))
        self.listing.items.sort(key=lambda item: item.path)
        self.listing.skipped = skipped_of(self._skipped)

    def _enqueue(self, url: httpx.URL, depth: int) -> None:
        if key_of(url) not in self._seen:
            self._seen.add(key_of(url))
            self._queue.append((url, depth))

    def _stop(self, why: str) -> None:
        self.listing.partial = why

    def _visit(self, url: httpx.URL) -> Sequence[str]:
        """Request a page and note what it is; return where it leads."""
        key = key_of(url)
        if not self._site.allowed(url):
            self._refuse(key, "robots.txt forbids it", "robots.txt")
            return ()
        self._requested += 1
        stored = self._known.get(key)
        try:
            response = self._site.request(url, stored)
            self._failed = 0
        except RefusedError as error:
            self._failed += isinstance(error, UnreachableError)
            self._fail(key, str(error))
            return ()
        if response.status == 304 and stored is not None:
            self._add(url, key, stored.path, stored.version, stored.validators, stored.links)
            return stored.links
        if response.status in (404, 410) and key != self._must:
            self._skipped["not found", ""] += 1
        elif response.status != 200:
            self._fail(key, f"HTTP {response.status}")
        else:
            return self._take(response, key)
        return ()

    def _fail(self, key: str, why: str) -> None:
        """Note a page that does not come; what was brought before stays."""
        if key == self._must or self._failed == FAILURES:
            raise unavailable(self._site.address, f"/{key}: {why}; nothing was changed")
        self.listing.refused[key] = why

    def _refuse(self, key: str, why: str, counted: str) -> None:
        """Count what is not to be read; what was brought before stays."""
        if key in self._known:
            self.listing.refused[key] = why
        else:
            self._skipped[counted, ""] += 1

    def _take(self, response: Response, requested: str) -> Sequence[str]:
        """Note a page that came; return where it leads."""
        key = key_of(response.url)
        if key != requested:
            if key in self._seen or not self._site.is_wanted(response.url):
                self._skipped["redirect", ""] += 1
                return ()
            self._seen.add(key)
        kind, charset = content_type(response.headers)
        links: Sequence[str] = ()
        body = response.body
        if kind in HTML:
            text = as_utf8(body, charset)
            page = Page(response.url, response.headers, text)
            links = self._site.wanted(page.links)
            if page.noindex:
                self._skipped["noindex", ""] += 1
                return links
        elif kind.startswith("text/"):
            text = as_utf8(body, charset)
        else:
            text = body
        path = path_of(response.url, kind)
        if path is None or is_hidden(path):
            self._skipped["format", kind if path is None else ""] += 1
            return links
        self._bytes += len(text)
        if self._bytes > MAX_TOTAL:
            self._stop(f"its pages have more than {MAX_TOTAL} bytes; sync parts of it")
            return links
        self._site.keep(key, text)
        headers = response.headers
        validators = (headers.get("etag", ""), headers.get("last-modified", ""))
        version = hashlib.sha256(text).hexdigest()
        self._add(response.url, key, path, version, validators, tuple(links))
        return links

    def _add(
        self,
        url: httpx.URL,
        key: str,
        path: str,
        version: str,
        validators: tuple[str, str],
        links: tuple[str, ...],
    ) -> None:
        etag, modified = validators
        revision = modified or etag.strip('W/"') or version[:16]
        self.listing.items.append(Item(key, path, version, str(url), revision, validators, links))


def _checked(address: str) -> httpx.URL:
    try:
        url = httpx.URL(address).copy_with(fragment=None)
    except (httpx.InvalidURL, ValueError):
        url = httpx.URL("")
    if url.scheme not in ("http", "https") or not url.host or url.userinfo:
        raise StepError(
            "invalid_request",
            f"'{address.rpartition('@')[2]}' is no address of a site; write https://HOST/PATH, without "
            "user and password",
            param="source",
        )
    return url if url.raw_path else url.copy_with(raw_path=b"/")


def _folder(url: httpx.URL) -> str:
    """Return the folder that all pages of the source lie in: the address, or that of its file."""
    last = url.path.rpartition("/")[2]
    return url.path[: -len(last)] if "." in last else f"{url.path.rstrip('/')}/"
