"""What a page says of itself and of others: its links, whether it may be kept, its name as a document."""

from __future__ import annotations

import codecs
import mimetypes
from collections.abc import Iterator
from email.message import Message
from pathlib import PurePosixPath
from urllib.parse import unquote

import httpx
from selectolax.lexbor import LexborHTMLParser

from ...documents import SUPPORTED_SUFFIXES

HTML = ("text/html", "application/xhtml+xml")
ENDINGS = {  # of documents whose address has none that is known
    "text/plain": ".txt",
    "text/markdown": ".md",
    "text/csv": ".csv",
    "application/pdf": ".pdf",
    "application/json": ".json",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": ".docx",
}
MAX_LINKS = 2000  # of one page
MAX_URL = 2000  # characters; longer ones are generated
AGENTS = ("robots", "dagger-rag")  # whom a page's robots tag addresses


def content_type(headers: httpx.Headers) -> tuple[str, str]:
    """Return media type and charset of a response, "" where it does not say."""
    message = Message()
    message["content-type"] = headers.get("content-type", "")
    given = message.get_content_type() if message["content-type"] else ""
    return given, str(message.get_param("charset") or "")


def as_utf8(body: bytes, charset: str) -> bytes:
    """Return text as UTF-8 with a mark, from the charset of its header; unknown ones change nothing."""
    try:
        if not charset or codecs.lookup(charset).name in ("utf-8", "utf-16", "utf-32"):
            return body
        return codecs.BOM_UTF8 + body.decode(charset, "replace").encode()
    except (LookupError, ValueError):
        return body


def key_of(url: httpx.URL) -> str:
    """Return what names a page in its site: path and query, without the first slash."""
    return url.raw_path.decode("ascii").lstrip("/")


def path_of(url: httpx.URL, kind: str) -> str | None:
    """Return the path of a page's document with the ending of its format; None: not one that is read."""
    path = unquote(url.path).strip("/") + ("/index" if url.path.endswith("/") else "")
    path = path.strip("/") or "index"
    query = f"?{url.query.decode('ascii')}" if url.query else ""
    suffix = PurePosixPath(path).suffix.lower()
    if kind in HTML:
        keep = suffix in (".html", ".htm") and not query
        return path if keep else f"{path}{query}.html"
    if suffix in SUPPORTED_SUFFIXES and not query:
        return path
    ending = suffix if suffix in SUPPORTED_SUFFIXES else ENDINGS.get(kind)
    return f"{path}{query}{ending}" if ending else None


def may_be_read(url: httpx.URL) -> bool:
    """Whether it makes sense to request an address: by its ending it may be a page or a document."""
    suffix = PurePosixPath(url.path).suffix.lower()
    kind, _ = mimetypes.guess_type(f"x{suffix}")
    return suffix in SUPPORTED_SUFFIXES or kind is None or kind in (*HTML, *ENDINGS)


class Page:
    """An HTML page.

    Attributes:
        noindex: It must not be kept.
        links: The addresses that it leads to, without fragments; none where it forbids to follow them.
    """

    def __init__(self, url: httpx.URL, headers: httpx.Headers, body: bytes) -> None:
        tree = LexborHTMLParser(body)
        told = {
            word
            for rule in _rules(headers, tree)
            for word in rule.lower().replace(",", " ").split()
        }
        self.noindex = bool({"noindex", "none"} & told)
        nofollow = bool({"nofollow", "none"} & told)
        self.links = () if nofollow else tuple(dict.fromkeys(_links(url, tree)))[:MAX_LINKS]


def _rules(headers: httpx.Headers, tree: LexborHTMLParser) -> Iterator[str]:
    yield from (rule for rule in headers.get_list("x-robots-tag") if ":" not in rule)
    for tag in tree.css("meta[name][content]"):
        if (tag.attributes.get("name") or "").lower() in AGENTS:
            yield tag.attributes.get("content") or ""


def _links(url: httpx.URL, tree: LexborHTMLParser) -> Iterator[str]:
    base = tree.css_first("base[href]")
    root = _joined(url, (base.attributes.get("href") or "") if base else "") or url
    for anchor in tree.css("a[href], area[href]"):
        if "nofollow" in (anchor.attributes.get("rel") or "").lower().split():
            continue
        target = _joined(root, anchor.attributes.get("href") or "")
        if target is not None and len(str(target)) <= MAX_URL:
            yield str(target)


def _joined(url: httpx.URL, reference: str) -> httpx.URL | None:
    try:
        target = url.join(reference.strip())
    except (httpx.InvalidURL, ValueError, TypeError):
        return None
    return target.copy_with(fragment=None) if target.scheme in ("http", "https") else None
