"""Files read piece by piece: the same documents as of the whole file, and little of it in memory."""

from __future__ import annotations

import json
import random
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_kit.tables import rows
from rag_retrieve.documents import LoadedDocument, StepError, load, load_file

LINES = {
    "plain": b'{"id": "a", "text": "one"}\n{"id": "b", "text": "two"}\n',
    "no line end": b'{"text": "one"}\n{"text": "two"}',
    "windows": b'{"text": "one"}\r\n\r\n{"text": "two"}\r\n',
    "marked": b'\xef\xbb\xbf{"text": "one"}\n',
    "umlauts": '{"text": "Größe 5 €"}\n{"title": "東京", "text": "駅"}'.encode(),
    "separators inside": '{"text": "a\u2028b\u0085c"}\n{"text": "d"}'.encode(),
    "broken": b'{"text": "one"}\n{"text": \n[1, 2]\n{"text": "two"}\n',
    "same ids": b'{"id": 7, "text": "one"}\n{"id": 7, "text": "two"}\n{"id": "7", "text": "three"}',
    "no texts": b'{"message": "one"}\n{"a": 1}\n{"title": "only"}\n"a bare text"\n',
    "numbers": b'{"text": "one", "score": NaN}\n{"text": "two", "score": 1e999}',
    "surrogates": b'{"text": "half \\ud83d of it"}',
    "many faults": b"\n".join([b"{"] * 30 + [b'{"text": "one"}'] + [b"}"] * 30),
    "late faults": b"\n".join([b'{"text": "one"}'] * 3 + [b"{"] * 30),
    "latin-1": '{"text": "café"}\n{"text": "Größe"}'.encode("cp1252"),
    "utf-16": '{"text": "one"}\n{"text": "two"}'.encode("utf-16"),
}


def streamed(path: Path, name: str = "") -> list[LoadedDocument]:
    return list(load_file(name or path.name, path).documents)


def told(documents: list[LoadedDocument]) -> list[str]:
    return [warning for document in documents for warning in document.warnings]


def without_warnings(documents: list[LoadedDocument]) -> list[LoadedDocument]:
    from dataclasses import replace

    return [replace(document, warnings=()) for document in documents]


@pytest.mark.parametrize("data", LINES.values(), ids=list(LINES))
def test_lines_are_read_as_in_the_whole_file(tmp_path: Path, data: bytes) -> None:
    """Same ids, texts, metadata and warnings in the same order."""
    path = tmp_path / "r.jsonl"
    path.write_bytes(data)
    whole = load("r.jsonl", data)

    assert without_warnings(streamed(path)) == without_warnings(whole)
    assert told(streamed(path)) == told(whole)


@pytest.mark.parametrize("data", [b"", b" \n\n", b"{\n[\n", b"%PDF-1.7 x", b"\x00\x01\x02" * 9])
def test_a_file_without_records_is_refused_as_the_whole_file_is(
    tmp_path: Path, data: bytes
) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(data)
    with pytest.raises(StepError) as whole:
        load("r.jsonl", data)
    with pytest.raises(StepError) as piecewise:
        streamed(path)

    assert piecewise.value.message == whole.value.message


