"""A bucket of an S3-compatible server as a source."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, unquote_plus, urlsplit

import httpx
from lxml import etree  # type: ignore[import-untyped]

from rag_kit.errors import StepError
from rag_kit.reports import Progress

from ..documents import MAX_DOCUMENT_BYTES, Origin
from ..index.places import skipped_of
from .http import TooLargeError, body_of, reason
from .signature import Credentials, encoded, signed_headers
from .source import (
    Item,
    Listing,
    OnProgress,
    is_readable,
    not_read,
    too_large,
    unavailable,
    without_credentials,
)

LIST_BYTES = 8 * 2**20  # of one page of a list, which has at most 1000 keys
MAX_OBJECTS = 1_000_000
CONNECT_S, READ_S, BODY_S = 5.0, 30.0, 600.0
TRIES = 4
PAUSE_S = 0.25  # before the second try; then twice as long each time
BUSY = (429, 500, 502, 503, 504)
DENIED = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or that the bucket is public"


@dataclass(frozen=True)
class S3Access:
    """How a bucket is reached.

    Args:
        endpoint: URL of the server; None: Amazon's of the region.
        region: Where the bucket is.
        credentials: None: the bucket is public.
    """

    endpoint: str | None = None
    region: str = "us-east-1"
    credentials: Credentials | None = None


def _client() -> httpx.Client:
    return httpx.Client(
        timeout=httpx.Timeout(READ_S, connect=CONNECT_S),
        headers={"accept-encoding": "identity"},
        trust_env=False,
    )


class BucketSource:
    """The objects below a prefix; one counts as changed when its ETag is another."""

    def __init__(self, address: str, access: S3Access) -> None:
        bucket, _, prefix = address.removeprefix("s3://").partition("/")
        if not bucket or any(one in bucket for one in "@:?#"):
            raise StepError(
                "invalid_request",
                f"'{without_credentials(address)}' names no bucket; write s3://BUCKET/PREFIX and, "
                "for a server that is not Amazon's, --endpoint URL",
                param="source",
            )
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._access = access
        self._region = access.region
        self.address = f"s3://{bucket}/{self._prefix}".rstrip("/")
        self.name = self.address.rpartition("/")[2]
        if access.endpoint is not None:
            self.address += f"@{urlsplit(access.endpoint).netloc}"
        self._etags: dict[str, str] = {}
        self._client = _client()

    def list_items(self, known: Mapping[str, Origin], progress: OnProgress) -> Listing:
        """List the objects of formats that are read; keys with hidden parts or `..` are not."""
        skipped: Counter[tuple[str, str]] = Counter()
        listing = Listing()
        for seen, entry in enumerate(self._entries(), 1):
            if seen > MAX_OBJECTS:
                listing.partial = (
                    f"it has more than {MAX_OBJECTS} objects; sync prefixes of it apart"
                )
                break
            if seen % 1000 == 0:
                progress(Progress(seen, seen, self.name))
            self._add(entry, listing, skipped)
        listing.items.sort(key=lambda item: item.path)
        listing.skipped = skipped_of(skipped)
        return listing

    def _add(
        self, entry: Mapping[str, str], listing: Listing, skipped: Counter[tuple[str, str]]
    ) -> None:
        key = entry["Key"].removeprefix(self._prefix)
        etag, size = entry.get("ETag", "").strip('"'), int(entry.get("Size", "0"))
        if not entry["Key"].startswith(self._prefix) or key.endswith("/") or not key:
            return  # not of the prefix; or a mark that stands for a folder
        if not is_readable(key):
            skipped[not_read(key)] += 1
        elif size > MAX_DOCUMENT_BYTES:
            listing.refused[key] = too_large(size).message
        else:
            changed = entry.get("LastModified", "")
            self._etags[key] = etag
            version = f"{etag or changed}-{size}"
            listing.items.append(Item(key, key, version, self._url(entry["Key"]), etag or changed))

    def _entries(self) -> Iterator[dict[str, str]]:
        token: str | None = ""
        tokens: set[str] = set()
        while token is not None:
            query = {"list-type": "2", "prefix": self._prefix, "encoding-type": "url"}
            page = self._page(query | ({"continuation-token": token} if token else {}))
            coded = page.findtext("{*}EncodingType") == "url"
            for found in page.iterfind("{*}Contents"):
                entry = {str(one.tag).rpartition("}")[2]: one.text or "" for one in found}
                if coded:
                    entry["Key"] = unquote_plus(entry.get("Key", ""))
                yield entry
            token = page.findtext("{*}NextContinuationToken") or None
            if token in tokens:
                raise unavailable(self.address, "its list of objects does not end")
            tokens.add(token or "")

    def _page(self, query: dict[str, str]) -> Any:
        data = self._get("", query, {}, LIST_BYTES)
        parser = etree.XMLParser(resolve_entities=False, no_network=True)
        try:
            page = etree.fromstring(data, parser)
        except etree.XMLSyntaxError as error:
            raise unavailable(self.address, f"its list of objects is no XML: {error}") from None
        if not str(page.tag).endswith("ListBucketResult"):
            raise unavailable(
                self.address, f"it answers with {page.tag} instead of a list of objects"
            )
        return page

    def read(self, items: Sequence[Item]) -> Iterator[tuple[Item, bytes | StepError]]:
        """Yield the content of objects, each in the version that was listed."""
        for item in items:
            etag = self._etags.get(item.key, "")
            headers = {"if-match": f'"{etag}"'} if etag else {}
            try:
                key = self._prefix + item.key
                yield item, self._get(key, {}, headers, MAX_DOCUMENT_BYTES)
            except TooLargeError:
                yield item, too_large(MAX_DOCUMENT_BYTES + 1)
            except StepError as error:
                if error.code == "misconfigured":
                    raise
                yield item, error

    def _get(self, key: str, query: dict[str, str], more: dict[str, str], limit: int) -> bytes:
        """Request something of the bucket, again after a pause while the server is busy."""
        why = ""
        for attempt in range(TRIES):
            if attempt:
                time.sleep(PAUSE_S * 2**attempt)
            try:
                status, data, region = self._once(key, query, more, limit)
            except httpx.HTTPError as error:
                why = reason(error)
                continue
            if status == 200:
                return data
            why = f"it answers HTTP {status}"
            if region and region != self._region:
                self._region = region
            elif status not in BUSY:
                raise self._refusal(status, why)
        raise unavailable(self.address, why)

    def _refusal(self, status: int, why: str) -> StepError:
        if status in (401, 403):
            return StepError("misconfigured", f"{self.address}: {why}; {DENIED}", param="source")
        if status == 412:
            why = "it was replaced while the bucket was read; run it again"
        return unavailable(self.address, why)

    def _once(
        self, key: str, query: dict[str, str], more: dict[str, str], limit: int
    ) -> tuple[int, bytes, str | None]:
        url = self._url(key)
        parts = urlsplit(url)
        headers = more
        if self._access.credentials is not None:
            headers = signed_headers(
                self._access.credentials,
                host=parts.netloc,
                path=parts.path,
                query=query,
                region=self._region,
                now=datetime.now(UTC),
                headers=more,
            )
        sent = httpx.Request("GET", f"{url}?{encoded(query)}" if query else url, headers=headers)
        response = self._client.send(sent, stream=True)
        try:
            data = body_of(response, limit=limit, seconds=BODY_S)
        finally:
            response.close()
        return response.status_code, data, response.headers.get("x-amz-bucket-region")

    def _url(self, key: str) -> str:
        """Return the address of an object, or of the bucket for ""."""
        path = quote(key, safe="/~")
        if self._access.endpoint is not None:
            return f"{self._access.endpoint.rstrip('/')}/{self._bucket}/{path}"
        host = f"s3.{self._region}.amazonaws.com"
        if "." in self._bucket:  # the certificate does not cover it as a part of the host
            return f"https://{host}/{self._bucket}/{path}"
        return f"https://{self._bucket}.{host}/{path}"

    def only(self, items: Sequence[Item]) -> BucketSource:
        """Return the bucket to read these objects elsewhere."""
        part = copy(self)
        part._etags = {one.key: self._etags[one.key] for one in items if one.key in self._etags}
        return part

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_client"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._client = _client()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
