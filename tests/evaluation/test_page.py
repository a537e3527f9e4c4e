"""An analysis as files: whole or not at all, with every number, and with names that stay text."""

from __future__ import annotations

import base64
import io
import json
import re
from html import escape, unescape
from pathlib import Path

import numpy as np
import pytest
from made_up_analysis import NAMES, made_up_analysis
from PIL import Image

from deitlt_hf.errors import DeiTLTError
from deitlt_hf.evaluation import page as analysis_page
from deitlt_hf.evaluation.analysis.wrong_images import WrongImage
from deitlt_hf.evaluation.compare import compare_models, compared_tables
from deitlt_hf.evaluation.measures import MEASURES
from deitlt_hf.evaluation.page import SECTIONS, write_analysis

NASTY = '_<script>alert("$x")</script> & co'


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("one") / "new" / "analysis"
    write_analysis({"DeiT-LT": made_up_analysis()}, directory)
    return directory


@pytest.fixture(scope="module")
def models() -> dict:
    vit = made_up_analysis(1, two_tokens=False, num_images=400)
    vit.examples.clear()
    return {"ViT": vit, NASTY: made_up_analysis(2, accuracy=0.95)}


@pytest.fixture(scope="module")
def several(tmp_path_factory, models) -> Path:
    directory = tmp_path_factory.mktemp("several") / "analysis"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(analysis_page, "save_figure", lambda figure, path: _touch(path))  # drawing takes seconds
        write_analysis(models, directory)
    return directory


