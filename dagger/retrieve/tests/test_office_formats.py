"""Workbooks, presentations, OpenDocument, books and RTF: what a person reads in them, and where."""

from __future__ import annotations

import office_kit as kit
import pytest

from rag_kit.errors import StepError
from rag_kit.tables import rows
from rag_retrieve.documents import LoadedDocument, load, page_of
from rag_retrieve.documents.tabular import row_values, sheets_of


def one(name: str, data: bytes) -> LoadedDocument:
    """Load a file that holds one document."""
    (document,) = load(name, data)
    return document


def refusal(name: str, data: bytes) -> str:
    """Return the message with which a file is refused."""
    with pytest.raises(StepError) as caught:
        load(name, data)
    assert caught.value.code == "document_unreadable"
    assert repr(name) in caught.value.message
    return caught.value.message


def cells(document: LoadedDocument) -> list[dict[str, str]]:
    """Return the rows of all tables of a document, each by the names of its columns."""
    return [
        dict(zip(table.columns, row.cells, strict=True))
        for table in document.tables
        for row in rows(document.text, table.start, table.end, table.delimiter)
        if row.cells != table.columns
    ]


# workbooks

PRICES = [["Item", "Price", "Since"], ["Pump", 40.5, 45366], ["Valve", 7, 44928.5]]
ROWS = [
    {"Item": "Pump", "Price": "40.5", "Since": "2024-03-15"},
    {"Item": "Valve", "Price": "7", "Since": "2023-01-02 12:00"},
]


def test_a_workbook_has_rows_with_their_columns_sheets_as_pages_and_dates_as_people_write_them() -> (
    None
):
    """Formulas stand as their values; a passage names its sheet and the values of its rows."""
    parts = {"Prices": PRICES, "Notes": [["Ask Ann."]]}
    document = one("a.xlsx", kit.xlsx(parts, dates=["C2", "C3"]))
    notes = document.text.index("Ask Ann.")

    assert cells(document) == ROWS
    assert [heading.text for heading in document.headings] == ["Prices", "Notes"]
    assert (page_of(document, notes - 8), page_of(document, notes)) == (1, 2)
    assert sheets_of(document, (notes, notes + 4)) == {"sheet": ["Notes"]}
    assert sheets_of(document, (0, notes + 4)) == {"sheet": ["Prices", "Notes"]}
    assert row_values(document, document.tables)["Price"] == [40.5, 7]


def test_an_old_workbook_reads_the_same() -> None:
    """The binary format of Excel 97 has the same rows."""
    assert cells(one("a.xls", kit.XLS)) == [ROWS[0], {**ROWS[1], "Since": "2023-01-02"}]


def test_an_open_document_sheet_shows_cells_as_they_are_shown() -> None:
    """Percent stays percent, repeated rows and cells are there, a comment follows the sheet."""

    def cell(text: str, extra: str = "") -> str:
        return f"<table:table-cell {extra}><text:p>{text}</text:p></table:table-cell>"

    number = 'office:value-type="percentage" office:value="0.19"'
    comment = "<office:annotation><text:p>secret</text:p></office:annotation>"
    body = (
        '<table:table table:name="Tax"><table:table-row>'
        + cell("Kind") + cell("Rate") + cell("Note")
        + '</table:table-row><table:table-row table:number-rows-repeated="2">'
        + f"<table:table-cell>{comment}<text:p>books</text:p></table:table-cell>"
        + cell("19 %", number) + cell("low")
        + '<table:table-cell table:number-columns-repeated="16000"/></table:table-row>'
        + '<table:table-row table:number-rows-repeated="1048000"><table:table-cell/></table:table-row>'
        + "</table:table>"
    )  # fmt: skip
    document = one("a.ods", kit.open_document(body, kind="spreadsheet"))

    assert cells(document) == [{"Kind": "books", "Rate": "19 %", "Note": "low"}] * 2
    assert document.text.count("secret") == 1
    assert document.text.endswith("Comment on A2: secret")


