"""What becomes metadata, with which types, and which names are searched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_retrieve import Retriever, RetrieveRequest
from rag_retrieve.documents import load
from rag_retrieve.documents.names import name_words, with_name
from rag_retrieve.documents.tabular import row_values
from rag_retrieve.documents.values import numbers, typed


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("2024", 2024), ("-3", -3), ("0", 0), ("9.5", 9.5), ("true", True), ("False", False),
        ("1.10", "1.10"), ("01067", "01067"), ("1e5", "1e5"), ("-0", "-0"), ("+49", "+49"),
        ("1_000", "1_000"), ("0x1F", "0x1F"), ("no", "no"), ("12:30", "12:30"), (".5", ".5"),
        ("2024-03-15", "2024-03-15"), ("12345678901234567890", "12345678901234567890"),
        ("null", None), ("~", None),
    ],
)  # fmt: skip
def test_a_value_is_a_number_only_where_it_is_written_as_one(written: str, value: Any) -> None:
    """Versions, postal codes, telephone numbers and long ids keep their characters."""
    (document,) = load("a.md", f"---\nkey: {written}\n---\nText.\n".encode())

    assert document.metadata == {"key": value}
    assert type(document.metadata["key"]) is type(value)


@given(st.text("0123456789.-+eE", max_size=12))
def test_a_number_can_be_written_back(text: str) -> None:
    """Nothing of what stands in the file is lost."""
    value = typed(text)

    assert value is None or str(value) == text


def test_front_matter_keeps_lists_objects_and_quotes() -> None:
    """YAML as it is nested; a quoted number is text."""
    text = (
        '---\ntitle: 2024\ntags: [hr, "1.10", 3]\nauthors:\n- Ann\n- name: Bob\n'
        'note: |\n  two\n  lines\nid: "7"\nempty:\n---\nText.\n'
    )
    (document,) = load("a.md", text.encode())

    assert document.title == "2024"
    assert document.metadata == {
        "tags": ["hr", "1.10", 3], "authors": ["Ann", {"name": "Bob"}], "note": "two\nlines\n",
        "id": "7", "empty": None,
    }  # fmt: skip


def test_toml_front_matter_is_read() -> None:
    """Between `+++`, as Hugo writes it; dates become text."""
    text = '+++\ntitle = "T"\ndate = 2024-03-15\nversion = 1.10\ntags = ["a", 1]\n+++\nText.\n'
    (document,) = load("a.md", text.encode())

    assert document.title == "T"
    assert document.metadata == {"date": "2024-03-15", "version": "1.10", "tags": ["a", 1]}


@pytest.mark.parametrize(
    "source",
    [
        "good: 1\nbad: [1, 2",
        "good: 1\nbad: a: b: c",
        "good: 1\nbase: &x [1]\nother: *x",
        "good: 1\nbad: " + "[" * 100_000,
        "good: 1\nbad: " + "{a: " * 50_000,
        "good: 1\nbad:\n " + "- " * 50_000,
        "good: 1\nbad: {" + "a: {" * 30 + "}" * 31,
        'good: 1\n"\\ud800": 1',
        "good: 1\n\tbad: 1",
        "good: 1\na: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]",
    ],
    ids=lambda source: source[8:24],
)
def test_broken_front_matter_costs_its_broken_lines(source: str) -> None:
    """A warning says what is wrong; lines that are `key: value` are read, and so is the text.

    However deep the nesting is: read to its end it would take hours.
    """
    (document,) = load("a.md", f"---\n{source}\n---\nText.\n".encode())

    assert document.metadata["good"] == 1
    assert "front matter is not valid YAML" in document.warnings[0]
    assert document.text.endswith("Text.\n")


@pytest.mark.parametrize(
    ("cells", "comma", "expected"),
    [
        (["189", "39.50", ""], False, [189, 39.5]),
        (["1,500", "20"], False, [1500, 20]),
        (["2,5", "1.500,25", "3"], True, [2.5, 1500.25, 3]),
        (["19.90", "5.00"], False, [19.9, 5.0]),
        (["1.9", "1.10"], False, []),
        (["01067", "10115"], False, []),
        (["12", "n/a"], False, []),
        (["", ""], False, []),
    ],
)
def test_a_column_is_of_numbers_when_every_cell_is_one(
    cells: list[str], comma: bool, expected: list[float]
) -> None:
    """Prices are, with either decimal mark; versions, postal codes and mixed columns are not."""
    assert list(numbers(cells, comma=comma).values()) == expected


def test_rows_are_filtered_by_their_columns(retriever: Retriever, tmp_path: Path) -> None:
    """A passage has the values of its rows; numbers as numbers, codes as text."""
    file = tmp_path / "items.csv"
    file.write_text("item,price,zip\nOffice chair,189,01067\nDesk lamp,39,10115\n")
    retriever.ingest([file])

    def found(condition: dict[str, Any]) -> int:
        request = RetrieveRequest(query="furniture", filters=condition)
        return len(retriever.retrieve(request).results)

    assert found({"price": {"$gt": 100}}) == 1
    assert found({"price": {"$gt": 189}}) == 0
    assert found({"zip": "01067"}) == 1
    assert found({"zip": 1067}) == 0
    assert found({"item": "Desk lamp"}) == 1


def test_the_rows_of_a_passage_are_its_own() -> None:
    """A long table's passage has only the values that stand in it."""
    text = "id;kg\n" + "".join(f"P{n};{n},5\n" for n in range(50))
    (document,) = load("a.csv", text.encode())
    (table,) = document.tables
    part = table._replace(start=text.index("P3;"), end=text.index("P5;"))

    assert row_values(document, [part]) == {"id": ["P3", "P4"], "kg": [3.5, 4.5]}


def test_name_words_are_those_of_folders_and_file() -> None:
    """Marks and humps part them; the extension is none."""
    assert name_words("docs/LeaseKingsRoad_v2.PDF") == ["docs", "Lease", "Kings", "Road", "v", "2"]
    assert name_words("日本/経費.txt") == ["日本", "経費"]
    assert name_words("") == []
    assert with_name("docs/mill-lane.txt", "The mill is old.") == "docs lane The mill is old."


@pytest.mark.parametrize("mode", ["sparse", "hybrid"])
def test_what_only_the_name_says_is_found(retriever: Retriever, tmp_path: Path, mode: str) -> None:
    """The name of the file, and of a folder above it."""
    for year in (2023, 2024, 2025):
        for street in ("mill-lane", "oakSquare", "North End"):
            file = tmp_path / "leases" / str(year) / f"{street}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("The monthly rent is due on the third day of the month.")
    retriever.ingest([tmp_path / "leases"])

    for question, first in (
        ("When is the rent for Oak Square due in 2024?", "leases/2024/oakSquare.txt"),
        ("mill lane 2025", "leases/2025/mill-lane.txt"),
        ("2023 north end rent", "leases/2023/North End.txt"),
    ):
        request = RetrieveRequest.model_validate({"query": question, "retrieve": {"mode": mode}})
        assert retriever.retrieve(request).results[0].document_id == first
