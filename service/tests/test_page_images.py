"""Pages of PDFs as images in a document's view: where their files come from, and who may see them."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from reportlab.pdfgen.canvas import Canvas
from service_kit import copy_home, environment, serving, settings
from test_document_view import BOARD, HR, KEYS, SECRET, Page

from rag_kit.reports import StoredDocument
from rag_pipeline.steps.local import open_local
from rag_retrieve.documents.pdf.drawn import Box, Sheet
from rag_service.api.document_view import to_images
from rag_service.library.files import Files
from rag_service.library.originals import Originals
from rag_service.library.page_images import PageImages

AUTH = {"authorization": f"Bearer {BOARD}"}
SENTENCE = "The harbour master keeps the spare key of the north gate."


def pdf(*pages: str) -> bytes:
    """Return a PDF of a page for each text, a line of it on a line."""
    file = io.BytesIO()
    canvas = Canvas(file)
    for text in pages:
        for number, line in enumerate(text.split("\n")):
            canvas.drawString(72, 720 - 14 * number, line)
        canvas.showPage()
    canvas.save()
    return file.getvalue()


HARBOUR = pdf(
    "Rules of the harbour", f"Opening hours are short.\n{SENTENCE[:28]}\n{SENTENCE[29:]}", "End"
)


@pytest.fixture(scope="module")
def home(filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose store has a PDF of a folder that was indexed."""
    home = copy_home(filled, tmp_path_factory.mktemp("pages") / "home")
    folder = home / "papers"
    folder.mkdir()
    (folder / "indexed.pdf").write_bytes(HARBOUR)
    with environment({"RAG_CHUNK_TOKENS": "64"}), open_local(home=home / "store") as rag:
        assert not rag.retriever.ingest([folder]).failed
    return home


@pytest.fixture(scope="module")
def client(home: Path) -> Iterator[httpx.Client]:
    """A client of a service with keys and signed links."""
    given = settings(api_keys=KEYS, link_secret=SECRET, max_originals_bytes=10 * len(HARBOUR))
    with (
        serving(given, home=home) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=60, headers=AUTH) as client,
    ):
        yield client


def upload(client: httpx.Client, name: str, content: bytes, **query: str) -> dict[str, Any]:
    files = {"files": (name, content, "application/pdf")}
    response = client.post("/v1/documents", params=query, files=files)
    assert response.status_code == 200, response.text
    report: dict[str, Any] = response.json()
    return report


def span_of(client: httpx.Client, document_id: str, first: str, last: str) -> dict[str, int]:
    text = client.get(f"/v1/documents/{document_id}").json()["text"]
    start = text.index(first)
    return {"start": start, "end": text.index(last, start) + len(last)}


def tags(page: Page, name: str) -> list[dict[str, str | None]]:
    return [attrs for tag, attrs in page.tags if tag == name]


def image_of(client: httpx.Client, view: httpx.Response) -> Image.Image:
    """Return the first image of a view, as a browser loads it."""
    source = str(tags(Page(view.text), "img")[0]["src"])
    response = client.get(view.request.url.join(source))
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/png"
    return Image.open(io.BytesIO(response.content))


def is_image(client: httpx.Client, document_id: str, **query: Any) -> bool:
    view = client.get(f"/v1/documents/{document_id}/view", params=query)
    assert view.status_code == 200
    return "<img" in view.text


def test_a_quote_is_marked_on_the_image_of_its_page(client: httpx.Client) -> None:
    """Of a file that was uploaded; over two lines, with the text below, and links to the other pages."""
    upload(client, "upload.pdf", HARBOUR)
    span = span_of(client, "upload.pdf", "The harbour master", "north gate.")

    view = client.get("/v1/documents/upload.pdf/view", params=span)
    page = Page(view.text)

    assert page.headings == ["Page 2"]
    assert [rect.get("id") for rect in tags(page, "rect")] == ["cited", None]
    assert SENTENCE in str(tags(page, "img")[0]["alt"])
    assert " ".join("".join(page.marks).split()) == SENTENCE
    assert image_of(client, view).size == (1240, 1754)
    links = [str(link["href"]) for link in tags(page, "a")]
    assert [link.split("&")[1:3] for link in links[:3]] == [
        ["as=pages", "page=1"],
        ["as=pages", "page=3"],
        ["as=text", "page=2"],
    ]
    text = client.get(view.request.url.join(links[2]))
    assert "<img" not in text.text and " ".join(Page(text.text).marks[0].split()) == SENTENCE