def cells(page: str, heading: str) -> list[list[str]]:
    """The rows of the table with a column that is headed so."""
    table = next(part for part in page.split("<table>") if f"<th>{escape(heading)}</th>" in part.split("</thead>")[0])
    rows = re.findall(r"<tr>(.*?)</tr>", table.split("</table>")[0].split("</thead>")[1], re.DOTALL)
    return [[unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", row)] for row in rows]


def test_one_model_has_its_record_a_page_and_every_figure_twice(one):
    assert json.loads((one / "analysis.json").read_text()) == made_up_analysis().record
    assert sorted(path.name for path in one.iterdir()) == ["analysis.json", "figures", "index.html"]
    names = [section.name for section in SECTIONS] + ["examples"]
    expected = {f"{name}.{suffix}" for name in names for suffix in ("png", "svg")}
    assert {path.name for path in (one / "figures").iterdir()} == expected
    page = (one / "index.html").read_text()
    inlined = [base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', page)]
    assert inlined == [(one / "figures" / f"{name}.png").read_bytes() for name in names]
    for section in SECTIONS:
        assert f"<p>{escape(section.reading)}</p>" in page
        assert re.search(r"\(.*\d{4}.*\)", section.reading), f"{section.name} cites nothing"
    assert list(one.parent.iterdir()) == [one]  # nothing is left beside it


def test_tables_of_one_model_hold_the_records_numbers(one):
    page, record = (one / "index.html").read_text(), made_up_analysis().record
    rows = {row[0]: row[1:] for row in cells(page, "prediction")}
    for label, expert in (("average", "average"), ("CLS expert", "cls"), ("DIST expert", "distillation")):
        scores = record["experts"][expert]
        names = ("overall", "head", "mid", "tail", "balanced_accuracy")
        assert rows[label] == [f"{scores[name]:.1f}" for name in names]
    classes = cells(page, "class")
    assert [row[0] for row in classes] == NAMES  # they are in order of frequency
    assert classes[2][1:3] == ["head", "179"]
    assert classes[9][3] == f"{record['experts']['average']['per_class'][9]:.1f}"
    assert cells(page, "true class")[0] == ["DeiT-LT", "truck", "airplane", "12"]
    assert "crosses 0 at 70 training images" in page


def test_the_teacher_has_its_row_its_column_and_a_table_of_differences(tmp_path, monkeypatch):
    monkeypatch.setattr(analysis_page, "save_figure", lambda figure, path: _touch(path))
    analysis = made_up_analysis()
    teacher = {"overall": 60.0, "head": 100.0, "mid": None, "tail": 20.0, "balanced_accuracy": 61.25}
    better = {"value": 1.5, "interval": [0.5, 2.5], "excludes_zero": True}
    unsure = {"value": -1.5, "interval": [-3.0, 0.0], "excludes_zero": False}
    against = dict.fromkeys(teacher, better) | {"mid": {"value": None, "interval": None, "excludes_zero": False}}
    analysis.record["teacher"] = teacher | {"per_class": [12.5] * len(NAMES)}
    analysis.record["against_teacher"] = {"average": against, "cls": dict.fromkeys(teacher, unsure)}
    write_analysis({"DeiT-LT": analysis}, tmp_path / "page")
    page = (tmp_path / "page" / "index.html").read_text()
    assert [row[0] for row in cells(page, "prediction")] == ["average", "CLS expert", "DIST expert", "teacher"]
    assert cells(page, "prediction")[-1][1:] == ["60.0", "100.0", "-", "20.0", "61.2"]
    average, cls = cells(page, "better than the teacher by (points)")
    assert average == ["average", *["+1.5 [+0.5, +2.5] *"] * 2, "-", *["+1.5 [+0.5, +2.5] *"] * 2]
    assert [cell.rstrip() for cell in cls] == ["CLS expert", *["-1.5 [-3.0, +0.0]"] * 5]
    assert "A star: significant" in page
    assert {row[-1] for row in cells(page, "class")} == {"12.5"}


def test_a_model_without_a_teacher_has_no_differences(one):
    page = (one / "index.html").read_text()
    assert "(points)" not in page
    assert "A star" not in page


def test_names_stay_text(several):
    page = (several / "index.html").read_text()
    assert page.count("<script") == 1  # ours
    assert "<script>alert" not in page
    assert "<b>bird" not in page
    assert page.count(escape(NASTY)) >= 4


def test_several_models_come_with_their_differences(several, models):
    content = json.loads((several / "analysis.json").read_text())
    assert list(content["models"]) == list(models)
    comparison = compare_models(models)
    assert {key: content[key] for key in comparison} == comparison
    page = (several / "index.html").read_text()
    (row,) = cells(page, "better than ViT by (points)")
    assert "better than its teacher" not in page
    accuracies, more = compared_tables(comparison)
    assert [row] == accuracies.differences["ViT"]
    assert "*" in row[1]
    assert [row[0], *map(str.rstrip, row[1:])] == [
        NASTY,
        *(measure.text(of["value"], of["interval"], "+") + " *" * of["excludes_zero"]
          for measure in MEASURES
          if measure.table == "accuracy" and (of := comparison["differences"][NASTY][measure.key])),
    ]  # fmt: skip
    assert more.heading == ["macro-F1", "worst"]
    assert page.count("better than ViT by (points)") == 2
    worst = comparison["differences"][NASTY]["worst_class"]
    assert worst["interval"] is None  # of classes with 40 test images
    assert f"<td>{worst['value']:+.1f}  </td>" in page
    assert {path.stem for path in (several / "figures").glob("examples*")} == {"examples_2"}  # the first has none


def with_errors(analysis, number: int):
    """The analysis with so many errors of the class `$cat` that is taken for NASTY."""
    analysis.record["class_names"] = [*NAMES[:9], NASTY]
    picture = np.zeros((4, 6, 3), dtype=np.uint8)
    analysis.errors = [WrongImage(row, 3, 9, 0.987 - row / 100, picture + row) for row in range(number)]
    return analysis


def test_the_gallery_shows_classes_probabilities_and_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(analysis_page, "save_figure", lambda figure, path: _touch(path))
    write_analysis({"DeiT-LT": with_errors(made_up_analysis(), 2)}, tmp_path / "page")
    page = (tmp_path / "page" / "index.html").read_text()
    shown = re.findall(
        r'<figure><img alt="(.*?)" src="data:image/png;base64,(.*?)"><figcaption>(.*?)</figcaption>', page
    )
    assert [unescape(alt) for alt, _, _ in shown] == [f"$cat, predicted as {NASTY}"] * 2
    assert [unescape(text) for _, _, text in shown] == [
        f"predicted: <b>{NASTY}</b> (99 %)<br>true: $cat<br>image 0",
        f"predicted: <b>{NASTY}</b> (98 %)<br>true: $cat<br>image 1",
    ]
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown[1][1]))))
    np.testing.assert_array_equal(picture, np.full((4, 6, 3), 1))
    assert "<script>alert" not in page


