"""The four builders, end to end on trees in the published layouts, and what they refuse."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import time
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import DatasetBuilder, DatasetDict

from deitlt_hf.cards.dataset_card import BuiltDataset
from deitlt_hf.data.benchmarks import BENCHMARKS, Benchmark, cifar_lt, imagenet_lt, inaturalist_2018
from deitlt_hf.data.benchmarks.lists import ListFacts
from deitlt_hf.data.builders import Cifar10LT, Cifar100LT, ImageNetLT, INaturalist2018
from deitlt_hf.data.loading import load_long_tailed_dataset
from deitlt_hf.data.long_tail import class_counts_for_imbalance
from deitlt_hf.errors import DeiTLTError
from deitlt_hf.hub.dataset_directory import write_dataset
from published_layouts import (
    SPECIES,
    SYNSETS,
    encoded,
    inaturalist_json,
    inaturalist_rows,
    write_cifar,
    write_imagenet_lt,
    write_images,
    write_inaturalist_json,
    write_list,
)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", directory)
    return directory


def rows_of(split: datasets.Dataset) -> list[tuple[dict, int]]:
    undecoded = split.cast_column("image", datasets.Image(decode=False))
    return list(zip(undecoded["image"], undecoded["label"], strict=True))


def build(builder: DatasetBuilder) -> DatasetDict:
    builder.download_and_prepare()
    return builder.as_dataset()


def refused(message: str):
    return pytest.raises(DeiTLTError, match=message)


# CIFAR


def test_cifar_selects_the_references_images_in_its_order_byte_for_byte(tmp_path: Path, golden_json: dict) -> None:
    with_indices = {name: split for name, split in golden_json["splits"].items() if "target_seed" in name}
    for name, split in with_indices.items():
        setting = dict(re.findall(r"(\w+)=([\w.]+)", name))
        classes, per_class = int(setting["classes"]), int(setting["per_class"])
        seed = int(setting["target_seed"])
        labels = np.random.RandomState(seed).permutation(np.repeat(np.arange(classes), per_class))
        write_cifar(tmp_path / name, labels, np.arange(classes))
        builder = {10: Cifar10LT, 100: Cifar100LT}[classes]
        factor = 1 / float(setting["factor"])
        splits = build(builder(imbalance_factor=factor, profile=setting["kind"], data_dir=tmp_path / name))
        train = rows_of(splits["train"])
        indices = np.array([int(image["bytes"].split()[1]) for image, _ in train])
        assert indices[:16].tolist() == split["first"]
        assert hashlib.sha256(indices.astype("<i8").tobytes()).hexdigest() == split["sha256_of_int64_le"]
        assert [label for _, label in train] == labels[indices].tolist()
        test = [f"test {row}".encode() for row in range(classes)]
        assert [image["bytes"] for image, _ in rows_of(splits["test"])] == test
    assert len(with_indices) == 5


@pytest.mark.parametrize(("factor", "profile"), [(10, "exp"), (50, "exp"), (100, "exp"), (200, "exp"), (20.5, "step")])
def test_cifar100_takes_any_factor_and_names_its_fine_labels(tmp_path: Path, factor: float, profile: str) -> None:
    labels = np.tile(np.arange(100), 250)
    write_cifar(tmp_path, labels, np.arange(100), columns=("img", "fine_label"))
    builder = Cifar100LT(imbalance_factor=factor, profile=profile, data_dir=str(tmp_path))
    splits = build(builder)
    assert isinstance(builder, DatasetBuilder)
    assert list(splits) == ["train", "test"]
    names = splits["train"].features["label"].names
    assert (len(names), names[0], names[-1]) == (100, "apple", "worm")
    assert splits["train"].features["image"] == datasets.Image()
    expected = class_counts_for_imbalance(100, 250, factor, profile)
    assert np.bincount(splits["train"]["label"]).tolist() == expected
    assert splits["train"].info.citation == builder.BENCHMARK.citation


def test_names_in_the_parquet_file_stand_over_the_standard_ones(tmp_path: Path) -> None:
    names = [f"class {label}" for label in range(10)]
    for split in ("train", "test"):
        images = [{"bytes": encoded(label, "PNG"), "path": None} for label in range(10)]
        rows = datasets.Dataset.from_dict({"img": images, "label": list(range(10))})
        rows = rows.cast_column("label", datasets.ClassLabel(names=names))
        (tmp_path / split).mkdir()
        rows.to_parquet(tmp_path / split / "0.parquet")
    splits = build(Cifar10LT(imbalance_factor=1, data_dir=tmp_path))
    assert splits["test"].features["label"].names == names
    assert splits["train"][0]["image"].size == (8, 6)


def test_a_cache_holds_one_setting_of_one_source(tmp_path: Path) -> None:
    labels = np.tile(np.arange(10), 20)
    write_cifar(tmp_path / "a", labels, labels)
    write_cifar(tmp_path / "b", labels, labels)
    first = Cifar10LT(imbalance_factor=10, data_dir=tmp_path / "a")
    same = Cifar10LT(imbalance_factor=10.0, profile="exp", seed=0, data_dir=str(tmp_path / "a") + "/")
    assert same.cache_dir == first.cache_dir
    others = [
        Cifar10LT(imbalance_factor=20, data_dir=tmp_path / "a"),
        Cifar10LT(imbalance_factor=10, profile="step", data_dir=tmp_path / "a"),
        Cifar10LT(imbalance_factor=10, seed=1, data_dir=tmp_path / "a"),
        Cifar10LT(imbalance_factor=10, data_dir=tmp_path / "b"),
    ]
    write_cifar(tmp_path / "a", labels[:-10], labels)
    others.append(Cifar10LT(imbalance_factor=10, data_dir=tmp_path / "a"))
    assert len({first.cache_dir, *(other.cache_dir for other in others)}) == 6


def test_what_is_prepared_is_taken_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.tile(np.arange(10), 5)
    write_cifar(tmp_path, labels, labels)
    first = build(Cifar10LT(imbalance_factor=5, data_dir=tmp_path))
    monkeypatch.setattr(Benchmark, "build", None)
    again = build(Cifar10LT(imbalance_factor=5, data_dir=tmp_path))
    assert rows_of(again["train"]) == rows_of(first["train"])


def test_cifar100_is_built_in_under_five_seconds(tmp_path: Path) -> None:
    # 50,000 images of the size that PNGs of CIFAR have.
    rng = np.random.RandomState(0)
    for split, per_class in (("train", 500), ("test", 100)):
        content = pa.array([rng.bytes(2300) for _ in range(100 * per_class)])
        images = pa.StructArray.from_arrays([content, pa.nulls(len(content), pa.string())], ["bytes", "path"])
        table = pa.table({"img": images, "fine_label": np.tile(np.arange(100), per_class)})
        pq.write_table(table, tmp_path / f"{split}-00000-of-00001.parquet")
    # The processor's seconds, which other work on the machine does not lengthen.
    start = time.process_time()
    builder = Cifar100LT(data_dir=tmp_path)
    splits = build(builder)
    counts = np.bincount(splits["train"]["label"]).tolist()
    write_dataset(BuiltDataset(builder.BENCHMARK, splits, counts, embedded=True), tmp_path / "built")
    assert time.process_time() - start < 5
    assert counts == class_counts_for_imbalance(100, 500, 100)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"img": ["x"], "label": [0]}, "does not have images of just the 10 classes that CIFAR-10-LT is made from"),
        ({"img": ["x"] * 11, "label": list(range(11))}, "does not have images of just the 10 classes"),
        ({"img": ["x"] * 10, "label": list(range(-1, 9))}, "the label column holds -1"),
        ({"img": ["x"] * 11, "label": [0, *range(10)]}, "from 1 to 2 images of a class, .* as many of each"),
        ({"img": ["x"], "y": [0]}, "no label column, only img, y"),
        ({"scan": ["x"], "label": [0]}, "no image column, only scan, label"),
        (None, "cannot read the data in"),
    ],
)
def test_parquet_files_that_are_not_cifars_are_refused(tmp_path: Path, table: dict | None, message: str) -> None:
    for split in ("train", "test"):
        file = tmp_path / f"{split}-00000-of-00001.parquet"
        if table is None:
            file.write_bytes(b"PAR1 and nothing else")
        else:
            pq.write_table(pa.table(table), file)
    with refused(message) as error:
        build(Cifar10LT(data_dir=tmp_path))
    assert "\n" not in str(error.value)


def test_the_other_cifar_is_refused_though_it_names_its_classes(tmp_path: Path) -> None:
    images = [{"bytes": encoded(label, "PNG"), "path": None} for label in range(10)]
    rows = datasets.Dataset.from_dict({"img": images, "label": list(range(10))})
    rows = rows.cast_column("label", datasets.ClassLabel(names=list(cifar_lt.CIFAR10_NAMES)))
    for split in ("train", "test"):
        rows.to_parquet(tmp_path / f"{split}.parquet")
    with refused("does not have images of just the 100 classes that CIFAR-100-LT is made from"):
        build(Cifar100LT(imbalance_factor=1, data_dir=tmp_path))


def test_a_source_without_its_test_images_is_refused(tmp_path: Path) -> None:
    labels = np.tile(np.arange(10), 5)
    write_cifar(tmp_path, labels, labels)
    for file in tmp_path.rglob("test*.parquet"):
        file.unlink()
    with refused("has no test split: pass the directory with the whole source"):
        build(Cifar10LT(imbalance_factor=2, data_dir=tmp_path))


def test_settings_and_places_that_cannot_work_are_refused(tmp_path: Path) -> None:
    with refused("imbalance_factor is 0.01"):
        Cifar10LT(imbalance_factor=0.01)
    with refused("gone' does not exist"):
        Cifar10LT(data_dir=tmp_path / "gone")
    with refused("holds no data: pass one with"):
        build(Cifar10LT(data_dir=tmp_path))
    labels = np.tile(np.arange(10), 5)
    write_cifar(tmp_path, labels, labels)
    with refused("profile is 'linear'"):
        build(Cifar10LT(profile="linear", imbalance_factor=2, data_dir=tmp_path))
    with refused("leaves class 4 without training images"):
        build(Cifar10LT(data_dir=tmp_path))
    with refused("the seed of the selection is -1: pass an int from 0"):
        build(Cifar10LT(imbalance_factor=2, seed=-1, data_dir=tmp_path))
    with refused(r"cannot load uoft-cs/cifar100 from the hub: .*; pass data_dir"):
        build(Cifar100LT())


def test_without_data_dir_the_hubs_files_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.tile(np.arange(10), 5)
    write_cifar(tmp_path / "plain_text", labels, labels)
    asked = []
    load_dataset = datasets.load_dataset

    def from_hub(repo_id: str, *args) -> DatasetDict:
        asked.append(repo_id)
        return load_dataset(str(tmp_path / "plain_text"))

    monkeypatch.setattr(datasets, "load_dataset", from_hub)
    assert build(Cifar10LT(imbalance_factor=5))["train"].num_rows == sum(class_counts_for_imbalance(10, 5, 5))
    assert asked == ["uoft-cs/cifar10"]


def test_the_names_of_cifar100_are_a_hundred() -> None:
    assert len(set(cifar_lt.CIFAR100_NAMES)) == 100


# ImageNet-LT


@pytest.mark.parametrize("val_is_flat", [True, False])
@pytest.mark.parametrize("lists_are_flat", [True, False])
def test_imagenet_lt_is_built_whichever_way_val_lies(tmp_path: Path, val_is_flat: bool, lists_are_flat: bool) -> None:
    tree = tmp_path / "ILSVRC2012"
    expected = write_imagenet_lt(tree, tmp_path / "lists", val_is_flat, lists_are_flat)
    splits = build(ImageNetLT(data_dir=tree, lists_dir=tmp_path / "lists", check_lists=False))
    assert list(splits) == ["train", "validation", "test"]
    for name, split in splits.items():
        found = [(image["path"], label) for image, label in rows_of(split)]
        assert found == [(f"{tree}/{path}", label) for path, label in expected[name]]
        assert all(image["bytes"] is None for image, _ in rows_of(split))
        assert {row["image"].size for row in split} == {(8, 6)}
        assert split.features["label"].names == ["tench, Tinca tinca", "crane (n02012849)", "crane (n03126707)"]


def test_lists_and_names_are_found_above_kaggles_tree(tmp_path: Path) -> None:
    tree = tmp_path / "ILSVRC" / "Data" / "CLS-LOC"
    write_imagenet_lt(tree, tmp_path)
    mapping = "".join(f"{synset} Name of {synset}, another\n" for synset in reversed(SYNSETS))
    (tmp_path / "LOC_synset_mapping.txt").write_text(mapping)
    # The folder train itself will do.
    splits = build(ImageNetLT(data_dir=tree / "train", check_lists=False))
    assert splits["train"].features["label"].names == [f"Name of {synset}, another" for synset in SYNSETS]


def test_labels_are_the_lists_even_where_synsets_are_in_another_order(tmp_path: Path) -> None:
    write_imagenet_lt(tmp_path, tmp_path)
    for file in tmp_path.glob("ImageNet_LT_*.txt"):
        rows = [line.split() for line in file.read_text().splitlines()]
        write_list(file, [(path, 2 - int(label)) for path, label in rows])
    splits = build(ImageNetLT(data_dir=tmp_path, check_lists=False))
    names = splits["train"].features["label"].names
    assert names == ["crane (n03126707)", "crane (n02012849)", "tench, Tinca tinca"]
    assert all(SYNSETS[2 - label] in image["path"] for split in splits.values() for image, label in rows_of(split))


def test_without_a_validation_list_there_is_no_validation_split(tmp_path: Path) -> None:
    write_imagenet_lt(tmp_path, tmp_path)
    (tmp_path / "ImageNet_LT_val.txt").unlink()
    assert list(build(ImageNetLT(data_dir=tmp_path, check_lists=False))) == ["train", "test"]


def test_other_lists_are_refused_before_an_image_is_looked_for(tmp_path: Path) -> None:
    write_imagenet_lt(tmp_path, tmp_path)
    gone = next(tmp_path.glob("train/*/*.JPEG"))
    gone.unlink()
    with refused("ImageNet_LT_train.txt has 9 lines, 3 classes, largest class 5, smallest class 1, the published") as e:
        build(ImageNetLT(data_dir=tmp_path))
    message = str(e.value)
    assert "one 115846 lines, 1000 classes, largest class 1280, smallest class 5; ImageNet_LT_val.txt has" in message
    assert "one 50000 lines" in message
    assert "\n" not in message
    with refused(f"1 image file does not exist: image . of [a-z]+ .{gone}."):
        build(ImageNetLT(data_dir=tmp_path, check_lists=False))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("train/n01440764/a.JPEG", 0), ("train/n02012849/b.JPEG", 0)], "the label 0, which is that of n0.* too"),
        ([("train/n01440764/a.JPEG", 0), ("train/n01440764/b.JPEG", 1)], "one synset two labels"),
        ([("train/n01440764/a.JPEG", 0), ("train/n02012849/b.JPEG", 2)], "class 1 of 3"),
        ([("train/n01440764/a.JPEG", 0)], "the label 1, but the 1 classes"),
        ([("train/x/a.JPEG", 0), ("train/y/b.JPEG", 1), ("train/z/b.JPEG", 2)], "no name for 3 of 3 synsets, first x"),
    ],
)
def test_lists_that_contradict_themselves_are_refused(tmp_path: Path, rows: list, message: str) -> None:
    write_imagenet_lt(tmp_path, tmp_path)
    write_list(tmp_path / "ImageNet_LT_train.txt", rows)
    with refused(message):
        build(ImageNetLT(data_dir=tmp_path, check_lists=False))


@pytest.mark.parametrize(("builder", "folder"), [(ImageNetLT, "train"), (INaturalist2018, "train_val2018")])
def test_places_without_images_or_lists_are_refused(tmp_path: Path, builder: type, folder: str) -> None:
    with refused("is not downloaded: pass data_dir"):
        builder()
    with refused("gone' does not exist"):
        builder(data_dir=tmp_path / "gone")
    with refused(f"has no folder {folder}"):
        builder(data_dir=tmp_path)
    (tmp_path / folder).mkdir()
    with refused("pass lists_dir"):
        builder(data_dir=tmp_path)
    with refused("lists directory .* does not exist"):
        builder(data_dir=tmp_path, lists_dir=tmp_path / "lists")


def test_a_changed_list_is_read_again(tmp_path: Path) -> None:
    expected = write_imagenet_lt(tmp_path, tmp_path)
    assert build(ImageNetLT(data_dir=tmp_path, check_lists=False))["train"].num_rows == 9
    write_list(tmp_path / "ImageNet_LT_train.txt", expected["train"][1:])
    assert build(ImageNetLT(data_dir=tmp_path, check_lists=False))["train"].num_rows == 8


def test_images_that_went_or_moved_since_are_not_taken_from_the_cache(tmp_path: Path) -> None:
    expected = write_imagenet_lt(tmp_path, tmp_path, val_is_flat=True)
    build(ImageNetLT(data_dir=tmp_path, check_lists=False))
    for flat, label in expected["test"]:
        (tmp_path / "val" / SYNSETS[label]).mkdir(exist_ok=True)
        (tmp_path / flat).rename(tmp_path / "val" / SYNSETS[label] / Path(flat).name)
    splits = build(ImageNetLT(data_dir=tmp_path, check_lists=False))
    assert {row["image"].size for row in splits["test"]} == {(8, 6)}
    (tmp_path / expected["train"][0][0]).unlink()
    with refused(
        re.escape(f"1 image file does not exist: image 0 of train ({tmp_path / expected['train'][0][0]})")
    ) as e:
        build(ImageNetLT(data_dir=tmp_path, check_lists=False))
    assert str(e.value).endswith("; complete them, or pass the data_dir that has them all")


def test_lists_dir_stands_over_the_lists_in_the_tree(tmp_path: Path) -> None:
    expected = write_imagenet_lt(tmp_path, tmp_path)
    (tmp_path / "LOC_synset_mapping.txt").write_text("".join(f"{synset} Name of {synset}\n" for synset in SYNSETS))
    with refused("ImageNet_LT_train.txt is not in '.*lists': put"):
        (tmp_path / "lists").mkdir()
        ImageNetLT(data_dir=tmp_path, lists_dir=tmp_path / "lists")
    for name in ("train", "test"):
        write_list(tmp_path / "lists" / f"ImageNet_LT_{name}.txt", expected[name][1:])
    splits = build(ImageNetLT(data_dir=tmp_path, lists_dir=tmp_path / "lists", check_lists=False))
    # The tree's validation list is of another set of lists; the names go with the images.
    assert {name: split.num_rows for name, split in splits.items()} == {"train": 8, "test": 5}
    assert splits["train"].features["label"].names[0] == f"Name of {SYNSETS[0]}"


# iNaturalist-2018


def check_inaturalist(splits: DatasetDict, root: Path, names: list[str]) -> None:
    assert list(splits) == ["train", "test"]
    for name, split in splits.items():
        found = [(image["path"], label) for image, label in rows_of(split)]
        assert found == [(f"{root}/{path}", label) for path, label in inaturalist_rows()[name]]
        assert {row["image"].size for row in split} == {(8, 6)}
        assert split.features["label"].names == names


SPECIES_NAMES = ["Grus grus (0)", "Tinca tinca", "Grus grus (2)"]


@pytest.mark.parametrize("indent", [None, 2])
def test_inaturalist_is_built_from_its_json_files(tmp_path: Path, indent: int | None) -> None:
    write_inaturalist_json(tmp_path, names=SPECIES, indent=indent)
    check_inaturalist(build(INaturalist2018(data_dir=tmp_path, check_lists=False)), tmp_path, SPECIES_NAMES)


@pytest.mark.parametrize("kind", ["json", "lists"])
def test_ids_for_names_give_way_to_categories_json(tmp_path: Path, kind: str) -> None:
    write_inaturalist_json(tmp_path)
    lists = tmp_path
    if kind == "lists":  # which stand over the JSON files beside the images
        lists = tmp_path / "lists"
        for split, rows in inaturalist_rows().items():
            write_list(lists / inaturalist_2018.LIST_FILES[split], rows)
    splits = build(INaturalist2018(data_dir=tmp_path, lists_dir=lists, check_lists=False))
    check_inaturalist(splits, tmp_path, ["0", "1", "2"])
    categories = [{"id": id, "name": name, "kingdom": "Animalia"} for id, name in reversed(list(enumerate(SPECIES)))]
    (lists / "categories.json").write_text(json.dumps(categories))
    splits = build(INaturalist2018(data_dir=tmp_path / "train_val2018", lists_dir=lists, check_lists=False))
    check_inaturalist(splits, tmp_path, SPECIES_NAMES)


def _json(rows: list, **changes) -> str:
    return json.dumps(inaturalist_json(rows, ("0", "1", "2")) | changes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "cannot read .*train2018.json"),
        ('{"images": [', "cannot read .*train2018.json"),
        ("[]", "cannot read .*train2018.json"),
        ("{}", "has no images"),
        (_json(inaturalist_rows()["train"], annotations=[]), "has no annotations"),
        (_json(inaturalist_rows()["train"], images=[{"id": 70}]), "has images without file_name"),
        (_json(inaturalist_rows()["train"], images=[{"id": "x", "file_name": "a"}]), "cannot read"),
        (_json(inaturalist_rows()["train"], categories=[{"id": 5, "name": "5"}]), "images of the category"),
        (
            _json(inaturalist_rows()["train"], annotations=[{"image_id": 70, "category_id": 0}]),
            r"one annotation for each of its 8 images \(1 annotations\)",
        ),
    ],
)
def test_json_files_of_something_else_are_refused(tmp_path: Path, content: str, message: str) -> None:
    write_inaturalist_json(tmp_path)
    (tmp_path / "train2018.json").write_text(content)
    with refused(message) as error:
        build(INaturalist2018(data_dir=tmp_path, check_lists=False))
    assert "\n" not in str(error.value)


def test_a_species_without_training_images_or_name_is_refused(tmp_path: Path) -> None:
    write_inaturalist_json(tmp_path, names=("0", "1", "2", "3"))
    with refused("class without training images: class 3 of 4"):
        build(INaturalist2018(data_dir=tmp_path, check_lists=False))
    write_inaturalist_json(tmp_path)
    (tmp_path / "categories.json").write_text('[{"id": 0, "name": "Grus grus"}]')
    with refused("has no category 1, one of 2 that train2018.json has"):
        build(INaturalist2018(data_dir=tmp_path, check_lists=False))


def test_other_numbers_of_images_and_missing_ones_are_refused(tmp_path: Path) -> None:
    rows = write_inaturalist_json(tmp_path)
    with refused("train2018.json has 8 lines, 3 classes, largest class 4, smallest class 2, the published one 437513"):
        build(INaturalist2018(data_dir=tmp_path))
    (tmp_path / rows["test"][0][0]).unlink()
    with refused(re.escape(f"1 image file does not exist: image 0 of test ({tmp_path / rows['test'][0][0]})")) as e:
        build(INaturalist2018(data_dir=tmp_path, check_lists=False))
    assert str(e.value).endswith("; complete them, or pass the data_dir that has them all")


# By name


def test_the_named_sources_are_built_from_data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, write in (
        (imagenet_lt, lambda root: write_imagenet_lt(root, root)),
        (inaturalist_2018, write_inaturalist_json),
    ):
        name = module.__name__.rsplit(".", 1)[1].replace("_", "-")
        root = tmp_path / name
        expected = write(root)
        with refused("the published one"):
            load_long_tailed_dataset(name, data_dir=root)
        facts = {
            split: ListFacts(len(rows), 3, *(f(np.bincount([label for _, label in rows])) for f in (max, min)))
            for split, rows in expected.items()
        }
        monkeypatch.setattr(module, "PUBLISHED", facts)
        splits = load_long_tailed_dataset(name, data_dir=root)
        assert {split: data.num_rows for split, data in splits.items()} == {s: len(r) for s, r in expected.items()}
        assert rows_of(BENCHMARKS[name].build(root)["train"]) == rows_of(splits["train"])


def test_a_missing_image_of_a_named_source_is_refused_or_left_out(tmp_path: Path, caplog) -> None:
    rows = write_imagenet_lt(tmp_path, tmp_path)
    (tmp_path / rows["train"][0][0]).unlink()
    patched = dataclasses.replace(
        BENCHMARKS["imagenet-lt"], read=partial(imagenet_lt.read_imagenet_lt, check_lists=False)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BENCHMARKS, "imagenet-lt", patched)
        with refused("1 image file does not exist: image 0 of train"):
            load_long_tailed_dataset("imagenet-lt", data_dir=tmp_path)
        splits = load_long_tailed_dataset("imagenet-lt", data_dir=tmp_path, on_bad_image="skip")
    assert splits["train"].num_rows == len(rows["train"]) - 1
    assert "left out 1 of 21 images" in caplog.text


def test_images_beside_others_with_the_same_name_are_their_own(tmp_path: Path) -> None:
    write_imagenet_lt(tmp_path / "a", tmp_path / "a")
    write_images(tmp_path / "a", [f"train/{SYNSETS[0]}/{SYNSETS[1]}_10.JPEG"])
    splits = build(ImageNetLT(data_dir=tmp_path / "a", check_lists=False))
    assert sum(split.num_rows for split in splits.values()) == 21
