"""`GET /v1/documents/{id}/view`: a document to read in a browser, opened at what a citation quotes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest
from service_kit import QUESTION, copy_home, serving, settings

from rag_kit.errors import StepError
from rag_kit.reports import StoredDocument
from rag_service.api.document_view import BEFORE, WHOLE, to_page
from rag_service.app import create_app
from rag_service.links import Links, Signer

SECRET = "a secret that signs links"
BOARD, HR = "k-board-0123456789abcdef", "k-hr-0123456789abcdef0"
KEYS = json.dumps(
    [
        {"name": "board", "key": BOARD, "write": True},
        {"name": "hr", "key": HR, "collections": ["default"], "groups": ["hr"]},
    ]
)


class Page(HTMLParser):
    """The tags and texts of a page, and what is marked."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.marks, self.headings = "", list[str](), list[str]()
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "mark":
            self.marks.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = "pre" if tag == "mark" else ""

    def handle_data(self, data: str) -> None:
        if self._inside == "mark":
            self.marks[-1] += data
        if self._inside == "h2":
            self.headings.append(data)
        if self._inside in ("mark", "pre"):
            self.text += data

    def focused(self) -> list[str]:
        return [str(attrs["id"]) for _, attrs in self.tags if "autofocus" in attrs]


def document(text: str, pages: list[int] | None = None, **more: str) -> StoredDocument:
    fields = {"document_id": "a/b.pdf", "title": "By-laws", "source": "a/b.pdf", **more}
    return StoredDocument(
        **fields,
        content_type="application/pdf",
        content_hash="x",
        characters=len(text),
        chunks=1,
        metadata={},
        text=text,
        pages=pages or [],
    )


def shown(given: StoredDocument, page: int | None = None, *spans: tuple[int, int]) -> Page:
    return Page(bytes(to_page(given, {"collection": "default"}, page, spans).body).decode())


def test_what_is_quoted_is_marked_and_has_the_focus(http: httpx.Client) -> None:
    """The address is the one of a citation; its text is the citation's quote."""
    text = http.get("/v1/documents/travel.md").json()["text"]
    start = text.index("The daily")
    link = Links(str(http.base_url)).cited(
        {
            "document_id": "travel.md",
            "source": "travel.md",
            "page": None,
            "spans": [[start, start + 9]],
        },
        "default",
    )

    response = http.get(link)
    page = Page(response.text)

    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert page.marks == ["The daily"]
    assert page.focused() == ["cited"] and link.endswith("#cited")
    assert page.text == text


@pytest.mark.parametrize(
    ("spans", "marks"),
    [
        ([(0, 5)], ["Taxes"]),
        ([(10, 13), (0, 5)], ["Taxes", "due"]),
        ([(0, 5), (3, 9)], ["Taxes", " are"]),  # no letter twice
        ([(6, 13)], ["are", " due"]),  # over the end of a page
        ([(3, 3)], []),
    ],
)
def test_marks_keep_the_text_as_it_is(spans: list[tuple[int, int]], marks: list[str]) -> None:
    """Whatever overlaps, repeats or crosses a page, the text is shown once and in order."""
    page = shown(document("Taxes are due two", [0, 9]), None, *spans)

    assert page.text == "Taxes are due two"
    assert page.headings == ["Page 1", "Page 2"]
    assert page.marks == marks
    assert page.focused() == ["cited"][: len(marks)]


def test_a_page_is_opened_where_nothing_is_quoted() -> None:
    pages = document("one two three", [0, 4, 8])

    assert shown(pages, 2).focused() == ["page-2"]
    assert shown(pages, 2, (8, 13)).focused() == ["cited"]
    assert shown(pages).focused() == []


