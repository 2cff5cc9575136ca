"""The pages that a site lists itself: sitemaps, their indexes, packed or not.

Source: sitemaps.org, protocol 0.9: at most 50,000 addresses and 50 MB, unpacked, in one file.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import httpx
from lxml import etree  # type: ignore[import-untyped]

from ..http import GZIP, TooLargeError, gunzip
from .fetch import Fetcher, RefusedError

MAX_BYTES = 50 * 2**20
MAX_FILES = 200


class Sitemaps:
    """Reads sitemaps and what they refer to.

    Attributes:
        urls: Of pages, in their order, whatever site they are on.
        warnings: What of the sitemaps could not be read.
    """

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher
        self.urls: dict[str, None] = {}
        self.warnings: list[str] = []

    def read(self, first: Iterable[httpx.URL], most: int, *, optional: bool) -> None:
        """Read sitemaps until there are `most` addresses.

        Args:
            first: Their addresses.
            most: Addresses that are enough.
            optional: Whether it is no loss when there are none.
        """
        queue, seen = deque(first), set[httpx.URL]()
        while queue and len(self.urls) < most:
            url = queue.popleft()
            if url in seen or not self._fetcher.on_site(url):
                continue
            if len(seen) == MAX_FILES:
                self.warnings.append(f"more than {MAX_FILES} sitemaps; the others are not read")
                return
            seen.add(url)
            try:
                queue += self._one(url)
            except RefusedError as error:
                if not optional or len(seen) > 1:
                    self.warnings.append(f"the sitemap {url} is not read: {error}")

    def _one(self, url: httpx.URL) -> list[httpx.URL]:
        """Keep the pages of a sitemap; return the sitemaps that it refers to."""
        response = self._fetcher.get(url, limit=MAX_BYTES)
        if response.status != 200:
            raise RefusedError(f"HTTP {response.status}")
        root = _parse(response.body)
        below: list[httpx.URL] = []
        for entry in root:
            location = next((one.text or "" for one in entry if _name(one) == "loc"), "").strip()
            if _name(entry) == "url" and location:
                self.urls[location] = None
            elif _name(entry) == "sitemap" and location:
                try:
                    below.append(url.join(location))
                except (httpx.InvalidURL, ValueError):
                    continue
        return below


def _parse(data: bytes) -> etree._Element:
    try:
        text = gunzip(data, MAX_BYTES) if data.startswith(GZIP) else data
        parser = etree.XMLParser(resolve_entities=False, no_network=True, recover=True)
        root = etree.fromstring(text.strip(), parser)
    except TooLargeError:
        raise RefusedError(f"it has more than {MAX_BYTES} bytes") from None
    except (httpx.DecodingError, etree.XMLSyntaxError, ValueError) as error:
        raise RefusedError(f"it is no XML: {error}") from None
    if root is None or _name(root) not in ("urlset", "sitemapindex"):
        raise RefusedError("it is no sitemap")
    return root


def _name(element: etree._Element) -> str:
    return str(element.tag).rpartition("}")[2]
