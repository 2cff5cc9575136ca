"""PDF pages in reading order: columns, tables, running headers, forms, notes, faults."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import reportlab
from pypdf import PdfReader, PdfWriter
from pypdf.annotations import FreeText, Text
from pypdf.generic import (
    ArrayObject,
    DictionaryObject,
    NameObject,
    NumberObject,
    StreamObject,
    TextStringObject,
)
from reportlab.pdfgen.canvas import Canvas

from rag_kit.errors import StepError
from rag_retrieve.documents import LoadedDocument, load

SIZE = 10
PITCH = 14


def drawn(*pages: Callable[[Canvas], object]) -> bytes:
    """Return a PDF whose pages these functions draw."""
    buffer = io.BytesIO()
    canvas = Canvas(buffer)
    for draw in pages:
        canvas.setFont("Helvetica", SIZE)
        draw(canvas)
        canvas.showPage()
    canvas.save()
    return buffer.getvalue()


def lines(
    *texts: str, left: float = 72, top: float = 700, pitch: float = PITCH
) -> Callable[[Canvas], None]:
    """Return what draws lines of text below each other."""

    def draw(canvas: Canvas) -> None:
        for number, text in enumerate(texts):
            canvas.drawString(left, top - number * pitch, text)

    return draw


def together(*parts: Callable[[Canvas], None]) -> Callable[[Canvas], None]:
    """Return what draws all parts on one page."""

    def draw(canvas: Canvas) -> None:
        for part in parts:
            part(canvas)

    return draw


def table(
    rows: list[tuple[str, ...]],
    lefts: tuple[float, ...],
    *,
    top: float = 700,
    by_column: bool = False,
) -> Callable[[Canvas], None]:
    """Return what draws the cells of a table without borders."""
    cells = [
        (lefts[column], top - line * PITCH, text)
        for line, row in enumerate(rows)
        for column, text in enumerate(row)
    ]

    def draw(canvas: Canvas) -> None:
        for left, y, text in sorted(cells) if by_column else cells:
            canvas.drawString(left, y, text)

    return draw


def read(data: bytes) -> LoadedDocument:
    """Read a PDF."""
    (document,) = load("a.pdf", data)
    return document


def changed(data: bytes, change: Callable[[PdfWriter], Any]) -> bytes:
    """Return a PDF after a change."""
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(data)))
    change(writer)
    buffer = io.BytesIO()
    writer.write(buffer)
    return buffer.getvalue()


LEFT = (
    "The committee reviewed the yearly",
    "report of the harbour and found",
    "that its fund was short.",
)
RIGHT = (
    "Staff may park in the north yard.",
    "Visitors need a permit that is",
    "issued at gate two.",
)
COLUMNS = "\n".join(LEFT) + "\n\n" + "\n".join(RIGHT)


@pytest.mark.parametrize("shift", [0, 7])
def test_columns_are_read_one_after_the_other(shift: float) -> None:
    """In whatever order they are drawn, and with lines at different heights."""
    left, right = lines(*LEFT), lines(*RIGHT, left=320, top=700 - shift)

    def across(canvas: Canvas) -> None:
        for number, (one, other) in enumerate(zip(LEFT, RIGHT, strict=True)):
            canvas.drawString(72, 700 - PITCH * number, one)
            canvas.drawString(320, 700 - shift - PITCH * number, other)

    assert read(drawn(together(left, right))).text == COLUMNS
    assert read(drawn(across)).text == COLUMNS


def test_a_line_across_columns_stands_above_or_below_them() -> None:
    """Headings and notes that span the page are not torn."""
    title = (
        "Minutes of the committee meeting of the port authority, held on the first Monday of May"
    )
    note = "Copies of these minutes may be had at the office of the port authority on working days."
    page = together(
        lines(title, top=714),
        lines(*LEFT),
        lines(*RIGHT, left=320),
        lines(note, top=700 - 3 * PITCH),
    )

    assert read(drawn(page)).text.replace("\n\n", "\n") == f"{title}\n{COLUMNS}\n{note}".replace(
        "\n\n", "\n"
    )


def test_three_columns_are_read_in_order() -> None:
    """More than two columns of prose are columns too."""
    parts = [[f"column {name} has its line {n}" for n in range(3)] for name in "abc"]
    page = together(*(lines(*part, left=60 + 170 * at) for at, part in enumerate(parts)))

    assert read(drawn(page)).text == "\n\n".join("\n".join(part) for part in parts)


ROWS = [("Article", "Qty", "Unit price"), ("Bracket", "40", "3.20"), ("Anchor bolt", "200", "0.85")]
NAMED = "Article: Bracket | Qty: 40 | Unit price: 3.20\nArticle: Anchor bolt | Qty: 200 | Unit price: 0.85"


@pytest.mark.parametrize("by_column", [False, True])
def test_a_table_without_borders_comes_as_rows(by_column: bool) -> None:
    """Each row with the names of its columns, in whatever order it is drawn."""
    page = table(ROWS, (72, 250, 330), by_column=by_column)

    assert read(drawn(together(lines("Invoice", top=714), page))).text == f"Invoice\n{NAMED}"


def test_an_empty_cell_leaves_the_others_in_their_columns() -> None:
    """A value stands under its own name."""
    rows = [*ROWS, ("Washer", "", "0.10")]

    assert (
        read(drawn(table(rows, (72, 250, 330)))).text
        == f"{NAMED}\nArticle: Washer | Unit price: 0.10"
    )


def test_a_cell_of_two_lines_is_one_cell() -> None:
    """The second line of a cell goes on with the row above."""
    rows = [
        ("Code", "Meaning", "Hours"),
        ("E1", "The pump is", "12"),
        ("", "too hot", ""),
        ("E2", "No oil", "3"),
    ]

    assert read(drawn(table(rows, (72, 150, 330)))).text == (
        "Code: E1 | Meaning: The pump is too hot | Hours: 12\nCode: E2 | Meaning: No oil | Hours: 3"
    )


def test_rows_without_names_are_parted_by_bars() -> None:
    """Labels and their values stay on one line."""
    rows = [("Material", "Steel"), ("Weight", "12 kg")]

    assert read(drawn(table(rows, (72, 250)))).text == "Material | Steel\nWeight | 12 kg"


@pytest.mark.parametrize("marks", [("1.", "2."), ("\u2022", "\u2022"), ("a)", "b)")])
def test_the_mark_of_a_list_item_is_no_column(marks: tuple[str, str]) -> None:
    """An indented item goes on below its text, not below its mark."""
    texts = ("Switch the pump off", "and wait.", "Open the lid.")
    page = together(lines(marks[0], "", marks[1], left=72), lines(*texts, left=96))
    assert read(drawn(page)).text.split("\n") == [
        f"{marks[0]} Switch the pump off and wait.",
        f"{marks[1]} Open the lid.",
    ]


def test_text_on_one_baseline_is_one_line() -> None:
    """Whatever gap a label leaves before its value; one gap makes no table."""
    page = together(lines("Policy number:", "Anna"), lines("KX-7", left=400))
    signature = together(lines("open the valve", "slowly"), lines("[Function]", left=400))

    assert read(drawn(page)).text == "Policy number: KX-7\nAnna"
    assert read(drawn(signature)).text == "open the valve [Function]\nslowly"


def test_words_cut_at_a_line_end_and_ligatures_are_mended() -> None:
    """The text is ours to make, so quotes read well."""
    assert read(
        drawn(lines("The yearly main-", "tenance of state-of-the-", "art pumps."))
    ).text == ("The yearly maintenance of state-of-the-\nart pumps.")


def test_letters_set_apart_are_words() -> None:
    """A heading in spaced letters is found by its words."""

    def draw(canvas: Canvas) -> None:
        text = canvas.beginText(72, 700)
        text.setFont("Helvetica", SIZE)
        text.setCharSpace(6)
        text.textLine("NOTICE PERIOD")
        canvas.drawText(text)

    assert read(drawn(draw)).text == "NOTICE PERIOD"


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_turned_text_is_read_upright(turn: int) -> None:
    """A landscape table on a portrait page has its lines and its rows."""

    def draw(canvas: Canvas) -> None:
        canvas.translate(300, 400)
        canvas.rotate(turn)
        together(lines("Shift plan", top=28, left=0), table(ROWS, (0, 100, 180), top=14))(canvas)

    assert read(drawn(draw)).text == f"Shift plan\n{NAMED}"


def test_running_headers_and_footers_do_not_part_sentences() -> None:
    """A header stays on the first page, a footer on the last, page numbers nowhere."""
    bodies = (
        (
            "The tenant may end the lease if the landlord",
            "agrees in writing before the first day of",
        ),
        ("the following quarter. The keys are", "handed over at noon."),
        ("The deposit is paid back.", "It is three rents."),
    )
    pages = [
        together(
            lines("Lindqvist Estates - Confidential", top=800),
            lines(*body),
            lines("Printed 12 March", top=60),
            lines(f"Page {number} of 3", top=40),
        )
        for number, body in enumerate(bodies, 1)
    ]
    document = read(drawn(*pages))

    assert document.text == (
        "Lindqvist Estates - Confidential\n\n"
        "The tenant may end the lease if the landlord\nagrees in writing before the first day of\n"
        "the following quarter. The keys are\nhanded over at noon.\n\n"
        "The deposit is paid back.\nIt is three rents.\n\nPrinted 12 March"
    )
    assert [document.text[at:][:3] for at in document.pages] == ["Lin", "the", "The"]


def test_left_and_right_pages_may_have_headers_of_their_own() -> None:
    """What stands on every second page is furniture too."""
    rules = ["No pets", "No noise", "No smoke", "No fire", "No nails", "No paint."]
    pages = [
        together(
            lines(("The Handbook", "Chapter One")[at % 2], top=800),
            lines(rule),
            lines(f"- {at + 7} -", top=40),
        )
        for at, rule in enumerate(rules)
    ]
    text = read(drawn(*pages)).text

    assert text.count("The Handbook") == text.count("Chapter One") == 1
    assert text.endswith("No fire\n\nNo nails\n\nNo paint.")


def test_lines_that_only_look_alike_stay() -> None:
    """Other words or other figures at the same place are no furniture."""
    texts = [f"The total of invoice {number} is {number} EUR." for number in (70, 12, 350)]

    assert read(drawn(*map(lines, texts))).text == "\n\n".join(texts)


def form(canvas: Canvas) -> None:
    """Draw a form with a labelled, an unlabelled, an empty and a secret field, and two boxes."""
    together(lines("Policy number:"), lines("Glass broken:", top=680))(canvas)
    field = {"height": 18, "width": 100, "x": 200, "borderWidth": 0}
    canvas.acroForm.textfield(name="policy", tooltip="policy", value="KX-559", y=694, **field)
    canvas.acroForm.checkbox(name="glass", tooltip="glass", checked=True, x=200, y=676, size=12)
    canvas.acroForm.checkbox(name="water", tooltip="water", checked=False, x=200, y=640, size=12)
    canvas.acroForm.textfield(name="city", tooltip="City", value="Malmo", y=600, **field)
    canvas.acroForm.textfield(name="empty", tooltip="empty", value="", y=560, **field)
    canvas.acroForm.textfield(
        name="pin", tooltip="pin", value="1234", y=520, fieldFlags="password", **field
    )


def test_values_of_form_fields_stand_beside_their_labels() -> None:
    """Or behind the field's own name; nothing is said of empty and secret ones."""
    assert read(drawn(form)).text.split() == [
        "Policy",
        "number:",
        "KX-559",
        "Glass",
        "broken:",
        "Yes",
        "City:",
        "Malmo",
    ]