def test_records_are_read_as_they_are_asked_for(tmp_path: Path) -> None:
    """A file of 8 MB takes less than 3 MB at any time."""
    path = tmp_path / "large.jsonl"
    with path.open("w") as file:
        for number in range(80):
            file.write(json.dumps({"id": number, "text": "word " * 20_000}) + "\n")
    tracemalloc.start()
    count = sum(1 for _ in load_file(path.name, path).documents)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert count == 80
    assert peak < 3 * 2**20


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A document has at most 4,000 bytes, and a part about 1,000."""
    monkeypatch.setattr("rag_retrieve.documents.MAX_DOCUMENT_BYTES", 4000)
    monkeypatch.setattr("rag_retrieve.documents.streams.MAX_DOCUMENT_BYTES", 4000)
    monkeypatch.setattr("rag_retrieve.documents.streams.PART_BYTES", 1000)
    monkeypatch.setattr("rag_retrieve.documents.streams.BLOCK_BYTES", 64)


TEXTS = {
    "paragraphs": "\n\n".join(f"Paragraph {n}: größer, höher, weiter." * 3 for n in range(60)),
    "lines": "\n".join(f"line {n} of the log, 東京" for n in range(400)),
    "windows lines": "".join(f"line {n}\r\n" for n in range(900)),
    "one line": "word " * 1500,
    "blank ends": "\n" * 3000 + "text" + "\n" * 3000,
}


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("text", TEXTS.values(), ids=list(TEXTS))
def test_a_large_text_is_read_in_parts_that_stand_in_the_file(tmp_path: Path, text: str) -> None:
    """Each part says where it begins; what is between parts is blank; none cuts a word's line."""
    path = tmp_path / "a.log"
    path.write_bytes(text.encode())
    parts = streamed(path)

    left = list(text)
    for number, part in enumerate(parts, 1):
        start = part.metadata["first_character"]
        assert isinstance(start, int)
        assert text[start : start + len(part.text)] == part.text
        assert part.metadata["first_line"] == text[:start].count("\n") + 1
        left[start : start + len(part.text)] = [" "] * len(part.text)
        assert len(part.text) <= 2000
        assert part.source == "a.log" and part.content_type == "text/plain"
        assert part.document_id == f"a.log#part-{part.metadata['part']}", number
    assert not "".join(left).strip()
    assert len({part.document_id for part in parts}) == len(parts)


@pytest.mark.usefixtures("small_limits")
def test_each_part_of_a_large_table_has_the_names_of_its_columns(tmp_path: Path) -> None:
    """Quoted cells hold line ends and quotes; every row is in one part, under the same header."""
    header = "City;Note;People"
    lines = [f'Town {n};"a note\nof ""{n}""; two lines";{n * 10}' for n in range(300)]
    path = tmp_path / "towns.csv"
    path.write_text(f"Towns of the world\n{header}\n" + "\n".join(lines) + "\n")
    parts = streamed(path)

    found = []
    for part in parts:
        (table,) = part.tables
        assert table.columns == ("City", "Note", "People") and table.delimiter == ";"
        assert part.metadata["numeric_columns"] == ["People"]
        assert part.warnings == ()
        names, *below = rows(part.text, table.start, table.end, ";", 3)
        assert names.cells == table.columns
        found += [row.cells for row in below]
    assert found == [(f"Town {n}", f'a note\nof "{n}"; two lines', f"{n * 10}") for n in range(300)]
    assert len(parts) > 5


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv", "a.jsonl"])
def test_a_stray_byte_in_a_large_file_costs_that_byte(tmp_path: Path, name: str) -> None:
    """It is read as Windows-1252, once reported with its line; the rest is UTF-8."""
    line = json.dumps({"text": "größer, weiter"}, ensure_ascii=False) if "json" in name else "ö;é"
    lines = [line.encode()] * 1200
    lines[99] = lines[99].replace("ö".encode(), b"\xf6")
    path = tmp_path / name
    path.write_bytes(b"\n".join(lines))
    documents = streamed(path)

    assert [one for one in told(documents) if "UTF-8" in one] == [
        "not valid UTF-8 in 1 places, read as windows-1252 or replaced there, first on line 100"
    ]
    assert all("\N{REPLACEMENT CHARACTER}" not in one.text for one in documents)


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "cp1251", "cp932"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_a_large_file_in_another_encoding_is_refused(
    tmp_path: Path, name: str, encoding: str
) -> None:
    """It cannot be detected without reading all of it; the message says what to do."""
    words = "東京駅" if encoding == "cp932" else "Привет"
    path = tmp_path / name
    path.write_bytes((f'{{"text": "{words}"}}\n' * 400).encode(encoding))
    with pytest.raises(StepError, match="convert it, or split it") as refused:
        streamed(path)

    assert refused.value.code == "document_unreadable"


