"""JSON, JSON Lines and Parquet: a document per record that has a text, else the file as it is.

A record that cannot be read is left out and reported; the others are read.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import JsonValue

from .document import MAX_WARNINGS, LoadedDocument, first_warnings, stem, unreadable
from .encoding import decode
from .streams import Reading, lines_in, utf8_file

ID_FIELDS = ("_id", "id")
TEXT_FIELDS = ("text", "content", "body")
OTHER_TEXT_FIELDS = ("message", "description", "comment", "answer", "summary")
LEFT_OUT = "it was left out"
NO_TEXT = "has no text in a field text, content or body"
JSON = "application/json"
JSON_LINES = "application/x-ndjson"
SURROGATE = re.compile("[\ud800-\udfff]")
BETWEEN = re.compile(r"[\s,]*")
NEXT_RECORD = re.compile(r"\}\s*,?\s*(?=\{)")
MAX_BROKEN = 1000  # records of one array; what comes after is left out


class Record(NamedTuple):
    """One record: where it stands, its number as an id ("" for the only one), and its value."""

    place: str
    number: str
    value: Any


def read_jsonl(name: str, data: bytes) -> list[LoadedDocument]:
    """Read one record per line; blank lines are skipped, broken ones left out and reported.

    Raises:
        StepError: `document_unreadable`: no line can be read; the message names the first one.
    """
    text, decoding = decode(name, data)
    warnings = list(decoding)
    records = list(_lines(enumerate(text.split("\n"), 1), warnings))
    return _documents(name, records, JSON_LINES, warnings)


def stream_jsonl(name: str, path: Path) -> Reading:
    """Read a file of one record per line, of any size, a line at a time; as `read_jsonl` does."""
    found = utf8_file(name, path)
    if found is None:
        return Reading.whole(read_jsonl(name, path.read_bytes()))
    warnings = list(found.warnings)
    records = _lines(lines_in(path, warnings), warnings)
    return Reading(found.lines, documents_of(name, records, JSON_LINES, warnings))


def _lines(lines: Iterable[tuple[int, str]], warnings: list[str]) -> Iterator[Record]:
    """Yield the records of numbered lines."""
    for number, line in lines:
        if line.strip():
            place = f"line {number}"
            value, why = _parse(line, place, warnings)
            if why:
                warnings.append(f"{place} is not valid JSON ({why}); {LEFT_OUT}")
            else:
                yield Record(place, str(number), value)


def read_json(name: str, data: bytes) -> list[LoadedDocument]:
    """Read an array of records, or one record; any other JSON is one document, text as it is.

    Of an array that breaks off or holds a broken record, the other records are read.
    """
    text, decoding = decode(name, data)
    warnings = list(decoding)
    value, why = _parse(text, "it", warnings)
    if why:
        records = list(_salvaged(text, warnings))
        if not any(_has_text(record.value) for record in records):
            unreadable(name, f"it is not valid JSON ({why})")
        return _documents(name, records, JSON, warnings)
    if isinstance(value, list) and any(_has_text(item) for item in value):
        records = [Record(f"item {n}", str(n), item) for n, item in enumerate(value, 1)]
        return _documents(name, records, JSON, warnings)
    if _has_text(value):
        return _documents(name, [Record("the object", "", value)], JSON, warnings)
    title = value.get("title") if isinstance(value, dict) else None
    named = title if isinstance(title, str) and title.strip() else stem(name)
    return [LoadedDocument(name, named, name, text, JSON, warnings=decoding)]


def _decoder(place: str, warnings: list[str]) -> json.JSONDecoder:
    def drop(constant: str) -> None:
        warnings.append(f"{place} holds {constant}, which is no JSON number; it was read as null")

    def finite(number: str) -> float | None:
        value = float(number)
        if math.isfinite(value):
            return value
        drop(number)
        return None

    return json.JSONDecoder(parse_constant=drop, parse_float=finite)


def _parse(text: str, place: str, warnings: list[str]) -> tuple[Any, str]:
    """Return the value and "", or None and why the text is not valid JSON."""
    return _guarded(lambda: _decoder(place, warnings).decode(text))


def _guarded(parse: Callable[[], Any]) -> tuple[Any, str]:
    try:
        return parse(), ""
    except json.JSONDecodeError as error:
        return None, f"{error.msg}, at line {error.lineno} column {error.colno}"
    except RecursionError:
        return None, "nested too deep"
    except ValueError as error:
        return None, str(error)


def _salvaged(text: str, warnings: list[str]) -> Iterator[Record]:
    """Yield the records of a broken array, or of values that follow each other without one."""
    is_array = text.lstrip()[:1] == "["
    at = text.index("[") + 1 if is_array else 0
    broken = 0
    for number in range(1, len(text)):
        between = BETWEEN.match(text, at)
        at = between.end() if between else at
        if at >= len(text) or text[at] == "]":
            return
        place = f"item {number}"
        found, why = _guarded(partial(_decoder(place, warnings).raw_decode, text, at))
        if not why:
            value, at = found
            yield Record(place, str(number), value)
            continue
        warnings.append(f"{place} is not valid JSON ({why}); {LEFT_OUT}")
        broken += 1
        following = NEXT_RECORD.search(text, at) if is_array else None
        if not following or broken > MAX_BROKEN:
            return
        at = following.end()


def _has_text(record: Any) -> bool:
    return isinstance(record, dict) and any(_is_text(record.get(key)) for key in TEXT_FIELDS)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _documents(
    name: str, records: Iterable[Record], content_type: str, warnings: list[str]
) -> list[LoadedDocument]:
    """Make a document of each record that can be read; the first one carries the warnings.

    Raises:
        StepError: `document_unreadable`: none can be read; the message is the first warning.
    """
    documents = list(_readable(name, records, content_type, warnings))
    documents[0] = replace(documents[0], warnings=first_warnings(warnings))
    return documents


def documents_of(
    name: str, records: Iterable[Record], content_type: str, warnings: list[str]
) -> Iterator[LoadedDocument]:
    """Yield a document for each record that can be read, as the records come.

    Args:
        name: The file.
        records: Its records; they are read one ahead.
        content_type: Of the file.
        warnings: Filled while the records are read; each document carries those that came before it.

    Raises:
        StepError: `document_unreadable`: none can be read; the message is the first warning.
    """
    told, before = 0, None
    for document in _readable(name, records, content_type, warnings):
        if before is not None:
            yield before
        new = tuple(warnings[told:MAX_WARNINGS])
        told += len(new)
        before = replace(document, warnings=new)
    if before is not None:
        yield replace(before, warnings=(*before.warnings, *first_warnings(warnings)[told:]))


def _readable(
    name: str, records: Iterable[Record], content_type: str, warnings: list[str]
) -> Iterator[LoadedDocument]:
    places: dict[str, str] = {}
    for record in records:
        document = _document(name, record, content_type, warnings)
        if document is not None:
            yield _with_own_id(document, record.place, places, warnings)
    if not places:
        unreadable(name, next((why for why in warnings if why.endswith(LEFT_OUT)), "it is empty"))


def _with_own_id(
    document: LoadedDocument, place: str, places: dict[str, str], warnings: list[str]
) -> LoadedDocument:
    """Return the document under an id that no record before it has."""
    own, repeats = document.document_id, 1
    while own in places:
        repeats += 1
        own = f"{document.document_id}-{repeats}"
    places[own] = place
    if repeats == 1:
        return document
    key = document.document_id.removeprefix(f"{document.source}#")
    first = places[document.document_id]
    warnings.append(f"{first} and {place} have the same id {key!r}; {place} is kept as '{own}'")
    return replace(document, document_id=own)


def _document(
    name: str, record: Record, content_type: str, warnings: list[str]
) -> LoadedDocument | None:
    """Make a document of one record, or report why it has none."""
    place, number, value = record
    value = {"text": value} if _is_text(value) else value
    if not isinstance(value, dict):
        kind = type(value).__name__
        warnings.append(f"{place} is {kind}, not an object with a text; {LEFT_OUT}")
        return None
    value = _encodable(value, place, warnings)
    text = _text(value, place, warnings)
    if not text:
        return None
    key = _key(value, place, number, warnings)
    title = value["title"].strip() if _is_text(value.get("title")) else ""
    return LoadedDocument(
        f"{name}#{key}" if number else name,
        title or (key if number else stem(name)),
        name,
        text,
        content_type,
        metadata=_metadata(value, text),
    )


def _text(record: dict[str, Any], place: str, warnings: list[str]) -> str:
    """Return the text of a record: a text field, its title, another field, or all its fields."""
    for field in (*TEXT_FIELDS, *OTHER_TEXT_FIELDS, "title"):
        if _is_text(record.get(field)):
            if field in OTHER_TEXT_FIELDS:
                warnings.append(f"{place} {NO_TEXT}; its field {field!r} was read")
            return str(record[field])
    fields = [
        f"{field}: {value}"
        for field, value in record.items()
        if field not in ID_FIELDS and (_is_text(value) or isinstance(value, int | float))
    ]
    done = "its other fields were read" if fields else LEFT_OUT
    warnings.append(f"{place} {NO_TEXT}; {done}")
    return "\n".join(fields)


def _key(record: dict[str, Any], place: str, number: str, warnings: list[str]) -> str:
    key = next((record[field] for field in ID_FIELDS if record.get(field) is not None), number)
    if isinstance(key, str | int) and not isinstance(key, bool) and (key != "" or not number):
        return str(key)
    warnings.append(
        f"{place} has the id {key!r}, which is no text and no whole number; "
        f"it is kept as {number or 'the file'}"
    )
    return number


def _metadata(record: dict[str, Any], text: str) -> dict[str, JsonValue]:
    """Return the `metadata` object and the other scalar fields, or lists of scalars, beside it."""
    texts = (f for f in (*TEXT_FIELDS, *OTHER_TEXT_FIELDS) if record.get(f) is text)
    used = {*ID_FIELDS, "title", "metadata", *texts}
    nested = record.get("metadata")
    metadata = {
        field: value for field, value in record.items() if field not in used and _flat(value)
    }
    return metadata | nested if isinstance(nested, dict) else metadata


def _flat(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(item, str | int | float) for item in value)
    return isinstance(value, str | int | float)


def _encodable(record: dict[str, Any], place: str, warnings: list[str]) -> dict[str, Any]:
    """Replace half a surrogate pair, which JSON can escape but no file can hold."""
    text = json.dumps(record, ensure_ascii=False)
    if not SURROGATE.search(text):
        return record
    warnings.append(f"{place} holds half of a surrogate pair (\\ud800-\\udfff); it was replaced")
    mended: dict[str, Any] = json.loads(SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text))
    return mended
