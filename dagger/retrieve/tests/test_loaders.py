"""Every format on real files, and every way in which a file can be bad."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable

import docx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pypdf import PdfReader, PdfWriter
from reportlab.pdfgen.canvas import Canvas

from rag_kit.errors import StepError
from rag_retrieve.documents import (
    MAX_DOCUMENT_BYTES,
    SUPPORTED_SUFFIXES,
    LoadedDocument,
    load,
    page_of,
)

READABLE = b"Some words that any format can hold.\n"


def one(name: str, data: str | bytes) -> LoadedDocument:
    """Load a file that holds one document."""
    (document,) = load(name, data.encode() if isinstance(data, str) else data)
    return document


def refusal(name: str, data: str | bytes) -> str:
    """Return the message with which a file is refused."""
    with pytest.raises(StepError) as caught:
        load(name, data.encode() if isinstance(data, str) else data)
    assert caught.value.code == "document_unreadable"
    assert repr(name) in caught.value.message
    return caught.value.message


def make_pdf(pages: list[str], title: str | None = None) -> bytes:
    """Draw a PDF with one line of text per page; an empty line gives a page without text."""
    buffer = io.BytesIO()
    canvas = Canvas(buffer)
    if title:
        canvas.setTitle(title)
    for text in pages:
        if text:
            canvas.drawString(72, 720, text)
        else:
            canvas.rect(72, 72, 400, 600, fill=1)
        canvas.showPage()
    canvas.save()
    return buffer.getvalue()


def encrypt(pdf: bytes, user_password: str) -> bytes:
    """Encrypt a PDF with RC4, which pypdf can do without further packages."""
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(pdf)))
    writer.encrypt(user_password, "owner", algorithm="RC4-128")
    buffer = io.BytesIO()
    writer.write(buffer)
    return buffer.getvalue()


def make_docx(build: Callable[[docx.document.Document], None], title: str = "") -> bytes:
    """Save a Word document that `build` has filled."""
    document = docx.Document()
    document.core_properties.title = title
    build(document)
    buffer = io.BytesIO()
    document.save(buffer)
    return buffer.getvalue()


def make_zip(parts: dict[str, bytes]) -> bytes:
    """Pack parts into a zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return buffer.getvalue()


# text


VISIBLE = st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufeff")


@settings(deadline=None)
@given(st.text(VISIBLE).filter(str.strip))
def test_a_text_file_is_its_own_text(text: str) -> None:
    """The text of a plain file is exactly what was encoded."""
    assert one("a.txt", text).text == text


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("suffix", [".txt", ".md", ".csv"])
def test_line_ends_stay_as_they_are(suffix: str, newline: str) -> None:
    """Offsets count the characters of the file, so line ends are never changed."""
    text = f"a,b{newline}{newline}c,d{newline}"

    assert one("a" + suffix, text).text == text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_names_the_encoding(encoding: str) -> None:
    """UTF-8 is read with and without its mark, UTF-16 and UTF-32 with it; the mark is no text."""
    assert one("a.txt", "Grüße, 世界".encode(encoding)).text == "Grüße, 世界"


def test_a_text_file_is_titled_by_its_stem() -> None:
    """A path gives the id and the source; its last part without extension the title."""
    document = one("guides/first steps.v2.TXT", READABLE)

    assert document.title == "first steps.v2"
    assert document.document_id == document.source == "guides/first steps.v2.TXT"


def test_markdown_headings_are_found_outside_code() -> None:
    """Headings with # and underlined ones count; those in code blocks and empty ones do not."""
    text = (
        "# The [Guide](x.md) #\n\n```sh\n# a comment\n```\n#\n"
        "Set *up*\n---\ntext\n\n   ### Deep {#deep}\n- list\n---\n#hashtag\n"
    )
    document = one("a.md", text)

    assert [(h.level, h.text) for h in document.headings] == [
        (1, "The Guide"),
        (2, "Set up"),
        (3, "Deep"),
    ]
    assert [text[h.offset :].lstrip()[:3] for h in document.headings] == ["# T", "Set", "###"]
    assert document.title == "The Guide"


def test_front_matter_gives_title_and_metadata() -> None:
    """Scalars of the front matter become metadata with their types; it stays part of the text."""
    text = '---\ntitle: "A: b"\nyear: 2024\nscore: 1.5\ndraft: true\ntags: [x]\nnested:\n  k: v\n---\n# H\n'
    document = one("a.md", text)

    assert document.title == "A: b"
    assert document.metadata == {"year": 2024, "score": 1.5, "draft": True}
    assert document.text == text
    assert [heading.text for heading in document.headings] == ["H"]


def test_a_rule_at_the_top_is_no_front_matter() -> None:
    """Without a closing mark there is no front matter."""
    assert one("a.md", "---\nkey: value\n").metadata == {}


