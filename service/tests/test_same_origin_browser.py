"""Pages of other sites, in a real browser, at the real service: they plant, read and delete nothing."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from page_kit import ask, launched, opened
from playwright.sync_api import Browser, Page, expect
from service_kit import serving, settings

QUESTION = "Which animal guards the cellar?"
PLANTED = "# Cellar\n\nA badger guards the cellar of the house.\n"
# Each attempt takes the service's address and the text to plant.
FETCH = """async ([service, text]) => {
  const form = () => {
    const form = new FormData();
    form.append("files", new File([text], "planted.md"));
    return form;
  };
  const question = JSON.stringify({ query: "Who signs?" });
  const attempts = [
    ["v1/documents", { mode: "no-cors", method: "POST", body: form() }],
    ["v1/documents", { mode: "no-cors", method: "POST", body: form(), referrerPolicy: "no-referrer" }],
    ["v1/documents", { method: "POST", body: form() }],
    ["v1/collections/default/reindex", { mode: "no-cors", method: "POST" }],
    ["rag_modules", { mode: "no-cors", method: "POST", body: question }],
    ["mcp", { mode: "no-cors", method: "POST", body: question }],
    ["rag_modules", { method: "POST", body: question, headers: { "content-type": "application/json" } }],
    ["v1/documents/travel.md", { method: "DELETE" }],
    ["v1/documents", {}],
  ];
  const results = [];
  for (const [path, options] of attempts) {
    const result = fetch(`${service}/${path}`, options);
    results.push(await result.then((response) => response.type, (error) => error.name));
  }
  return results;
}"""
FORM = """([service, text, target]) => {
  const files = new DataTransfer();
  files.items.add(new File([text], "planted.md"));
  document.body.innerHTML = `<form method="post" enctype="multipart/form-data" target="${target}"
    action="${service}/v1/documents"><input type="file" name="files"></form>
    <iframe name="inside"></iframe>`;
  document.querySelector("input").files = files.files;
  document.querySelector("form").submit();
}"""
SANDBOX = """([service, text]) => new Promise((resolve) => {
  addEventListener("message", (event) => resolve(event.data));
  const frame = document.createElement("iframe");
  frame.sandbox = "allow-scripts";
  frame.srcdoc = `<script>
    const form = new FormData();
    form.append("files", new File([${JSON.stringify(text)}], "planted.md"));
    fetch("${service}/v1/documents", { mode: "no-cors", method: "POST", body: form }).then(
      (response) => parent.postMessage([origin, response.type], "*"),
      (error) => parent.postMessage([origin, error.name], "*"));
  <\\/script>`;
  document.body.append(frame);
})"""


class OtherSite(ThreadingHTTPServer):
    """A site with an empty page, under two names. A test double."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Empty)

    def origin(self, name: str) -> str:
        return f"http://{name}:{self.server_port}"


