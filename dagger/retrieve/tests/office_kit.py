"""Small files of office formats, built in memory from their parts."""

from __future__ import annotations

import base64
import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

XML = '<?xml version="1.0" encoding="UTF-8"?>'
OFFICE = "http://schemas.openxmlformats.org"
RELATION = f"{OFFICE}/officeDocument/2006/relationships"
OPEN = "urn:oasis:names:tc:opendocument:xmlns"
Cell = str | int | float | None

# A sheet `Prices` with the columns Item, Price and Since and two rows, saved by xlwt 1.3.
XLS = zlib.decompress(base64.b64decode(
    b"eNrtWE1oE0EU/ma7aX5ok01NlVYIoWDV2grixUu7KmgRsUQFFSlomuwhtElLrEK9WK05CoInxUuhHrxUvfiDPyh4"
    b"8CBU9CAUhESPngQFD23WN293a1orNKCF6nxh3rx5M9/Oy76ZN7v7ZiZamrzXWsYS9KAOFTuI+iqboBL0Ggao37al"
    b"6tUBKrbCmkIwQIGs9+Fx42u/jKGMdxka7uovSAIfqfRjBH3DeSuxitjLPqSE9KGbpMBNsoTRwl41sUyzXMfyDo98"
    b"wnI3W66w7KaxJXESM2Zfxy53FZ/Q2rgvDHndB8yZZcsONOOVXMUXrgpnrA97CtnU0BrriOsNmAIFtNfKWwXZjuAW"
    b"QsAYoSuX68pkSohRsKfwzU4AX71d/Tyh7KtrFyD798V2/2/sAQriUvs1TQfGYZ/mTVKkRb1BdzZyspBNW2fmsJ1W"
    b"BbhQx4FRK0cq91F9NJtPW2ROns2NUPNYauicFZJpntOCsSgtNPJ2aSCZQYT1KG8ag/yau/3l7aGBpHmKLeN8FDgH"
    b"xibpH2xclAwih7mnbkF2MGMby0t81Y2st7KMkd9UtyebXWX/BI+5zL3tNM9Oxjtzc5W+hfTi58MP48VP5lbSp3vL"
    b"52PT781JtNEBliG+/E2gU3SKG9clHpleLdzk8oFlyy+JJqAZru+2eypGMC+3FiHK0mnJuyMWWpp7ryRbLMMWzJb3"
    b"4ynNL5h90JSJbvalRkzJ05bhaczTXZ4Tk7iTIJ9JXo/WhPtyECXFnwhBQUFBQUFBQUHhP4Xgh1PnUVx3XxPkw77f"
    b"/a4zT6WiPpP8sziCYfqN0kvlPuSpLmCspvWzHj7hXUuskON9L5Q4TrMXMIgB9mOw5vVLLzqi+v+smGj8uS1U6/yV"
    b"Wvz8y/P/AG+j2YY="
))  # fmt: skip