def test_notes_are_read() -> None:
    """Free text and a reviewer's notes end their page."""

    def annotate(writer: PdfWriter) -> None:
        writer.add_annotation(0, Text(text="Cut it to 95.", rect=(50, 550, 200, 650)))
        writer.add_annotation(0, FreeText(text="Agreed.", rect=(50, 450, 200, 500)))

    data = changed(drawn(lines("Rent: 120."), lines("Next.")), annotate)

    assert read(data).text == "Rent: 120.\n\nNote: Cut it to 95.\n\nNote: Agreed.\n\nNext."


@pytest.mark.parametrize("algorithm", ["RC4-128", "AES-128", "AES-256"])
def test_a_file_with_an_empty_user_password_is_read(algorithm: str) -> None:
    """Whatever it is encrypted with."""
    if algorithm.startswith("AES"):
        pytest.importorskip("cryptography", reason="pypdf encrypts with it")
    data = changed(
        drawn(lines("Open.")), lambda writer: writer.encrypt("", "owner", algorithm=algorithm)
    )

    assert read(data).text == "Open."


def test_a_bad_page_costs_one_page() -> None:
    """The others are read and a warning names it."""

    def damage(writer: PdfWriter) -> None:
        stream = StreamObject()
        stream._data = b"\x78\x9cgarbage"
        stream[NameObject("/Filter")] = NameObject("/FlateDecode")
        writer.pages[1][NameObject("/Contents")] = writer._add_object(stream)

    document = read(changed(drawn(lines("One."), lines("Two."), lines("Three.")), damage))

    assert document.text.split() == ["One.", "Three."]
    assert len(document.warnings) == 1
    assert document.warnings[0].startswith("no text on page(s) 2; scanned, or damaged?")


