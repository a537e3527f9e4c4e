"""The page of an analysis in a real browser: it needs nothing from outside, and fits a phone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from made_up_analysis import made_up_analysis

from browsing import DESK, PHONE, Visit, open_page
from deitlt_hf.evaluation.page import SECTIONS, write_analysis

LONG = "<img src=http://outside.invalid/x.png onerror=alert(1)> " + "a-long-name-without-a-space" * 4


@pytest.fixture(scope="module")
def visit(tmp_path_factory) -> Iterator[Visit]:
    directory = tmp_path_factory.mktemp("page") / "analysis"
    analyses = {"ViT": made_up_analysis(1, two_tokens=False), LONG: made_up_analysis(2)}
    for analysis in analyses.values():
        del analysis.examples[1:]
    write_analysis(analyses, directory)
    with open_page(PHONE) as page:
        yield Visit(page, (directory / "index.html").as_uri())


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