def test_a_cited_answer_leads_to_the_marked_image(client: httpx.Client) -> None:
    """Its address opens without a key where links are signed, and so does the image."""
    upload(client, "key.pdf", pdf("Title", "The sluice keeper is called Marten Vos since 1987."))
    answer = client.post("/rag_modules", json={"query": "Who is the sluice keeper?"}).json()
    [citation, *_] = answer["citations"]

    with httpx.Client(trust_env=False, timeout=60) as browser:
        view = browser.get(citation["url"])
        page = Page(view.text)
        assert page.headings == ["Page 2"] and tags(page, "rect")[0]["id"] == "cited"
        assert image_of(browser, view).width == 1240


def test_pages_of_a_folder_that_was_indexed_are_drawn_while_the_file_is_the_same(
    client: httpx.Client, home: Path
) -> None:
    """And of an OpenAI client's file; when it changes, the page shows what was read of it."""
    file = home / "papers" / "indexed.pdf"
    assert is_image(client, "papers/indexed.pdf")

    file.write_bytes(pdf("Another text"))
    assert not is_image(client, "papers/indexed.pdf")
    file.write_bytes(HARBOUR)
    assert is_image(client, "papers/indexed.pdf")

    uploaded = client.post(
        "/v1/files",
        data={"purpose": "assistants"},
        files={"file": ("a.pdf", HARBOUR, "application/pdf")},
    ).json()
    attached = client.post("/v1/vector_stores/default/files", json={"file_id": uploaded["id"]})
    assert attached.status_code == 200, attached.text
    ingest = client.get(f"/v1/vector_stores/default/files/{uploaded['id']}").json()
    while ingest["status"] == "in_progress":
        ingest = client.get(f"/v1/vector_stores/default/files/{uploaded['id']}").json()
    assert is_image(client, f"{uploaded['id']}/a.pdf")


def test_a_file_goes_with_its_document(client: httpx.Client, home: Path) -> None:
    """When it is replaced, deleted, or its collection is; nothing of it is left on the disk."""
    folder = home / "store" / "originals"
    upload(client, "gone.pdf", HARBOUR, collection="short")
    assert len(list((folder / "short").iterdir())) == 1

    upload(client, "gone.pdf", pdf("Another page"), collection="short")
    assert is_image(client, "gone.pdf", collection="short")
    [kept] = (folder / "short").iterdir()
    assert kept.stat().st_size < len(HARBOUR)

    text = {"documents": [{"document_id": "gone.pdf", "text": "Only text now."}]}
    client.post("/v1/documents?collection=short", json=text)
    assert not is_image(client, "gone.pdf", collection="short")
    assert list((folder / "short").iterdir()) == []

    upload(client, "gone.pdf", HARBOUR, collection="short")
    client.delete("/v1/documents/gone.pdf?collection=short")
    assert list((folder / "short").iterdir()) == []
    upload(client, "gone.pdf", HARBOUR, collection="short")
    client.delete("/v1/collections/short")
    assert not (folder / "short").exists()


def test_who_may_not_read_a_document_gets_no_image_of_it(client: httpx.Client) -> None:
    """The image has the checks of the view: groups, collections, keys, and signatures of one document."""
    upload(client, "board.pdf", HARBOUR, allowed_groups="board")
    path = "/v1/documents/board.pdf/view?as=image&page=1"

    assert client.get(path).status_code == 200
    assert client.get(path, headers={"authorization": f"Bearer {HR}"}).status_code == 404
    assert client.get(path, headers={"authorization": "Bearer wrong"}).status_code == 401
    view = client.get("/v1/documents/board.pdf/view")
    assert view.headers["content-security-policy"].startswith("default-src 'none'")
    assert "style=" not in view.text.replace("<style>", "")