@pytest.mark.usefixtures("small_limits")
def test_formats_that_cannot_be_cut_keep_their_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"text": "x" * 5000}]))
    with pytest.raises(StepError, match="over the limit of 4000; split the file"):
        streamed(path)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(max_size=60), max_size=12), st.sampled_from(["\n", "\r\n", "\n\n"]))
def test_any_lines_are_read_as_in_the_whole_file(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], end: str
) -> None:
    """Whatever stands in the texts."""
    data = end.join(json.dumps({"text": text}) for text in texts).encode()
    path = tmp_path_factory.mktemp("any") / "r.jsonl"
    path.write_bytes(data)

    def outcome(read: object) -> object:
        try:
            return [(d.document_id, d.text) for d in read()]  # type: ignore[operator]
        except StepError as error:
            return error.message

    assert outcome(lambda: streamed(path)) == outcome(lambda: load("r.jsonl", data))


def test_a_line_that_is_too_long_costs_that_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rag_retrieve.documents.streams.LINE_BYTES", 1000)
    path = tmp_path / "r.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in ("one", "x" * 5000, "two")))
    documents = streamed(path)

    assert [one.text for one in documents] == ["one", "two"]
    assert told(documents) == ["line 2 has more than 1000 bytes; it was left out"]


# -- Parquet ---------------------------------------------------------------------------------


def test_a_table_is_read_by_the_fields_of_records(tmp_path: Path) -> None:
    """`id`, `title`, `text`, `metadata` as a struct or as JSON, other columns; dates as ISO 8601."""
    pa = pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    from datetime import date

    path = tmp_path / "t.parquet"
    table = pa.table(
        {
            "id": ["a", None, "a"],
            "title": ["First", None, None],
            "text": ["one", "two", "three"],
            "metadata": ['{"year": 2024}', "no JSON", None],
            "day": [date(2024, 1, 2), None, None],
            "score": [0.5, float("nan"), None],
        }
    )
    parquet.write_table(table, path, row_group_size=1)
    documents = streamed(path)

    assert [(one.document_id, one.title, one.text, one.metadata) for one in documents] == [
        ("t.parquet#a", "First", "one", {"year": 2024, "day": "2024-01-02", "score": 0.5}),
        ("t.parquet#2", "2", "two", {}),
        ("t.parquet#a-2", "a", "three", {}),
    ]
    assert load_file("t.parquet", path).expected == 3
    assert without_warnings(load("t.parquet", path.read_bytes())) == without_warnings(documents)
    assert any("have the same id 'a'" in warning for warning in told(documents))


def test_a_table_is_never_in_memory_whole(tmp_path: Path) -> None:
    """One row group of 30 MB, as pyarrow writes it, takes less than a third of that at once."""
    pa = pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "t.parquet"
    texts = [random.Random(row).randbytes(500).hex() for row in range(30_000)]
    parquet.write_table(pa.table({"text": texts}), path, compression=None, use_dictionary=False)
    del texts
    before, most = pa.total_allocated_bytes(), 0
    for _ in load_file("t.parquet", path).documents:
        most = max(most, pa.total_allocated_bytes() - before)

    assert 0 < most < path.stat().st_size / 3


@pytest.mark.parametrize("damage", [slice(0, 40), slice(8, None), slice(0, -9)])
def test_a_damaged_table_is_refused(tmp_path: Path, damage: slice) -> None:
    pa = pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "t.parquet"
    parquet.write_table(pa.table({"text": ["one", "two"]}), path)
    path.write_bytes(path.read_bytes()[damage])
    with pytest.raises(StepError) as refused:
        streamed(path)

    assert refused.value.code == "document_unreadable"