def test_rst_headings_take_their_level_from_the_order_of_marks() -> None:
    """An underline starts a heading; an overlined one is a mark of its own."""
    text = "=====\nTitle\n=====\n\nPart\n====\n\nSub\n---\n\nPart 2\n======\n"
    document = one("a.rst", text)

    assert [(h.level, h.text) for h in document.headings] == [
        (1, "Title"),
        (2, "Part"),
        (3, "Sub"),
        (2, "Part 2"),
    ]
    assert document.headings[0].offset == 0
    assert document.title == "Title"


# HTML


def test_html_is_the_text_a_reader_sees() -> None:
    """Blocks start lines, cells are separated, scripts, navigation and hidden parts are gone."""
    html = """<!doctype html><html><head><title>The  Page</title><style>p{}</style></head><body>
    <nav><a href="/">Home</a></nav><h1>Head <em>line</em></h1><p>One   <b>bold</b>,
    line.<br>Two &amp; three</p><ul><li>first</li><li>second</li></ul>
    <table><tr><th>A</th><th>B</th></tr><tr><td>1</td><td>2</td></tr></table>
    <pre>  x = 1
  y = 2</pre><p hidden>secret</p><script>alert(1)</script></body></html>"""
    document = one("a.html", html)

    assert document.text == (
        "Head line\n\nOne bold, line.\nTwo & three\n\nfirst\nsecond\n\nA | B\n1 | 2\n\n"
        "  x = 1\n  y = 2"
    )
    assert document.title == "The Page"
    assert [tuple(heading) for heading in document.headings] == [(0, 1, "Head line")]


def test_html_headings_stand_where_their_words_do() -> None:
    """The offset of a heading points at its first word in the extracted text."""
    document = one("a.htm", "<p>a</p><h2>Two</h2><p>b</p><h3></h3><div><h3>Three</h3>c</div>")

    assert [(h.level, h.text) for h in document.headings] == [(2, "Two"), (3, "Three")]
    assert all(document.text.startswith(h.text, h.offset) for h in document.headings)


def test_html_main_is_preferred_but_never_at_the_price_of_everything() -> None:
    """The main element is the page; a page that is only navigation is read as it is."""
    assert one("a.html", "<body>menu<main><p>words</p></main>foot</body>").text == "words"
    assert one("a.html", "<nav>only this</nav>").text == "only this"


def test_html_in_a_declared_legacy_encoding_is_read() -> None:
    """Pages that are not UTF-8 are read by the charset they declare."""
    html = '<meta charset="windows-1252"><p>Grüße</p>'

    assert one("a.html", html.encode("cp1252")).text == "Grüße"


def test_deeply_nested_html_is_read() -> None:
    """Nesting does not exhaust the stack."""
    assert one("a.html", "<div>" * 20_000 + "deep").text == "deep"


# PDF


def test_a_pdf_gives_its_pages() -> None:
    """Each page starts where its text starts; offsets find the page back."""
    document = one("a.pdf", make_pdf(["First page.", "Second page.", "Third."], "The Report"))

    assert document.title == "The Report"
    assert document.text == "First page.\n\nSecond page.\n\nThird."
    assert [document.text[offset:][:5] for offset in document.pages] == ["First", "Secon", "Third"]
    found = [page_of(document, document.text.index(word)) for word in ("First", "page.", "Third")]
    assert found == [1, 1, 3]
    assert page_of(document, document.text.index("Second")) == 2


def test_a_document_without_pages_has_no_page() -> None:
    """Formats without pages answer None."""
    assert page_of(one("a.txt", READABLE), 3) is None