@pytest.mark.parametrize(
    ("path", "status", "param"),
    [
        ("upload.pdf/view?as=image&page=4", 404, "page"),
        ("upload.pdf/view?as=image&page=0", 404, "page"),
        ("travel.md/view?as=image", 404, "page"),
        ("nowhere.pdf/view?as=image", 404, "document_id"),
        ("upload.pdf/view?as=picture", 422, "as"),
    ],
)
def test_what_has_no_image_is_said(
    client: httpx.Client, path: str, status: int, param: str
) -> None:
    upload(client, "upload.pdf", HARBOUR)

    response = client.get(f"/v1/documents/{path}")

    assert response.status_code == status
    assert response.json()["error"]["param"] == param


def document(text: str, **more: Any) -> StoredDocument:
    fields = {"document_id": "a.pdf", "title": "T", "source": "a.pdf", "metadata": {}, **more}
    return StoredDocument(
        **fields,
        content_type="application/pdf",
        content_hash="x",
        characters=len(text),
        chunks=1,
        text=text,
    )


def test_markup_of_a_document_stays_text_beside_an_image() -> None:
    """In the description of the image, too."""
    text = '"><script>alert(1)</script> & more'
    given = document(text, pages=[0])
    sheet = Sheet(100.0, 200.0, [Box(1, 2, 3, 4)])

    page = Page(bytes(to_images(given, {}, None, [(0, 30)], {1: sheet}).body).decode())

    assert page.text == text
    assert str(tags(page, "img")[0]["alt"]).endswith(text[:29])
    assert not tags(page, "script")


def test_files_make_room_for_newer_ones(tmp_path: Path) -> None:
    """The one that was read longest ago goes first; what others deleted goes when it is noticed."""
    originals = Originals(tmp_path / "originals", 250)
    digests = {}
    for at, name in enumerate(("a", "b", "c")):
        content = name.encode() * 100
        originals.keep("default", name, io.BytesIO(content))
        path = originals.path("default", name)
        digests[name] = hashlib.sha256(content).hexdigest()
        os.utime(path, (at, at))

    assert originals.read("default", "a", digests["a"]) == b"a" * 100
    assert originals.read("default", "a", digests["b"]) is None
    originals.evict()
    kept = [name for name in digests if originals.read("default", name, digests[name])]
    assert kept == ["a", "c"]

    originals.forget_others(lambda name: ["c"] if name == "default" else [])
    assert not originals.path("default", "a").exists()
    assert originals.path("default", "c").exists()


def test_a_full_disk_costs_the_image_only(tmp_path: Path) -> None:
    """The upload goes on; the folder cannot be made here."""
    (tmp_path / "originals").write_text("in the way")

    Originals(tmp_path / "originals", 100).keep("default", "a", io.BytesIO(b"x"))


class Indexed:
    """A double of the retriever: every document was indexed from one file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def path(self, collection: str, document_id: str) -> Path:
        return self.file


def test_a_scan_is_marked_by_the_boxes_of_its_lines(tmp_path: Path) -> None:
    """Where text was recognised, the page has no characters; the lines that a quote touches are marked."""
    boxes = [(0, 10, 72.0, 50.0, 200.0, 64.0), (11, 22, 72.0, 70.0, 200.0, 84.0)]
    scan = pdf("")
    file = tmp_path / "a.pdf"
    file.write_bytes(scan)
    digest = hashlib.sha256(scan).hexdigest()
    given = document("First line\nSecond line", pages=[0], boxes=boxes, file_digest=digest)
    images = PageImages(Originals(tmp_path / "originals", 0), Files(tmp_path, 0))

    sheets = images.sheets(Indexed(file), "default", given, [1], [(12, 15)])  # type: ignore[arg-type]

    assert sheets is not None and [tuple(box) for box in sheets[1].boxes] == [boxes[1][2:]]
