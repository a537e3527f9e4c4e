"""Which columns are the image and the label, and what the classes are called."""

from __future__ import annotations

import io

import PIL.Image
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value

from deitlt_hf.data.columns import (
    ColumnNames,
    class_names,
    find_columns,
    referenced_images,
    say_similar,
    with_image_and_label,
)
from deitlt_hf.errors import DeiTLTError

TEXT, NUMBER, CLASS = Value("string"), Value("int64"), ClassLabel(names=["cat", "owl"])


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({"scan": Image(), "path": TEXT, "y": CLASS, "label": TEXT}, ("scan", "y")),
        ({"mask": Image(), "image": Image(), "fine_label": CLASS, "coarse_label": CLASS}, ("image", "fine_label")),
        ({"scan": {"bytes": Value("binary"), "path": TEXT}, "species": TEXT}, ("scan", "species")),
        ({"x": Value("binary"), "Target": NUMBER}, ("x", "Target")),
        ({"File_Name": TEXT, "Category": TEXT, "width": NUMBER}, ("File_Name", "Category")),
    ],
)
def test_columns_are_found_by_type_and_then_by_name(features: dict, expected: tuple) -> None:
    assert find_columns(Features(features)) == (*expected, None)


@pytest.mark.parametrize(
    ("features", "given", "message"),
    [
        (
            {"front": Image(), "back": Image(), "label": CLASS},
            {},
            "front, back could each be the image: pass image_col",
        ),
        ({"image": Image(), "a": CLASS, "b": CLASS}, {}, "the columns a, b could each be the label: pass label_column"),
        ({"image": TEXT, "path": TEXT, "label": TEXT}, {}, "the columns image, path could each be the image"),
        ({"scan": TEXT, "label": TEXT}, {}, "no image column, only scan, label: pass image_column, or rename one"),
        ({"image": Image(), "y": NUMBER}, {}, "no label column, only image, y"),
        ({"image": Image()}, {"label": "y"}, "label_column is 'y', but the columns are image: pass one of"),
        ({"a": TEXT}, {"image": "a", "label": "a"}, "column 'a' cannot be the image and the label"),
    ],
)
def test_columns_that_cannot_be_told_are_refused(features: dict, given: dict, message: str) -> None:
    with pytest.raises(DeiTLTError, match=message):
        find_columns(Features(features), ColumnNames(**given))


def test_a_type_that_wins_over_a_usual_name_is_said(caplog: pytest.LogCaptureFixture) -> None:
    rows = Dataset.from_dict({"image": ["a"] * 2, "site": [0, 1], "label": ["cat", "owl"]}).cast_column("site", CLASS)
    assert with_image_and_label(DatasetDict(train=rows))["train"].features["label"] == CLASS
    (record,) = caplog.records
    assert "the label is column 'site', by its type, and not 'label': pass label_column" in record.getMessage()
    with_image_and_label(DatasetDict(train=rows), ColumnNames(label="site"))
    assert len(caplog.records) == 1


def test_given_columns_win() -> None:
    features = Features({"front": Image(), "back": Image(), "a": CLASS, "b": TEXT})
    assert find_columns(features, ColumnNames("back", "b")) == ("back", "b", None)


def test_ids_below_zero_are_no_classes() -> None:
    with pytest.raises(DeiTLTError, match="the label column holds -2: remove rows without a label"):
        class_names([0, -2])


def splits(train: list, test: list | None = None, feature=None, test_feature=None) -> DatasetDict:
    def build(labels: list, feature) -> Dataset:
        columns = {"image": [f"{row}.png" for row in range(len(labels))], "label": labels}
        return Dataset.from_dict(columns, features=feature and Features({"image": TEXT, "label": feature}))

    built = DatasetDict(train=build(train, feature))
    if test is not None:
        built["test"] = build(test, test_feature or feature)
    return built


@pytest.mark.parametrize(
    ("given", "names", "labels"),
    [
        (splits(["owl", "cat", "NA", "owl"]), ["NA", "cat", "owl"], [2, 1, 0, 2]),
        (splits([1, 0, 2]), ["0", "1", "2"], [1, 0, 2]),
        (splits([1, 0], [1], Value("uint8"), Value("int16")), ["0", "1"], [1, 0]),
        (splits([1, 0], feature=CLASS), ["cat", "owl"], [1, 0]),
        (splits(["b", "a"], ["a"], Value("large_string"), TEXT), ["a", "b"], [1, 0]),
    ],
)
def test_class_names_are_sorted_and_ids_stay(given: DatasetDict, names: list[str], labels: list[int]) -> None:
    train = with_image_and_label(given)["train"]
    assert train.features == Features({"image": Image(), "label": ClassLabel(names=names)})
    assert train["label"][:] == labels
    assert train.cast_column("image", Image(decode=False))[0]["image"] == {"bytes": None, "path": "0.png"}


