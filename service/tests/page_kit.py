"""A real browser on the page, and what must hold whatever a test does there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("playwright", reason="playwright drives the browser; it is not installed")
from playwright.sync_api import Browser, Page, expect, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
VIOLATIONS = """
window.violations = [];
addEventListener("securitypolicyviolation", (event) => violations.push(event.violatedDirective));
"""
REFUSED = "Failed to load resource: the server responded with a status of"
FOCUSED = "Autofocus processing was blocked"  # the fragment of the address has the focus already

# Every text against what is behind it, as WCAG counts contrast; disabled controls are exempt.
CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const paint = (colours) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((one) => one / 255)
      .map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const poor = [];
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
    if (element.closest(":disabled, .hidden, script, option, noscript")) continue;
    const behind = [];
    for (let one = element; one; one = one.parentElement) {
      behind.unshift(getComputedStyle(one).backgroundColor);
    }
    const colour = getComputedStyle(element).color;
    const [dark, bright] = [light(paint(behind)), light(paint([...behind, colour]))]
      .sort((a, b) => a - b);
    const ratio = (bright + 0.05) / (dark + 0.05);
    if (ratio < 4.5) poor.push(`${ratio.toFixed(2)} ${walker.currentNode.data.trim().slice(0, 40)}`);
  }
  return poor;
}"""

# What can be pressed, smaller than 24 by 24 pixels (WCAG 2.2, 2.5.8); links within a text are exempt.
SMALL = """() => [...document.querySelectorAll(
    "button, a:not(:is(p, li, td) a), input, select, summary, textarea")]
  .filter((one) => one.checkVisibility() && !one.closest(".hidden, .skip") && !one.matches(".hidden"))
  .map((one) => [one, one.getBoundingClientRect()])
  .filter(([, { width, height }]) => width && (width < 24 || height < 24))
  .map(([one, { width, height }]) => `${one.tagName} ${one.className} ${width} × ${height}`)"""

NAMED = {
    *("button", "link", "textbox", "searchbox", "combobox", "checkbox", "progressbar", "dialog"),
    *("complementary", "region", "article", "heading", "DisclosureTriangle"),
}


def find_browser() -> str:
    """Return the path of a Chromium; skips the test where there is none."""
    for name in BROWSERS:
        if found := shutil.which(name):
            return found
    pytest.skip(f"no browser on PATH; install one of {', '.join(BROWSERS)}")


@contextmanager
def launched() -> Iterator[Browser]:
    """Start a headless browser."""
    path = find_browser()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Browser, url: str, **context: Any) -> Iterator[Page]:
    """Open the page; at the end nothing was asked elsewhere, blocked, or went wrong in it.

    Args:
        browser: Where.
        url: Address, with or without a query.
        context: Of the browser: `color_scheme`, `viewport` and the like.
    """
    origin = "{0.scheme}://{0.netloc}".format(urlsplit(url))
    asked: list[str] = []
    wrong: list[str] = []
    tab = browser.new_context(**{"reduced_motion": "reduce", **context})
    tab.add_init_script(VIOLATIONS)
    tab.set_default_timeout(20_000)
    try:
        page = tab.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.on("console", lambda message: wrong.append(f"{message.type}: {message.text}"))
        page.goto(url)
        yield page
        assert page.evaluate("window.violations") == []
        assert [one for one in wrong if REFUSED not in one and FOCUSED not in one] == []
        assert [one for one in asked if not one.startswith((origin, "data:"))] == []
    finally:
        tab.close()


def ask(page: Page, question: str) -> Any:
    """Ask, wait for the end, and return the article of the answer."""
    page.get_by_label("Your question").fill(question)
    page.get_by_label("Your question").press("Enter")
    turn = page.get_by_role("article", name=question).last
    expect(turn.locator(".turn-foot")).not_to_be_empty()
    return turn


def unnamed(page: Page) -> list[str]:
    """Return what a screen reader would meet without a name."""
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    session.detach()
    return [
        f"{node['role']['value']} {node.get('properties')}"
        for node in nodes
        if not node["ignored"]
        and node["role"]["value"] in NAMED
        and not node.get("name", {}).get("value", "").strip()
    ]


def overflow(page: Page) -> int:
    """Return how many pixels the page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - innerWidth"))
