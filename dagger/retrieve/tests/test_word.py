"""Word documents: what is text, what is not, and where it stands."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable

import docx
import pytest
from docx.document import Document
from docx.opc.constants import RELATIONSHIP_TYPE
from docx.opc.packuri import PackURI
from docx.opc.part import Part
from docx.oxml import parse_xml

from rag_retrieve.documents import LoadedDocument, load
from rag_retrieve.documents.numerals import numeral
from rag_retrieve.documents.word.reader import STRICT, TRANSITIONAL

NAMESPACES = (
    'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main" '
    'xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math" '
    'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"'
)


def saved(build: Callable[[Document], object]) -> bytes:
    """Save a Word document that `build` has filled."""
    document = docx.Document()
    build(document)
    buffer = io.BytesIO()
    document.save(buffer)
    return buffer.getvalue()


def read(build: Callable[[Document], object]) -> LoadedDocument:
    """Read a Word document that `build` has filled."""
    (document,) = load("a.docx", saved(build))
    return document


def body(*blocks: str) -> str:
    """Return the text of a document whose body holds this XML."""

    def build(document: Document) -> None:
        for block in blocks:
            opened = block.replace(">", f" {NAMESPACES}>", 1)
            document.element.body.insert(-1, parse_xml(opened))

    return read(build).text


def run(text: str, properties: str = "") -> str:
    """Return a run."""
    return f'<w:r><w:rPr>{properties}</w:rPr><w:t xml:space="preserve">{text}</w:t></w:r>'


def paragraph(*content: str, properties: str = "") -> str:
    """Return a paragraph of runs; plain text is a run."""
    runs = (each if each.startswith("<") else run(each) for each in content)
    return f"<w:p><w:pPr>{properties}</w:pPr>{''.join(runs)}</w:p>"


def control(content: str, properties: str = "") -> str:
    """Return a content control."""
    return f"<w:sdt><w:sdtPr>{properties}</w:sdtPr><w:sdtContent>{content}</w:sdtContent></w:sdt>"


def cell(content: str, properties: str = "") -> str:
    """Return a cell of a table."""
    block = content if content.startswith("<") else paragraph(content)
    return f"<w:tc><w:tcPr>{properties}</w:tcPr>{block}</w:tc>"


def row(*cells: str, properties: str = "") -> str:
    """Return a row of a table; plain text is a cell."""
    made = (each if each.startswith("<") else cell(each) for each in cells)
    return f"<w:tr><w:trPr>{properties}</w:trPr>{''.join(made)}</w:tr>"


def table(*rows: str) -> str:
    """Return a table."""
    return f"<w:tbl>{''.join(rows)}</w:tbl>"


@pytest.mark.parametrize("mark", ["strike", "dstrike", "vanish"])
def test_struck_and_hidden_runs_are_no_text(mark: str) -> None:
    """What is crossed out is no longer said; a switch that is off changes nothing."""
    on, off = f"<w:{mark}/>", f'<w:{mark} w:val="0"/>'

    assert body(paragraph(run("900 ", on), run("980 ", off), "EUR")) == "980 EUR"


def test_a_style_can_strike_through() -> None:
    """Character and paragraph styles hide runs too, and those based on them."""

    def build(document: Document) -> None:
        struck = document.styles.add_style("Old", docx.enum.style.WD_STYLE_TYPE.CHARACTER)
        struck.font.strike = True
        older = document.styles.add_style("Older", docx.enum.style.WD_STYLE_TYPE.CHARACTER)
        older.base_style = struck
        line = document.add_paragraph("kept")
        line.add_run(" old", style="Old")
        line.add_run(" older", style="Older")

    assert read(build).text == "kept"


def test_soft_hyphens_and_readings_are_no_text() -> None:
    """Where a word may be cut, and how a Japanese one is read, is not part of it."""
    ruby = f"<w:r><w:ruby><w:rt>{run('とう')}</w:rt><w:rubyBase>{run('東')}</w:rubyBase></w:ruby></w:r>"

    assert body(paragraph("War\u00adtung ", ruby)) == "Wartung 東"


def test_text_boxes_keep_their_paragraphs_apart() -> None:
    """A box follows the paragraph that holds it, once, whatever its fallback repeats."""
    content = f"<w:txbxContent>{paragraph('One.')}{paragraph('Two.')}</w:txbxContent>"
    box = (
        f"<w:r><mc:AlternateContent><mc:Choice Requires='wps'><w:drawing>{content}</w:drawing>"
        f"</mc:Choice><mc:Fallback><w:pict>{content}</w:pict></mc:Fallback></mc:AlternateContent></w:r>"
    )

    assert body(paragraph("Before", box, " after."), paragraph("Last.")) == (
        "Before after.\n\nOne.\n\nTwo.\n\nLast."
    )


def test_content_controls_are_read_unless_they_show_their_prompt() -> None:
    """Around words, paragraphs, rows and cells; `Click here to enter text` is nobody's text."""
    prompt = control(run("Click here"), "<w:showingPlcHdr/>")
    rows = control(row("a", control(cell("b"))))

    assert body(
        paragraph("Due ", control(run("1 May")), prompt),
        control(paragraph("A block.")),
        table(rows, row("c", cell(control(paragraph("d"))))),
    ) == ("Due 1 May\n\nA block.\n\na | b\nc | d")