@pytest.mark.parametrize(
    ("given", "names", "labels"),
    [
        (splits([1, 3, 2]), ["1", "2", "3"], [0, 2, 1]),  # from 1
        (splits([0, 10, 2]), ["0", "2", "10"], [0, 2, 1]),  # gaps; by number, not by letter
        (splits([0, 10**9]), ["0", "1000000000"], [0, 1]),
        (splits([1, 0, 3], [2]), ["0", "1", "2", "3"], [1, 0, 3]),  # of all splits together they are ids
        (splits([1.0, 2.0, 1.0]), ["1", "2"], [0, 1, 0]),
        (splits([1.0, 0.0]), ["0", "1"], [1, 0]),  # ids
        (splits([True, False, True]), ["false", "true"], [1, 0, 1]),
    ],
)
def test_other_numbers_are_names_of_classes(
    given: DatasetDict, names: list[str], labels: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    train = with_image_and_label(given)["train"]
    assert train.features["label"].names == names
    assert train["label"][:] == labels
    is_said = names != [str(number) for number in range(len(names))] and names[0] != "false"
    assert ("taken as names of classes" in caplog.text) == is_said


def test_classes_that_may_be_one_are_named(caplog: pytest.LogCaptureFixture) -> None:
    say_similar(["owl", "Owl", "owl ", "caf\u00e9", "cafe\u0301", "lynx", "10", "010.0", "1", "100"])
    (record,) = caplog.records
    assert "('owl', 'Owl', 'owl '; 'caf\u00e9', 'cafe\u0301'; '10', '010.0')" in record.getMessage()
    say_similar(["owl", "lynx", "none"])
    assert len(caplog.records) == 1
    say_similar(["owl", "NaN"])
    assert "'NaN' is taken as the name of a class: remove these images if" in caplog.records[1].getMessage()


def test_images_may_be_lists_of_their_bytes(caplog: pytest.LogCaptureFixture) -> None:
    png = io.BytesIO()
    PIL.Image.new("RGB", (3, 2), (1, 2, 3)).save(png, "PNG")
    rows = Dataset.from_dict({"image": [list(png.getvalue())] * 2, "label": [0, 1]})
    read = with_image_and_label(DatasetDict(train=rows))["train"]
    assert read[1]["image"].getpixel((0, 0)) == (1, 2, 3)
    assert "taken as the bytes of image files" in caplog.text
    pixels = Dataset.from_dict({"image": [[1, 256]] * 2, "label": [0, 1]})
    with pytest.raises(DeiTLTError, match="numbers that are no bytes"):
        with_image_and_label(DatasetDict(train=pixels))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (splits(["a", None, "b", " \t"]), r"train split has images without a label .*, 2 of 4, the first in row 1"),
        (splits([0, 1], [1, -1]), r"test split has images without a label \(-1 or empty\), 1 of 2, the first in row 1"),
        (splits([0.5, 1.0]), "the label column holds 0.5: pass class names, or class ids"),
        (splits([float("inf"), 1.0]), "the label column holds inf: pass"),
        (splits([float("nan"), 1.0]), "the label column holds nan: pass"),
        (splits([1e30, 1.0]), r"the label column holds 1e\+30: pass"),
        (splits([]), "the label column holds"),
        (splits([0, 1], ["a"]), r"train has the labels Value\('int64'\), test has Value\('string'\): give all"),
        (splits([0, 1], [1], CLASS, ClassLabel(names=["cat", "eel"])), "different class names, such as 'eel'"),
        (splits([0, 1], [1], CLASS, ClassLabel(names=["owl", "cat"])), "different class names, in another order"),
        (DatasetDict(test=Dataset.from_dict({"image": ["a"], "label": [0]})), "no train split, only test"),
    ],
)
def test_labels_that_are_no_classes_are_refused_in_one_line(given: DatasetDict, message: str) -> None:
    with pytest.raises(DeiTLTError, match=message) as error:
        with_image_and_label(given)
    assert "\n" not in str(error.value)


def test_labels_beyond_the_names_are_refused() -> None:
    beyond = referenced_images(["a.png", "b.png", "c.png"], [0, 2, 5], ["cat", "owl"])
    with pytest.raises(DeiTLTError, match="row 1 of the train split has the label 2, out of range for 2 classes, as 2"):
        with_image_and_label(DatasetDict(train=beyond))


def test_splits_with_other_columns_are_refused() -> None:
    given = splits([0, 1], [1])
    given["test"] = given["test"].rename_column("label", "y")
    with pytest.raises(DeiTLTError, match="the test split has no column 'label', which train has, only image, y"):
        with_image_and_label(given)