def zipped(parts: Mapping[str, str | bytes]) -> bytes:
    """Return a zip archive of these parts."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def related(relations: Mapping[str, tuple[str, str]]) -> str:
    """Return the part that lists relations: by their id, kind and target."""
    listed = "".join(
        f'<Relationship Id="{key}" Type="{RELATION}/{kind}" Target="{target}"/>'
        for key, (kind, target) in relations.items()
    )
    return (
        f'{XML}<Relationships xmlns="{OFFICE}/package/2006/relationships">{listed}</Relationships>'
    )


def column(number: int) -> str:
    """Return the letter of one of the first 26 columns."""
    return chr(ord("A") + number)


def xlsx(
    sheets: Mapping[str, Sequence[Sequence[Cell]]],
    *,
    merged: Sequence[str] = (),
    hidden: Sequence[str] = (),
    dates: Sequence[str] = (),
    percent: Sequence[str] = (),
    comment: tuple[str, str] | None = None,
    raw: str = "",
) -> bytes:
    """Save a workbook.

    Args:
        sheets: Rows of cells by the name of their sheet.
        merged: Ranges of merged cells, on each sheet.
        hidden: Sheets that are not shown.
        dates: References of cells whose numbers are days.
        percent: References of cells whose numbers are shown as percent.
        comment: Reference of a cell and what somebody notes on it, on each sheet.
        raw: Cells in XML, put below the rows of each sheet.
    """
    listed = []
    relations = {"s": ("styles", "styles.xml")}
    parts: dict[str, str | bytes] = {}
    for number, (name, rows) in enumerate(sheets.items(), 1):
        state = ' state="hidden"' if name in hidden else ""
        listed.append(f'<sheet name="{escape(name)}" sheetId="{number}"{state} r:id="r{number}"/>')
        relations[f"r{number}"] = ("worksheet", f"worksheets/sheet{number}.xml")
        styles = {**dict.fromkeys(dates, 1), **dict.fromkeys(percent, 2)}
        body = "".join(_row(at, cells, styles) for at, cells in enumerate(rows, 1)) + raw
        if comment:
            parts[f"xl/worksheets/_rels/sheet{number}.xml.rels"] = related(
                {"c": ("comments", "../comments.xml")}
            )
            parts["xl/comments.xml"] = (
                f'{XML}<comments xmlns="{OFFICE}/spreadsheetml/2006/main"><commentList><comment '
                f'ref="{comment[0]}"><text><r><t>{comment[1]}</t></r></text></comment></commentList></comments>'
            )
        spans = "".join(f'<mergeCell ref="{one}"/>' for one in merged)
        spans = f"<mergeCells>{spans}</mergeCells>" if spans else ""
        parts[f"xl/worksheets/sheet{number}.xml"] = (
            f'{XML}<worksheet xmlns="{OFFICE}/spreadsheetml/2006/main"><sheetData>{body}</sheetData>{spans}'
            "</worksheet>"
        )
    parts["[Content_Types].xml"] = f'{XML}<Types xmlns="{OFFICE}/package/2006/content-types"/>'
    parts["_rels/.rels"] = related({"r1": ("officeDocument", "xl/workbook.xml")})
    parts["xl/workbook.xml"] = (
        f'{XML}<workbook xmlns="{OFFICE}/spreadsheetml/2006/main" xmlns:r="{RELATION}">'
        f"<sheets>{''.join(listed)}</sheets></workbook>"
    )
    parts["xl/_rels/workbook.xml.rels"] = related(relations)
    parts["xl/styles.xml"] = (
        f'{XML}<styleSheet xmlns="{OFFICE}/spreadsheetml/2006/main"><cellXfs><xf numFmtId="0"/>'
        '<xf numFmtId="14" applyNumberFormat="1"/><xf numFmtId="9"/></cellXfs></styleSheet>'
    )
    return zipped(parts)


def _row(number: int, cells: Sequence[Cell], styles: Mapping[str, int]) -> str:
    written = []
    for at, cell in enumerate(cells):
        reference = f"{column(at)}{number}"
        if isinstance(cell, str):
            written.append(f'<c r="{reference}" t="inlineStr"><is><t>{escape(cell)}</t></is></c>')
        elif cell is not None:
            style = f' s="{styles[reference]}"' if reference in styles else ""
            written.append(f'<c r="{reference}"{style}><f>1+1</f><v>{cell}</v></c>')
    return f'<row r="{number}">{"".join(written)}</row>'


def pptx(
    slides: Sequence[str], *, notes: Mapping[int, str] | None = None, hidden: int = 0
) -> bytes:
    """Save a presentation.

    Args:
        slides: Shapes of each slide, in XML.
        notes: What the speaker says, by the number of the slide.
        hidden: Number of a slide that is not shown.
    """
    spaces = (
        f'xmlns:p="{OFFICE}/presentationml/2006/main" xmlns:a="{OFFICE}/drawingml/2006/main" '
        f'xmlns:r="{RELATION}"'
    )
    parts: dict[str, str | bytes] = {
        "[Content_Types].xml": f'{XML}<Types xmlns="{OFFICE}/package/2006/content-types"/>'
    }
    ids = []
    relations = {}
    for number, shapes in enumerate(slides, 1):
        ids.append(f'<p:sldId id="{255 + number}" r:id="r{number}"/>')
        relations[f"r{number}"] = ("slide", f"slides/slide{number}.xml")
        show = ' show="0"' if number == hidden else ""
        parts[f"ppt/slides/slide{number}.xml"] = (
            f"{XML}<p:sld {spaces}{show}><p:cSld><p:spTree>{shapes}</p:spTree></p:cSld></p:sld>"
        )
        if text := (notes or {}).get(number):
            parts[f"ppt/slides/_rels/slide{number}.xml.rels"] = related(
                {"n": ("notesSlide", f"../notesSlides/notes{number}.xml")}
            )
            parts[f"ppt/notesSlides/notes{number}.xml"] = (
                f"{XML}<p:notes {spaces}><p:cSld><p:spTree>{shape(text, kind='body')}</p:spTree>"
                "</p:cSld></p:notes>"
            )
    parts["ppt/presentation.xml"] = (
        f"{XML}<p:presentation {spaces}><p:sldIdLst>{''.join(ids)}</p:sldIdLst></p:presentation>"
    )
    parts["ppt/_rels/presentation.xml.rels"] = related(relations)
    return zipped(parts)


def shape(*paragraphs: str, kind: str = "", run: str = "", paragraph: str = "") -> str:
    """Return a shape of a slide; `kind` is that of a placeholder, the others are properties in XML."""
    mark = f'<p:nvPr><p:ph type="{kind}"/></p:nvPr>' if kind else "<p:nvPr/>"
    lines = "".join(
        f"<a:p>{paragraph}<a:r>{run}<a:t>{escape(text)}</a:t></a:r></a:p>" for text in paragraphs
    )
    return (
        f'<p:sp><p:nvSpPr><p:cNvPr id="1" name="x"/><p:cNvSpPr/>{mark}</p:nvSpPr>'
        f"<p:txBody>{lines}</p:txBody></p:sp>"
    )


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return a table of a slide whose first row is marked as its header."""
    body = "".join(
        "<a:tr>"
        + "".join(
            f"<a:tc><a:txBody><a:p><a:r><a:t>{escape(cell)}</a:t></a:r></a:p></a:txBody></a:tc>"
            for cell in row
        )
        + "</a:tr>"
        for row in rows
    )
    return (
        '<p:graphicFrame><a:graphic><a:graphicData><a:tbl><a:tblPr firstRow="1"/>'
        f"{body}</a:tbl></a:graphicData></a:graphic></p:graphicFrame>"
    )