@pytest.mark.parametrize(
    ("equation", "expected"),
    [
        ("<m:r><m:t>v/10</m:t></m:r>", "v/10"),
        (
            "<m:f><m:num><m:r><m:t>a+b</m:t></m:r></m:num><m:den><m:r><m:t>2</m:t></m:r></m:den></m:f>",
            "(a+b)/2",
        ),
        (
            "<m:sSup><m:e><m:r><m:t>x</m:t></m:r></m:e><m:sup><m:r><m:t>2</m:t></m:r></m:sup></m:sSup>",
            "x^2",
        ),
        (
            "<m:sSub><m:e><m:r><m:t>x</m:t></m:r></m:e><m:sub><m:r><m:t>i</m:t></m:r></m:sub></m:sSub>",
            "x_i",
        ),
        (
            "<m:rad><m:deg/><m:e><m:r><m:t>y</m:t></m:r></m:e></m:rad>",
            "√(y)",
        ),
        ("<m:d><m:e><m:r><m:t>z</m:t></m:r></m:e></m:d>", "(z)"),
        (
            "<m:nary><m:naryPr><m:chr m:val='∑'/></m:naryPr><m:sub><m:r><m:t>i=1</m:t></m:r></m:sub>"
            "<m:sup><m:r><m:t>n</m:t></m:r></m:sup><m:e><m:r><m:t>i</m:t></m:r></m:e></m:nary>",
            "∑_(i=1)^n i",
        ),
        (
            "<m:func><m:fName><m:r><m:t>sin</m:t></m:r></m:fName><m:e><m:r><m:t>x</m:t></m:r></m:e></m:func>",
            "sin(x)",
        ),
        (
            "<m:m><m:mr><m:e><m:r><m:t>1</m:t></m:r></m:e><m:e><m:r><m:t>0</m:t></m:r></m:e></m:mr>"
            "<m:mr><m:e><m:r><m:t>0</m:t></m:r></m:e><m:e><m:r><m:t>1</m:t></m:r></m:e></m:mr></m:m>",
            "1, 0; 0, 1",
        ),
    ],
)
def test_an_equation_is_read_on_one_line(equation: str, expected: str) -> None:
    """Fractions, powers, roots and sums stand in their sentence."""
    math = f"<m:oMath>{equation}</m:oMath>"

    assert body(paragraph("It is ", math, " here.")) == f"It is {expected} here."


LEVELS = """
<w:abstractNum {ns} w:abstractNumId="70">
  <w:lvl w:ilvl="0"><w:start w:val="1"/><w:numFmt w:val="decimal"/><w:lvlText w:val="%1."/></w:lvl>
  <w:lvl w:ilvl="1"><w:start w:val="1"/><w:numFmt w:val="decimal"/><w:lvlText w:val="%1.%2"/></w:lvl>
  <w:lvl w:ilvl="2"><w:start w:val="1"/><w:numFmt w:val="lowerLetter"/><w:lvlText w:val="(%3)"/></w:lvl>
  <w:lvl w:ilvl="3"><w:start w:val="1"/><w:numFmt w:val="bullet"/><w:lvlText w:val="o"/></w:lvl>
</w:abstractNum>"""


def test_automatic_numbers_are_written_out() -> None:
    """Levels count on, start anew below a higher one, and where the list says so."""

    def build(document: Document) -> None:
        root = document.part.numbering_part.element
        root.insert(0, parse_xml(LEVELS.format(ns=NAMESPACES)))
        restart = '<w:lvlOverride w:ilvl="0"><w:startOverride w:val="5"/></w:lvlOverride>'
        for key, override in (("70", ""), ("71", restart)):
            root.append(
                parse_xml(
                    f'<w:num {NAMESPACES} w:numId="{key}"><w:abstractNumId w:val="70"/>{override}</w:num>'
                )
            )
        for key, level, text in (
            ("70", 0, "Rent"), ("70", 1, "Amount"), ("70", 1, "Day"), ("70", 2, "early"),
            ("70", 3, "dot"), ("70", 0, "Pets"), ("70", 1, "Dogs"), ("71", 0, "End"), ("0", 0, "None"),
        ):  # fmt: skip
            numbered = f'<w:numPr><w:ilvl w:val="{level}"/><w:numId w:val="{key}"/></w:numPr>'
            xml = paragraph(text, properties=numbered).replace(">", f" {NAMESPACES}>", 1)
            document.element.body.insert(-1, parse_xml(xml))

    assert read(build).text.split("\n") == [
        "1. Rent", "1.1 Amount", "1.2 Day", "(a) early", "dot", "2. Pets", "2.1 Dogs", "5. End", "None",
    ]  # fmt: skip


def test_a_style_numbers_too() -> None:
    """`List Number` carries its numbering in the style."""

    def build(document: Document) -> None:
        for text in ("First.", "Second."):
            document.add_paragraph(text, style="List Number")

    assert read(build).text == "1. First.\n2. Second."