def test_a_pdf_page_without_text_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A partly scanned PDF is read, and the log says which pages are missing."""
    document = one("a.pdf", make_pdf(["First page.", "", "Third."]))

    assert document.pages == (0, 13, 15)
    assert "no text on page(s) 2" in caplog.text


def test_a_pdf_encrypted_without_a_user_password_is_read() -> None:
    """Permissions alone keep nobody from reading."""
    assert one("a.pdf", encrypt(make_pdf(["Open."]), "")).text == "Open."


def test_bad_pdfs_are_refused_with_a_way_out() -> None:
    """Encrypted, scanned, cut off and fake PDFs each get their own reason."""
    good = make_pdf(["Text."])

    assert "without a password" in refusal("a.pdf", encrypt(good, "secret"))
    assert "OCR" in refusal("a.pdf", make_pdf(["", ""]))
    assert "%PDF-" in refusal("a.pdf", READABLE)
    assert "damaged" in refusal("a.pdf", b"%PDF-1.7\n" + b"garbage" * 100)


@settings(deadline=None)
@given(st.data())
def test_a_damaged_pdf_is_read_or_refused(data: st.DataObject) -> None:
    """Whatever bytes are broken, nothing but text or a refusal comes out."""
    pdf = bytearray(make_pdf(["Some text on a page."]))
    for position in data.draw(st.lists(st.integers(5, len(pdf) - 1), max_size=20)):
        pdf[position] = data.draw(st.integers(0, 255))

    try:
        load("a.pdf", bytes(pdf))
    except StepError as error:
        assert error.code == "document_unreadable"


# DOCX


def test_docx_keeps_the_order_of_paragraphs_and_tables() -> None:
    """Headings, paragraphs, lists and tables come in document order."""

    def build(document: docx.document.Document) -> None:
        document.add_heading("The Title", 0)
        document.add_heading("Part", 1)
        document.add_paragraph("Before.")
        table = document.add_table(2, 2)
        for cell, words in zip(table._cells, ("A", "B", "1", "two\nlines"), strict=True):
            cell.text = words
        document.add_paragraph("one", style="List Bullet")
        document.add_paragraph("two", style="List Bullet")
        document.add_paragraph("After.")

    document = one("a.docx", make_docx(build))

    assert document.text == (
        "The Title\n\nPart\n\nBefore.\n\nA | B\n1 | two lines\n\none\ntwo\n\nAfter."
    )
    assert document.title == "The Title"
    assert all(document.text.startswith(h.text, h.offset) for h in document.headings)
    assert [heading.text for heading in document.headings] == ["The Title", "Part"]


def test_the_title_of_a_docx_is_that_of_its_properties() -> None:
    """What the properties say goes before what the text says."""
    data = make_docx(lambda document: document.add_heading("Head", 1), "Named")

    assert one("a.docx", data).title == "Named"


def test_bad_docx_files_are_refused_with_a_way_out() -> None:
    """No zip, another zip, an old format, a damaged and an empty document."""
    empty = make_docx(lambda document: None)

    assert "not a Word document" in refusal("a.docx", READABLE)
    assert "no Word document" in refusal("a.docx", make_zip({"a.txt": READABLE}))
    assert "old .doc" in refusal("a.docx", b"\xd0\xcf\x11\xe0" + b"0" * 100)
    assert "damaged" in refusal("a.docx", make_zip({"[Content_Types].xml": b"<a/>"}))
    assert "empty" in refusal("a.docx", empty)
    assert "not a Word document" in refusal("a.docx", empty[: len(empty) // 2])


def test_a_zip_bomb_is_refused_before_it_is_unpacked() -> None:
    """Both one part that unpacks a thousandfold and a total beyond the cap are refused."""
    types = {"[Content_Types].xml": b"<a/>"}
    bomb = make_zip(types | {"word/document.xml": bytes(8 * 1024 * 1024)})
    assert "zip bomb" in refusal("a.docx", bomb)

    many = make_zip(types | {f"word/{n}.xml": bytes(1024 * 1024) for n in range(201)})
    assert "200" in refusal("a.docx", many)


# tables


def test_csv_breaks_at_rows_and_not_at_quoted_line_ends() -> None:
    """Each row is a break; a line end within quotes is none; the columns are metadata."""
    text = 'id;note\r\n1;"two\r\nlines; ""quoted"""\r\n\r\n2;plain\r\n'
    document = one("a.csv", text)

    assert [text[offset:][:4] for offset in document.breaks] == ["id;n", '1;"t', "2;pl"]
    assert document.metadata == {"columns": ["id", "note"]}
    assert [(h.offset, h.text) for h in document.headings] == [(9, "id, note")]
    assert document.text == text


def test_tsv_takes_lone_quotes_as_text() -> None:
    """Quotes that do not pair up are no quoting in tab-separated values."""
    text = 'a\tb\n5"\tinch\n"open\tx\n'
    document = one("a.tsv", text)

    assert document.metadata == {"columns": ["a", "b"]}
    assert [text[offset] for offset in document.breaks] == ["a", "5", '"']


def test_malformed_csv_is_refused_with_the_line() -> None:
    """An open quote names the line on which its row starts."""
    assert "line 3" in refusal("a.csv", 'a,b\n1,2\n3,"open\n4,5\n')


# JSON


def test_json_lines_give_one_document_each() -> None:
    """Ids, titles, texts and metadata come from the record; its line number is the fallback id."""
    lines = [
        {"_id": "x", "title": "T", "text": "Body.", "metadata": {"year": 2024}, "lang": "en"},
        {"id": 7, "content": "More.", "tags": ["a", "b"], "deep": {"no": 1}},
        {"body": "Last."},
    ]
    data = "\n\n".join(json.dumps(line) for line in lines)
    documents = load("d/a.jsonl", data.encode())

    assert [d.document_id for d in documents] == ["d/a.jsonl#x", "d/a.jsonl#7", "d/a.jsonl#5"]
    assert [(d.title, d.text) for d in documents] == [
        ("T", "Body."),
        ("7", "More."),
        ("5", "Last."),
    ]
    assert [d.metadata for d in documents] == [
        {"year": 2024, "lang": "en"},
        {"tags": ["a", "b"]},
        {},
    ]
    assert {d.source for d in documents} == {"d/a.jsonl"}