@pytest.mark.parametrize(
    "content",
    [
        b"BT /F1 10 Tf 72 700 Td " + b"(abcdefghij) Tj " * 20_001 + b"ET",
        b"BT /F1 10 Tf 72 700 Td (a) Tj ET " + b"0 0 m 1 1 l S " * 200_001,
    ],
    ids=["characters", "objects"],
)
def test_a_page_that_is_no_page_is_left_out(content: bytes) -> None:
    """More characters or objects than any page holds cost that page, and little time."""

    def flood(writer: PdfWriter) -> None:
        stream = StreamObject()
        stream._data = content
        writer.pages[1][NameObject("/Contents")] = writer._add_object(stream)

    document = read(changed(drawn(lines("One."), lines("Two.")), flood))

    assert document.text.strip() == "One."
    assert "page(s) 2 hold far more than a page does" in document.warnings[0]


def glyphs(writer: PdfWriter) -> None:
    """Make the last page text of an embedded font that has glyph numbers and no characters."""
    file = StreamObject()
    file._data = (Path(reportlab.__file__).parent / "fonts" / "Vera.ttf").read_bytes()
    numbers = {
        "/Flags": 4,
        "/ItalicAngle": 0,
        "/Ascent": 900,
        "/Descent": -200,
        "/CapHeight": 700,
        "/StemV": 80,
    }
    descriptor = dictionary(
        Type="/FontDescriptor", FontName="/Glyphs", FontFile2=writer._add_object(file),
        FontBBox=ArrayObject(map(NumberObject, (0, -200, 1000, 900))),
    )  # fmt: skip
    descriptor.update({NameObject(key): NumberObject(value) for key, value in numbers.items()})
    system = dictionary(Registry="Adobe", Ordering="Identity")
    system[NameObject("/Supplement")] = NumberObject(0)
    below = dictionary(
        Type="/Font", Subtype="/CIDFontType2", BaseFont="/Glyphs", CIDToGIDMap="/Identity",
        CIDSystemInfo=system, FontDescriptor=writer._add_object(descriptor),
    )  # fmt: skip
    font = dictionary(
        Type="/Font", Subtype="/Type0", BaseFont="/Glyphs", Encoding="/Identity-H",
        DescendantFonts=ArrayObject([writer._add_object(below)]),
    )  # fmt: skip
    content = StreamObject()
    shown = "".join(f"{number:04x}" for number in range(40, 70))
    content._data = f"BT /F9 12 Tf 72 700 Td <{shown}> Tj ET".encode()
    page = writer.pages[-1]
    page[NameObject("/Resources")] = dictionary(Font=dictionary(F9=writer._add_object(font)))
    page[NameObject("/Contents")] = writer._add_object(content)


def dictionary(**fields: Any) -> DictionaryObject:
    """Return a PDF dictionary; a text that starts with a slash is a name."""
    found = DictionaryObject()
    for key, value in fields.items():
        if isinstance(value, str):
            value = NameObject(value) if value.startswith("/") else TextStringObject(value)
        found[NameObject(f"/{key}")] = value
    return found


def test_text_whose_fonts_name_no_characters_is_noticed() -> None:
    """Glyph numbers without a map are no text: the page is named, a file of them refused."""
    document = read(changed(drawn(lines("Readable."), lines("x")), glyphs))

    assert document.text.strip() == "Readable."
    assert "page(s) 2 have fonts that name no characters" in document.warnings[0]
    with pytest.raises(StepError, match="OCR"):
        read(changed(drawn(lines("x")), glyphs))