SHEETS = {
    "title lines": (
        [["Report of 2024", None, None], [], *PRICES],
        [],
        ["Item", "Price", "Since"],
        "Report of 2024",
    ),
    "group names": (
        [[None, "North", None, "South", None], ["Year", "Q1", "Q2", "Q1", "Q2"], [2024, 1, 2, 3, 4]],
        ["B1:C1", "D1:E1"],
        ["Year", "North Q1", "North Q2", "South Q1", "South Q2"],
        "",
    ),
    "merged title": (
        [["All prices of the year", None, None], *PRICES], ["A1:C1"],
        ["Item", "Price", "Since"], "All prices",
    ),
    "years as names": (
        [["Site", 2023, 2024], ["Rome", 5, 6], ["Oslo", 7, 8]], [], ["Site", "2023", "2024"], "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SHEETS, ids=list(SHEETS))
def test_a_table_of_a_sheet_gets_the_names_of_its_columns(case: str) -> None:
    """Titles above it are lines, names over several columns stand before each of them."""
    found, merged, columns, text = SHEETS[case]
    document = one("a.xlsx", kit.xlsx({"S": found}, merged=merged))

    assert [list(table.columns) for table in document.tables] == [columns]
    assert text in document.text


def test_blocks_of_a_sheet_are_tables_of_their_own_and_go_on_after_an_empty_row() -> None:
    """The second block has other names; the third has none and goes on with the second."""
    sheet = [
        ["Item", "Price", "Stock"], ["Pump", 40, 3], [],
        ["City", "Rent", "Rooms"], ["Rome", 900, 3], [], ["Oslo", 1200, 2], [], ["Call:", "555-1"],
    ]  # fmt: skip
    document = one("a.xlsx", kit.xlsx({"S": sheet}))

    assert [row.get("City") for row in cells(document)] == [None, "Rome", "Oslo"]
    assert document.text.endswith("Call: 555-1")


def test_a_cell_merged_over_rows_stands_in_each_of_them() -> None:
    """A row of a group keeps the group."""
    sheet = [["Site", "Room", "Size"], ["Rome", "A", 10], [None, "B", 20]]
    document = one("a.xlsx", kit.xlsx({"S": sheet}, merged=["A2:A3"]))

    assert [row["Site"] for row in cells(document)] == ["Rome", "Rome"]


def test_a_form_of_two_columns_is_labels_with_values() -> None:
    """Its first row names no columns."""
    document = one(
        "a.xlsx", kit.xlsx({"S": [["Customer", "ACME"], ["Total:", 12.0], ["Place", "Rome"]]})
    )

    assert document.text.splitlines()[1:] == ["Customer: ACME", "Total: 12", "Place: Rome"]
    assert not document.tables


def test_a_hidden_sheet_is_left_out_and_named() -> None:
    """Whoever wants it read shows it."""
    document = one("a.xlsx", kit.xlsx({"A": PRICES, "Old": [["Gone."]]}, hidden=["Old"]))

    assert "Gone" not in document.text
    assert document.warnings == ("the sheet 'Old' is hidden and is left out",)


def test_percent_and_comments_of_a_workbook_are_read_as_they_are_shown() -> None:
    """19% is no 0.19; a comment names its cell."""
    sheet = [["Kind", "Rate", "Since"], ["books", 0.07, 2020], ["cars", 0.19, 2021]]
    document = one(
        "a.xlsx", kit.xlsx({"Tax": sheet}, percent=["B2", "B3"], comment=("B3", "From May."))
    )

    assert [row["Rate"] for row in cells(document)] == ["7%", "19%"]
    assert document.text.endswith("Comment on B3: From May.")


def test_cells_without_references_are_read() -> None:
    """They follow each other, as some programs write them; a long sheet of them is no bomb."""
    rows = "<row><c><v>1</v></c><c><v>2</v></c><c><v>3</v></c></row>" * 2000
    document = one("a.xlsx", kit.xlsx({"S": [["a", "b", "c"]]}, raw=rows))

    assert len(cells(document)) == 2000


def test_cells_far_apart_are_refused_before_they_fill_the_memory() -> None:
    """Two cells span a sheet of 17 billion."""
    far = '<row r="1048576"><c r="XFD1048576"><v>1</v></c></row>'

    assert "17179869184 cells" in refusal("a.xlsx", kit.xlsx({"S": PRICES}, raw=far))


def test_repeated_cells_of_an_open_document_sheet_are_bounded() -> None:
    """A cell that stands for a million rows of 16,000 columns is left out with its sheet."""
    cell = '<table:table-cell table:number-columns-repeated="16384"><text:p>x</text:p></table:table-cell>'
    row = f'<table:table-row table:number-rows-repeated="1048576">{cell}</table:table-row>'
    body = f'<table:table table:name="T">{row}</table:table>'

    assert "over 10000000 cells" in refusal("a.ods", kit.open_document(body, kind="spreadsheet"))


# presentations


def test_a_presentation_has_its_slides_as_pages_with_titles_tables_and_notes() -> None:
    """The title stands first wherever it is drawn, numbers of lists are read, struck text is not."""
    slides = [
        kit.shape("Valves are checked daily.") + kit.shape("Safety", kind="title"),
        kit.shape("Prices", kind="ctrTitle") + kit.table([["Item", "Cost"], ["Pump", "40"]]),
        kit.shape(
            "Open the lid", "Pour", paragraph='<a:pPr><a:buAutoNum type="arabicPeriod"/></a:pPr>'
        )
        + kit.shape("Never valid", run='<a:rPr strike="sngStrike"/>')
        + kit.shape("7", kind="sldNum"),
    ]
    document = one("a.pptx", kit.pptx(slides, notes={1: "Say hello first."}))

    assert [heading.text for heading in document.headings] == ["Safety", "Prices"]
    assert page_of(document, document.text.index("Notes: Say hello first.")) == 1
    assert page_of(document, document.text.index("Open the lid")) == 3
    assert cells(document) == [{"Item": "Pump", "Cost": "40"}]
    assert "1. Open the lid\n2. Pour" in document.text
    assert "Never" not in document.text
    assert document.text.endswith("Pour")


def test_a_hidden_slide_is_left_out_and_named_and_keeps_its_number() -> None:
    """The slide after it is still the third one."""
    slides = [kit.shape("One."), kit.shape("Two."), kit.shape("Three.")]
    document = one("a.pptx", kit.pptx(slides, hidden=2))

    assert "Two" not in document.text
    assert page_of(document, document.text.index("Three.")) == 3
    assert document.warnings == ("slide 2 is hidden and is left out",)


# OpenDocument texts


def test_an_open_document_text_reads_like_the_printed_page() -> None:
    """Headings, numbered lists, tables, notes and comments; nothing struck, deleted or hidden."""
    styles = (
        '<style:style style:name="S"><style:text-properties style:text-line-through-style="solid"/>'
        "</style:style>"
        '<style:style style:name="H"><style:text-properties text:display="none"/></style:style>'
        '<text:list-style style:name="L"><text:list-level-style-number text:level="1" '
        'style:num-format="a" style:num-suffix=")"/></text:list-style>'
    )
    body = (
        "<text:tracked-changes><text:changed-region><text:p>Deleted.</text:p></text:changed-region>"
        "</text:tracked-changes>"
        '<text:h text:outline-level="1">Rules</text:h>'
        '<text:p>Pay<text:s/>by <text:span text:style-name="S">cash</text:span>'
        '<text:span text:style-name="H">x</text:span>'
        "card<text:note><text:note-body><text:p>In euro.</text:p></text:note-body></text:note>."
        "<office:annotation><dc:creator>Ann</dc:creator><text:p>Check it.</text:p></office:annotation>"
        "</text:p>"
        '<text:list text:style-name="L"><text:list-item><text:p>First</text:p></text:list-item>'
        "<text:list-item><text:p>Second</text:p></text:list-item></text:list>"
        "<table:table><table:table-header-rows><table:table-row><table:table-cell><text:p>Item</text:p></table:table-cell>"
        "<table:table-cell><text:p>Price</text:p></table:table-cell></table:table-row></table:table-header-rows>"
        "<table:table-row><table:table-cell><text:p>Tea</text:p></table:table-cell><table:table-cell>"
        "<text:p>2</text:p></table:table-cell></table:table-row></table:table>"
    )
    document = one("a.odt", kit.open_document(body, styles=styles))

    assert document.text.split("\n\n")[:4] == [
        "Rules",
        "Pay by card.",
        "Note: In euro.",
        "Comment by Ann: Check it.\na) First\nb) Second",
    ]
    assert cells(document) == [{"Item": "Tea", "Price": "2"}]
    assert (document.title, document.headings[0].level) == ("Rules", 1)


def test_an_open_document_presentation_has_pages() -> None:
    """Each slide is one, with what the speaker has noted."""
    body = "".join(
        f'<draw:page><draw:frame presentation:class="title"><draw:text-box><text:p>{title}</text:p>'
        f"</draw:text-box></draw:frame><presentation:notes>"
        f"<text:p>Say {title}.</text:p></presentation:notes></draw:page>"
        for title in ("Hello", "Bye")
    )
    document = one("a.odp", kit.open_document(body, kind="presentation"))

    assert [heading.text for heading in document.headings] == ["Hello", "Bye"]
    assert page_of(document, document.text.index("Notes: Say Bye.")) == 2


# books


def test_a_book_is_read_in_its_order_without_its_table_of_contents() -> None:
    """Headings of the chapters are those of the book; an empty title of a page swallows nothing."""

    def page(body: str) -> str:
        return f'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><head><title/></head><body>{body}</body></html>'

    chapters = {
        "nav.xhtml": page("<p>Contents</p>"),
        "two.xhtml": page("<h1>Storm</h1><p>The sea rose.</p>"),
        "one.xhtml": page("<h1>Calm</h1><p>The <a id='x'/>sea slept.</p>"),
    }
    document = one("a.epub", kit.epub(chapters))

    assert document.text == "Storm\n\nThe sea rose.\n\nCalm\n\nThe sea slept."
    assert (document.title, document.metadata["author"]) == ("The Book", "A. Writer")
    assert [heading.text for heading in document.headings] == ["Storm", "Calm"]


# RTF


def test_rtf_reads_characters_headings_tables_and_notes() -> None:
    """Encodings of fonts and Unicode with its fallbacks; nothing struck, hidden or of the inner workings."""
    data = (
        rb"{\rtf1\ansi\ansicpg1252\uc1{\fonttbl{\f0 Arial;}{\f1\fcharset204 Arial;}}"
        rb"{\stylesheet{\s1 heading 1;}{\s2 Body;}}{\info{\title The Lease}{\author Ann}}"
        rb"{\*\generator Secret;}\pard\s1 Rules\par\pard\s2 Caf\'e9 \u8364?5 {\f1\'cf\'e0}"
        rb"{\strike old}{\v gone} ends{\footnote Until May.}.\par\pard\intbl Item\cell"
        rb" Price\cell Stock\cell\row Tea\cell 2\cell 9\cell\row"
        rb"\pard{\listtext 1.\tab}Open\par{\listtext 2.\tab}Close\par}"
    )
    document = one("a.rtf", data)

    assert document.text.split("\n\n")[:3] == [
        "Rules",
        "Caf\u00e9 \u20ac5 \u041f\u0430 ends.",
        "Note: Until May.",
    ]
    assert cells(document) == [{"Item": "Tea", "Price": "2", "Stock": "9"}]
    assert document.text.endswith("1. Open\n2. Close")
    assert (document.title, document.headings[0].text) == ("The Lease", "Rules")


# every one of them

ENDINGS = ["xlsx", "xls", "ods", "pptx", "odt", "odp", "epub", "rtf"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_only_pretends_to_be_of_a_format_is_refused(ending: str) -> None:
    """Plain text, and a zip archive of something else."""
    refusal(f"a.{ending}", b"Just words, no such file.\n")
    refusal(f"a.{ending}", kit.zipped({"a.txt": "words"}))


@pytest.mark.parametrize(
    ("ending", "part"), [("odt", "content.xml"), ("epub", "META-INF/container.xml")]
)
def test_entities_and_endless_depth_are_refused(ending: str, part: str) -> None:
    """A bomb of entities has none of them expanded; a tower of elements is refused by its place."""
    bomb = '<!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]><a>&c;</a>'
    tower = "<a>" * 100_000

    assert "haha" not in refusal(f"a.{ending}", kit.zipped({part: bomb}))
    assert part in refusal(f"a.{ending}", kit.zipped({part: tower}))


def test_a_part_that_unpacks_like_a_bomb_is_refused() -> None:
    """By the ratio of its sizes, before it is unpacked."""
    bomb = kit.zipped({"content.xml": b"<a>" + b" " * 5_000_000 + b"</a>"})

    assert "zip bomb" in refusal("a.odt", bomb)