def test_a_record_with_only_a_title_is_its_title() -> None:
    """Public corpora hold records whose text is empty but whose title is not."""
    assert one("a.jsonl", '{"_id": 1, "title": "Only this", "text": ""}').text == "Only this"


def test_a_json_array_of_records_is_read_like_json_lines() -> None:
    """An array of records gives one document each, numbered from 1."""
    documents = load("a.json", b'[{"text": "One."}, {"id": "b", "text": "Two."}]')

    assert [d.document_id for d in documents] == ["a.json#1", "a.json#b"]


def test_one_json_record_is_one_document_with_the_name_of_the_file() -> None:
    """A single object with a text needs no number."""
    document = one("a.json", '{"text": "One.", "title": "T", "n": 1}')

    assert (document.document_id, document.title, document.text) == ("a.json", "T", "One.")
    assert document.metadata == {"n": 1}


@pytest.mark.parametrize("text", ['{\n "a": [1, 2]}\n', "[1, 2]", '[{"a": 1}]', '"words"'])
def test_other_json_is_its_own_text(text: str) -> None:
    """JSON without records is one document, exactly as the file is."""
    assert one("a.json", text).text == text


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.jsonl", '{"text": "a"}\n{"text": \n', "line 2"),
        ("a.jsonl", '{"text": "a"}\n{"txt": "b"}\n', "line 2 has no text"),
        ("a.jsonl", '{"text": "a"}\n["b"]\n', "line 2 is list"),
        ("a.jsonl", '{"id": 1, "text": "a"}\n\n{"id": "1", "text": "b"}\n', "line 1 and line 3"),
        ("a.jsonl", '{"id": [1], "text": "a"}\n', "the id [1]"),
        ("a.jsonl", '{"text": "a", "n": NaN}\n', "NaN"),
        ("a.jsonl", '{"text": "a", "n": 1e999}\n', "1e999"),
        ("a.jsonl", '{"text": "a\\ud800"}\n', "surrogate"),
        ("a.json", '{"a": 1,\n "b": }', "line 2"),
        ("a.json", "[" * 100_000, "nested too deep"),
        ("a.json", '[{"text": "a"}, {"txt": "b"}]', "item 2 has no text"),
    ],
)
def test_bad_json_is_refused_with_the_place(name: str, text: str, expected: str) -> None:
    """The message names the line or item at fault and what is wrong with it."""
    assert expected in refusal(name, text)


# any format


@pytest.mark.parametrize("suffix", sorted(SUPPORTED_SUFFIXES))
def test_empty_files_are_refused(suffix: str) -> None:
    """No format has a document in no bytes, or in blank ones."""
    assert "empty" in refusal("a" + suffix, b"")
    assert "empty" in refusal("a" + suffix, b" \r\n\t\n")


@pytest.mark.parametrize("name", ["a.exe", "a", ".md", "dir.md/a"])
def test_unknown_extensions_are_refused_with_the_known_ones(name: str) -> None:
    """The message lists what can be read."""
    assert ".docx" in refusal(name, READABLE)


def test_a_file_over_the_cap_is_refused() -> None:
    """The message gives the size and the cap."""
    message = refusal("a.txt", b"a" * (MAX_DOCUMENT_BYTES + 1))

    assert str(MAX_DOCUMENT_BYTES + 1) in message
    assert str(MAX_DOCUMENT_BYTES) in message


@pytest.mark.parametrize(
    "suffix", [".txt", ".md", ".rst", ".csv", ".tsv", ".json", ".jsonl", ".html"]
)
def test_text_formats_refuse_what_is_no_text(suffix: str) -> None:
    """Wrong bytes are named by their offset; other formats by what they are."""
    name = "a" + suffix

    assert "byte 3 (0xff)" in refusal(name, b"abc\xffdef")
    assert "NUL" in refusal(name, b"abc\0def")
    assert "a PDF" in refusal(name, make_pdf(["Text."]))
    assert "zip" in refusal(name, make_docx(lambda document: None))
    assert "control characters" in refusal(name, b"\x01\x02\x03abc" * 10)


@settings(deadline=None)
@given(
    st.sampled_from(sorted(SUPPORTED_SUFFIXES)), st.binary(max_size=300) | st.text().map(str.encode)
)
def test_any_bytes_are_read_or_refused(suffix: str, data: bytes) -> None:
    """Nothing but documents with text, or a refusal, comes out of any input."""
    try:
        documents = load("a" + suffix, data)
    except StepError as error:
        assert error.code == "document_unreadable"
    else:
        assert all(document.text.strip() for document in documents)