def open_document(body: str, *, kind: str = "text", styles: str = "", masters: str = "") -> bytes:
    """Save an OpenDocument file; `body` and `styles` are XML with the usual prefixes."""
    spaces = " ".join(
        f'xmlns:{prefix}="{OPEN}:{name}:1.0"'
        for prefix, name in (
            ("office", "office"), ("text", "text"), ("table", "table"), ("style", "style"),
            ("draw", "drawing"), ("presentation", "presentation"),
        )
    )  # fmt: skip
    content = (
        f'{XML}<office:document-content {spaces} xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f"<office:automatic-styles>{styles}</office:automatic-styles>"
        f"<office:body><office:{kind}>{body}</office:{kind}></office:body></office:document-content>"
    )
    outside = f"{XML}<office:document-styles {spaces}>{masters}</office:document-styles>"
    return zipped({"mimetype": "x", "content.xml": content, "styles.xml": outside})


def epub(chapters: Mapping[str, str], *, title: str = "The Book") -> bytes:
    """Save a book; chapters are XHTML by the name of their part, `nav.xhtml` is the contents."""
    items = "".join(
        f'<item id="i{at}" href="{name}" media-type="application/xhtml+xml"'
        f"{' properties=' + chr(34) + 'nav' + chr(34) if name == 'nav.xhtml' else ''}/>"
        for at, name in enumerate(chapters)
    )
    spine = "".join(f'<itemref idref="i{at}"/>' for at in range(len(chapters)))
    package = (
        f'{XML}<package xmlns="http://www.idpf.org/2007/opf"><metadata xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f"<dc:title>{title}</dc:title><dc:creator>A. Writer</dc:creator></metadata>"
        f"<manifest>{items}</manifest><spine>{spine}</spine></package>"
    )
    container = (
        f'{XML}<container><rootfiles><rootfile full-path="OEBPS/book.opf"/></rootfiles></container>'
    )
    pages = {f"OEBPS/{name}": page for name, page in chapters.items()}
    return zipped({"META-INF/container.xml": container, "OEBPS/book.opf": package, **pages})
