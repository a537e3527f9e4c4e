"""Names of folders, tables, keys and values that say which split they are; what is unclear is said or refused."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from PIL import Image

from deitlt_hf.data.loading import read_splits
from deitlt_hf.data.splits import split_named
from deitlt_hf.errors import DeiTLTError

read = partial(read_splits, on_bad_image="keep")  # the lists name files that are not there

TRAIN, TEST = {"cat": 3, "owl": 2}, {"cat": 1, "owl": 1}


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING, "deitlt_hf")
    return lambda: [record.getMessage() for record in caplog.records]


def write_images(directory: Path, counts: dict[str, int]) -> None:
    for name, count in counts.items():
        (directory / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            Image.new("L", (4, 4), index).save(directory / name / f"{index}.png")


def write_list(path: Path, labels: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("file,label\n" + "".join(f"{path.stem}{row}.png,{label}\n" for row, label in enumerate(labels)))


def sizes(splits: DatasetDict) -> dict[str, int]:
    return {split: rows.num_rows for split, rows in splits.items()}


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("train", "train TRAIN Training train_set trainset training-images birdsTrain XTrain cifar10-train train2017"),
        ("test", "test Testing TestSet labels.test eval evaluation hold-out HoldOut testlist01 img_test_final"),
        ("validation", "validation Valid val val2017 dev dev_set ILSVRC2012_val"),
        (None, "trainspotting contest invalid device training_test trainval fold_0 evaluator retrain extra 0"),
    ],
)
def test_words_that_name_a_split(split: str | None, names: str) -> None:
    assert {name: split_named(name) for name in names.split()} == dict.fromkeys(names.split(), split)


PAIRS = [
    ("Training", "Testing"),
    ("train_set", "test_set"),
    ("train", "testing"),
    ("train", "eval"),
    ("train", "dev"),
    ("birds_train", "birds_test"),
    ("labels-train", "labels-val"),
    ("TrainImages", "HoldOut"),
]


@pytest.mark.parametrize(("train", "test"), PAIRS)
@pytest.mark.parametrize("kind", ["folders", "tables", "keys", "values"])
def test_each_name_is_understood_everywhere_and_said(kind: str, train: str, test: str, tmp_path: Path, said) -> None:
    source: object = tmp_path
    rows = {train: ["cat", "cat", "cat", "owl", "owl"], test: ["cat", "owl"]}
    if kind == "folders":
        write_images(tmp_path / train, TRAIN)
        write_images(tmp_path / test, TEST)
    elif kind == "tables":
        for name, labels in rows.items():
            write_list(tmp_path / f"{name}.csv", labels)
    elif kind == "keys":
        source = DatasetDict(
            {
                name: Dataset.from_dict({"image": ["x.png"] * len(labels), "label": labels})
                for name, labels in rows.items()
            }
        )
    else:
        lines = [f"{name}{row}.png,{label},{name}" for name, of in rows.items() for row, label in enumerate(of)]
        source = tmp_path / "all.csv"
        source.write_text("\n".join(["file,label,split", *lines]))
    assert sizes(read(source)) == {"train": 5, split_named(test): 2}
    if kind != "values":
        assert train in said()[0]
        assert test in said()[0]


@pytest.mark.parametrize("names", [["train", "test", "validation"], ["train", "test"]])
def test_plain_names_need_no_word(names: list[str], tmp_path: Path, said) -> None:
    for name in names:
        write_images(tmp_path / "folders" / name, TEST)
        write_list(tmp_path / "tables" / f"{name}.csv", ["cat", "owl"])
        write_list(tmp_path / "shards" / f"{name}-00000-of-00001.csv", ["cat", "owl"])
    for kind in ("folders", "tables", "shards"):
        assert sizes(read(tmp_path / kind)) == dict.fromkeys(names, 2)
    assert said() == []


def test_three_folders_of_splits(tmp_path: Path) -> None:
    for count, name in enumerate(("training", "evaluation", "validation"), 1):
        write_images(tmp_path / name, {"cat": count, "owl": count})
    assert sizes(read(tmp_path)) == {"train": 2, "test": 4, "validation": 6}


@pytest.mark.parametrize(
    ("folders", "expected", "words"),
    [
        # The plainest name wins, the others are named.
        (
            ["train/cat", "train/owl", "test/cat", "train_masks/cat"],
            {"train": 2, "test": 1},
            "passed over: 'train_masks'",
        ),
        (["train/cat", "train/owl", "val/cat", "extra/cat"], {"train": 2, "validation": 1}, "passed over: 'extra'"),
        # Images of the test split without classes, as Kaggle publishes them.
        (["train/cat", "train/owl", "test"], {"train": 2}, "passed over: 'test'"),
        # Classes called like splits.
        (
            ["bus/day", "car/day", "train/day", "train/night"],
            {"train": 4},
            "'train' beside 'bus', 'car' is taken as a cl",
        ),
        (["bus", "car", "train/day", "train/night"], {"train": 4}, "'train' beside 'bus', 'car' is taken as a class"),
        (["beaker", "test_tube"], {"train": 2}, "'test_tube' beside 'beaker' is taken as a class"),
        # Folders in class folders.
        (["bird/owl", "mammal/fox", "mammal/wolf"], {"train": 3}, "2 images in folders within the class folders"),
        (["cat", "cat/masks", "owl"], {"train": 3}, "such as 'cat/masks', belongs to the outer one, 'cat' here"),
        # The same folders in each.
        (["images/cat", "images/owl", "masks/cat", "masks/owl"], {"train": 4}, "hold the same folders ('cat', 'owl')"),
    ],
)
def test_what_can_be_read_in_two_ways_is_said(
    folders: list[str], expected: dict[str, int], words: str, tmp_path: Path, said
) -> None:
    write_images(tmp_path, dict.fromkeys(folders, 1))
    assert sizes(read(tmp_path)) == expected
    assert words in " ".join(said())


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["training/cat", "training/owl", "trn/cat"], "'training' and 'trn' could each be the train split"),
        (["train", "test"], "'test', 'train' in .* hold images but no class folders"),
        (["fold_0/cat", "fold_0/owl", "fold_1/cat", "fold_1/owl"], "'fold_0', 'fold_1' .* so these are no classes"),
        (["cat/train", "cat/test", "owl/train", "owl/test"], "put the splits outside and the classes inside"),
        (["cat", "owl", "test/cat", "test/owl"], "'test' holds class folders that are beside it too, 'cat', 'owl'"),
    ],
)
def test_what_cannot_be_known_is_refused(folders: list[str], message: str, tmp_path: Path) -> None:
    write_images(tmp_path, dict.fromkeys(folders, 1))
    with pytest.raises(DeiTLTError, match=message):
        read(tmp_path)


@pytest.mark.parametrize("classes", [["cat/images", "owl/images"], ["2021/a/x", "2022/b/x"]])
def test_classes_with_folders_of_their_own_need_no_word(classes: list[str], tmp_path: Path, said) -> None:
    write_images(tmp_path, dict.fromkeys(classes, 1))
    assert sizes(read(tmp_path)) == {"train": 2}
    assert said() == []


@pytest.mark.parametrize("names", [["fold_0", "fold_1"], ["owls", "cats"]])
def test_tables_without_a_split_in_their_names_are_train_and_said(names: list[str], tmp_path: Path, said) -> None:
    for name in names:
        write_list(tmp_path / f"{name}.csv", ["cat", "owl"])
    assert sizes(read(tmp_path)) == {"train": 4}
    assert said() == [f"tables: {', '.join(map(repr, sorted(f'{name}.csv' for name in names)))} as train"]


def test_tables_that_name_no_split_are_passed_over_beside_those_that_do(tmp_path: Path, said) -> None:
    for name in ("train.csv", "extra.csv", "more.tsv"):
        write_list(tmp_path / name, ["cat", "owl"])
    assert sizes(read(tmp_path)) == {"train": 2}
    assert said() == ["tables: 'train.csv' as train; passed over: 'extra.csv', 'more.tsv'"]


@pytest.mark.parametrize("kind", ["-1", "", "column", "keys"])
def test_a_test_split_without_labels_is_passed_over(kind: str, tmp_path: Path, said) -> None:
    source: object = tmp_path
    missing = "" if kind == "" else "-1"
    if kind == "keys":
        features = Features({"image": Value("string"), "label": ClassLabel(names=["cat", "owl"])})
        source = DatasetDict(
            {
                name: Dataset.from_dict({"image": ["x.png"] * len(labels), "label": labels}, features=features)
                for name, labels in {"train": [0, 1], "validation": [0], "test": [-1, -1, -1]}.items()
            }
        )
    elif kind == "column":
        rows = ["a,cat,train", "b,owl,train", "c,cat,val", *["d,,test"] * 3]
        (tmp_path / "all.csv").write_text("\n".join(["file,label,split", *rows]))
    else:
        for name, labels in {"train": ["cat", "owl"], "validation": ["cat"], "test": [missing] * 3}.items():
            write_list(tmp_path / f"{name}.csv", labels)
    assert sizes(read(source)) == {"train": 2, "validation": 1}
    assert any("no image of the test split has a label" in line for line in said())


def test_a_list_without_labels_beside_another_is_refused(tmp_path: Path) -> None:
    """As Kaggle publishes its test images."""
    write_list(tmp_path / "train.csv", ["cat", "owl"])
    (tmp_path / "test.csv").write_text("file\nx.png\n")
    with pytest.raises(
        DeiTLTError, match=r"test\.csv: the data have no label column, .*; or pass the right list itself"
    ):
        read(tmp_path)


def test_a_test_split_with_some_labels_missing_is_refused(tmp_path: Path) -> None:
    write_list(tmp_path / "train.csv", ["cat", "owl"])
    write_list(tmp_path / "test.csv", ["cat", ""])
    with pytest.raises(DeiTLTError, match=r"test\.csv: 1 of 2 rows have no 'label', the first is row 2"):
        read(tmp_path)