class _Empty(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>another site</title>")

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as one:
        yield one


@pytest.fixture(scope="module")
def other() -> Iterator[OtherSite]:
    with OtherSite() as site:
        thread = threading.Thread(target=site.serve_forever)
        thread.start()
        yield site
        site.shutdown()
        thread.join()


@contextmanager
def visited(browser: Browser, url: str) -> Iterator[tuple[Page, list[int]]]:
    """Open a page of the other site; gives it and the statuses of what it posts."""
    tab = browser.new_context()
    tab.set_default_timeout(20_000)
    statuses: list[int] = []
    tab.on(
        "response",
        lambda one: statuses.append(one.status) if one.request.method != "GET" else None,
    )
    try:
        page = tab.new_page()
        page.goto(url)
        yield page, statuses
    finally:
        tab.close()


def documents(service: str) -> list[dict[str, Any]]:
    listed = httpx.get(f"{service}/v1/documents", trust_env=False).json()["documents"]
    return [dict(document) for document in listed]


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"], ids=["same site", "cross site"])
def test_threat_foreign_site_cannot_plant_read_or_delete_by_fetch(
    name: str, browser: Browser, other: OtherSite, service: str
) -> None:
    """Another port is another origin, whichever name it has."""
    before = documents(service)
    with visited(browser, other.origin(name)) as (page, statuses):
        results = page.evaluate(FETCH, [service, PLANTED])

    assert results == [
        *("opaque", "opaque", "TypeError"),
        *("opaque", "opaque", "opaque"),
        *("TypeError", "TypeError", "TypeError"),
    ]
    assert statuses == [403] * 5  # those whose response the page is given, without its content
    assert documents(service) == before


@pytest.mark.parametrize("target", ["_self", "inside"])
def test_threat_foreign_site_cannot_plant_by_a_form(
    target: str, browser: Browser, other: OtherSite, service: str
) -> None:
    """Neither as a visit of the service nor in a frame."""
    before = documents(service)
    with (
        visited(browser, other.origin("localhost")) as (page, statuses),
        page.expect_response(f"{service}/v1/documents"),
    ):
        page.evaluate(FORM, [service, PLANTED, target])

    assert statuses == [403]
    assert documents(service) == before


def test_threat_foreign_site_cannot_plant_from_a_sandbox(
    browser: Browser, other: OtherSite, service: str
) -> None:
    """A sandboxed frame has the origin `null`."""
    before = documents(service)
    with visited(browser, other.origin("127.0.0.1")) as (page, _):
        assert page.evaluate(SANDBOX, [service, PLANTED]) == ["null", "opaque"]

    assert documents(service) == before


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_threat_foreign_site_cannot_frame_a_page(
    path: str, browser: Browser, other: OtherSite, service: str
) -> None:
    """What a user would click there is never shown."""
    with visited(browser, other.origin("localhost")) as (page, _):
        with page.expect_event(
            "framenavigated",
            lambda frame: frame.parent_frame and frame.url.strip() != "about:blank",
        ) as navigated:
            page.evaluate(
                "url => { const frame = document.createElement('iframe'); frame.src = url;"
                "document.body.append(frame); }",
                f"{service}{path}",
            )

        assert navigated.value.url == "chrome-error://chromewebdata/"


def test_an_allowed_site_may_do_all_of_it(browser: Browser, other: OtherSite, home: Path) -> None:
    """The same attempts, with RAG_ALLOWED_ORIGINS; only an origin `null` is still refused."""
    given = settings(allowed_origins=(other.origin("localhost"),))
    with (
        serving(given, home=home) as url,
        visited(browser, other.origin("localhost")) as (page, _),
    ):
        results = page.evaluate(FETCH, [url, PLANTED])
        names = {document["document_id"] for document in documents(url)}

    assert results == [
        *("opaque", "opaque", "cors"),
        *("opaque", "opaque", "opaque"),
        *("cors", "cors", "cors"),
    ]
    assert "planted.md" in names and "travel.md" not in names


def test_the_own_page_adds_asks_and_deletes(browser: Browser, home: Path) -> None:
    """The same document, added where it may be."""
    with serving(home=home) as url, opened(browser, url) as page:
        page.locator("#show-documents").click()
        planted = {"name": "planted.md", "mimeType": "text/markdown", "buffer": PLANTED.encode()}
        page.locator("#files").set_input_files([planted])
        expect(page.locator("#ingest-report")).to_contain_text("added")
        assert "planted.md" in {document["document_id"] for document in documents(url)}
        page.keyboard.press("Escape")
        expect(ask(page, QUESTION).locator(".answer")).to_contain_text("A badger guards the cellar")
        page.locator("#show-documents").click()
        page.get_by_role("button", name=re.compile("^Delete .*Cellar")).click()
        page.get_by_role("dialog").get_by_role("button", name="Delete document").click()
        expect(page.locator("#ingest-report")).to_contain_text("Deleted")
        assert "planted.md" not in {document["document_id"] for document in documents(url)}


def test_the_api_page_works_under_its_policy(browser: Browser, service: str) -> None:
    """Swagger UI shows the operations and tries one; `opened` fails on what the policy stops."""
    with opened(browser, f"{service}/docs") as page:
        page.locator("#operations-default-healthz_healthz_get, [id*=healthz]").first.click()
        page.get_by_role("button", name="Try it out").click()
        page.get_by_role("button", name="Execute").click()
        expect(page.locator(".live-responses-table .response-col_status").last).to_contain_text(
            "200"
        )
