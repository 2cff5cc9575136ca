"""AWS Signature Version 4 for requests without a body.

Source: AWS, "Signature calculations for the Authorization header", Amazon S3 API reference.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import quote

EMPTY = hashlib.sha256(b"").hexdigest()  # digest of the body


@dataclass(frozen=True)
class Credentials:
    """Keys of an account; `token` comes with temporary ones."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


def signed_headers(
    credentials: Credentials,
    *,
    host: str,
    path: str,
    query: Mapping[str, str],
    region: str,
    now: datetime,
    headers: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return the headers of a signed GET request.

    Args:
        credentials: Whose request it is.
        host: As the client sends it, with a port that is not the default.
        path: As the client sends it, percent-encoded.
        query: Parameters, not encoded.
        region: Of the bucket.
        now: UTC.
        headers: Others that are signed, by lower-case name.
    """
    stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    sent = {"host": host, "x-amz-content-sha256": EMPTY, "x-amz-date": stamp, **(headers or {})}
    if credentials.token:
        sent["x-amz-security-token"] = credentials.token
    names = ";".join(sorted(sent))
    lines = [f"{name}:{' '.join(sent[name].split())}" for name in sorted(sent)]
    canonical = "\n".join(["GET", path, encoded(query), *lines, "", names, EMPTY])
    scope = f"{day}/{region}/s3/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
    key = f"AWS4{credentials.secret_key}".encode()
    for part in (day, region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    sent["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope},"
        f"SignedHeaders={names},Signature={signature}"
    )
    return sent


def encoded(query: Mapping[str, str]) -> str:
    """Return parameters as they are signed and sent."""
    return "&".join(f"{quote(name, '')}={quote(query[name], '')}" for name in sorted(query))
