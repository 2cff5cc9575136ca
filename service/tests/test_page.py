"""The page people use, in a real browser, on the real service."""

from __future__ import annotations

import io
import json
import random
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from eval_reports import report
from page_kit import CONTRAST, SMALL, ask, launched, opened, overflow, unnamed
from playwright.sync_api import Browser, Locator, Page, Route, expect
from reportlab.pdfgen import canvas
from service_kit import LLMStub, fill, serving, settings

from rag_kit.errors import StepError
from rag_pipeline.quality.feedback import parse
from rag_pipeline.quality.runs import save_run
from rag_service.runners.local import LocalRunner

Open = Callable[..., AbstractContextManager[Page]]
MEALS = "What is the daily allowance for meals?"
QUOTE = "The daily allowance for meals is 28 euros 🍽️."
NOT_THERE = "Who won the world cup in 1974?"
HOSTILE = (
    "The password of the cellar is <img src=x onerror=alert(1)><script>alert(2)</script>"
    "<b>bold</b> &amp; safe."
)
MARKUP = "The password of the cellar is <b>bold</b> &amp; safe."  # more of it is withheld
TRIPS = "Journeys are booked by the office 🧳, by train where there is one. "
DOCUMENTS = {
    "default": {
        "travel.md": "# Travel rules 🚆\n\n" + TRIPS * 60 + f"\n\n## Meals\n\n{QUOTE} Receipts "
        "are kept for ten years.\n\n" + "Hotels are near the venue. " * 120,
        "cellar.txt": f"The cellar\n\n{HOSTILE} The key hangs beside the door.\n",
        "hours.md": "# Working hours\n\nThe week has 38 hours.\n",
    },
    "hr": {"leave.md": "# Leave\n\nEverybody has 25 days of leave a year.\n"},
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as one:
        yield one


@pytest.fixture(scope="module")
def site(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service without a language model."""
    home = fill(tmp_path_factory.mktemp("site"), DOCUMENTS)
    save_run(home / "store", "before", report([0, 0, 1, 0, 0, 0, 0]))
    save_run(home / "store", "after", report([1, 1, 1, 1, 1, 1, 1]))
    with serving(home=home) as url:
        yield url


@pytest.fixture
def visit(browser: Browser, site: str) -> Open:
    """Open a path of that service."""
    return lambda path="/", **context: opened(browser, f"{site}{path}", **context)


@pytest.fixture
def page(visit: Open) -> Iterator[Page]:
    with visit() as page:
        yield page


@pytest.fixture(scope="module")
def written_site(
    browser: Browser, model: LLMStub, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A service where a language model writes the answers."""
    env = {
        "RAG_LLM_BASE_URL": model.url,
        "RAG_LLM_MODEL": "stub-1",
        "RAG_ON_NO_CITATIONS": "warn",  # nothing is held back until it cites
    }
    home = fill(tmp_path_factory.mktemp("written"), DOCUMENTS)
    with serving(home=home, env=env) as url:
        yield url


@pytest.fixture
def llm(model: LLMStub) -> LLMStub:
    """The model of `written`, with nothing to say yet."""
    model.script, model.bodies = [], []
    model.client_gone.clear()
    return model


@pytest.fixture
def written(browser: Browser, written_site: str) -> Iterator[Page]:
    with opened(browser, written_site) as page:
        yield page


def cited(site: str, question: str) -> dict[str, Any]:
    """Return the first citation the service gives for a question."""
    answer = httpx.post(f"{site}/rag_modules", json={"query": question}, trust_env=False).json()
    return dict(answer["citations"][0])


def upload(page: Page, **files: str | bytes) -> Locator:
    """Add files, `name_ext` for name.ext, and return the report."""
    if page.locator("#documents").is_hidden():
        page.locator("#show-documents").click()
    page.locator("#files").set_input_files(
        [
            {
                "name": name.replace("_", "."),
                "mimeType": "application/octet-stream",
                "buffer": text.encode() if isinstance(text, str) else text,
            }
            for name, text in files.items()
        ]
    )
    report = page.locator("#ingest-report")
    expect(page.locator("#ingest")).to_be_hidden()
    expect(report).to_be_visible()
    return report


def pdf_of(*pages: str) -> bytes:
    """Return a PDF with one line on each page."""
    file = io.BytesIO()
    pdf = canvas.Canvas(file)
    for text in pages:
        pdf.drawString(72, 720, text)
        pdf.showPage()
    pdf.save()
    return file.getvalue()


def choose_new(page: Page, name: str) -> None:
    """Go to a collection that is not there yet."""
    page.locator("#show-documents").click()
    page.get_by_role("button", name="New collection").click()
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_role("button", name="Create").click()
    expect(page.locator("#documents-title")).to_have_text(f"Documents in {name}")


def tab_to(page: Page, wanted: Locator, key: str) -> None:
    """Go on from control to control until this one has the focus."""
    for _ in range(20):
        page.keyboard.press(key)
        if wanted.evaluate("one => one === document.activeElement"):
            return
    raise AssertionError(f"{key} does not come to {wanted}")


# -- asking ---------------------------------------------------------------------------------------


def test_a_citation_opens_its_document_with_the_quote_marked(page: Page, site: str) -> None:
    quote = cited(site, MEALS)["quote"]
    assert quote == QUOTE
    turn = ask(page, MEALS)
    expect(turn.locator(".origin")).to_contain_text("No language model wrote this")
    turn.get_by_role("button", name="Source 1: Travel rules").first.click()
    panel = page.get_by_role("complementary", name="Travel rules")
    mark = panel.locator("mark")
    expect(mark).to_be_in_viewport(ratio=1)
    assert mark.text_content() == quote
    expect(panel.locator("#passage-text h3")).to_have_text("Travel rules 🚆")
    expect(panel.locator("#passage-text h4")).to_have_text("Meals")


def test_a_language_models_answer_is_seen_while_it_is_written(written: Page, llm: LLMStub) -> None:
    go = threading.Event()

    def rest(handler: Any) -> None:
        assert go.wait(30)
        llm.text("for meals is **28 euros** [1].")(_Started(handler))

    llm.script = [llm.events(json.dumps(_delta("The daily allowance ")), then=rest)]
    written.get_by_label("Your question").fill(MEALS)
    written.get_by_role("button", name="Ask", exact=True).click()
    turn = written.get_by_role("article", name=MEALS)
    answer = turn.locator(".answer")
    expect(answer).to_have_text(re.compile("^The daily"))  # the last letters wait for what follows
    expect(answer).to_have_attribute("aria-busy", "true")
    expect(turn.locator(".found li")).not_to_have_count(0)
    assert answer.evaluate("one => one.closest('[aria-live], [role=status], [role=log]')") is None
    go.set()
    expect(turn.get_by_role("button", name="Source 1: Travel rules").first).to_be_visible()
    expect(answer).to_have_text(re.compile("^The daily allowance for meals is 28 euros"))
    expect(answer).not_to_have_attribute("aria-busy", "true")
    expect(turn.locator(".origin")).to_contain_text("Written by a language model.")
    expect(turn.locator(".known")).to_contain_text("stub-1")
    expect(written.locator("#status")).to_contain_text("Answer: The daily allowance")


def test_each_place_that_is_cited_is_marked(written: Page, llm: LLMStub) -> None:
    llm.script = [llm.text("It is 28 euros for meals [1]. Receipts are kept for ten years [1].")]
    turn = ask(written, MEALS)
    expect(turn.locator(".cite")).to_have_count(2)
    fetched: list[Route] = []
    written.route("**/v1/documents/**", lambda route: fetched.append(route))  # goes on below
    turn.locator(".source").click()
    text = written.locator("#passage-text")
    marks = written.locator("#passage mark")
    expect(marks).to_have_text([QUOTE, "Receipts are kept for ten years."])
    expect(written.locator("#passage-position")).to_have_text("1 of 2")
    written.get_by_role("button", name="Next mark").click()
    expect(written.locator("#passage-position")).to_have_text("2 of 2")
    expect(marks.last).to_have_class(re.compile("current"))
    expect(text).to_have_attribute("aria-busy", "true")
    fetched[0].continue_()
    expect(text).not_to_have_attribute("aria-busy", "true")
    expect(written.locator("#passage-position")).to_have_text("2 of 2")  # where the reader was
    expect(marks.last).to_have_class(re.compile("current"))
    expect(marks.last).to_be_in_viewport()


def test_stop_ends_the_request_and_keeps_what_was_written(written: Page, llm: LLMStub) -> None:
    llm.script = [llm.events(json.dumps(_delta("The daily ")), then=llm.hang)]
    written.get_by_label("Your question").fill(MEALS)
    written.get_by_label("Your question").press("Enter")
    turn = written.get_by_role("article", name=MEALS)
    expect(turn.locator(".answer")).to_have_text("The daily ")
    written.get_by_role("button", name="Stop").click()
    expect(turn.locator(".remark")).to_contain_text("You stopped this")
    expect(turn.locator(".answer")).to_have_text("The daily ")
    assert llm.client_gone.wait(20)
    expect(written.get_by_role("button", name="Ask", exact=True)).to_be_visible()


def test_earlier_turns_stay_and_are_sent_along(written: Page, llm: LLMStub) -> None:
    llm.script = [llm.text("It is 28 euros [1]."), llm.text("For ten years [1].")]
    ask(written, MEALS)
    ask(written, "How long are receipts for meals kept?")
    turns = written.locator("article h2")
    expect(turns).to_have_text([MEALS, "How long are receipts for meals kept?"])
    said = [message["content"] for message in llm.bodies[-1]["messages"]]
    assert any("It is 28 euros." in text for text in said), said


def test_a_break_in_the_stream_is_said_in_plain_words(written: Page, llm: LLMStub) -> None:
    llm.script = [llm.events(json.dumps(_delta("The daily ")), then=llm.reset)]
    turn = ask(written, MEALS)
    problem = turn.get_by_role("alert")
    expect(problem.get_by_role("heading")).to_contain_text("language model")
    expect(problem).to_contain_text(re.compile(r"Request id \S+"))
    expect(turn.locator(".answer")).to_have_class(re.compile("draft"))
    llm.script = [llm.text("It is 28 euros [1].")]
    turn.get_by_role("button", name="Ask again").click()
    expect(written.locator("article")).to_have_count(2)
    expect(written.locator("article").last.locator(".cite")).to_be_visible()


def test_no_context_looks_unlike_an_answer(page: Page) -> None:
    turn = ask(page, NOT_THERE)
    expect(turn.get_by_role("heading", name="Not in your documents")).to_be_visible()
    expect(turn.locator(".no-context")).to_have_css("border-style", "dashed")
    expect(turn.locator(".cite, .source")).to_have_count(0)
    expect(turn).to_contain_text("No language model was asked.")
    expect(turn.locator("summary").first).to_contain_text("Closest passages")
    answered = ask(page, MEALS)
    expect(answered.locator(".no-context")).to_have_count(0)


def test_scores_and_times_stand_behind_details(page: Page) -> None:
    turn = ask(page, MEALS)
    inside = turn.locator(".about .inside")
    expect(inside).to_be_hidden()
    expect(turn.locator(".found").first).not_to_contain_text("score")
    turn.locator("summary", has_text="Passages found").click()
    first = turn.locator(".result").first
    expect(first).to_contain_text("source 1")
    expect(first.locator(".rank")).to_contain_text("1")
    expect(first.locator(".id")).to_contain_text("travel.md")
    expect(first.locator("mark")).to_have_text(QUOTE)
    turn.locator("summary", has_text="Details").click()
    expect(inside.locator("thead th")).to_have_text(["Passage", "score", "dense", "sparse"])
    expect(inside.locator(".times dt")).to_have_text(["Search", "Prompt", "Answer", "Total"])
    widths = inside.locator(".times .meter").evaluate_all(
        "all => all.map((one) => Number(one.style.getPropertyValue('--share')))"
    )
    assert widths[-1] == 1
    assert all(0 < one < 1 for one in widths[:-1])
    second = turn.get_by_role("button", name="Show passage 2 in its document")
    second.click()
    expect(page.locator("#passage mark.whole").first).to_be_visible()


def test_questions_to_begin_with_come_from_the_documents(page: Page) -> None:
    first = page.locator(".example").first
    expect(first).to_be_visible()
    text = first.inner_text()
    first.click()
    turn = page.get_by_role("article", name=text)
    expect(turn.locator(".cite").first).to_be_visible()


def test_a_conversation_survives_a_reload_until_a_new_one(page: Page) -> None:
    ask(page, MEALS)
    ask(page, "And how long are receipts kept?")
    understood = page.locator(".understood")
    expect(understood).to_contain_text("receipts")
    page.reload()
    turns = page.locator("article")
    expect(turns).to_have_count(2)
    expect(understood).to_contain_text("receipts")
    turns.first.locator(".cite").first.click()
    expect(page.locator("#passage mark").first).to_have_text(QUOTE)
    page.keyboard.press("Escape")
    page.get_by_role("button", name="New conversation").click()
    assert page.evaluate("sessionStorage.length") == 0
    expect(page.locator(".example").first).to_be_visible()


def test_sources_are_numbered_as_they_appear(written: Page, llm: LLMStub) -> None:
    llm.script = [llm.text("Receipts are kept [2]. It is 28 euros [1][2]. Not a source: [99].")]
    turn = ask(written, "What about receipts for meals and the key beside the door?")
    expect(turn.locator(".cite")).to_have_text(["1", "2", "1"])
    expect(turn.locator(".source .marker")).to_have_text(["1", "2"])
    expect(turn.locator(".answer")).not_to_contain_text("[2]")
    turn.locator(".cite").nth(1).click()
    expect(written.locator("#passage-facts .marker")).to_have_text("2")


def test_markdown_of_an_answer_is_formatted(written: Page, llm: LLMStub) -> None:
    text = "## Meals\n\n| What | Euros |\n|---|---|\n| **Meals** | `28` [1] |\n\n- kept\n- for ten years [1]"
    llm.script = [llm.text(text)]
    answer = ask(written, MEALS).locator(".answer")
    expect(answer.get_by_role("heading", name="Meals")).to_be_visible()
    expect(answer.locator("th")).to_have_text(["What", "Euros"])
    expect(answer.locator("td strong")).to_have_text("Meals")
    expect(answer.locator("td .cite")).to_have_count(1)
    expect(answer.locator("li")).to_have_count(2)


def test_a_link_fills_in_question_and_collection(visit: Open) -> None:
    with visit("/?q=How%20many%20days%3F&collection=hr") as page:
        expect(page.get_by_label("Your question")).to_have_value("How many days?")
        expect(page.get_by_label("Collection", exact=True)).to_have_value("hr")
        expect(page.locator("article")).to_have_count(0)
        turn = ask(page, "How many days of leave has everybody?")
        expect(turn.locator(".answer")).to_contain_text("25 days")


def test_another_collection_is_asked_after_choosing_it(page: Page) -> None:
    page.get_by_label("Collection", exact=True).select_option("hr")
    turn = ask(page, "How many days of leave has everybody?")
    expect(turn.locator(".answer")).to_contain_text("25 days")


# -- what can go wrong ----------------------------------------------------------------------------


def test_an_error_says_what_to_do_and_has_the_request_id(visit: Open) -> None:
    with visit("/?collection=nowhere") as page:
        with page.expect_response("**/rag_modules") as response:
            turn = ask(page, MEALS)
        problem = turn.get_by_role("alert")
        expect(problem.get_by_role("heading")).to_have_text("This collection does not exist")
        expect(problem).to_contain_text("Choose another one, or add documents to create it.")
        expect(problem.locator("code")).to_have_text(response.value.headers["x-request-id"])


def test_a_question_that_is_too_long_is_not_sent(page: Page) -> None:
    question = page.get_by_label("Your question")
    question.fill("é" * 4097)
    expect(page.locator("#question-note")).to_contain_text("at most 8,192 bytes")
    question.press("Enter")
    expect(page.locator("article")).to_have_count(0)


def test_a_key_is_asked_for_and_kept_in_the_tab(browser: Browser, home: Path) -> None:
    keys = [{"name": "me", "key": "a-key-of-this-test", "write": True}]
    given = settings(api_keys=json.dumps(keys))
    with serving(given, home=home) as url, opened(browser, url) as page:
        expect(page.get_by_role("form", name="needs an API key")).to_be_visible()
        turn = ask(page, MEALS)
        expect(turn.get_by_role("alert")).to_contain_text("Enter your key at the top of the page")
        expect(turn.get_by_role("alert")).not_to_contain_text("Bearer")
        page.get_by_label("API key", exact=True).fill("another-key-than-that")
        page.get_by_role("button", name="Use key").click()
        expect(page.locator("#key-wrong")).to_contain_text("does not know this key")
        assert page.evaluate("sessionStorage.getItem('rag.api_key')") is None
        page.get_by_label("API key", exact=True).fill("a-key-of-this-test")
        with page.expect_request("**/rag_modules") as request:
            page.get_by_role("button", name="Use key").click()
        assert request.value.headers["authorization"] == "Bearer a-key-of-this-test"
        again = page.get_by_role("article", name=MEALS).last
        expect(again.locator(".cite").first).to_be_visible()
        expect(page.locator("#key-form")).to_be_hidden()
        kept = page.evaluate("[localStorage.length, sessionStorage.getItem('rag.api_key')]")
        assert kept == [0, "a-key-of-this-test"]
        assert page.context.cookies() == []
        page.get_by_role("button", name="API key").click()
        page.get_by_role("button", name="Forget key").click()
        assert page.evaluate("sessionStorage.length") == 0


def test_a_banner_says_what_is_missing_until_the_service_is_ready(
    browser: Browser, home: Path
) -> None:
    there = threading.Event()

    class Waiting(LocalRunner):
        async def ready(self) -> None:
            if not there.is_set():
                raise StepError("retriever_unavailable", "the store at db:6333 does not answer")

    given = settings(probe_retry_s=0.1)
    with (
        serving(given, home=home, until="/healthz", runner=Waiting()) as url,
        opened(browser, url) as page,
    ):
        banner = page.locator("#banner")
        expect(banner).to_contain_text("The service is not ready.")
        said = banner.get_by_text("The store at db:6333 does not answer.")
        expect(said).to_be_hidden()  # for whoever runs it
        banner.locator("summary").click()
        expect(said).to_be_visible()
        expect(banner).to_contain_text(re.compile("Asking again"))
        there.set()
        expect(banner).to_be_hidden()
        expect(page.locator("#documents-number")).to_be_visible()
        expect(page.locator("#status")).to_contain_text("The service is ready")


class Elsewhere(LocalRunner):
    """A runner whose documents are not this service's to show."""

    name = "elsewhere"

    def documents(self) -> None:  # type: ignore[override]
        return None


def test_a_citation_is_shown_where_documents_are_kept_elsewhere(
    browser: Browser, tmp_path: Path
) -> None:
    home = fill(tmp_path, DOCUMENTS)
    with serving(home=home, runner=Elsewhere()) as url, opened(browser, url) as page:
        turn = ask(page, MEALS)
        turn.locator(".cite").first.click()
        expect(page.locator("#passage-note")).to_contain_text("The whole document is not available")
        expect(page.locator("#passage mark")).to_have_text(QUOTE)
        page.locator("#show-documents").click()
        expect(page.locator("#documents-empty")).to_contain_text("cannot be listed here")
        expect(page.locator("#drop")).to_be_hidden()
        expect(page.get_by_role("button", name="New collection")).to_be_hidden()


def test_a_page_of_a_pdf_is_named(page: Page) -> None:
    pages_of_it = ("The harbour has four quays.", "The ferry terminal has room for 400 passengers.")
    choose_new(page, "harbour")
    upload(page, harbour_pdf=pdf_of(*pages_of_it))
    turn = ask(page, "How many passengers has the ferry terminal room for?")
    turn.locator(".cite").first.click()
    expect(page.locator("#passage-title")).to_have_text("harbour.pdf")
    expect(page.locator("#passage-facts")).to_contain_text("page 2")
    address = page.get_by_role("link", name="Open by itself").get_attribute("href")
    shown = httpx.get(str(address), trust_env=False).text
    assert re.search("<h2[^>]*>Page 2", shown) and "400 passengers" in shown.split("<mark")[1]
    assert "<img" in shown and '<rect id="cited"' in shown
    expect(page.locator("#passage mark")).to_contain_text("400 passengers")
    pages = page.locator("#passage-text .page-break")
    assert pages.evaluate_all("all => all.map((one) => one.dataset.page)") == ["Page 1", "Page 2"]


def test_what_documents_and_models_write_is_only_text(written: Page, llm: LLMStub) -> None:
    llm.script = [llm.text(f"{MARKUP} [1].")]
    question = "What is the password of the cellar?"
    turn = ask(written, question)
    expect(turn.locator(".answer")).to_contain_text(MARKUP)
    turn.locator("summary").first.click()
    turn.locator(".source").first.click()
    text = written.locator("#passage-text")
    expect(text).not_to_have_attribute("aria-busy", "true")
    expect(text).to_contain_text(HOSTILE)
    inside = written.locator(
        "article :is(img, script, b), #passage-text :is(img, script, b), article svg script"
    )
    expect(inside).to_have_count(0)


def test_a_withheld_answer_says_so(written: Page, llm: LLMStub) -> None:
    llm.script = [llm.text(f"{HOSTILE} [1].")]
    turn = ask(written, "What is the password of the cellar?")
    expect(turn.locator(".answer h3")).to_have_text("Withheld")
    expect(turn.locator(".answer")).to_contain_text("held something that may not be passed on")
    expect(turn).not_to_contain_text("Not in your documents")


# -- documents ------------------------------------------------------------------------------------


def test_files_are_added_with_progress_and_can_be_asked(page: Page) -> None:
    choose_new(page, "inbox")
    expect(page.locator("#documents-empty")).to_have_text("No documents yet.")
    page.evaluate(
        """() => {
          window.seen = [];
          const bar = document.getElementById("ingest-bar");
          new MutationObserver(() => seen.push([bar.getAttribute("value"), bar.max]))
            .observe(bar, { attributes: true });
        }"""
    )
    files = {"keys_md": "# Keys\n\nThe spare key is with the porter.\n", "scan_pdf": b"no PDF"}
    report = upload(page, **files, notes_txt="The roof was mended in May.\n")
    expect(report.locator("dl")).to_contain_text(re.compile(r"added\s*2"))
    expect(report.locator("dl")).to_contain_text(re.compile(r"failed\s*1"))
    expect(report.locator("ul.failed li")).to_contain_text(re.compile(r"scan\.pdf.*PDF"))
    assert ["2", 2] in page.evaluate("seen") or ["3", 3] in page.evaluate("seen")
    expect(page.locator(".file")).to_have_count(2)
    expect(page.locator("#documents-number")).to_have_text("2")
    turn = ask(page, "Who has the spare key?")
    expect(turn.locator(".answer")).to_contain_text("The spare key is with the porter")
    report = upload(page, **files)
    expect(report.locator("dl")).to_contain_text(re.compile(r"unchanged\s*1"))


def test_adding_files_can_be_stopped(page: Page) -> None:
    choose_new(page, "many")
    texts = {f"note{n}_txt": f"Note {n} is about room {n}. " * 20 for n in range(400)}
    page.locator("#files").set_input_files(
        [
            {"name": name.replace("_", "."), "mimeType": "text/plain", "buffer": text.encode()}
            for name, text in texts.items()
        ]
    )
    expect(page.locator("#ingest-bar[value]")).to_be_visible()
    with page.expect_response(re.compile("/v1/ingests/ingest_")) as response:
        page.get_by_role("button", name="Stop").click()
    assert response.value.status == 202
    expect(page.locator("#ingest-report")).to_contain_text(
        "Stopped: it was stopped, and what it had added was taken back."
    )
    expect(page.locator("#files")).to_be_enabled()
    assert page.locator(".file").count() < len(texts)


def test_an_upload_behind_another_one_says_so_and_can_be_stopped(page: Page, site: str) -> None:
    """Another tab's large upload goes first; small files would not wait for it."""

    def text(of: str) -> bytes:
        return " ".join(f"Sentence {n} of {of} is said." for n in range(12_000)).encode()

    with httpx.Client(base_url=site, trust_env=False, timeout=60) as other:
        files = {"files": ("first.txt", text("the first"))}
        job = other.post("/v1/documents?wait=false&collection=tab", files=files).json()
        choose_new(page, "behind")
        waiting = {"name": "second.txt", "mimeType": "text/plain", "buffer": text("the second")}
        page.locator("#files").set_input_files([waiting])
        label = page.locator("#ingest-label")
        expect(label).to_have_text("Waiting: 1 upload goes first")
        page.get_by_role("button", name="Stop").click()
        report = page.locator("#ingest-report")
        expect(report).to_contain_text("Stopped: it was stopped before it began.")
        expect(page.locator(".file")).to_have_count(0)
        state = other.get(f"/v1/ingests/{job['id']}").json()
        assert state["status"] == "running" and state["ahead"] == 0
        other.delete(f"/v1/ingests/{job['id']}")


def test_files_may_be_dropped_anywhere(page: Page) -> None:
    choose_new(page, "dropped")
    page.keyboard.press("Escape")
    transfer = page.evaluate_handle(
        """() => {
          const transfer = new DataTransfer();
          transfer.items.add(new File(["The lift is inspected in June."], "lift.txt"));
          return transfer;
        }"""
    )
    page.dispatch_event("body", "dragenter", {"dataTransfer": transfer})
    expect(page.locator("#overlay")).to_contain_text("Drop to add to dropped")
    page.dispatch_event("body", "drop", {"dataTransfer": transfer})
    expect(page.locator("#overlay")).to_be_hidden()
    expect(page.locator("#ingest-report")).to_contain_text(re.compile(r"added\s*1"))
    expect(page.locator(".file")).to_contain_text("lift.txt")


def test_a_document_is_deleted_after_a_question(page: Page) -> None:
    choose_new(page, "bin")
    upload(page, old_txt="The old rule is void.\n", new_txt="The new rule holds.\n")
    bin_button = page.get_by_role("button", name=re.compile("^Delete .*old"))
    bin_button.click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("answers no longer find it")
    expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Escape")
    expect(bin_button).to_be_focused()
    expect(page.locator(".file")).to_have_count(2)
    bin_button.click()
    dialog.get_by_role("button", name="Delete document").click()
    expect(page.locator(".file")).to_have_count(1)
    expect(page.locator("#ingest-report")).to_contain_text("Deleted")
    page.get_by_role("button", name="Delete collection").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete collection").click()
    expect(page.locator("#documents-empty")).to_have_text("No documents yet.")
    expect(page.get_by_role("button", name="Delete collection")).to_be_hidden()


def test_a_document_that_changed_or_went_is_not_marked_wrongly(page: Page) -> None:
    choose_new(page, "moving")
    upload(page, gate_txt="The gate 🚪 is closed at nine.\n")
    turn = ask(page, "When is the gate closed?")
    cite = turn.locator(".cite").first
    upload(page, gate_txt="From May on: the gate 🚪 is closed at ten.\n")
    cite.click()
    note = page.locator("#passage-note")
    expect(note).to_contain_text("The document has changed since this answer.")
    expect(page.locator("#passage mark")).to_have_text("The gate 🚪 is closed at nine.")
    page.locator("#show-documents").click()
    page.get_by_role("button", name=re.compile("^Delete .*gate")).click()
    page.get_by_role("button", name="Delete document").click()
    expect(page.locator(".file")).to_have_count(0)
    cite.click()
    expect(note).to_contain_text("not in the collection any more")
    expect(page.locator("#passage mark")).to_have_text("The gate 🚪 is closed at nine.")


# -- for everybody --------------------------------------------------------------------------------


def test_all_of_it_by_keyboard(page: Page) -> None:
    press = page.keyboard.press
    skip = page.get_by_role("link", name="Skip to the question")
    expect(page.get_by_label("Your question")).to_be_focused()
    tab_to(page, skip, "Shift+Tab")
    expect(skip).to_be_in_viewport(ratio=1)
    press("Enter")
    expect(page.get_by_label("Your question")).to_be_focused()
    page.keyboard.type("What is the daily allowance")
    press("Shift+Enter")
    page.keyboard.type("for meals?")
    expect(page.get_by_label("Your question")).to_have_value(
        "What is the daily allowance\nfor meals?"
    )
    press("Enter")
    cite = page.locator(".cite").first
    expect(cite).to_be_visible()
    tab_to(page, cite, "Shift+Tab")
    assert cite.evaluate("one => getComputedStyle(one).outlineStyle") == "solid"
    press("Enter")
    expect(page.locator("#passage mark")).to_be_in_viewport()
    expect(page.locator("#passage-title")).to_be_focused()
    press("Escape")
    expect(page.locator("#passage")).to_be_hidden()
    expect(cite).to_be_focused()


def test_everything_has_a_name_for_a_screen_reader(page: Page) -> None:
    assert unnamed(page) == []
    turn = ask(page, MEALS)
    turn.locator("summary").first.click()
    ask(page, NOT_THERE)
    assert unnamed(page) == []
    turn.locator(".cite").first.click()
    assert unnamed(page) == []
    page.locator("#show-documents").click()
    expect(page.locator(".file")).to_have_count(3)
    assert unnamed(page) == []
    page.get_by_role("button", name=re.compile("^Delete ")).first.click()
    assert unnamed(page) == []
    expect(page.locator("h1")).to_have_count(1)
    assert page.locator("html").get_attribute("lang") == "en"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_schemes(visit: Open, scheme: str) -> None:
    with visit("/?collection=default", color_scheme=scheme) as page:
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        bright = sum(int(part) for part in re.findall(r"\d+", ground)[:3]) / 3
        assert (bright > 200) == (scheme == "light")
        turn = ask(page, MEALS)
        turn.locator("summary").first.click()
        ask(page, NOT_THERE)
        turn.locator(".cite").first.click()
        expect(page.locator("#passage mark")).to_be_in_viewport()
        assert page.evaluate(CONTRAST) == []
        page.locator("#show-documents").click()
        expect(page.locator(".file")).to_have_count(3)
        assert page.evaluate(CONTRAST) == []
    with visit("/?collection=nowhere", color_scheme=scheme) as page:
        ask(page, MEALS)
        assert page.evaluate(CONTRAST) == []


@pytest.mark.parametrize(("width", "height"), [(360, 740), (640, 400), (768, 740), (1920, 740)])
def test_nothing_sticks_out_at_any_width(visit: Open, width: int, height: int) -> None:
    """640 × 400 is a window of 1280 × 800 enlarged to 200 %."""
    with visit(viewport={"width": width, "height": height}) as page:
        sticks_out = partial(overflow, page)
        assert sticks_out() <= 0
        turn = ask(page, MEALS)
        turn.locator("summary").first.click()
        turn.locator("summary").last.click()
        assert page.evaluate(SMALL) == []
        ask(page, "W" * 300)
        assert sticks_out() <= 0
        assert page.locator("#ask").evaluate("one => one.offsetHeight") < height / 4
        turn.locator(".cite").first.click()
        expect(page.locator("#passage mark")).to_be_in_viewport(ratio=1)
        assert sticks_out() <= 0
        assert page.locator("#main").evaluate("one => one.inert") == (width < 960)
        page.keyboard.press("Escape")
        page.locator("#show-documents").click()
        expect(page.locator(".file")).to_have_count(3)
        assert sticks_out() <= 0


def test_motion_is_left_out_where_it_is_not_wanted(visit: Open) -> None:
    moves = """() => {
      const one = document.createElement("span");
      one.className = "pulse";
      document.body.append(one);
      return getComputedStyle(one).animationName;
    }"""
    with visit(reduced_motion="reduce") as page:
        assert page.evaluate(moves) == "none"
    with visit(reduced_motion="no-preference") as page:
        assert page.evaluate(moves) == "pulse"


# -- ratings and runs -----------------------------------------------------------------------------


def test_an_answer_is_rated_and_corrected(page: Page, site: str) -> None:
    question = "How many hours has the week?"
    turn = ask(page, question)
    turn.get_by_role("button", name="This answer is wrong").click()
    expect(turn.locator(".thumbs")).to_contain_text("Thank you")
    turn.get_by_label("What would be right?").fill("38 hours")
    turn.get_by_role("button", name="Send").click()
    expect(turn.locator(".thumbs")).to_contain_text("noted")
    expect(turn.locator(".right-answer")).to_be_hidden()
    exported = httpx.get(f"{site}/v1/feedback", trust_env=False).content
    [rated] = [one for one in parse(exported).ratings if one.query == question]
    assert (rated.rating, rated.right_answer) == ("down", "38 hours")
    assert rated.citations and rated.provenance["rag"]


def test_runs_are_shown_side_by_side(visit: Open) -> None:
    with visit("/eval") as page:
        row = page.locator("#differences tr", has_text="answer_rate")
        expect(row).to_contain_text("real")
        expect(page.locator("#runs input:checked")).to_have_count(2)
        expect(page.locator("#metrics .point")).to_have_count(2)
        expect(page.locator("#questions tbody tr")).to_have_count(6)
        assert unnamed(page) == [] and page.evaluate(SMALL) == [] and overflow(page) <= 0
        page.get_by_label("Show before").uncheck()
        expect(page.locator("#compared")).to_be_hidden()


# -- accessibility rules --------------------------------------------------------------------------

SCREENS = (
    {"color_scheme": "light"},
    {"color_scheme": "dark"},
    {"viewport": {"width": 640, "height": 400}, "device_scale_factor": 2},  # 1280 × 800 at 200 %
)


def violations(page: Page) -> list[tuple[str, str]]:
    """Return the rules of axe-core that a page breaks, each with the first element that does."""
    found = Axe().run(page).response["violations"]
    return [(one["id"], one["nodes"][0]["html"][:120]) for one in found]


def visited(visit: Open, site: str, screen: dict[str, Any]) -> Iterator[tuple[str, list[Any]]]:
    """Yield states of all pages with the rules they break."""
    with visit(**screen) as page:
        yield "first screen", violations(page)
        turn = ask(page, MEALS)
        turn.locator("summary").first.click()
        turn.locator(".cite").first.click()
        expect(page.locator("#passage mark")).to_be_in_viewport()
        yield "answer and source", violations(page)
        page.keyboard.press("Escape")
        page.locator("#show-documents").click()
        expect(page.locator(".file").first).to_be_visible()
        yield "documents", violations(page)
    with visit("/eval", **screen) as page:
        expect(page.locator("#metrics .point")).to_have_count(2)
        yield "runs", violations(page)
    quote = cited(site, MEALS)
    start, end = quote["spans"][0]
    for view in (
        f"{quote['document_id']}/view?start={start}&end={end}#cited",
        "gate.pdf/view?collection=gates&start=0&end=8#cited",
        "gate.pdf/view?collection=gates&page=2&as=text",
    ):
        with visit(f"/v1/documents/{view}", **screen) as page:
            yield view, violations(page)


@pytest.mark.parametrize(
    "screen",
    [
        SCREENS[0],
        *(pytest.param(one, marks=pytest.mark.full) for one in SCREENS[1:]),
    ],
    ids=["light", "dark", "200 %"],
)
def test_no_page_breaks_a_rule_of_accessibility(
    visit: Open, site: str, screen: dict[str, Any]
) -> None:
    """axe-core finds nothing on the page, on `/eval` and on views of documents, in any state."""
    with httpx.Client(base_url=site, trust_env=False, timeout=30) as client:
        files = {"files": ("gate.pdf", pdf_of("The gate", "It opens at six."), "application/pdf")}
        assert client.post("/v1/documents?collection=gates", files=files).status_code == 200

    broken = {state: found for state, found in visited(visit, site, screen) if found}

    assert broken == {}


# -- Markdown -------------------------------------------------------------------------------------

AS_HTML = """async (texts) => {
  const { markdown } = await import("/page/markdown.js");
  return texts.map((text) => {
    const box = document.createElement("div");
    box.append(...markdown(text));
    return box.innerHTML.replace(/<div class="table"[^>]*>|<\\/div>| scope="col"/g, "");
  });
}"""
MARKDOWN = {
    "a *b* **c** ***d*** `e *f*`": "<p>a <em>b</em> <strong>c</strong> "
    "<em><strong>d</strong></em> <code>e *f*</code></p>",
    "RAG_MAX_QUEUE and 2 * 3 * 4": "<p>RAG_MAX_QUEUE and 2 * 3 * 4</p>",
    "_a_ __b__ ~~c~~ \\*d\\*": "<p><em>a</em> <strong>b</strong> <del>c</del> *d*</p>",
    "``a ` b``": "<p><code>a ` b</code></p>",
    "# A\n### B\nText\n===": "<h3>A</h3><h4>B</h4><h3>Text</h3>",
    "a\n***\nb": "<p>a</p><hr><p>b</p>",
    "- a\n  - b\n- c\n\n3. d\n4. e": "<ul><li>a<ul><li>b</li></ul></li><li>c</li></ul>"
    '<ol start="3"><li>d</li><li>e</li></ol>',
    "- a\n\n  b\n- ```\n  c\n  ```": "<ul><li>a<p>b</p></li><li><pre><code>c</code></pre></li></ul>",
    "> a\n> - b": "<blockquote><p>a</p><ul><li>b</li></ul></blockquote>",
    "```sh\n# a\n\n*b*\n```": "<pre><code># a\n\n*b*</code></pre>",
    "~~~\nnever closed": "<pre><code>never closed</code></pre>",
    "|a|b|\n|-|-|\n|`c|d`|e\\|f|": "<table><thead><tr><th>a</th><th>b</th></tr></thead>"
    "<tbody><tr><td><code>c|d</code></td><td>e|f</td></tr></tbody></table>",
    "| a | b |\n| c | d |": "<table><tbody><tr><td>a</td><td>b</td></tr>"
    "<tr><td>c</td><td>d</td></tr></tbody></table>",
    "a | b is no table": "<p>a | b is no table</p>",
    "[here](docs/a.md) ![logo](https://x.example/p.png)": "<p>here logo</p>",
    "[mail](javascript:alert(1)) [1](a)": "<p>mail [1](a)</p>",
    "<img src=x onerror=alert(1)><b>&amp;": "<p>&lt;img src=x onerror=alert(1)&gt;&lt;b&gt;&amp;amp;</p>",
    "a  \nb<br>c": "<p>a  <br>b<br>c</p>",
    "---\ntitle: A\n---\nb": '<pre class="front">---\ntitle: A\n---\n</pre><p>b</p>',
    "* * *\n**not closed": "<hr><p>**not closed</p>",
    "": "",
}


def test_markdown_becomes_elements_and_html_stays_text(page: Page) -> None:
    found = page.evaluate(AS_HTML, list(MARKDOWN))
    assert dict(zip(MARKDOWN, found, strict=True)) == MARKDOWN


def test_a_link_in_markdown_says_where_it_leads(page: Page) -> None:
    [html] = page.evaluate(AS_HTML, ["[your bank](https://evil.example/bank)"])
    assert 'rel="noopener noreferrer nofollow"' in html
    assert '<span class="host"> (evil.example)</span>' in html


def test_no_markdown_loses_or_moves_text(page: Page, lane: Any) -> None:
    """Each piece that is shown is a piece of the source, in its order; all letters are shown."""
    rng = random.Random(lane.seed)
    parts = ["*", "**", "_", "`", "```\n", "\n", "\n\n", "# ", "> ", "- ", "1. ", "| ", " |\n", "|-|-|\n",
             "[", "](", ")", "    ", "<br>", "\\", "~~", "a", "b c", "é🧳", "---\n"]  # fmt: skip
    texts = ["".join(rng.choices(parts, k=rng.randint(1, 60))) for _ in range(400)]
    wrong = page.evaluate(
        """async (texts) => {
          const { markdown } = await import("/page/markdown.js");
          const letters = (of) => of.replace(/<br>/g, "").replace(/[^\\p{L}🧳]/gu, "");
          return texts.filter((text) => {
            const leaf = (begin, end) => {
              const piece = document.createElement("span");
              piece.dataset.place = `${begin} ${end}`;
              return [piece];
            };
            const box = document.createElement("div");
            box.append(...markdown(text, { leaf }));
            const pieces = [...box.querySelectorAll("[data-place]")]
              .map((piece) => piece.dataset.place.split(" ").map(Number));
            const ordered = pieces.every(([begin, end], at) =>
              begin <= end && (at === 0 || pieces[at - 1][1] <= begin));
            const shown = pieces.map(([begin, end]) => text.slice(begin, end)).join("");
            const whole = /]\\(|```|~~~/.test(text); // neither an address nor a language is shown
            return !ordered || (letters(shown) !== letters(text) && !whole);
          });
        }""",
        texts,
    )
    assert wrong == []


def test_a_hostile_markdown_takes_no_long_time(page: Page) -> None:
    """Deep nesting and ends that never come; the default time of the browser bounds it."""
    texts = [
        part * 20_000 for part in ("**a ", "[", "`a``", "> ", "- \n  ", "|a", "![a](", "_a ", "\\")
    ]
    assert len(page.evaluate(AS_HTML, texts)) == len(texts)


# -- events ---------------------------------------------------------------------------------------


def test_events_may_be_cut_anywhere(page: Page) -> None:
    stream = (
        '\ufeffevent: message\ndata: {"a": "é🧳"}\n\n'
        ": ping\n\n"
        "event: two\r\ndata: first\r\ndata:second\r\nid: 7\r\n\r\n"
        "data: lone\r\rdata\n\nevent: nothing\n\n"
        "data: [DONE]\n\ndata: never ended\n"
    )
    expected = [
        {"name": "message", "data": '{"a": "é🧳"}'},
        {"name": "two", "data": "first\nsecond"},
        {"name": "", "data": "lone"},
        {"name": "", "data": ""},
        {"name": "", "data": "[DONE]"},
    ]
    found = page.evaluate(
        """async (text) => {
          const { EventParser } = await import("/page/api.js");
          const bytes = new TextEncoder().encode(text);
          const read = (...blocks) => {
            const parser = new EventParser();
            return JSON.stringify(blocks.flatMap((block) => parser.push(block)));
          };
          const all = new Set([read(bytes), read(...[...bytes].map((one) => Uint8Array.of(one)))]);
          for (let first = 0; first <= bytes.length; first += 1) {
            all.add(read(bytes.slice(0, first), bytes.slice(first)));
          }
          return [...all];
        }""",
        stream,
    )
    assert [json.loads(one) for one in found] == [expected]


def test_offsets_are_characters(page: Page) -> None:
    text = "a🧳b🍽️é" + "z" * 3
    found = page.evaluate(
        """async ([text, offsets]) => {
          const { toUnits } = await import("/page/dom.js");
          const units = toUnits(text, offsets);
          return units.map((unit) => text.slice(0, unit));
        }""",
        [text, [0, 5, 1, 2, len(text), 2]],
    )
    assert found == [text[:end] for end in (0, 5, 1, 2, len(text), 2)]


class _Started:
    """A handler whose stream has begun, for a behaviour that would begin it."""

    def __init__(self, handler: Any) -> None:
        self._handler = handler

    def start_stream(self) -> None:
        """It has."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handler, name)


def _delta(text: str) -> dict[str, Any]:
    return {"id": "c", "choices": [{"index": 0, "delta": {"content": text}}]}