def test_of_several_models_each_shows_twelve_errors(tmp_path, monkeypatch):
    monkeypatch.setattr(analysis_page, "save_figure", lambda figure, path: _touch(path))
    analyses = {"a": with_errors(made_up_analysis(1), 24), "b": with_errors(made_up_analysis(2), 5)}
    write_analysis(analyses, tmp_path / "page")
    galleries = (tmp_path / "page" / "index.html").read_text().split('<div class="gallery">')
    assert [part.count("<figcaption>") for part in galleries] == [0, 12, 5]


def test_without_errors_there_is_no_gallery(one):
    assert "Most confident errors" not in (one / "index.html").read_text()


def test_the_table_of_classes_has_test_images_and_what_a_class_is_taken_for(tmp_path, monkeypatch):
    monkeypatch.setattr(analysis_page, "save_figure", lambda figure, path: _touch(path))
    analysis = made_up_analysis()
    analysis.record["test_counts"] = [40] * 9 + [3]
    analysis.record["experts"]["average"] |= {"taken_for": [None] * 9 + [0], "taken_for_images": [None] * 9 + [2]}
    write_analysis({"DeiT-LT": analysis}, tmp_path / "page")
    page = (tmp_path / "page" / "index.html").read_text()
    first, *_, last = cells(page, "class")
    assert (first[:4], first[-1]) == (["airplane", "head", "500", "40"], "-")
    assert (last[:4], last[-1]) == (["truck", "tail", "5", "3 ~"], "airplane (2)")
    assert "fewer than 10 test images" in page


def test_figures_that_no_model_has_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(analysis_page, "save_figure", lambda figure, path: _touch(path))
    write_analysis({"ViT": made_up_analysis(two_tokens=False)}, tmp_path / "vit")
    left = {path.stem for path in (tmp_path / "vit" / "figures").iterdir()}
    assert left == {section.name for section in SECTIONS} - {"agreement", "token_similarity"} | {"examples"}
    assert "Agreement" not in (tmp_path / "vit" / "index.html").read_text()


def test_thousands_of_classes_are_left_to_the_json_file(monkeypatch):
    monkeypatch.setattr(analysis_page, "MOST_CLASSES", 9)
    assert analysis_page._class_table({"a": made_up_analysis().record}) is None


def test_a_directory_that_is_not_free_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DeiTLTError, match=r"is not empty; pass a directory that does not exist yet$"):
        write_analysis({"DeiT-LT": made_up_analysis()}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    def fill_the_disk(figure, path):
        _touch(path)
        if path.name == "feature_rank.svg":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(analysis_page, "save_figure", fill_the_disk)
    with pytest.raises(DeiTLTError, match="No space left on device"):
        write_analysis({"DeiT-LT": made_up_analysis()}, tmp_path / "analysis")
    assert list(tmp_path.iterdir()) == []


def _touch(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"")


def test_a_page_holds_no_control_characters(tmp_path, monkeypatch):
    monkeypatch.setattr(analysis_page, "save_figure", lambda figure, path: _touch(path))  # drawing takes seconds
    analysis = made_up_analysis()
    name = "\x1b[2J\u202e" + NASTY
    analysis.record["class_names"] = [name, *analysis.record["class_names"][1:]]
    write_analysis({name: analysis}, tmp_path / "page")
    page = (tmp_path / "page" / "index.html").read_text()
    assert not {"\x1b", "\u202e"} & set(page)
    assert "\\x1b[2J" in page
    assert "<script>alert" not in page
