"""JSON and JSON Lines: a document per record that has a text, else the file as it is."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from pydantic import JsonValue

from .document import LoadedDocument, decode, stem, unreadable

ID_FIELDS = ("_id", "id")
TEXT_FIELDS = ("text", "content", "body")
JSON = "application/json"
JSON_LINES = "application/x-ndjson"


def read_jsonl(name: str, data: bytes) -> list[LoadedDocument]:
    """Read one record per line; blank lines are skipped.

    Raises:
        StepError: `document_unreadable` naming the line: no valid JSON, no object, no text, or an
            id that an earlier line has.
    """
    records = []
    for number, line in enumerate(decode(name, data).split("\n"), 1):
        if line.strip():
            records.append((f"line {number}", str(number), _parse(name, line, f"line {number}")))
    return _documents(name, records, JSON_LINES)


def read_json(name: str, data: bytes) -> list[LoadedDocument]:
    """Read an array of records, or one record; any other JSON is one document, text as it is."""
    text = decode(name, data)
    value = _parse(name, text, None)
    if isinstance(value, list) and any(_has_text(item) for item in value):
        numbered = [(f"item {n}", str(n), item) for n, item in enumerate(value, 1)]
        return _documents(name, numbered, JSON)
    if _has_text(value):
        return [_document(name, "the object", None, value, JSON)]
    title = value.get("title") if isinstance(value, dict) else None
    named = title if isinstance(title, str) and title.strip() else stem(name)
    return [LoadedDocument(name, named, name, text, JSON)]


def _parse(name: str, text: str, place: str | None) -> Any:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no JSON number")

    def finite(number: str) -> float:
        value = float(number)
        return value if math.isfinite(value) else refuse(number)

    try:
        value = json.loads(text, parse_constant=refuse, parse_float=finite)
    except json.JSONDecodeError as error:
        place = place or f"line {error.lineno}"
        why = f"{error.msg}, at column {error.colno}"
    except RecursionError:
        why = "nested too deep"
    except ValueError as error:
        why = str(error)
    else:
        return value
    raise unreadable(name, f"{place or 'it'} is not valid JSON ({why})")


def _has_text(record: Any) -> bool:
    return isinstance(record, dict) and any(_is_text(record.get(key)) for key in TEXT_FIELDS)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _documents(
    name: str, records: list[tuple[str, str, Any]], content_type: str
) -> list[LoadedDocument]:
    """Make a document of each (place, number, record), refusing an id that comes twice."""
    places: dict[str, str] = {}
    documents = []
    for place, number, record in records:
        document = _document(name, place, number, record, content_type)
        first = places.setdefault(document.document_id, place)
        if first != place:
            key = document.document_id.removeprefix(f"{name}#")
            unreadable(name, f"{first} and {place} have the same id {key!r}; ids must differ")
        documents.append(document)
    return documents


def _document(
    name: str, place: str, number: str | None, record: Any, content_type: str
) -> LoadedDocument:
    """Make a document of one record; without `number` it is the file's only one."""
    if not isinstance(record, dict):
        unreadable(name, f"{place} is {type(record).__name__}, not an object with a text")
    key = next((record[field] for field in ID_FIELDS if record.get(field) is not None), number)
    if isinstance(key, bool) or not isinstance(key, str | int | None) or key == "":
        unreadable(name, f"{place} has the id {key!r}; it must be a text or a whole number")
    title = record["title"].strip() if _is_text(record.get("title")) else ""
    candidates = (record.get(field) for field in (*TEXT_FIELDS, "title"))
    text = next((value for value in candidates if _is_text(value)), None)
    if text is None:
        unreadable(
            name, f"{place} has no text; give it a field {', '.join(TEXT_FIELDS[:-1])} or body"
        )
    document = LoadedDocument(
        name if number is None else f"{name}#{key}",
        title or (stem(name) if number is None else str(key)),
        name,
        text,
        content_type,
        metadata=_metadata(record, text),
    )
    _check_encodable(name, place, record)
    return document


def _metadata(record: dict[str, Any], text: str) -> dict[str, JsonValue]:
    """Return the `metadata` object and the other scalar fields, or lists of scalars, beside it."""
    used = {*ID_FIELDS, "title", "metadata", *(f for f in TEXT_FIELDS if record.get(f) is text)}
    nested = record.get("metadata")
    metadata = {
        field: value for field, value in record.items() if field not in used and _flat(value)
    }
    return metadata | nested if isinstance(nested, dict) else metadata


def _flat(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(item, str | int | float) for item in value)
    return isinstance(value, str | int | float)


def _check_encodable(name: str, place: str, record: dict[str, Any]) -> None:
    """Refuse half a surrogate pair, which JSON can escape but no file can hold."""
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        unreadable(name, f"{place} holds half of a surrogate pair (\\ud800-\\udfff); remove it")
