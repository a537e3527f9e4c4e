"""The page of an analysis in a real browser: it needs nothing from outside, and fits a phone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from made_up_analysis import made_up_analysis

from deitlt_hf.evaluation.analysis_page import SECTIONS, write_analysis

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking".split()
QUIET += ["--disable-component-update", "--disable-sync"]
PHONE, DESK = {"width": 400, "height": 800}, {"width": 1200, "height": 900}
LONG = "<img src=http://outside.invalid/x.png onerror=alert(1)> " + "a-long-name-without-a-space" * 4


class Visit:
    """The page of two models, and what it asked for and complained about."""

    def __init__(self, page, address: str):
        self.page, self.address = page, address
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda message: self.complaints.append(message.text))
        page.goto(address)


@pytest.fixture(scope="module")
def visit(tmp_path_factory) -> Iterator[Visit]:
    browser_file = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser_file is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    directory = tmp_path_factory.mktemp("page") / "analysis"
    analyses = {"ViT": made_up_analysis(1, two_tokens=False), LONG: made_up_analysis(2)}
    for analysis in analyses.values():
        del analysis.examples[1:]
    write_analysis(analyses, directory)
    with playwright.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=browser_file, args=QUIET)
        try:
            yield Visit(browser.new_page(viewport=PHONE), (directory / "index.html").as_uri())
        finally:
            browser.close()


def test_nothing_is_asked_for_but_the_page_itself(visit):
    assert [url for url in visit.requests if not url.startswith("data:")] == [visit.address]
    assert visit.complaints == []


def test_every_picture_is_loaded(visit):
    pictures = visit.page.locator("img")
    assert pictures.count() == len(SECTIONS) + 2
    assert visit.page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth >= 1000)")
    assert [picture.get_attribute("alt") for picture in pictures.all()][: len(SECTIONS)] == [
        section.title for section in SECTIONS
    ]


@pytest.mark.parametrize("viewport", [PHONE, DESK])
def test_the_page_is_as_wide_as_the_window(visit, viewport):
    visit.page.set_viewport_size(viewport)
    visit.page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert visit.page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
    outside = """[...document.querySelectorAll('h1, h2, p, summary, .wide')]
        .filter(part => part.getBoundingClientRect().right > innerWidth + 1).length"""
    assert visit.page.evaluate(outside) == 0
    # What is wider (figures on a phone, so that their text stays legible; tables) is moved within its own frame.
    assert visit.page.evaluate("[...document.images].every(image => image.width / image.naturalWidth > 0.4)")


def test_names_are_shown_as_they_are(visit):
    assert visit.page.get_by_role("cell", name=LONG, exact=True).count() >= 3
