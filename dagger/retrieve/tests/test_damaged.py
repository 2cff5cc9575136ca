"""Damaged, hostile and oversized files: each is read or refused with a reason, never a crash."""

from __future__ import annotations

import gzip
import io
import os
import random
import zipfile
from pathlib import Path

import docx
import office_kit as kit
import pytest
from reportlab.pdfgen import canvas

from rag_retrieve import Retriever, StepError
from rag_retrieve.documents import load


def word() -> bytes:
    """Return a Word file with headings, a list and a table."""
    document = docx.Document()
    document.add_heading("Pumps", 1)
    document.add_paragraph("The pump runs.", style="List Number")
    table = document.add_table(2, 2)
    table.cell(0, 0).text = "Item"
    buffer = io.BytesIO()
    document.save(buffer)
    return buffer.getvalue()


def pdf() -> bytes:
    """Return a PDF of two pages."""
    buffer = io.BytesIO()
    drawing = canvas.Canvas(buffer)
    for page in range(2):
        drawing.drawString(72, 700, f"The pump on page {page} runs day and night.")
        drawing.showPage()
    drawing.save()
    return buffer.getvalue()


SEEDS = {
    "a.docx": word(),
    "a.pdf": pdf(),
    "a.html": b"<h1>Pumps</h1><table><tr><td rowspan=2>a<td>b<tr><td>c</table><p hidden>x<ul><li>y",
    "a.md": b"---\na: [1, 2]\n---\n# A\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```\ncode\n```\n<!-- c -->~~s~~",
    "a.csv": b'id;note\n1;"two\nlines"\n2;plain\n',
    "a.json": b'[{"id": 1, "text": "a"}, {"id": 2, "text": "b", "metadata": {"x": [1]}}]',
    "a.jsonl": b'{"id": 1, "text": "a"}\n{"id": 2, "text": "b"}\n',
    "a.rst": b"A\n=\n\n.. note:: x\n\n.. comment\n\ntext\n",
    "a.txt": "Grüße aus Köln.\n".encode(),
    "a.xlsx": kit.xlsx({"S": [["a", "b", "c"], ["x", 1, 2]]}),
    "a.xls": kit.XLS,
    "a.ods": kit.open_document("<table:table/>", kind="spreadsheet"),
    "a.pptx": kit.pptx(
        [kit.shape("One.") + kit.table([["a", "b"], ["c", "d"]])], notes={1: "Two."}
    ),
    "a.odt": kit.open_document("<text:p>One.</text:p>"),
    "a.epub": kit.epub({"a.xhtml": "<p>One.</p>"}),
    "a.rtf": rb"{\rtf1\ansi{\fonttbl{\f0 A;}}One \'e9\u8364?{\*\x y}\trowd a\cell b\cell\row\par}",
    "a.eml": b"Subject: a\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\none\n--b\n\ntwo\n--b--\n",
    "a.mbox": b"From a Fri Mar 15 14:30:00 2024\nSubject: a\n\none\n",
    "a.ipynb": b'{"cells": [{"cell_type": "code", "source": ["a"], "outputs": [{"text": "b"}]}]}',
    "a.xml": b"<a b='c'><d>one</d><d>two <e>three</e></d></a>",
    "a.yaml": b"a:\n  b: |\n    c\n",
    "a.org": b"* A\n# b\n| a | b |\n|---+---|\n| 1 | 2 |\n",
    "a.tex": b"\\title{A}\n\\begin{document}\n\\section{B}\n% c\n\\end{document}\n",
    "a.py": b'"""A."""\n\n# B\ndef c():\n    return "d"\n',
    "a.zip": kit.zipped({"a.txt": "One.", "b/c.csv": "a,b\n1,2\n"}),
    "a.txt.gz": gzip.compress(b"One."),
}
PIECES = [
    b"\0",
    b"\xff\xfe",
    b"<",
    b">",
    b'"',
    b"[",
    b"{",
    b"\r",
    b"\xed\xa0\x80",
    b"9" * 40,
    b"&#0;",
]


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Return the bytes with one to four changes: cut, doubled, replaced, or something put in."""
    for _ in range(chance.randint(1, 4)):
        start, end = sorted(chance.randrange(len(data) + 1) for _ in range(2))
        data = chance.choice(
            [
                data[:start],
                data[:start] + data[end:],
                data[:end] + data[start:],
                data[:start] + chance.choice(PIECES) + data[start:],
                data[:start] + chance.randbytes(min(8, end - start)) + data[start + 8 :],
            ]
        )
    return data


@pytest.mark.parametrize("name", SEEDS)
def test_a_damaged_file_is_read_or_refused(name: str) -> None:
    """Whatever is wrong with it, there is a reason; what is read can be stored."""
    chance = random.Random(name)
    for _ in range(60):
        data = damaged(SEEDS[name], chance)
        try:
            documents = load(name, data)
        except StepError as error:
            assert error.code == "document_unreadable"
            continue
        for document in documents:
            document.text.encode()
            assert all(0 <= heading.offset <= len(document.text) for heading in document.headings)
            assert all(t.start < t.end <= len(document.text) for t in document.tables)


def test_entities_of_a_word_file_are_not_expanded() -> None:
    """A part that would grow to gigabytes is refused or read without them."""
    lines = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    evil = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e0 "lol">{lines}]>'
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(SEEDS["a.docx"])) as source,
        zipfile.ZipFile(buffer, "w") as target,
    ):
        for part in source.namelist():
            data = source.read(part)
            if part == "word/document.xml":
                body = data.partition(b"?>")[2].replace(b"The pump runs.", b"&e11;")
                data = evil.encode() + body
            target.writestr(part, data)
    try:
        (document,) = load("a.docx", buffer.getvalue())
    except StepError as error:
        assert error.code == "document_unreadable"
    else:
        assert len(document.text) < 10_000


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("huge.pdf", "1073741824 bytes is over the limit"),
        ("huge.txt", "it is no text in UTF-8"),  # would be read in parts, if it were a text
    ],
)
def test_a_huge_file_is_refused_before_it_is_read(
    retriever: Retriever, tmp_path: Path, name: str, reason: str
) -> None:
    """By its size on disk, or by its first bytes: it takes no memory."""
    huge = tmp_path / name
    with huge.open("wb") as file:
        file.truncate(1 << 30)

    (failure,) = retriever.ingest([huge]).failed

    assert failure.code == "document_unreadable"
    assert reason in failure.message


def test_what_is_no_file_is_refused(retriever: Retriever, tmp_path: Path) -> None:
    """A pipe would be waited for and a device never ends."""
    pipe = tmp_path / "pipe.txt"
    os.mkfifo(pipe)

    (failure,) = retriever.ingest([pipe]).failed

    assert "no regular file" in failure.message
