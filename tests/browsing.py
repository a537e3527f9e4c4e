"""Pages in a real headless browser; the tests that visit them are skipped where none is installed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking".split()
QUIET += ["--disable-component-update", "--disable-sync"]
PHONE, DESK = {"width": 400, "height": 800}, {"width": 1200, "height": 900}


class Visit:
    """An open page, and what it asked for and complained about since."""

    def __init__(self, page, address: str):
        self.page, self.address = page, address
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda message: message.type == "error" and self.complaints.append(message.text))
        page.goto(address)


PATIENCE = 120_000  # milliseconds: other tests may keep the processors busy


@contextmanager
def open_page(viewport: dict[str, int]) -> Iterator:
    """An empty page of a browser that ends with it."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    browser_file = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser_file is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    with playwright.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=browser_file, args=QUIET)
        try:
            page = browser.new_page(viewport=viewport)
            page.set_default_timeout(PATIENCE)
            yield page
        finally:
            browser.close()


def assert_shows(elements, texts: list[str]) -> None:
    """Wait until the elements of a locator have these texts: a table is drawn some moments after a key or a click."""
    from playwright.sync_api import expect

    expect(elements).to_have_text(texts, timeout=PATIENCE)
