"""Test splits of whole groups: how they are drawn, and where the groups of an image are read from."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from deitlt_hf import load_long_tailed_dataset
from deitlt_hf.data.groups import groups_of, hold_out_groups
from deitlt_hf.data.loading import class_counts, load_data
from deitlt_hf.data.readable import undecoded
from deitlt_hf.errors import DeiTLTError


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING, logger="deitlt_hf")
    return lambda: [record.getMessage() for record in caplog.records]


def number(group: str, seed: int | str = 0) -> float:
    """What decides about a group, as the documentation has it."""
    return int.from_bytes(hashlib.sha256(f"{seed} {group}".encode()).digest()[:6], "big") / 2**48


def groups(count: int, low: float, high: float, start: str = "g") -> list[str]:
    """Names of groups whose numbers are from `low` to `high`, smallest first."""
    names = [f"{start}{index}" for index in range(2000)]
    return sorted([name for name in names if low <= number(name) < high][:count], key=number)


def rows(images: list[tuple[str, int]]) -> Dataset:
    """Images of (group, label), each with bytes of its own."""
    features = Features(
        image=ImageFeature(), label=ClassLabel(num_classes=max(label for _, label in images) + 1), group=Value("string")
    )
    encoded = [{"bytes": f"{index}".encode(), "path": None} for index in range(len(images))]
    columns = {"image": encoded, "label": [label for _, label in images], "group": [group for group, _ in images]}
    return Dataset.from_dict(columns, features=features)


def sides(held_out) -> tuple[set[str], set[str]]:
    """The groups of the training images and of the test images."""
    return tuple(set(groups_of(split).tolist()) for split in (held_out.train, held_out.held))


@pytest.mark.parametrize(("fraction", "seed"), [(0.2, 0), (0.5, 0), (0.2, 7)])
def test_the_hash_of_the_name_decides(fraction: float, seed: int) -> None:
    names = [f"site {index}" for index in range(60)]
    held_out = hold_out_groups(rows([(name, label) for name in names for label in (0, 1)]), "site", fraction, seed)
    expected = {name for name in names if number(name, seed) < fraction}
    assert sides(held_out) == (set(names) - expected, expected)
    assert (set(held_out.train_groups), set(held_out.held_groups)) == sides(held_out)
    assert len(held_out.train) + len(held_out.held) == 120


def test_images_and_groups_that_come_move_none() -> None:
    images = [(f"s{index}", label) for index in range(80) for label in (0, 1, 2)]
    more = [(f"new{index}", index % 3) for index in range(40)] + [(f"s{index}", 0) for index in range(80)]
    old, new = sides(hold_out_groups(rows(images), "site")), sides(hold_out_groups(rows(more + images), "site"))
    assert old[0] <= new[0]
    assert old[1] <= new[1]


def test_no_training_group_of_a_run_is_tested_after_the_data_grew() -> None:
    """With the record of the run, for few groups with several classes each and whatever comes."""
    generator, were_moved = np.random.RandomState(0), 0
    for trial in range(60):
        names = [f"{trial} {index}" for index in range(8)]
        images = [(str(generator.choice(names)), label) for label in range(6) for _ in range(1 + 2 * label)]
        images += [(name, 6) for name in names]
        coming = [(f"new {trial} {index}", int(generator.randint(7))) for index in range(9)]
        coming += [(str(generator.choice(names)), int(generator.randint(7))) for _ in range(9)]
        old = hold_out_groups(rows(images), "site", 0.4)
        trained = set(old.train_groups)
        assert not trained & sides(hold_out_groups(rows(images + coming), "site", 0.4, kept=old.train_groups))[1]
        were_moved += len(trained & sides(hold_out_groups(rows(images + coming), "site", 0.4))[1])
    assert were_moved  # without the record there is something to prevent


def test_with_the_record_of_a_run_groups_stay_on_both_sides() -> None:
    low, high = groups(2, 0, 0.3), groups(3, 0.3, 1)
    images = [(name, 0) for name in high]  # no number is below the fraction: the smallest of three gives
    old = hold_out_groups(rows(images), "site", 0.3)
    assert old.held_groups == high[:1]
    grown = rows(images + [(name, 0) for name in low])
    assert hold_out_groups(grown, "site", 0.3).held_groups == sorted(low)
    new = hold_out_groups(grown, "site", 0.3, kept=old.train_groups, given=old.held_groups)
    assert new.held_groups == sorted([*low, high[0]])


def test_every_class_keeps_a_training_image() -> None:
    low, high = groups(3, 0, 0.2), groups(7, 0.2, 1)
    images = [(name, 0) for name in low + high]
    images += [(low[0], 1), (low[2], 1)]  # both would be tested; the one with the larger number is not
    held_out = hold_out_groups(rows(images), "site", 0.2)
    assert sides(held_out)[1] == {low[0], low[1]}
    assert class_counts(held_out.train) == [8, 1]


@pytest.mark.parametrize(
    ("fraction", "kept", "tested", "said_last"),
    [
        # Of 10 groups, 2 may be tested, and no number is below the fraction. Class 2 is in the first group alone.
        (0.2, [], [1, 2], "2 groups with 3 images in test, 8 groups with 11 images in train; no test image, because "
         "of the groups: '2'"),
        # A record keeps the second in train; the next group with class 1 is the last.
        (0.2, [1], [2, 9], "2 groups with 3 images in test, 8 groups with 11 images in train; no test image, because "
         "of the groups: '2'"),
        # One group, and class 1 of three groups should give less than half of one.
        (0.1, [], [2], "1 group with 1 image in test, 9 groups with 13 images in train; no test image, because of the "
         "groups: '1', '2'"),
    ],
)  # fmt: skip
def test_classes_get_test_images_within_the_share_of_the_groups(fraction, kept, tested, said_last, said) -> None:
    names = groups(10, 0.25, 1)
    images = [(name, 0) for name in names[2:]] + [(names[0], 2)]
    images += [(name, 1) for name in names[:2] for _ in range(2)] + [(names[9], 1)]
    held_out = hold_out_groups(rows(images), "site", fraction, kept=[names[index] for index in kept])
    assert sides(held_out)[1] == {names[index] for index in tested}
    assert said() == [f"the test split is held out by 'site': {said_last}"]


@pytest.mark.parametrize("images", [[("a", 0), ("a", 1)], [("a", 0), ("b", 1)]])
def test_groups_that_cannot_be_divided_are_refused(images) -> None:
    with pytest.raises(DeiTLTError, match=r"test_fraction 0.5 of \d groups? of 'site', .* is none: add groups"):
        hold_out_groups(rows(images * 4), "site", 0.5)


def test_a_validation_split_has_groups_of_its_own(said) -> None:
    names = [f"site {index}" for index in range(60)]
    images = rows([(name, label) for name in names for label in (0, 1)])
    loaded = load_data(DatasetDict(train=images), group_column="group", validation_fraction=0.25)
    in_split = {name: set(groups_of(split).tolist()) for name, split in loaded.splits.items()}
    tested = {name for name in names if number(name) < 0.2}
    validated = {name for name in names if number(name, "validation 0") < 0.25} - tested
    assert in_split == {"test": tested, "validation": validated, "train": set(names) - tested - validated}
    left = len(names) - len(tested) - len(validated)
    assert said()[-1] == (
        f"the validation split is held out by 'group': {len(validated)} groups with {2 * len(validated)} images in "
        f"validation, {left} groups with {2 * left} images in train"
    )


# --- Reading

SITES = [f"site{index}" for index in range(8)]
IMAGES = [(name, site, index) for name in ("deer", "fox") for site in SITES for index in range(2)]


def png(name: str, site: str, index: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (len(name), SITES.index(site), index)).save(stream, "PNG")
    return stream.getvalue()


def source_of(kind: str, folder: Path) -> tuple[object, str]:
    """A source of `IMAGES` of a kind, and its group column."""
    if kind in ("class/group", "group/class"):
        for name, site, index in IMAGES:
            place = folder.joinpath(*((name, site) if kind == "class/group" else (site, name)))
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{index}.png").write_bytes(png(name, site, index))
        if kind == "group/class":
            (folder / SITES[0] / "owl").mkdir()  # a site where no owl was seen
        return folder, kind
    folder.mkdir()
    rows = [{"file_name": f"{name}{site}{index}.png", "label": name, "site": site} for name, site, index in IMAGES]
    for row, image in zip(rows, IMAGES, strict=True):
        (folder / row["file_name"]).write_bytes(png(*image))
    if kind == "csv":
        (folder / "all.csv").write_text("\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)]))
    elif kind == "json lines":
        (folder / "all.jsonl").write_text("\n".join(map(json.dumps, rows)))
    else:
        embedded = [{"image": png(*image), "label": image[0], "site": image[1]} for image in IMAGES]
        dataset = Dataset.from_list(embedded)
        if kind == "parquet":
            dataset.to_parquet(folder / "train.parquet")
        else:
            return {"saved": dataset, "stream": dataset.to_iterable_dataset()}[kind], "site"
    return folder, "site"


@pytest.mark.parametrize("kind", ["class/group", "group/class", "csv", "json lines", "parquet", "saved", "stream"])
def test_groups_are_read_from_every_kind_of_source(kind: str, tmp_path: Path, said) -> None:
    source, column = source_of(kind, tmp_path / "data")
    splits = load_long_tailed_dataset(source, group_column=column, test_fraction=0.3)
    tested = {site for site in SITES if number(site) < 0.3}
    assert 0 < len(tested) < 8
    assert set(groups_of(splits["test"])) == tested
    assert set(groups_of(splits["train"])) == set(SITES) - tested
    for split, number_of_sites in (("test", len(tested)), ("train", 8 - len(tested))):
        assert class_counts(splits[split]) == [2 * number_of_sites] * 2
        assert splits[split].features["label"].names == ["deer", "fox"]
        # Each image is of the group and class that its pixels say.
        for row in splits[split]:
            letters, site, _ = np.asarray(row["image"].convert("RGB"))[0, 0].tolist()
            assert (letters, SITES[site]) == ({0: 4, 1: 3}[row["label"]], row["group"])
    (line,) = [line for line in said() if "held out by" in line]
    counts = f"{len(tested)} groups with {4 * len(tested)} images in test"
    assert line.startswith(f"the test split is held out by {column!r}: {counts}, ")
    assert not any("hold the same folders" in line for line in said())


def test_numbers_and_dates_are_groups_by_their_text(tmp_path: Path) -> None:
    of_numbers = Dataset.from_dict({"image": [b"a", b"b"], "label": ["x", "y"], "burst": [7, 12]})
    with pytest.raises(DeiTLTError, match="of 2 groups"):
        load_long_tailed_dataset(of_numbers, group_column="burst")
    given = DatasetDict(train=of_numbers, test=of_numbers)
    assert load_long_tailed_dataset(given, group_column="burst")["train"]["group"][:] == ["7", "12"]


@pytest.mark.parametrize("levels", ["class/group", "group/class"])
def test_a_group_in_two_given_splits_is_said(levels: str, tmp_path: Path, said) -> None:
    sites = {"train": ["a", "b", "c"], "test": ["b", "c", "d"], "val": ["a"]}
    for split, of_split in sites.items():
        for name in ("deer", "fox"):
            for site in of_split:
                place = tmp_path.joinpath(split, *((name, site) if levels == "class/group" else (site, name)))
                place.mkdir(parents=True)
                Image.new("RGB", (4, 4), (len(split), len(name), ord(site))).save(place / "0.png")
    splits = load_long_tailed_dataset(tmp_path, group_column=levels)
    assert {name: sorted(set(groups_of(split))) for name, split in splits.items()} == {
        "train": ["a", "b", "c"],
        "test": ["b", "c", "d"],
        "validation": ["a"],
    }
    assert said()[-1] == (
        f"{levels!r}: 2 of 3 groups of test in train too, 1 of 1 group of validation in train too: the "
        "accuracy measured on them will be too high for new groups; put each group on one side"
    )


@pytest.mark.parametrize(
    ("kind", "column", "message"),
    [
        ("csv", "place", "group_column is 'place', but the columns are file_name, label, site: pass one of these"),
        ("csv", "label", "column 'label' cannot be the label and the group"),
        ("saved", "place", "group_column is 'place', but the columns are image, label, site"),
        ("saved", "image", "column 'image' cannot be the image and the group"),
        ("class/group", "site", "group_column 'site' is of a table, and .* has class folders: pass class/group where"),
        ("empty", "site", r"all\.csv: 1 of 2 rows have no 'site', the first is row 2"),
        ("none", "site", "1 of 2 images of train have no 'site': give each image its group, or remove it"),
        ("list", "site", "column 'site' holds .*, not groups: pass a column of texts or numbers"),
        ("loose", "class/group", "group_column is 'class/group', but 1 image lies directly in a class folder"),
        ("digits", "site", "group_column is 'site', but the columns are image, label"),
    ],
)
def test_a_group_column_that_cannot_be_used_is_refused(kind: str, column: str, message: str, tmp_path: Path) -> None:
    rows = {"image": [b"a", b"b"], "label": ["x", "y"]}
    if kind == "empty":
        (tmp_path / "all.csv").write_text("file,label,site\na.png,x,1\nb.png,y,")
        source: object = tmp_path / "all.csv"
    elif kind in ("none", "list"):
        source = Dataset.from_dict(rows | {"site": {"none": ["a", None], "list": [["a"], ["b"]]}[kind]})
    elif kind == "digits":
        source = "digits-lt"
    else:
        source, _ = source_of("class/group" if kind == "loose" else kind, tmp_path / "data")
        if kind == "loose":
            (tmp_path / "data" / "fox" / "0.png").write_bytes(b"")
    with pytest.raises(DeiTLTError, match=message):
        load_long_tailed_dataset(source, group_column=column, on_bad_image="keep")


def test_the_test_split_of_a_folder_that_grows_stays(tmp_path: Path) -> None:
    source, column = source_of("group/class", tmp_path / "data")

    def tested() -> set[str]:
        split = load_long_tailed_dataset(source, group_column=column, test_fraction=0.3)["test"]
        return {re.sub(r".*/data/", "", image["path"]) for image in undecoded(split)["image"]}

    before = tested()
    for site in ("Anna", "Berta", SITES[1]):
        (tmp_path / "data" / site / "fox").mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / site / "fox" / "new.png").write_bytes(png("fox", SITES[0], 99))
    assert before == {path for path in tested() if "new.png" not in path}