@pytest.mark.parametrize(
    ("page", "spans"),
    [(9, []), (0, []), (None, [(5, 4)]), (None, [(10, 99)]), (None, [(0, 1), (99, 100)])],
)
def test_a_place_that_is_gone_is_said(page: int | None, spans: list[tuple[int, int]]) -> None:
    """The document may have changed since the link was made; it is shown all the same."""
    given = shown(document("one two three", [0, 4, 8]), page, *spans)

    assert given.text == "one two three"
    assert ("p", {"role": "status"}) in given.tags


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "</pre></body><img src=x onerror=alert(1)>",
        "<mark id=cited>",
        "&lt;b&gt; \"'",
        "a\u202eb \U0001f600 ü",
    ],
)
def test_threat_prompt_injection_markup_of_a_document_stays_text(text: str) -> None:
    """In its text, its title and its source; and no script could run."""
    given = document(text, title=f"T {text}", source=f"s/{text}")
    response = to_page(given, {"collection": "default"}, None, [(0, 3)])
    page = Page(bytes(response.body).decode())

    assert page.text == text
    assert {tag for tag, _ in page.tags} <= {
        *(
            "html",
            "head",
            "meta",
            "title",
            "style",
            "body",
            "main",
            "header",
            "h1",
            "p",
            "pre",
            "mark",
        ),
    }
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src" not in policy
    assert "unsafe" not in policy


def test_only_a_web_address_becomes_a_link() -> None:
    script = document("text", source="javascript:alert(1)")
    web = document("text", source='https://example.com/a"b?c=1&d=2')

    assert [tag for tag, _ in shown(script).tags if tag == "a"] == []
    links = [attrs["href"] for tag, attrs in shown(web).tags if tag == "a"]
    assert links == ['https://example.com/a"b?c=1&d=2']


def test_of_a_long_document_the_part_around_the_place_is_shown() -> None:
    """With links to what stands before and after it, which reach every character."""
    text = "".join(f"{number:09} " for number in range(50_000))
    given = document(text)
    place = 300_000

    page = shown(given, None, (place, place + 9))
    first = text.index(page.text)

    assert len(page.text) == WHOLE and first == place - BEFORE
    assert page.marks == [text[place : place + 9]]
    links = [str(attrs["href"]) for tag, attrs in page.tags if tag == "a"]
    before, after = (int(re.findall(r"start=(\d+)", link)[0]) for link in links[:2])
    parts = [shown(given, None, (at, at)).text for at in (before, after)]
    assert text.index(parts[0]) + WHOLE >= first
    assert text.index(parts[1]) <= first + WHOLE
    assert len(shown(given).text) == WHOLE


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("start=-1&end=2", "start.0"),
        ("start=1&end=x", "end.0"),
        ("page=1.5", "page"),
        ("page=", "page"),
        ("collection=a/b", "collection"),
        ("&".join(["start=0"] * 70), "start"),
    ],
)
def test_what_is_no_place_is_refused(http: httpx.Client, query: str, param: str) -> None:
    response = http.get(f"/v1/documents/travel.md/view?{query}")

    assert response.status_code == 422
    assert response.json()["error"]["param"] == param


@pytest.fixture(scope="module")
def guarded(
    filled: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str, str], httpx.Response]]:
    """Reads a path with a key, of a service with two more documents."""
    home = copy_home(filled, tmp_path_factory.mktemp("keys") / "home")
    documents = [
        {"document_id": "pay", "text": "Pay.", "metadata": {"allowed_groups": ["board"]}},
        {"document_id": "tables/view", "text": "A view of the lake."},
    ]
    with (
        serving(settings(api_keys=KEYS, link_secret=SECRET), home=home) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=30) as client,
    ):
        board = {"authorization": f"Bearer {BOARD}"}
        added = client.post("/v1/documents", json={"documents": documents}, headers=board)
        assert added.status_code == 200
        yield lambda path, key: client.get(
            path, headers={"authorization": f"Bearer {key}"} if key else {}
        )


