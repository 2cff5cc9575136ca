"""Parquet: one document a row, by the same fields as records of JSON (extra `parquet`)."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from datetime import date, datetime, time
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .document import LoadedDocument, tidy, unreadable
from .records import Record, documents_of
from .streams import Reading

PARQUET = "application/vnd.apache.parquet"
HINT = "install the extra with: pip install 'rag-retrieve[parquet]'"
ROWS = 256  # read at once
BUFFER_BYTES = 2**20  # of a column; without a buffer, or read ahead, all of it is in memory


def is_available() -> bool:
    """Tell whether what reads Parquet is installed."""
    return find_spec("pyarrow") is not None


def read_parquet(name: str, data: bytes) -> list[LoadedDocument]:
    """Read a table with a column `text`, `content` or `body`, and `id`, `title`, `metadata` if it has them.

    Raises:
        StepError: `document_unreadable`: no Parquet, damaged, or no row has a text.
    """
    return list(_reading(name, io.BytesIO(data)).documents)


def stream_parquet(name: str, path: Path) -> Reading:
    """Read a table of any size, some rows at a time; as `read_parquet` does."""
    return _reading(name, str(path))


def _reading(name: str, source: Any) -> Reading:
    if not is_available():
        unreadable(name, f"it is a Parquet table; {HINT}")
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        table = ParquetFile(source, buffer_size=BUFFER_BYTES, pre_buffer=False)
    except pyarrow.ArrowException as error:
        unreadable(name, f"it is no Parquet table, or damaged ({tidy(str(error))})")
    warnings: list[str] = []
    documents = documents_of(name, _records(name, table), PARQUET, warnings)
    return Reading(table.metadata.num_rows, documents)


def _records(name: str, table: Any) -> Iterator[Record]:
    import pyarrow

    number = 0
    try:
        for batch in table.iter_batches(batch_size=ROWS, use_threads=False):
            for row in batch.to_pylist(maps_as_pydicts="lossy"):
                number += 1
                yield Record(f"row {number}", str(number), _record(row))
    except (pyarrow.ArrowException, OSError) as error:
        unreadable(name, f"it cannot be read beyond row {number} ({tidy(str(error))})")


def _record(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row as a record of JSON; metadata may be a column of JSON texts."""
    record: dict[str, Any] = _plain(row)
    if isinstance(nested := record.get("metadata"), str):
        try:
            told = json.loads(nested)
        except ValueError:
            told = None
        if isinstance(told, dict):
            record["metadata"] = _plain(told)
    return record


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: dates as ISO 8601, no NaN, no bytes."""
    if isinstance(value, dict):
        plain = {str(key): _plain(one) for key, one in value.items()}
        return {key: one for key, one in plain.items() if one is not None}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        value = int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
