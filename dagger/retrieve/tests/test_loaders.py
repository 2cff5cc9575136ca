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
from rag_kit.tables import rows
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
    assert document.metadata == {
        "year": 2024, "score": 1.5, "draft": True, "tags": ["x"], "nested": {"k": "v"},
    }  # fmt: skip
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


# encodings


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "Die Kündigungsfrist beträgt sechs Wochen zum Quartalsende."),
        ("cp1252", "The pump’s oil is changed at 80 °C ± 5 — see “Oil”."),
        ("latin-1", "Le règlement intérieur a été modifié à l'été."),
        ("cp1250", "Pracownicy mogą składać wnioski do końca miesiąca. Łódź."),
        ("cp1251", "Гарантийный срок составляет двадцать четыре месяца."),
        ("koi8_r", "Гарантийный срок составляет двадцать четыре месяца."),
        ("cp1253", "Η εγγύηση διαρκεί είκοσι τέσσερις μήνες από την παράδοση."),
        ("cp932", "保証期間は納品後二十四か月です。返品は三十日以内にお願いします。"),
        ("gb18030", "保修期为交货后二十四个月。退货须在三十天内办理。"),
        ("cp949", "보증 기간은 납품 후 이십사 개월이다. 반품은 삼십 일 이내에 한다."),
        ("utf-16-le", "Grüße aus Köln.\r\nZweite Zeile."),
        ("utf-16-be", "Гарантия два года.\n"),
    ],
)
@pytest.mark.parametrize("suffix", [".txt", ".html"])
def test_an_encoding_without_a_mark_is_detected_and_reported(
    suffix: str, encoding: str, text: str
) -> None:
    """What is not UTF-8 is read all the same, and the report says as what."""
    document = one("a" + suffix, text.encode(encoding))

    assert document.text == (text if suffix == ".txt" else " ".join(text.split()))
    assert len(document.warnings) == 1
    assert "detected" in document.warnings[0]


def test_a_bad_byte_costs_one_character_of_utf8() -> None:
    """It is read as Windows-1252, a torn character is replaced, and both places are reported."""
    document = one("a.md", "Größe: 5 µm\n".encode() * 3 + b"the pump\x92s oil\nhalf \xe4\xb8\n")

    assert document.text == "Größe: 5 µm\n" * 3 + "the pump’s oil\nhalf \N{REPLACEMENT CHARACTER}\n"
    assert "byte 53 (0x92) on line 4, byte 65 (0xe4) on line 5" in document.warnings[0]


@pytest.mark.parametrize("declared", ["", "utf-8", "windows-1251", "iso-8859-1"])
@pytest.mark.parametrize("before", ["", "<script>" + "x" * 5000 + "</script>"])
def test_the_declaration_of_a_page_may_be_late_or_wrong(before: str, declared: str) -> None:
    """Only a wrong or a missing one is reported."""
    meta = f'<meta charset="{declared}">' if declared else ""
    cyrillic = declared == "windows-1251"
    words = "Гарантия два года." if cyrillic else "Ein Café crème kostet 3,80 €."
    page = f"<head>{before}{meta}<title>T</title></head><p>{words}"
    document = one("a.html", page.encode("cp1251" if cyrillic else "cp1252"))

    assert document.text == words
    assert bool(document.warnings) == (declared in ("", "utf-8"))


@pytest.mark.parametrize(
    "text",
    [
        "a <!-- gone\n# gone --> b",
        "~~gone\ngone~~ b, `~~kept~~`",
        "- ~~gone~~ ``x ` <!-- kept -->``",
        "```\n~~kept~~ <!-- kept -->\n```\n<del class='x'>gone *x*</del>",
        "~~~\n~~kept~~\n~~~\n<S>gone</S> <strong>kept</strong>",
        "~~kept\n\nkept~~ <!-- kept",
        "\\~~kept~~ a ~~ b ~~ c",
        "[//]: # (gone)\n[a]: kept",
        "{/* gone */} kept",
        "<div style='display: none'>gone</div><p hidden>gone</p>",
    ],
)
def test_comments_and_struck_text_in_markdown_are_blank(text: str) -> None:
    """Blanks keep every offset that of the file; code and what is never closed stay."""
    whole = f"# T\r\n{text}\nend\n"
    read = one("a.md", whole)

    assert "gone" not in read.text and "gone" not in " ".join(h.text for h in read.headings)
    assert read.text.count("kept") == text.count("kept")
    assert [len(line) for line in read.text.split("\n")] == [
        len(line) for line in whole.split("\n")
    ]


def test_comments_in_rst_are_blank() -> None:
    """Directives, targets and footnotes are no comments."""
    text = (
        "T\n=\n\n.. gone\n   gone\n\n   gone\n\nkept\n\n.. note:: kept\n\n   kept\n\n"
        ".. [1] kept\n..\n  gone\n"
    )
    read = one("a.rst", text)

    assert "gone" not in read.text and read.text.count("kept") == 4
    assert len(read.text) == len(text)


