"""Every kind of source gives the same rows: folders, lists, Parquet, saved data, the hub, streams."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import Dataset, DatasetDict, IterableDatasetDict
from PIL import Image

from deitlt_hf.data.columns import with_image_and_label
from deitlt_hf.data.loading import class_counts, load_long_tailed_dataset, read_splits
from deitlt_hf.errors import DeiTLTError

OWL, LYNX, NA = "snowy owl (é, ü)", "7", "NA"
# Sorted as text: "7" < "NA" < "snowy owl".
NAMES = [LYNX, NA, OWL]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def level(row: dict) -> int:
    """The red level, by which the tests know an image."""
    return np.asarray(row["image"])[0, 0, 0]


def write_tree(directory: Path, counts: dict[str, int], first: int = 0) -> list[tuple[str, str, int]]:
    """Images in a folder per class; returns path, class and red level of each, classes in the given order."""
    rows = []
    for name, count in counts.items():
        (directory / name).mkdir(parents=True)
        for index in range(count):
            path = directory / name / f"{index:02}.{'PNG' if index % 2 else 'png'}"
            path.write_bytes(png(first + len(rows)))
            rows.append((str(path), name, first + len(rows)))
    return rows


def write_csv(path: Path, columns: str, rows: list[tuple], separator: str = ",") -> None:
    text = "\n".join([columns.replace(",", separator), *(separator.join(map(str, row)) for row in rows)])
    path.write_text(text + "\n", encoding="utf-8")


def write_json_lines(path: Path, columns: str, rows: list[tuple]) -> None:
    path.write_text("".join(json.dumps(dict(zip(columns.split(","), row, strict=True))) + "\n" for row in rows))


def seen(splits: DatasetDict) -> dict[str, list[tuple[str, int]]]:
    return {
        split: sorted((dataset.features["label"].int2str(row["label"]), level(row)) for row in dataset)
        for split, dataset in splits.items()
    }


def expected(**splits: list[tuple[str, str, int]]) -> dict[str, list[tuple[str, int]]]:
    return {split: sorted((name, value) for _, name, value in rows) for split, rows in splits.items()}


def test_class_folders_with_odd_names(tmp_path: Path) -> None:
    train = write_tree(tmp_path / "Train", {OWL: 3, LYNX: 2, NA: 1})
    validation = write_tree(tmp_path / "val", {NA: 1, OWL: 1}, first=50)
    (tmp_path / "Train" / ".cache").mkdir()
    (tmp_path / "Train" / OWL / ".hidden.png").write_bytes(b"")
    (tmp_path / "Train" / OWL / "notes.txt").write_text("no image")
    splits = read_splits(tmp_path)
    assert splits["train"].features["label"].names == splits["validation"].features["label"].names == NAMES
    assert seen(splits) == expected(train=train, validation=validation)


def test_class_folders_are_read_at_any_depth_and_through_links(tmp_path: Path) -> None:
    (first,) = write_tree(tmp_path / "elsewhere" / "deep", {"2021": 1})
    (second,) = write_tree(tmp_path / "data", {"cat": 1}, first=9)
    (tmp_path / "data" / "cat" / "again").symlink_to(tmp_path / "data" / "cat")  # a circle
    (tmp_path / "data" / "owl").symlink_to(tmp_path / "elsewhere")
    assert seen(read_splits(tmp_path / "data"))["train"] == [("cat", second[2]), ("owl", first[2])]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    rows = write_tree(tmp_path, {"car": 1, "train": 2})
    assert seen(read_splits(tmp_path)) == expected(train=rows)


def test_without_a_test_folder_a_part_of_each_class_is_held_out(tmp_path: Path) -> None:
    write_tree(tmp_path, {"cat": 10, "owl": 4, "rare": 1})
    splits = load_long_tailed_dataset(tmp_path)
    # Every class keeps a training image, and one that should give half an image or more gives one.
    train, test = (np.array(class_counts(splits[name])) for name in ("train", "test"))
    assert (train + test).tolist() == [10, 4, 1]
    assert train.min() >= 1
    assert (test >= [1, 1, 0]).all()
    levels = [level(row) for split in splits.values() for row in split]
    assert sorted(levels) == list(range(15))
    # What is held out does not depend on what is selected from the rest.
    long_tailed = load_long_tailed_dataset(tmp_path, 2, profile="step")
    assert [level(row) for row in long_tailed["test"]] == [level(row) for row in splits["test"]]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({"train/cat": 1, "train/owl": 1, "test/eel": 1}, "class folder 'eel' is in .*test' but not in .*train'"),
        (
            {"train/caf\u00e9": 1, "train/owl": 1, "test/cafe\u0301": 1},
            "'caf\u00e9' there differs only by case, spaces, zeros or encoding; give both one name",
        ),
        ({"cat": 1, "owl": 1, "bat": 0, "eel": 0}, r"class folder 'bat' in .* holds no images \(and 1 more\): add"),
        ({"cat": 1}, "holds one class folder, 'cat': pass the directory whose folders are the classes"),
        ({"cat": 0}, "holds no data: pass one with a folder of images per class"),
        ({"test/cat": 1}, "the data have no train split, only test: name"),
    ],
)
def test_folders_that_cannot_be_used_are_refused(tmp_path: Path, classes: dict[str, int], message: str) -> None:
    write_tree(tmp_path, classes)
    with pytest.raises(DeiTLTError, match=message) as error:
        read_splits(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["absolute", "relative"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json"])
def test_lists_of_paths(tmp_path: Path, suffix: str, kind: str) -> None:
    rows = write_tree(tmp_path / "images", {"owl": 2, "NA": 1, "001": 1})
    listed = [
        (os.path.relpath(path, tmp_path) if kind == "relative" else path, f"{value} cm", name)
        for path, name, value in rows
    ]
    file = tmp_path / f"all{suffix}"
    if suffix in (".csv", ".tsv"):
        write_csv(file, "file_name,size,species", listed, "," if suffix == ".csv" else "\t")
    else:
        write_json_lines(file, "file_name,size,species", listed)
    splits = read_splits(file)
    assert splits["train"].features["label"].names == ["001", "NA", "owl"]
    assert seen(splits) == expected(train=rows)
    assert level(splits["train"][0]) == rows[0][2]  # in the list's order


def test_a_json_array_and_a_byte_order_mark(tmp_path: Path) -> None:
    (first, second) = write_tree(tmp_path, {"cat": 1, "owl": 1})
    rows = [{"path": path, "label": label} for label, (path, _, _) in enumerate((first, second))]
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8-sig")
    assert read_splits(tmp_path / "rows.json")["train"]["label"][:] == [0, 1]
    (tmp_path / "rows.csv").write_text(f"path,label\n{first[0]},1\n{second[0]},0\n", encoding="utf-8-sig")
    assert read_splits(str(tmp_path / "rows.csv"))["train"]["label"][:] == [1, 0]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["007", "1", "010"], ["007", "010", "1"]),
        (["1", " 0", "1"], ["0", "1"]),
        (["--1", "0", "--1"], ["--1", "0"]),
    ],
)
def test_texts_are_class_ids_only_if_all_are_plain_whole_numbers(
    tmp_path: Path, labels: list[str], names: list[str]
) -> None:
    write_csv(tmp_path / "train.csv", "path,label", [(f"{label.strip()}.png", label) for label in labels])
    write_csv(tmp_path / "test.csv", "path,label", [("x.png", labels[1])])
    splits = read_splits(tmp_path, on_bad_image="keep")
    assert splits["train"].features["label"].names == names
    assert splits["train"]["label"][:] == [names.index(label.strip()) for label in labels]


def test_parquet_files_with_other_columns_are_named(tmp_path: Path) -> None:
    for name in ("species", "genus"):
        Dataset.from_dict({"image": [b"png"], name: ["owl"], "label": ["owl"]}).to_parquet(tmp_path / f"{name}.parquet")
    with pytest.raises(DeiTLTError, match=r"its files do not have the same columns$"):
        read_splits(tmp_path)


@pytest.mark.parametrize("kind", ["csv", "parquet", "saved", "stream"])
def test_a_split_column(tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    rows = write_tree(tmp_path, {"cat": 3, "owl": 2})
    splits = ["train", "holdout", "validation", "train", "Test"]
    source = tmp_path / f"all.{kind}"
    if kind == "csv":
        listed = [(*row[:2], split) for row, split in zip(rows, splits, strict=True)]
        write_csv(source, "image,label,Split", listed)
    else:
        images = [{"bytes": Path(path).read_bytes(), "path": None} for path, *_ in rows]
        labels = [name for _, name, _ in rows]
        embedded = Dataset.from_dict({"image": images, "label": labels, "Split": splits})
        embedded = embedded.cast_column("image", datasets.Image())
        if kind == "parquet":
            embedded.to_parquet(source)
        elif kind == "saved":
            embedded.class_encode_column("Split").save_to_disk(source)
        source = embedded.to_iterable_dataset() if kind == "stream" else source
    found = expected(train=[rows[0], rows[3]], test=[rows[1], rows[4]], validation=[rows[2]])
    assert seen(read_splits(source)) == found
    assert "column 'Split': 'train' as train, 'holdout' as test, " in caplog.text


def test_a_split_column_of_other_words_beside_embedded_images(caplog: pytest.LogCaptureFixture) -> None:
    rows = Dataset.from_dict({"image": [b"", b""], "label": ["cat", "owl"], "split": ["north", "south"]})
    assert with_image_and_label(DatasetDict(train=rows))["train"].num_rows == 2
    assert "column 'split' holds 'north', 'south': not splits, so not used" in caplog.text


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_column_of_splits_with_another_name_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    rows = write_tree(tmp_path, {"cat": 1, "owl": 1})
    if kind == "csv":
        write_csv(tmp_path / "all.csv", "path,label,fold", [(*rows[0][:2], "train"), (*rows[1][:2], "val")])
    else:
        columns = {"image": [png(0), png(1)], "label": ["cat", "owl"], "fold": ["train", "val"]}
        Dataset.from_dict(columns).to_parquet(tmp_path / "all.parquet")
    assert list(read_splits(tmp_path / f"all.{kind}")) == ["train"]
    assert "column 'fold' holds 'train', 'val' but is not used: call it 'split'" in caplog.text


def test_a_directory_of_lists_beside_images(tmp_path: Path) -> None:
    rows = write_tree(tmp_path / "images", {"cat": 2, "owl": 2})
    relative = [(os.path.relpath(path, tmp_path), name) for path, name, _ in rows]
    write_csv(tmp_path / "train.csv", "path,class", relative[1:])
    write_csv(tmp_path / "test_final.csv", "path,class", relative[:1])
    write_csv(tmp_path / "classes.csv", "class,latin", [("cat", "Felis")])
    assert seen(read_splits(tmp_path)) == expected(train=rows[1:], test=rows[:1])


def test_metadata_beside_the_images_of_each_split(tmp_path: Path) -> None:
    train = write_tree(tmp_path / "train", {"a": 1, "b": 1})
    test = write_tree(tmp_path / "test", {"c": 1}, first=7)
    for split, rows in (("train", train), ("test", test)):
        listed = [(os.path.relpath(path, tmp_path / split), "owl" if value else "cat") for path, _, value in rows]
        write_csv(tmp_path / split / "metadata.csv", "file_name,species", listed)
    assert seen(read_splits(tmp_path)) == {"train": [("cat", 0), ("owl", 1)], "test": [("owl", 7)]}


def test_a_list_that_is_none_does_not_hide_class_folders(tmp_path: Path) -> None:
    rows = write_tree(tmp_path, {"cat": 1, "owl": 1})
    write_csv(tmp_path / "readme.csv", "what,why", [("a", "b")])
    assert seen(read_splits(tmp_path)) == expected(train=rows)


def test_given_columns_of_a_list(tmp_path: Path) -> None:
    rows = write_tree(tmp_path, {"cat": 1, "owl": 1})
    write_csv(tmp_path / "all.csv", "label,before,after", [(name, "gone.png", path) for path, name, _ in rows])
    with pytest.raises(DeiTLTError, match=r"all\.csv: the data have no image column, only label, before, after: pass"):
        read_splits(tmp_path / "all.csv")
    columns = {"image_column": "after", "label_column": "label"}
    assert seen(read_splits(tmp_path / "all.csv", **columns)) == expected(train=rows)
    with pytest.raises(DeiTLTError, match="image_column is 'x', but the columns are label, before, after"):
        read_splits(tmp_path / "all.csv", image_column="x")


def test_parquet_of_paths_and_of_images(tmp_path: Path) -> None:
    rows = write_tree(tmp_path / "images", {"cat": 2, "owl": 1})
    labels = [name for _, name, _ in rows]
    paths = [os.path.relpath(path, tmp_path) for path, _, _ in rows]
    Dataset.from_dict({"path": paths, "label": labels}).to_parquet(tmp_path / "paths.parquet")
    embedded = [{"bytes": Path(path).read_bytes(), "path": None} for path, _, _ in rows]
    Dataset.from_dict({"scan": embedded, "label": labels}).to_parquet(tmp_path / "images.parquet")
    for name in ("paths", "images"):
        assert seen(read_splits(tmp_path / f"{name}.parquet")) == expected(train=rows)


def test_the_cifar_layout_of_the_hub_gives_the_papers_counts_scaled(tmp_path: Path) -> None:
    """The hub's columns and types, with 100 images a class for CIFAR-10's 5000."""
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    for split, per_class in (("train", 100), ("test", 1)):
        labels = list(range(10)) * per_class
        images = [{"bytes": b"never opened", "path": None}] * len(labels)
        file = tmp_path / "plain_text" / f"{split}-00000-of-00001.parquet"
        file.parent.mkdir(exist_ok=True)
        Dataset.from_dict({"img": images, "label": labels}, features=features).to_parquet(file)
    splits = load_long_tailed_dataset("cifar10-lt", 50, data_dir=tmp_path)
    # 100 * 50 ** (-i / 9), cut off
    assert class_counts(splits["train"]) == [100, 64, 41, 27, 17, 11, 7, 4, 3, 2]
    assert splits["train"].features["label"].names == names
    assert splits["test"].num_rows == 10


def test_a_saved_data_set_without_splits(tmp_path: Path) -> None:
    rows = Dataset.from_dict({"picture": [{"bytes": png(0), "path": None}] * 2, "category": ["owl", "cat"]})
    rows.save_to_disk(tmp_path / "saved")
    assert read_splits(tmp_path / "saved")["train"]["label"][:] == [1, 0]


def stream(count: int = 6):
    for index in range(count):
        yield {"img": {"bytes": png(index), "path": f"{index}.png"}, "label": ["owl", "cat"][index % 2], "note": "x"}


@pytest.mark.parametrize("of_splits", [False, True])
def test_streams_are_read_once(of_splits: bool) -> None:
    rows = Dataset.from_generator(stream).cast_column("img", datasets.Image())
    given = rows.to_iterable_dataset()
    if of_splits:
        given = IterableDatasetDict(train=given, test=rows.select([3]).to_iterable_dataset())
    splits = load_long_tailed_dataset(given)
    if of_splits:
        assert seen(splits)["test"] == [("cat", 3)]
        assert seen(splits)["train"] == [*(("cat", i) for i in (1, 3, 5)), *(("owl", i) for i in (0, 2, 4))]
    else:
        assert sorted(seen(splits)["train"] + seen(splits)["test"]) == sorted(
            ("cat" if index % 2 else "owl", index) for index in range(6)
        )
    stored = splits["train"].cast_column("image", datasets.Image(decode=False))[0]["image"]
    assert stored["bytes"] == png(level(splits["train"][0]))


def test_a_stream_that_does_not_tell_its_types() -> None:
    given = datasets.IterableDataset.from_generator(stream)
    assert given.features is None
    assert seen(read_splits(given))["train"][0] == ("cat", 1)


def test_a_mapped_stream_keeps_its_pixels() -> None:
    """`map` forgets the types, and hands over decoded images."""
    picture = Image.fromarray(np.random.RandomState(0).randint(0, 256, (16, 16, 3), dtype=np.uint8))
    file = io.BytesIO()
    picture.save(file, "JPEG")
    rows = Dataset.from_dict({"image": [{"bytes": file.getvalue(), "path": None}] * 2, "label": ["owl", "cat"]})
    mapped = rows.cast_column("image", datasets.Image()).to_iterable_dataset().map(lambda row: row)
    assert mapped.features is None
    read = read_splits(mapped)["train"]
    assert read["label"][:] == [1, 0]
    np.testing.assert_array_equal(np.asarray(read[0]["image"]), np.asarray(Image.open(file)))


def test_streams_that_cannot_be_read_are_one_line() -> None:
    def broken():
        yield from stream(1)
        raise ConnectionError("connection reset\nby peer")

    with pytest.raises(DeiTLTError, match=r"cannot read the stream of train: connection reset$"):
        read_splits(datasets.IterableDataset.from_generator(broken))
    with pytest.raises(DeiTLTError, match="the stream of train has no rows"):
        read_splits(datasets.IterableDataset.from_generator(stream, gen_kwargs={"count": 0}))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionError("Couldn't reach 'ann/pets' on the Hub (timeout)\nmore"), r"Couldn't reach .* \(timeout\)$"),
        (FileNotFoundError("Dataset 'ann/pets' doesn't exist on the Hub or cannot be accessed."), "doesn't exist on"),
        (
            ValueError(
                "Config name is missing.\nPlease pick one among the available configs: ['large', 'small']\nExample"
            ),
            r"it needs a configuration; pass data_config \(--data_config\), one of large, small$",
        ),
        (
            ValueError("BuilderConfig 'x' not found. Available: ['large', 'small']"),
            "it has no such configuration; pass data_config .* one of large, small$",
        ),
    ],
)
def test_what_the_hub_refuses_is_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception, message: str) -> None:
    def refuse(*args):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(DeiTLTError, match=f"cannot load ann/pets from the hub: .*{message}") as raised:
        read_splits("ann/pets", data_config="x")
    assert "\n" not in str(raised.value)


def test_a_data_set_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(*args) -> DatasetDict:
        asked.append(args)
        return DatasetDict(train=Dataset.from_list(list(stream())))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert read_splits("ann/pets", data_config="small")["train"].features["label"].names == ["cat", "owl"]
    assert asked == [("ann/pets", "small")]


def test_a_missing_path_is_no_data_set_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    for path in ("data/pets", "./pets", "/no/such/place", "a/b/c", Path("ann/pets")):
        with pytest.raises(DeiTLTError, match="unknown data source"):
            read_splits(path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (3, "source has type int: pass a name, a file, a directory"),
        ("notes.txt", r"'notes.txt' is no list of images: pass a file with one of .parquet, .csv"),
        ("cifra10-lt", r"unknown data source 'cifra10-lt'.* did you mean cifar10-lt or cifar100-lt"),
    ],
)
def test_what_is_no_source_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("")
    with pytest.raises(DeiTLTError, match=message):
        read_splits(source)
    with pytest.raises(DeiTLTError, match=r"data_config 'small' goes with a data set of the hub"):
        read_splits(source, data_config="small")


@pytest.mark.parametrize("name", ["image_column", "label_column"])
def test_columns_of_class_folders_are_refused(tmp_path, name):
    for label in ("cat", "lynx"):
        (tmp_path / label).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / label / "0.png")
    with pytest.raises(DeiTLTError, match=f"^{name} 'x' is of a table, and .* has class folders: leave it"):
        load_long_tailed_dataset(str(tmp_path), **{name: "x"})
