"""The date of a document."""

from __future__ import annotations

import io
from datetime import datetime
from pathlib import Path

import docx
import pytest
from pypdf import PdfWriter
from reportlab.pdfgen import canvas

from rag_retrieve import Retriever, RetrieveRequest
from rag_retrieve.documents import load
from rag_retrieve.documents.dated import date_of


@pytest.mark.parametrize(
    ("name", "text", "date"),
    [
        ("a.md", "---\ndate: 2024-03-15\n---\nText.", "2024-03-15"),
        ("a-2020.md", "---\nlast_updated: 15 March 2024\n---\nText.", "2024-03-15"),
        ("a.md", "---\nEffective Date: 2024-03\ndate: 2020-01-01\n---\nText.", "2024-03"),
        ("a.md", "---\nyear: 2024\n---\nText.", "2024"),
        ("a.md", "---\ndate: soon\n---\nText.", None),
        ("2024-03-15-minutes.txt", "Text.", "2024-03-15"),
        ("minutes_20240315.txt", "Text.", "2024-03-15"),
        ("rules-2024.03.txt", "Text.", "2024-03"),
        ("rules 2024 v2.txt", "Text.", "2024"),
        ("order-2024001.txt", "Text.", None),
        ("rev-2024-99.txt", "Text.", "2024"),
        ("a.txt", "Price list\n\nAs of 15 March 2024\n\nText.", "2024-03-15"),
        ("a.txt", "Last updated: 2024-03-15.\nText.", "2024-03-15"),
        ("a.txt", "Preisliste, Stand: März 2024\n", "2024-03"),
        ("a.txt", "Effective from May 1, 2025, the rules are new.", "2025-05-01"),
        ("a.txt", "In 2024 there were 12 of them. See page 2023.", None),
        ("archive/2019/sub/a.txt", "Text.", "2019"),
        ("2019/a-2024.txt", "Text.", "2024"),
    ],
)
def test_the_date_is_where_people_write_it(name: str, text: str, date: str | None) -> None:
    """Metadata before the file's name before the text before folders."""
    (document,) = load(name, text.encode())

    assert date_of(document) == date


def test_word_and_pdf_say_when_they_were_changed() -> None:
    """In metadata; the name of the file is better."""
    word = docx.Document()
    word.add_paragraph("Text of the document.")
    word.core_properties.author = "Ann"
    word.core_properties.modified = datetime(2024, 3, 15)
    buffer = io.BytesIO()
    word.save(buffer)
    page = io.BytesIO()
    drawing = canvas.Canvas(page)
    drawing.drawString(72, 700, "Text of the document.")
    drawing.save()
    writer = PdfWriter(clone_from=page)
    writer.add_metadata({"/ModDate": "D:20240315103000+01'00'"})
    pdf = io.BytesIO()
    writer.write(pdf)

    for name, data in (("a.docx", buffer), ("a.pdf", pdf)):
        (document,) = load(name, data.getvalue())
        assert document.metadata["modified"] == "2024-03-15"
        assert date_of(document) == "2024-03-15"
        assert date_of(load(f"2020/{name}", data.getvalue())[0]) == "2020"


def test_results_have_the_date(retriever: Retriever, tmp_path: Path) -> None:
    """Absent where there is none."""
    (tmp_path / "rules-2024.txt").write_text("Rules for bicycles.")
    (tmp_path / "rules.txt").write_text("Rules for cars.")
    retriever.ingest([tmp_path / "rules-2024.txt", tmp_path / "rules.txt"])

    found = retriever.retrieve(RetrieveRequest(query="rules")).results

    assert {one.document_id: one.date for one in found} == {
        "rules-2024.txt": "2024", "rules.txt": None,
    }  # fmt: skip
    assert ["date" in one.model_dump() for one in found if one.date is None] == [False]
