"""Mail: a message with its head, its newest text first, and its attachments; mailboxes of many."""

from __future__ import annotations

import email
import email.policy
import email.utils
import mimetypes
import re
from collections.abc import Iterator
from dataclasses import replace
from email.message import EmailMessage
from pathlib import PurePosixPath

from pydantic import JsonValue

from rag_kit.errors import StepError

from .budget import Budget
from .builder import TextBuilder, printable
from .document import LoadedDocument, first_warnings, tidy, unreadable
from .encoding import decode
from .html.reader import read_page
from .members import Members, with_warnings

CONTENT_TYPE = "message/rfc822"
SHOWN = ("Subject", "Date", "From", "To", "Cc")
ADDRESSES = ("From", "To", "Cc", "Reply-To")
FROM_LINE = re.compile(
    rb"^From [^\n]*\b(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),? [^\n]*\d\d:\d\d[^\n]*\n", re.MULTILINE
)
QUOTED_FROM = re.compile(rb"^>(>*From )", re.MULTILINE)
HEADER = re.compile(rb"\s*(?:From [^\n]*\n)?[!-9;-~]+:[ \t]?[^\n]*")
HEAD_BYTES = 64 * 1024
MAX_PARTS = 1000  # of one message
MAX_NESTED = 20  # parts inside each other
MAX_HEADER_CHARACTERS = 500
UNSAFE = re.compile(r"[\x00-\x1f/\\]+")
MIN_TEXT = 20  # characters; a shorter plain part stands in for "open this in a browser"


def read_eml(name: str, data: bytes, budget: Budget) -> list[LoadedDocument]:
    """Read a message and its attachments, these as documents `name/attachment`.

    Raises:
        StepError: `document_unreadable`: it has no head of a mail, or nothing in it can be read.
    """
    if not HEADER.match(data[:HEAD_BYTES]):
        unreadable(name, "it is no mail: it does not begin with headers such as 'From: …'")
    return _message(name, name, data, budget)


def read_mbox(name: str, data: bytes, budget: Budget) -> list[LoadedDocument]:
    """Read a mailbox: a document for each message, by its Message-ID, and for each attachment.

    Raises:
        StepError: `document_unreadable`: it holds no message that can be read.
    """
    starts = [match.start() for match in FROM_LINE.finditer(data) if _begins(data, match.start())]
    if not starts:
        unreadable(name, "it is no mailbox: no line begins with 'From ' and a date")
    documents: list[LoadedDocument] = []
    warnings: list[str] = []
    taken: set[str] = set()
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(data)], strict=True), 1):
        message = QUOTED_FROM.sub(rb"\1", data[data.index(b"\n", start) + 1 : end])
        try:
            documents += _message(_message_id(name, message, number, taken), name, message, budget)
        except StepError as error:
            warnings.append(f"message {number}: {error.message}")
    if not documents:
        unreadable(name, f"none of its {len(starts)} messages can be read ({warnings[0]})")
    return with_warnings(documents, list(first_warnings(warnings)))


def _begins(data: bytes, start: int) -> bool:
    """Whether a `From ` line begins a message: it is the first line, or stands below an empty one."""
    return start == 0 or data[:start].endswith((b"\n\n", b"\n\r\n"))


def _message_id(name: str, data: bytes, number: int, taken: set[str]) -> str:
    message = email.message_from_bytes(data[:HEAD_BYTES], policy=email.policy.compat32)
    key = re.sub(r"[<>\s]", "", str(message.get("Message-ID") or "")) or str(number)
    own, repeats = f"{name}#{key[:MAX_HEADER_CHARACTERS]}", 1
    while own in taken:
        repeats += 1
        own = f"{name}#{key}-{repeats}"
    taken.add(own)
    return own


def _message(document_id: str, source: str, data: bytes, budget: Budget) -> list[LoadedDocument]:
    message = _parsed(source, data)
    builder = TextBuilder(source)
    members = Members(document_id, budget)
    head = {field: text for field in SHOWN if (text := _header(message, field))}
    builder.paragraph("\n".join(f"{field}: {text}" for field, text in head.items()))
    metadata = _metadata(message)
    attached: list[LoadedDocument] = []
    names: list[JsonValue] = []
    for part in _shown(message):
        if _is_decoration(part):
            continue
        if (name := _attachment_name(part, len(names) + 1)) is None:
            _write_body(part, builder)
        elif members.is_read(name):
            names.append(name)
            attached += _attachment(part, name, members)
        else:
            names.append(name)
    if names:
        builder.paragraph("Attachments: " + ", ".join(map(str, names)))
    builder.warnings += members.report()
    document = builder.build(
        CONTENT_TYPE,
        document_id=document_id,
        title=head.get("Subject", ""),
        metadata={**metadata, **({"attachments": names} if names else {})},
    )
    return [document, *(replace(one, metadata={**metadata, **one.metadata}) for one in attached)]


