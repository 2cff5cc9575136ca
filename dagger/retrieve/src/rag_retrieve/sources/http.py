"""Responses read within bounds of size and time, whatever a server sends."""

from __future__ import annotations

import time
import zlib

import httpx

GZIP = b"\x1f\x8b"


class TooLargeError(Exception):
    """A body is over the limit."""


def body_of(response: httpx.Response, *, limit: int, seconds: float) -> bytes:
    """Return the body of a streamed response, decompressed.

    Args:
        response: Of a request that accepts no other encoding than gzip.
        limit: Bytes it may have, before and after decompression.
        seconds: How long it may take.

    Raises:
        TooLargeError: It is longer.
        httpx.ReadTimeout: It takes longer.
        httpx.DecodingError: It is not encoded as was asked for.
    """
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "", "gzip", "x-gzip"):
        raise httpx.DecodingError(f"content-encoding {encoding} was not asked for")
    end = time.monotonic() + seconds
    data = bytearray()
    for chunk in response.iter_raw():
        data += chunk
        if len(data) > limit:
            raise TooLargeError
        if time.monotonic() > end:
            raise httpx.ReadTimeout(f"the response took more than {seconds:g} s")
    return gunzip(bytes(data), limit) if "gzip" in encoding else bytes(data)


def gunzip(data: bytes, limit: int) -> bytes:
    """Decompress gzip.

    Raises:
        TooLargeError: More than `limit` bytes come out.
        httpx.DecodingError: It is no gzip.
    """
    packed = zlib.decompressobj(wbits=31)
    try:
        text = packed.decompress(data, limit + 1)
    except zlib.error as error:
        raise httpx.DecodingError(f"it is not valid gzip: {error}") from None
    if len(text) > limit:
        raise TooLargeError
    return text


def reason(error: Exception) -> str:
    """Return what went wrong with a request, for a person."""
    if isinstance(error, httpx.TimeoutException):
        return "it did not answer in time"
    text = str(error).strip() or type(error).__name__
    return f"it cannot be reached ({text})" if isinstance(error, httpx.NetworkError) else text