def test_a_document_whose_id_ends_like_a_view_is_still_shown(
    guarded: Callable[[str, str], httpx.Response],
) -> None:
    """Its view has one more `/view`."""
    assert guarded("/v1/documents/tables/view", BOARD).json()["document_id"] == "tables/view"
    assert "A view" in Page(guarded("/v1/documents/tables/view/view", BOARD).text).text
    missing = guarded("/v1/documents/nowhere/view", BOARD).json()["error"]
    assert "'nowhere'" in missing["message"]


def test_a_signed_link_opens_one_document_without_a_key(
    guarded: Callable[[str, str], httpx.Response],
) -> None:
    """That of a citation; another document, collection, end or use of it wants a key as before."""
    signer = Signer(SECRET, 60)
    link = Links("", signer=signer).document("pay", "default").removesuffix("#cited")
    other = Links("", signer=Signer("another secret of 16", 60)).document("pay", "default")
    past = Links("", signer=Signer(SECRET, -1)).document("pay", "default")
    nested = Links("", signer=signer).document("tables", "default")

    opened = guarded(link, "")
    assert opened.status_code == 200 and "Pay." in opened.text
    assert guarded(f"{link}&start=0&end=3", "").status_code == 200
    assert guarded(nested, "").status_code == 404
    refused = (
        *(other, past, link.replace("/pay/", "/travel.md/"), link.replace("=default", "=hr")),
        *(link.replace("/view", ""), f"{link}&collection=hr", f"{link}&signature=x"),
        *(
            link.replace("expires=", "expires=1"),
            link[:-1],
            link.replace("signature=", "signature=é"),
        ),
    )
    assert {path: guarded(path, "").status_code for path in refused} == dict.fromkeys(refused, 401)


@pytest.mark.parametrize("text", ["", "\n", "short"])
def test_a_secret_file_that_is_too_short_is_refused(text: str, tmp_path: Path) -> None:
    """As a short variable is; an empty file would leave links unsigned, without a word."""
    file = tmp_path / "secret"
    file.write_text(text)

    with pytest.raises(StepError, match=r"RAG_LINK_SECRET_FILE=.*at least 16"):
        create_app(settings(link_secret_file=file))


def test_a_cited_link_of_a_service_with_keys_opens_by_itself(
    guarded: Callable[[str, str], httpx.Response],
) -> None:
    """As a chat shows it, with the words that it quotes."""
    asked = {"query": QUESTION}
    client = guarded("/healthz", BOARD).request.url
    answer = httpx.post(
        client.join("/rag_modules"),
        json=asked,
        headers={"authorization": f"Bearer {BOARD}"},
        trust_env=False,
        timeout=30,
    ).json()
    [citation, *_] = answer["citations"]

    page = Page(httpx.get(citation["url"], trust_env=False).text)

    assert page.marks == citation["quotes"]


def test_who_may_not_read_a_document_may_not_view_it(
    guarded: Callable[[str, str], httpx.Response],
) -> None:
    """It looks as if it did not exist, as it does elsewhere."""
    assert guarded("/v1/documents/pay/view", BOARD).status_code == 200
    assert guarded("/v1/documents/pay/view", HR).status_code == 404
    assert guarded("/v1/documents/leave.md/view?collection=hr", HR).status_code == 404
    assert guarded("/v1/documents/pay/view", "wrong").status_code == 401


@pytest.mark.parametrize(
    ("document_id", "path"),
    [
        ("a b/ü?#&%.md", "a%20b/%C3%BC%3F%23%26%25.md"),
        ("x#3", "x%233"),
    ],
)
def test_addresses_are_encoded(document_id: str, path: str) -> None:
    place = {"document_id": document_id, "source": "x", "page": 4, "span": [1, 2]}

    link = Links("https://docs.example.com/rag/").found(place, "hr")

    assert link == (
        f"https://docs.example.com/rag/v1/documents/{path}/view"
        "?collection=hr&page=4&start=1&end=2#cited"
    )


def test_a_web_page_has_its_own_address() -> None:
    place = {"document_id": "x", "source": "https://example.com/x", "page": None, "span": [1, 2]}

    assert Links("http://127.0.0.1").found(place, "hr") == "https://example.com/x"