def _parsed(source: str, data: bytes) -> EmailMessage:
    try:
        return email.message_from_bytes(data, policy=email.policy.default)
    except Exception as error:  # the parser raises whatever a damaged head leads it to
        unreadable(source, f"the mail is damaged ({tidy(str(error)) or type(error).__name__})")


def _header(message: EmailMessage, name: str) -> str:
    """Return a header with its encoded words decoded, on one line; "" where it has none."""
    try:
        value = str(message[name] or "")
    except Exception:  # some damaged headers cannot be parsed; as it stands is better than nothing
        value = next((str(v) for key, v in message.raw_items() if key.lower() == name.lower()), "")
    return " ".join(printable(value).split())[:MAX_HEADER_CHARACTERS]


def _metadata(message: EmailMessage) -> dict[str, JsonValue]:
    """Return subject, addresses, date and time, and the ids by which mails answer each other."""
    found: dict[str, JsonValue] = {"subject": _header(message, "Subject")}
    for name in ADDRESSES:
        pairs = email.utils.getaddresses([_header(message, name)])
        addresses: list[JsonValue] = [address.lower() for _, address in pairs if address]
        found[name.lower().replace("-", "_")] = (
            addresses[0] if name == "From" and addresses else addresses
        )
    found["date"] = _date(_header(message, "Date"))
    for name in ("Message-ID", "In-Reply-To"):
        found[name.lower().replace("-", "_")] = _header(message, name).strip("<>")
    return {key: value for key, value in found.items() if value}


def _date(text: str) -> str:
    """Return a date as `2024-03-15T14:30:00+01:00`, "" for none."""
    try:
        return email.utils.parsedate_to_datetime(text).isoformat() if text else ""
    except (ValueError, TypeError, OverflowError):
        return ""


def _shown(message: EmailMessage) -> Iterator[EmailMessage]:
    """Yield the parts that are no containers; of alternatives the text, or the page where it says more."""
    pending: list[tuple[EmailMessage, int]] = [(message, 0)]
    for _ in range(MAX_PARTS):
        if not pending:
            return
        part, depth = pending.pop()
        if part.get_content_maintype() != "multipart" or not part.is_multipart():
            yield part
        elif depth < MAX_NESTED:
            parts = [one for one in part.iter_parts() if isinstance(one, EmailMessage)]
            if part.get_content_subtype() == "alternative":
                parts = _chosen(parts)
            pending += [(one, depth + 1) for one in reversed(parts)]


def _chosen(parts: list[EmailMessage]) -> list[EmailMessage]:
    plain = [part for part in parts if part.get_content_type() == "text/plain"]
    others = [part for part in parts if part.get_content_type() != "text/plain"]
    if others and (not plain or len(_payload(plain[0]).strip()) < MIN_TEXT):
        return others[-1:]
    return plain[:1] or parts[-1:]


def _payload(part: EmailMessage) -> bytes:
    try:
        content = part.get_payload(decode=True)
    except Exception:  # damaged encodings
        return b""
    return content if isinstance(content, bytes) else b""


def _attachment_name(part: EmailMessage, number: int) -> str | None:
    """Return the name of an attachment, safe as part of an id; None for what the mail itself says."""
    kind = part.get_content_type()
    try:
        given, disposition = part.get_filename(), part.get_content_disposition()
    except Exception:  # damaged parameters
        given, disposition = None, "attachment"
    if kind in ("text/plain", "text/html") and disposition != "attachment" and not given:
        return None
    name = PurePosixPath(UNSAFE.sub("_", printable(given or "")).strip(" .")).name
    ending = ".eml" if kind == "message/rfc822" else mimetypes.guess_extension(kind) or ""
    name = name or f"attachment-{number}"
    return name if PurePosixPath(name).suffix else f"{name}{ending}"


def _is_decoration(part: EmailMessage) -> bool:
    """Whether a part is an image that stands inside of the mail's page, such as a logo."""
    return part.get_content_maintype() == "image" and part.get("Content-ID") is not None


def _attachment(part: EmailMessage, name: str, members: Members) -> list[LoadedDocument]:
    if part.get_content_type() == "message/rfc822":
        inner = part.get_payload(0) if part.is_multipart() else None
        content = inner.as_bytes() if isinstance(inner, EmailMessage) else b""
    else:
        content = _payload(part)
    if len(content) > members.room():
        return []
    return members.load(name, content)


def _write_body(part: EmailMessage, builder: TextBuilder) -> None:
    """Append the text of a part; nothing of an empty one."""
    content = _payload(part)
    if not content.strip():
        return
    try:
        charset = str(part.get_content_charset() or "").lower()
        text, warnings = decode(builder.name, content, charset)
        if part.get_content_type() == "text/html":
            builder.document(read_page(builder.name, text, warnings, quoting=True))
        else:
            builder.paragraph(text)
            builder.warnings += warnings
    except StepError as error:
        builder.warnings.append(f"a part of the mail is left out: {error.message}")