@pytest.mark.parametrize(
    ("number", "style", "expected"),
    [
        (4, "lowerRoman", "iv"),
        (1994, "upperRoman", "MCMXCIV"),
        (27, "lowerLetter", "aa"),
        (2, "upperLetter", "B"),
        (7, "decimalZero", "07"),
        (0, "lowerRoman", "0"),
        (12, "chicago", "12"),
    ],
)
def test_numbers_are_formatted_as_word_does(number: int, style: str, expected: str) -> None:
    """Letters double after z; what is unknown is decimal."""
    assert numeral(number, style) == expected


def test_headers_footers_and_comments_are_read() -> None:
    """Page headers come first, once, footers last, without page numbers; a comment after its place."""

    def build(document: Document) -> None:
        for section in (document.sections[0], document.add_section()):
            section.header.is_linked_to_previous = False
            section.header.paragraphs[0].text = "Contract HV-7"
        document.sections[0].footer.paragraphs[0].text = "Page 1 of 2"
        document.sections[0].footer.add_paragraph("Confidential")
        line = document.add_paragraph("Parts are charged.")
        document.add_comment(line.runs, text="Up to 7,500 EUR.", author="Ola")
        document.add_paragraph("End.")

    assert read(build).text == (
        "Contract HV-7\n\nParts are charged.\n\nComment by Ola: Up to 7,500 EUR.\n\nEnd.\n\nConfidential"
    )


def test_the_strict_format_is_read() -> None:
    """ISO Strict names its parts otherwise; what they hold is the same."""
    buffer = io.BytesIO()
    data = saved(lambda document: document.add_paragraph("Strict words.", style="List Number"))
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(buffer, "w") as target:
        for part in source.namelist():
            content = source.read(part)
            for strict, transitional in STRICT:
                content = content.replace(TRANSITIONAL + transitional, strict)
            target.writestr(part, content)
    (document,) = load("a.docx", buffer.getvalue())

    assert document.text == "1. Strict words."


def test_rows_name_their_columns() -> None:
    """By a first row that names them: marked as such, bold, or above figures."""
    names = ("Item", "Valid until", "Amount")
    figures = row("Licence A", "31.12.2026", "4,200 EUR")
    named = "Item: Licence A | Valid until: 31.12.2026 | Amount: 4,200 EUR"
    bold = (cell(paragraph(run(name, "<w:b/>"))) for name in names)

    assert body(table(row(*names), figures)) == named
    assert body(table(row(*bold), figures)) == named
    assert body(table(row("Who", "Shift", properties="<w:tblHeader/>"), row("Bo", "late"))) == (
        "Who: Bo | Shift: late"
    )


@pytest.mark.parametrize(
    "rows",
    [
        [("Material", "Steel"), ("Weight", "12 kg")],
        [("Monday", "Anna", "Bo"), ("Tuesday", "Cy", "Di")],
        [("Item", "2024", "2025"), ("Sales", "12", "15")],
    ],
)
def test_rows_without_names_stay_rows(rows: list[tuple[str, ...]]) -> None:
    """Labels beside values and cells of words are no names of columns."""
    assert body(table(*(row(*cells) for cells in rows))) == "\n".join(map(" | ".join, rows))


def test_merged_cells_stand_where_they_count() -> None:
    """A cell over two columns once, one over two rows in each of them, under the right name."""
    wide, top, below = '<w:gridSpan w:val="2"/>', '<w:vMerge w:val="restart"/>', "<w:vMerge/>"

    assert body(
        table(
            row("Zone", "Day", "Night", properties="<w:tblHeader/>"),
            row(cell("North", top), cell("5 EUR", wide)),
            row(cell("", below), "7 EUR", "8 EUR"),
        )
    ) == ("Zone: North | Day: 5 EUR\nZone: North | Day: 7 EUR | Night: 8 EUR")


def test_a_table_in_a_cell_is_read_once() -> None:
    """Its rows stand in the cell that holds it."""
    inner = table(row("Street", "Dock Road 5"), row("City", "Malmo"))

    assert body(table(row("Address", cell(inner)), row("Contact", "Ola"))) == (
        "Address | Street: Dock Road 5; City: Malmo\nContact | Ola"
    )


def test_a_table_that_frames_text_keeps_its_paragraphs() -> None:
    """One cell a row is a frame, not a table."""
    framed = cell(paragraph("First.") + paragraph("Second."))

    assert body(table(row(framed))) == "First.\n\nSecond."


def test_deleted_rows_are_no_text() -> None:
    """A row that a tracked change takes away is gone."""
    assert body(table(row("a", "b", properties="<w:del/>"), row("c", "d"))) == "c | d"


def test_what_is_not_read_is_named() -> None:
    """Charts and embedded files are counted in a warning."""

    def build(document: Document) -> None:
        document.add_paragraph("Words.")
        for number in range(2):
            part = Part(PackURI(f"/word/charts/chart{number}.xml"), "application/xml", b"<c/>")
            document.part.relate_to(part, RELATIONSHIP_TYPE.CHART)

    assert read(build).warnings == ("2 charts were left out",)
