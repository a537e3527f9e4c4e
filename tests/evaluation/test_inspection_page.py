"""The page of an inspection: its lists, its pictures, names that stay text, and its table in a browser."""

from __future__ import annotations

import io
from collections.abc import Iterator

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features
from PIL import Image

from browsing import DESK, PHONE, Visit, assert_shows, open_page
from deitlt_hf.data.inspection import inspect_dataset
from deitlt_hf.evaluation.figures.hover import strips_of
from deitlt_hf.evaluation.figures.inspection import inspection_figure
from deitlt_hf.evaluation.figures.style import save_figure
from deitlt_hf.evaluation.inspection_page import inspection_page

NASTY = "<img src=http://outside.invalid/x.png onerror=alert(1)>"
LABELS = [0] * 12 + [1] * 5 + [2]


@pytest.fixture(scope="module")
def visit(tmp_path_factory) -> Iterator[Visit]:
    directory = tmp_path_factory.mktemp("inspection")
    rows = []
    for number in range(len(LABELS)):
        file = io.BytesIO()
        Image.fromarray(np.full((9, 12, 3), 10 * number, dtype=np.uint8)).save(file, "PNG")
        rows.append({"bytes": file.getvalue(), "path": f"/home/me/pictures/{number}.png"})
    rows[0]["bytes"] = rows[0]["bytes"][:40]  # of the first class, whose pictures are others then
    rows[13] = rows[14] | {"path": "/home/me/pictures/copy.png"}
    features = Features({"image": datasets.Image(), "label": ClassLabel(names=["lynx", NASTY, "owl"])})
    train = Dataset.from_dict({"image": rows, "label": LABELS}, features=features)
    groups = {"head": [0], "mid": [1], "tail": [2]}
    inspection = inspect_dataset({"train": train}, groups=groups, progress=False)
    figure = inspection_figure(inspection)
    save_figure(figure, directory / "inspection.png")
    page = inspection_page(
        "pictures", inspection, train, directory / "inspection.png", strips_of(figure), "/home/me/pictures"
    )
    (directory / "inspection.html").write_text(page, encoding="utf-8")
    with open_page(PHONE) as window:
        yield Visit(window, (directory / "inspection.html").as_uri())


def test_it_says_what_is_damaged_and_what_is_there_twice(visit):
    damaged, copies = (visit.page.locator(f"#{name} + p + ul li") for name in ("damaged", "duplicates"))
    assert damaged.count() == 1
    assert damaged.inner_text().startswith("image 0 of train (0.png): ")
    assert copies.all_inner_texts() == ["image 13 of train (copy.png)\nimage 14 of train (14.png)"]
    assert "/home/me" not in visit.page.content()


def test_every_class_has_pictures_of_images_that_can_be_read(visit):
    rows = visit.page.locator(".lookup tbody tr")
    assert [row.locator("img").count() for row in rows.all()] == [3, 3, 1]
    assert visit.page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth)")


@pytest.mark.parametrize("viewport", [PHONE, DESK])
def test_the_page_is_as_wide_as_the_window(visit, viewport):
    visit.page.set_viewport_size(viewport)
    assert visit.page.evaluate("document.documentElement.scrollWidth") == viewport["width"]


def test_classes_sort_filter_and_are_named_by_the_mouse(visit):
    page = visit.page
    names = page.locator(".lookup tbody tr td:first-child")
    assert_shows(names, ["lynx", NASTY, "owl"])
    page.get_by_role("columnheader", name="train images").get_by_role("button").first.press("Enter")
    assert_shows(names, ["owl", NASTY, "lynx"])
    page.locator(".lookup select").select_option("mid")
    assert_shows(names, [NASTY])
    strip = page.locator(".strip").nth(1)
    strip.hover()
    assert strip.locator(".said").inner_text() == f"{NASTY}: 5 training images, mid"
    assert [url for url in visit.requests if not url.startswith("data:")] == [visit.address]
    assert visit.complaints == []
