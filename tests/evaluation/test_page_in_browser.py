"""The page of an analysis in a real browser: it needs nothing from outside, and fits a phone."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from made_up_analysis import NAMES, made_up_analysis

from browsing import DESK, PHONE, Visit, assert_shows, open_page
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


def test_classes_sort_and_filter(visit):
    page = visit.page
    page.set_viewport_size(DESK)
    names = page.locator(".lookup tbody tr td:first-child")
    assert_shows(names, NAMES)
    count = page.get_by_role("columnheader", name="training images")
    count.get_by_role("button").first.press("Enter")
    assert_shows(names, NAMES[::-1])
    assert count.get_attribute("aria-sort") == "ascending"
    page.locator(".lookup select").select_option("tail")
    assert_shows(names, ["truck", "ship", "horse"])
    page.get_by_role("searchbox").fill("RU")
    assert_shows(names, ["truck"])
    assert page.get_by_text("1 of 10 classes").is_visible()
    page.locator(".lookup select").select_option("all")
    page.get_by_role("searchbox").fill("<b>")
    assert_shows(names, ["<b>bird</b>"])


def test_the_mouse_over_a_figure_names_the_nearest_class(visit):
    page = visit.page
    strip = page.locator("#class_frequency ~ .wide .strip").first
    said = strip.locator(".said")
    assert not said.is_visible()
    strip.hover()
    assert said.is_visible()
    first = made_up_analysis(1, two_tokens=False).record["experts"]["cls"]["per_class"][9]
    second = made_up_analysis(2).record["experts"]["average"]["per_class"][9]
    expected = f"truck (tail, 5 training images): ViT {first:.1f} %, {LONG} {second:.1f} %"
    assert said.text_content() == expected


def test_nothing_was_asked_for_meanwhile_and_no_other_script_runs(visit):
    assert {url for url in visit.requests if not url.startswith("data:")} == {visit.address}
    assert visit.complaints == []
    policy = visit.page.locator("meta[http-equiv=Content-Security-Policy]").get_attribute("content")
    only = r"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-[\w+/]{43}='"
    assert re.fullmatch(only, policy)
    visit.page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'ran = 1'}))")
    assert visit.page.evaluate("typeof ran") == "undefined"
