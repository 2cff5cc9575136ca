"""A double of an S3-compatible server on loopback: lists and objects, signatures checked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from xml.sax.saxutils import escape

from http_kit import served

from rag_retrieve.sources.signature import Credentials, signed_headers

PAGE = 3  # keys in one page of a list


class S3Double:
    """What is in the bucket, what was asked for, and how the server behaves.

    Args:
        url: Of the server.
        credentials: Requests must be signed with them; None: everybody may read.
    """

    bucket = "papers"
    region = "eu-test-1"

    def __init__(self, url: str, credentials: Credentials | None) -> None:
        self.url, self.credentials = url, credentials
        self.objects: dict[str, bytes] = {}
        self.read: list[str] = []
        self.failures: list[int] = []  # statuses that the next requests get
        self.endless = False
        self.claimed: dict[str, int] = {}  # sizes that the list says instead

    def etag(self, key: str) -> str:
        return hashlib.md5(self.objects[key], usedforsecurity=False).hexdigest()

    def list(self, query: dict[str, str]) -> bytes:
        keys = sorted(key for key in self.objects if key.startswith(query["prefix"]))
        at = int(query.get("continuation-token", "0"))
        entries = "".join(
            f"<Contents><Key>{escape(quote(key))}</Key><LastModified>2026-01-01T00:00:00Z</LastModified>"
            f'<ETag>"{self.etag(key)}"</ETag><Size>{self.claimed.get(key, len(self.objects[key]))}</Size>'
            "</Contents>"
            for key in keys[at : at + PAGE]
        )
        more = self.endless or at + PAGE < len(keys)
        token = at if self.endless else at + PAGE
        end = f"<NextContinuationToken>{token}</NextContinuationToken>" if more else ""
        return (
            '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<EncodingType>url</EncodingType>{entries}{end}</ListBucketResult>"
        ).encode()


class _Handler(BaseHTTPRequestHandler):
    double: S3Double
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        double, parts = self.double, urlsplit(self.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        if double.failures:
            self._answer(double.failures.pop(0), b"")
        elif double.credentials is not None and not self._is_signed(parts.path, query):
            self._answer(403, b"<Error><Code>SignatureDoesNotMatch</Code></Error>")
        elif not parts.path.startswith(f"/{double.bucket}/"):
            self._answer(404, b"<Error><Code>NoSuchBucket</Code></Error>")
        elif "list-type" in query:
            self._answer(200, double.list(query))
        else:
            self._object(unquote(parts.path).removeprefix(f"/{double.bucket}/"))

    def _object(self, key: str) -> None:
        self.double.read.append(key)
        if key not in self.double.objects:
            self._answer(404, b"")
        elif self.headers.get("if-match", "").strip('"') != self.double.etag(key):
            self._answer(412, b"")
        else:
            self._answer(200, self.double.objects[key])

    def _is_signed(self, path: str, query: dict[str, str]) -> bool:
        assert self.double.credentials is not None
        given = self.headers.get("authorization", "")
        names = given.partition("SignedHeaders=")[2].partition(",")[0].split(";")
        other = {
            name: self.headers[name]
            for name in names
            if name not in ("host", "x-amz-date", "x-amz-content-sha256", "x-amz-security-token")
        }
        stamp = self.headers.get("x-amz-date", "")
        expected = signed_headers(
            self.double.credentials,
            host=self.headers["host"],
            path=path,
            query=query,
            region=self.double.region,
            now=datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC),
            headers=other,
        )
        return expected["authorization"] == given

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        if status in (301, 400):
            self.send_header("x-amz-bucket-region", self.double.region)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@contextmanager
def running(credentials: Credentials | None = None) -> Iterator[S3Double]:
    """Serve a bucket `papers` on a free port."""
    handler = type("Handler", (_Handler,), {})
    with served(handler) as url:
        handler.double = S3Double(url, credentials)
        yield handler.double
