"""The app in a real browser: what a visitor uploads, and what the page then shows."""

from __future__ import annotations

import io
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from app_student import CAPTIONS, colourful, save_student
from PIL import Image

from browsing import DESK, Visit, open_page
from deitlt_hf import ExpertClassifier
from deitlt_hf.evaluation.attention import draw_attention

pytest.importorskip("gradio", reason="gradio is not installed")

EXPERTS = ("average", "cls", "distillation")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A student, a picture for each of two classes to choose from, and files to upload."""
    folder = tmp_path_factory.mktemp("browser")
    save_student(folder / "student")
    for name, mirrored in (("рысь", False), ("fox", True)):
        (folder / "examples" / name).mkdir(parents=True)
        picture = colourful(320, 200)
        picture = picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if mirrored else picture
        picture.save(folder / "examples" / name / "picture.png")
    colourful(400, 300).save(folder / "a <b>photo.png")
    (folder / "notes.txt").write_text("not a picture")
    Image.new("RGB", (10_000, 5_000)).save(folder / "fifty.bmp")  # 150 MB
    return folder


@pytest.fixture(scope="module")
def classifier(folder) -> ExpertClassifier:
    return ExpertClassifier.from_pretrained(folder / "student")


@pytest.fixture(scope="module")
def address(folder) -> Iterator[str]:
    """Where `deitlt app` says that it is; Ctrl-C ends it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = ["app", folder / "student", "--port", port, "--examples", folder / "examples"]
    command = [sys.executable, "-m", "deitlt_hf", *map(str, arguments)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = server.stdout.readline()
        assert line == f"http://127.0.0.1:{port}/ (Ctrl-C stops it)\n", server.communicate()[1]
        yield line.split()[0]
        server.send_signal(signal.SIGINT)
        out, error = server.communicate(timeout=20)
        assert (server.returncode, out, error) == (130, "", "deitlt app: interrupted\n")
    finally:
        server.kill()
        server.communicate()


class AppVisit(Visit):
    """The open app."""

    def upload(self, file: Path) -> None:
        self.page.set_input_files("#upload input[type=file]", file)

    def wait_for(self, title: str) -> None:
        """Wait until the picture has the title, and the rest of the answer is there too."""
        self.page.get_by_text(title, exact=True).wait_for()
        for expert in EXPERTS:
            self.page.wait_for_selector(f"#label-{expert} dd")
            self.page.wait_for_selector(f"#picture-{expert} img")

    def picture(self, expert: str) -> np.ndarray:
        """The very pixels that a panel shows."""
        source = self.page.locator(f"#picture-{expert} img").get_attribute("src")
        return np.asarray(Image.open(io.BytesIO(self.page.request.get(source).body())).convert("RGB"))

    def classes(self, expert: str) -> list[tuple[str, float, str]]:
        """Class, length of the bar and percentage, as shown."""
        rows = self.page.locator(f"#label-{expert} .confidence-set").all()
        values = [float(row.locator("meter").get_attribute("value")) for row in rows]
        return [
            (row.locator("dt").inner_text(), value, row.locator("dd").inner_text())
            for row, value in zip(rows, values, strict=True)
        ]


@pytest.fixture(scope="module")
def visit(address) -> Iterator[AppVisit]:
    with open_page(DESK) as page:
        yield AppVisit(page, address)


def assert_answers(visit: AppVisit, classifier: ExpertClassifier, file: Path) -> None:
    """The page shows the file and, of it, what the classifier says."""
    (result,) = classifier(file, attention=True)
    picture = Image.open(file)
    assert np.array_equal(visit.picture("average"), np.asarray(picture))
    for expert in EXPERTS[1:]:
        drawn = draw_attention(picture, result.attention[expert], result.region)
        assert np.array_equal(visit.picture(expert), np.asarray(drawn))
    for expert in EXPERTS:
        rows = sorted(result.rows, key=lambda row: -row.probability[expert])
        shown = visit.classes(expert)
        assert [caption for caption, _, _ in shown] == [CAPTIONS[row.name] for row in rows]
        assert [value for _, value, _ in shown] == pytest.approx([row.probability[expert] for row in rows], abs=1e-6)
        assert [text for _, _, text in shown] == [f"{100 * row.probability[expert]:.0f}%" for row in rows]


def test_the_page_opens_with_the_first_example_answered(visit, classifier, folder):
    visit.wait_for(f"Picture: {CAPTIONS['рысь']}")
    assert_answers(visit, classifier, folder / "examples" / "рысь" / "picture.png")
    assert visit.page.title() == f"{folder.name}/student"


def test_an_uploaded_picture_gets_both_experts_answers_and_maps(visit, classifier, folder):
    visit.upload(folder / "a <b>photo.png")
    visit.wait_for("Picture: a bphoto.png")  # gradio takes angle brackets out of names
    assert_answers(visit, classifier, folder / "a <b>photo.png")
    assert len({visit.classes(expert)[0][1] for expert in EXPERTS}) == 3  # so the experts can be told apart
    assert not np.array_equal(visit.picture("cls"), visit.picture("distillation"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("notes.txt", "notes.txt is no picture that can be read; upload a PNG, JPEG, WebP, GIF, BMP or TIFF file"),
        (
            "fifty.bmp",
            "fifty.bmp has 50.0 megapixels (10000 x 5000), more than the 25 that this page takes; upload a smaller "
            "picture",
        ),
    ],
)
def test_what_cannot_be_answered_gets_a_friendly_message(visit, folder, name, said):
    visit.upload(folder / name)
    visit.page.get_by_role("alert").get_by_text(said, exact=True).wait_for()
    for expert in EXPERTS:
        assert visit.page.locator(f"#label-{expert} dd").count() == 0
        assert visit.page.locator(f"#picture-{expert} img").count() == 0
    assert visit.page.get_by_text(re.compile("traceback", re.IGNORECASE)).count() == 0


def test_an_example_is_answered_by_a_click_on_its_caption_or_its_picture(visit, classifier, folder):
    visit.page.get_by_text(CAPTIONS["рысь"], exact=True).click()
    visit.wait_for(f"Picture: {CAPTIONS['рысь']}")
    assert visit.page.get_by_role("alert").count() == 0
    assert_answers(visit, classifier, folder / "examples" / "рысь" / "picture.png")
    visit.page.get_by_alt_text(CAPTIONS["fox"], exact=True).click()
    visit.wait_for(f"Picture: {CAPTIONS['fox']}")
    assert_answers(visit, classifier, folder / "examples" / "fox" / "picture.png")


def test_the_page_asked_for_nothing_outside_this_machine_and_had_no_errors(visit):
    outside = [url for url in visit.requests if not url.startswith((visit.address, "data:", "blob:"))]
    assert visit.requests
    assert outside == []
    assert visit.complaints == []