def test_markdown_tables_are_found_outside_of_code() -> None:
    """With and without bars at the edges; an escaped bar is part of a cell."""
    text = (
        "a | b\n--|:-:\n1 | 2 \\| 3\n\n```\n|x|y|\n|-|-|\n```\n\n| c | d |\n|---|---|\n| 4 |\nend"
    )
    tables = one("a.md", text).tables
    cells = [[row.cells for row in rows(text, t.start, t.end, t.delimiter)][-1] for t in tables]

    assert [table.columns for table in tables] == [("a", "b"), ("c", "d")]
    assert cells == [("1", "2 | 3"), ("4",)]


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
        "```\n  x = 1\n  y = 2\n```"
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


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>new <del>a</del><s>b</s><strike>c</strike> price</p>", "new price"),
        (
            '<p>1</p><p style="color:red; DISPLAY : none">2</p><p style="visibility:hidden">3</p>',
            "1",
        ),
        ('<style>.old,#x{display:none}</style><p class="a old">1</p><p id=x>2</p><p>3</p>', "3"),
        ("<style>@media print{.a{display:none}}</style><p class=a>1</p>", "1"),
        ('<p style="text-decoration: line-through">1</p><p>2</p>', "2"),
        ("<p>1<!-- 2 --></p><noscript>3</noscript><button>Buy</button>", "1"),
        ("<h3><button aria-expanded=false>Q?</button></h3><div hidden>A</div>", "Q?\n\nA"),
        ("<style>.p{display:none}</style><button class=c>Q?</button><div class=p>A</div>", "Q?\nA"),
        ('<a href="#t">Tab</a><p>1</p><div id=t style="display:none">2</div>', "Tab\n\n1\n\n2"),
        ('<button data-bs-target="#t">Q?</button><p>1</p><div id=t hidden>2</div>', "Q?\n\n1\n\n2"),
        ("<input type=checkbox id=c><label for=c>Q?</label><div hidden>A</div>", "Q?\nA"),
        (
            "<div><button aria-controls=t>Q?</button><div id=t hidden>A</div></div><p hidden>draft</p>",
            "Q?\nA",
        ),
        ("<button aria-controls=none>Q?</button><div hidden>A</div>", "Q?\nA"),
        ("<details><summary>Q?</summary>A</details>", "Q?\nA"),
        ("<p>Sizes</p><select><option>S<option>XL</select>", "Sizes\n\nS\nXL"),
        ("<main>1</main><article>2</article><aside><article>3</article></aside>", "1\n\n2"),
    ],
)
def test_html_leaves_out_what_is_not_valid_and_keeps_what_a_control_opens(
    html: str, text: str
) -> None:
    """Struck and hidden text is no text; panels, options and articles are."""
    assert one("a.html", html).text == text


def test_html_tables_have_a_cell_for_each_column() -> None:
    """Spans are filled in, header rows joined, a title row and a nested table stand once."""
    spans = one(
        "a.html",
        "<table><thead><tr><th rowspan=2>Size<th colspan=2>Price<tr><th>summer<th>winter</thead>"
        "<tr><td colspan=3>Europe<tr><td rowspan=2>S<td>1<td>2<tr><td colspan=2>3<tr><td><td>4<td>5|6"
        "</table>",
    )
    nested = one(
        "a.html",
        "<table><tr><th>Field<th>Value<tr><td>Address<td><table><tr><td>Street<td>Dock Road 5"
        "<tr><td>City<td>Malmo</table></table>",
    )

    assert spans.text == (
        "Size | Price summer | Price winter\nEurope\nS | 1 | 2\nS | 3 | 3\n|  | 4 | 5\\|6 |"
    )
    (table,) = spans.tables
    assert table.columns == ("Size", "Price summer", "Price winter")
    last = [row.cells for row in rows(spans.text, table.start, table.end, table.delimiter)][-1]
    assert last == ("", "4", "5|6")
    assert nested.text == "Field | Value\nAddress | Street: Dock Road 5; City: Malmo"


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
    assert document.metadata == {"columns": ["id", "note"], "numeric_columns": ["id"]}
    assert [table.columns for table in document.tables] == [("id", "note")]
    assert document.text == text


def test_tsv_takes_lone_quotes_as_text() -> None:
    """Quotes that do not pair up are no quoting in tab-separated values."""
    text = 'a\tb\n5"\tinch\n"open\tx\n'
    document = one("a.tsv", text)

    assert document.metadata == {"columns": ["a", "b"]}
    assert [text[offset] for offset in document.breaks] == ["a", "5", '"']


def test_a_quote_that_is_never_closed_is_a_character() -> None:
    """An inch sign at the start or in the middle of a cell costs neither its row nor the next."""
    text = 'a,b\n1,2\n3,"open\n4,5" pipe\n"x",y\n'
    document = one("a.csv", text)

    assert [text[offset:].split("\n")[0] for offset in document.breaks] == text.split("\n")[:-1]
    assert document.warnings == ()


def test_csv_is_cut_by_the_delimiter_that_fits_most_rows() -> None:
    """Decimal commas, title lines above the header and padded exports do not mislead."""
    plain = one("a.csv", "Prices 2024, all plants\n\nno;price;stock\nP-1;1,50;2,0\nP-2;2,75;3,5\n")
    padded = one("a.csv", "Prices 2024;;\nno;price;stock\nP-1;1,50;2,0\nP-2;2,75;3,5\n")
    piped = one("a.csv", "no|price\n1|2,5\n2|3,5\n")

    assert plain.metadata == padded.metadata
    assert plain.metadata == {
        "columns": ["no", "price", "stock"], "numeric_columns": ["price", "stock"],
    }  # fmt: skip
    assert [table.delimiter for d in (plain, padded, piped) for table in d.tables] == [
        ";",
        ";",
        "|",
    ]
    assert plain.text[plain.tables[0].start :].startswith("no;")


def test_rows_with_a_wrong_number_of_cells_are_read_and_reported() -> None:
    """The warning names their lines; they stay rows of their own."""
    document = one("a.csv", 'name,dept,phone\nIda,"Sales,\nnorth",4411\nPer,IT\nAya,Legal,1,2\n')

    assert document.warnings == (
        "rows whose cells are not as many as the 3 columns: line 4 (2), line 5 (4)",
    )
    assert len(document.breaks) == 4


def test_a_swallowed_line_end_is_noticed_by_the_number_of_cells() -> None:
    """Two lone quotes in two rows are not one cell with a line end in it."""
    text = 'a;b;c\n1;"5 inch;x\n2;y;6"\n3;z;7\n'
    document = one("a.csv", text)

    assert [text[offset] for offset in document.breaks] == ["a", "1", "2", "3"]


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
    ("name", "text", "expected", "kept"),
    [
        (
            "a.jsonl",
            '{"text": "a"}\n{"text": \n{"text": "c"}',
            "line 2 is not valid JSON",
            ["a", "c"],
        ),
        ("a.jsonl", '{"text": "a"}\n["b"]\n', "line 2 is list", ["a"]),
        ("a.jsonl", '{"text": "a"}\n{"deep": {"no": 1}}\n', "line 2 has no text", ["a"]),
        (
            "a.jsonl",
            '{"text": "a"}\n{"txt": "b", "n": 2}\n',
            "line 2 has no text",
            ["a", "txt: b\nn: 2"],
        ),
        (
            "a.jsonl",
            '{"text": "a"}\n{"message": "b c"}\n',
            "field 'message' was read",
            ["a", "b c"],
        ),
        ("a.jsonl", '{"id": [1], "text": "a"}\n', "the id [1]", ["a"]),
        ("a.jsonl", '{"text": "a", "n": NaN}\n', "NaN", ["a"]),
        ("a.jsonl", '{"text": "a", "n": 1e999}\n', "1e999", ["a"]),
        ("a.jsonl", '{"text": "a\\ud800"}\n', "surrogate", ["a\ufffd"]),
        ("a.json", '[{"text": "a"}, {"txt": "b"}]', "item 2 has no text", ["a", "txt: b"]),
        ("a.json", '[{"text": "a"}, {"text": "b', "item 2 is not valid JSON", ["a"]),
        ("a.json", '[{"text": "a"}, {"text": b}, {"text": "c"}]', "item 2 is not", ["a", "c"]),
    ],
)
def test_a_bad_record_costs_itself_alone(
    name: str, text: str, expected: str, kept: list[str]
) -> None:
    """The others are read; the warning names the line or item at fault and what is wrong with it."""
    documents = load(name, text.encode())

    assert [document.text for document in documents] == kept
    (warning,) = (warning for document in documents for warning in document.warnings)
    assert expected in warning


def test_records_with_one_id_are_all_read() -> None:
    """The later ones get a number behind the id, which never takes the id of another record."""
    ids = ("T", "T", "T-2", "T", 7, "7")
    lines = "\n".join(json.dumps({"id": key, "text": f"Words {n}."}) for n, key in enumerate(ids))
    documents = load("a.jsonl", lines.encode())

    assert [document.text for document in documents] == [f"Words {n}." for n in range(6)]
    assert len({document.document_id for document in documents}) == 6
    assert [document.document_id for document in documents][:2] == ["a.jsonl#T", "a.jsonl#T-2"]
    assert "line 1 and line 2 have the same id 'T'" in documents[0].warnings[0]


def test_many_warnings_are_counted() -> None:
    """A file of broken lines does not flood the report."""
    (document,) = load("a.jsonl", b'{"text": "a"}\n' + b"{\n" * 100)

    assert len(document.warnings) == 21
    assert "80 more" in document.warnings[-1]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.jsonl", '{"text": \n[]\n', "line 1"),
        ("a.json", '{"a": 1,\n "b": }', "line 2"),
        ("a.json", "[" * 100_000, "nested too deep"),
    ],
)
def test_json_without_a_good_record_is_refused_with_the_place(
    name: str, text: str, expected: str
) -> None:
    """The message names the line at fault and what is wrong with it."""
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
    """Binary content is named by its offset, other formats by what they are."""
    name = "a" + suffix

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
