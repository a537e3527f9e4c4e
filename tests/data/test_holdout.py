"""Held-out splits: nothing moves when data grow, and nothing is on both sides."""

from __future__ import annotations

import hashlib
import logging

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, concatenate_datasets

from deitlt_hf.data.holdout import hold_out
from deitlt_hf.data.loading import load_data
from deitlt_hf.data.readable import undecoded
from deitlt_hf.errors import DeiTLTError


def rows(images: dict[str, int]) -> Dataset:
    """Images, by what their files hold, and their labels."""
    features = Features(image=Image(), label=ClassLabel(num_classes=max(images.values()) + 1))
    encoded = [{"bytes": content.encode(), "path": None} for content in images]
    return Dataset.from_dict({"image": encoded, "label": list(images.values())}, features=features)


def classes(*counts: int, first: int = 0) -> dict[str, int]:
    return {f"{label}:{first + index}": label for label, count in enumerate(counts) for index in range(count)}


def contents(dataset: Dataset) -> list[str]:
    return [row["bytes"].decode() for row in undecoded(dataset)["image"]]


def number(content: str, seed: int = 0, split: str = "") -> float:
    """What decides about an image, as the documentation has it."""
    of_file = hashlib.blake2b(content.encode(), digest_size=16).digest()
    return int.from_bytes(hashlib.sha256(f"{split}{seed} ".encode() + of_file).digest()[:6], "big") / 2**48


def below(fraction: float, count: int, label: int = 0) -> list[str]:
    """Images whose number is below the fraction (above it, for a negative one)."""
    names = (f"{label}:{index}" for index in range(10_000))
    found = [name for name in names if (number(name) < fraction if fraction > 0 else number(name) >= -fraction)]
    return found[:count]


def test_the_hash_decides_and_the_order_stays() -> None:
    images = classes(200, 50)
    mixed = {name: images[name] for name in np.random.RandomState(0).permutation(list(images)).tolist()}
    parts = hold_out(rows(mixed), 0.3)
    assert contents(parts.held) == [name for name in mixed if number(name) < 0.3]
    assert contents(parts.train) == [name for name in mixed if number(name) >= 0.3]
    assert [f"{label}" for label in parts.held["label"]] == [name[0] for name in contents(parts.held)]


def test_another_seed_draws_others() -> None:
    first, again, other = (contents(hold_out(rows(classes(20, 20)), seed=seed).held) for seed in (3, 3, 4))
    assert first == again != other


@pytest.mark.parametrize("more", [(1, 0, 0), (10, 5, 1), (400, 400, 400)])
def test_images_that_come_move_none(more: tuple[int, ...]) -> None:
    old = hold_out(rows(classes(400, 150, 40)))
    new = hold_out(rows(classes(*more, first=1000) | classes(400, 150, 40)))
    for part in ("train", "held"):
        before, after = contents(getattr(old, part)), contents(getattr(new, part))
        assert [name for name in after if int(name.split(":")[1]) < 1000] == before


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.5, 0.9])
def test_no_training_image_of_a_run_is_tested_after_its_small_classes_grew(fraction: float) -> None:
    """With the record of the run, for classes of every small size and whatever comes."""
    generator, were_moved = np.random.RandomState(0), 0
    for trial in range(30):
        images = {f"{trial} {name}": label for name, label in classes(*range(1, 9), 40).items()}
        coming = {f"new {trial} {index}": int(generator.randint(9)) for index in range(20)}
        old = hold_out(rows(images), fraction)
        trained = set(contents(old.train))
        assert not trained & set(contents(hold_out(rows(images | coming), fraction, kept=old.kept).held))
        assert len(old.kept) <= 9
        were_moved += len(trained & set(contents(hold_out(rows(images | coming), fraction).held)))
    assert were_moved  # without the record there is something to prevent


def test_identical_images_are_on_one_side() -> None:
    once = rows(classes(60, 60))
    parts = hold_out(concatenate_datasets([once, once]))
    assert not set(contents(parts.train)) & set(contents(parts.held))
    assert len(parts.train) + len(parts.held) == 240


@pytest.mark.parametrize(("count", "tested"), [(1, 0), (2, 0), (3, 1), (10, 1)])  # shares of 0.2, 0.4, 0.6 and 2
def test_a_class_with_a_share_of_half_an_image_gives_one(count: int, tested: int) -> None:
    above = below(-0.2, count, label=1)
    parts = hold_out(rows(classes(30) | dict.fromkeys(above, 1)))
    assert [name for name in contents(parts.held) if name in above] == sorted(above, key=number)[:tested]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_class_keeps_a_training_image(count: int) -> None:
    names = below(0.2, count, label=1)
    parts = hold_out(rows(classes(30) | dict.fromkeys(names, 1)))
    assert [name for name in contents(parts.train) if name in names] == [max(names, key=number)]


def test_copies_in_two_classes_stay_together_where_one_class_would_be_empty() -> None:
    only, *others = below(0.2, 4, label=1)
    labels = [(only, 1), (only, 2), *((name, 2) for name in others), *classes(20).items()]
    encoded = [{"bytes": name.encode(), "path": None} for name, _ in labels]
    features = rows(classes(1, 1, 1)).features
    data = Dataset.from_dict({"image": encoded, "label": [label for _, label in labels]}, features=features)
    parts = hold_out(data)
    assert contents(parts.train).count(only) == 2
    assert only not in contents(parts.held)


def test_classes_without_a_test_image_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    images = classes(30) | {below(-0.2, label, label)[-1]: label for label in range(1, 6)}
    with caplog.at_level(logging.WARNING, "deitlt_hf"):
        hold_out(rows(images))
    assert caplog.messages == [
        "5 classes have no test image in the held-out split: '1', '2', '3' and 2 more; add images, pass a larger "
        "test_fraction, or a test split"
    ]


def test_rows_that_were_selected_before() -> None:
    data = rows(classes(40, 40)).select(range(79, -1, -1))
    parts = hold_out(data, 0.5)
    assert contents(parts.held) == [name for name in contents(data) if number(name) < 0.5]


@pytest.mark.parametrize("test_fraction", [0, 1, -0.5, float("nan")])
def test_a_fraction_out_of_its_range_is_refused(test_fraction: float) -> None:
    with pytest.raises(DeiTLTError, match="test_fraction is"):
        hold_out(rows(classes(4)), test_fraction)


def test_too_few_images_for_a_test_split_are_refused() -> None:
    (one,), (other,) = below(-0.2, 1, 0), below(-0.2, 1, 1)
    with pytest.raises(DeiTLTError, match=r"test_fraction 0\.2 .* larger test_fraction"):
        hold_out(rows({one: 0, other: 1}))


# --- A validation split beside the test split


def sides(images: dict[str, int], kept=None, given=None, **fractions: float) -> tuple[dict[str, list[str]], dict, dict]:
    """The contents of the images of each split, and what a run records of the two draws."""
    settings = {"test_fraction": 0.2, "validation_fraction": 0.2} | fractions
    loaded = load_data(DatasetDict(train=rows(images)), kept=kept or {}, given=given or {}, **settings)
    draws = {"test": loaded.held_out, "validation": loaded.held_for_validation}
    kept, given = ({split: getattr(of, name) for split, of in draws.items() if of} for name in ("kept", "given"))
    return {name: contents(split) for name, split in loaded.splits.items()}, kept, given


def test_validation_images_have_numbers_of_their_own() -> None:
    images = classes(200, 50)
    split, *_ = sides(images, validation_fraction=0.1)
    assert list(split) == ["train", "test", "validation"]
    assert split["test"] == [name for name in images if number(name) < 0.2]
    left = [name for name in images if number(name) >= 0.2]
    assert split["validation"] == [name for name in left if number(name, split="validation ") < 0.1]
    assert split["train"] == [name for name in left if number(name, split="validation ") >= 0.1]


def test_the_test_images_are_those_of_a_run_without_a_validation_split() -> None:
    images = classes(60, 30, 7, 1)
    without, *_ = sides(images, validation_fraction=None)
    split, *_ = sides(images)
    assert list(without) == ["train", "test"]
    assert split["test"] == without["test"]
    assert sorted(split["train"] + split["validation"]) == sorted(without["train"])


def test_a_long_tailed_selection_is_made_before() -> None:
    images = DatasetDict(train=rows(classes(80, 80)), test=rows(classes(9, 9, first=500)))
    without = load_data(images, imbalance_factor=10).splits
    split = load_data(images, imbalance_factor=10, validation_fraction=0.25).splits
    selected = contents(without["train"])
    assert [name[0] for name in selected].count("1") == 8
    drawn = [name for name in selected if number(name, split="validation ") < 0.25]
    assert contents(split["validation"]) == drawn
    assert contents(split["train"]) == [name for name in selected if name not in drawn]
    assert contents(split["test"]) == contents(without["test"])


def test_every_class_keeps_a_training_image_beside_both_splits() -> None:
    for seed in range(20):
        data = DatasetDict(train=rows(classes(40, 1, 2, 3, 5)))
        splits = load_data(data, test_fraction=0.5, validation_fraction=0.9, seed=seed).splits
        assert set(splits["train"]["label"][:]) == {0, 1, 2, 3, 4}
        assert sum(split.num_rows for split in splits.values()) == 51


@pytest.mark.parametrize("more", [(1, 0, 0), (10, 5, 1), (400, 400, 400)])
def test_images_that_come_move_none_between_three_splits(more: tuple[int, ...]) -> None:
    old, *_ = sides(classes(400, 150, 60))
    new, *_ = sides(classes(*more, first=1000) | classes(400, 150, 60))
    for name, before in old.items():
        assert [image for image in new[name] if int(image.split(":")[1]) < 1000] == before


def test_with_the_record_of_a_run_images_that_come_move_none() -> None:
    """For classes of every small size, and whatever comes."""
    generator, moved = np.random.RandomState(0), {}
    for trial in range(30):
        images = {f"{trial} {name}": label for name, label in classes(*range(1, 9), 40).items()}
        coming = {f"new {trial} {index}": int(generator.randint(9)) for index in range(20)}
        old, kept, given = sides(images)
        assert max(map(len, [*kept.values(), *given.values()])) <= 9
        new, *_ = sides(images | coming, kept, given)
        anew, *_ = sides(images | coming)
        for name, before in old.items():
            assert [image for image in new[name] if image in images] == before
            for other in old:
                moved[name, other] = moved.get((name, other), 0) + len(set(before) & set(anew[other]))
    # Without the record there is something to prevent, in each direction between train and the other two.
    assert all(moved[pair] for pair in (("train", "test"), ("train", "validation"), ("test", "train")))
    assert moved["validation", "train"]


def test_copies_are_in_one_of_three_splits() -> None:
    once = rows(classes(60, 60))
    data = DatasetDict(train=concatenate_datasets([once, once]))
    splits = [set(contents(split)) for split in load_data(data, validation_fraction=0.3).splits.values()]
    assert sum(map(len, splits)) == len(set.union(*splits)) == 120


@pytest.mark.parametrize("fraction", [0, 1, -0.5, float("nan")])
def test_a_validation_fraction_out_of_its_range_is_refused(fraction: float) -> None:
    with pytest.raises(DeiTLTError, match=r"validation_fraction is .* such as 0\.2"):
        load_data(DatasetDict(train=rows(classes(4, 4))), validation_fraction=fraction)


def test_too_few_images_for_a_validation_split_are_refused() -> None:
    with pytest.raises(DeiTLTError, match=r"no validation split, and validation_fraction 0\.1 .* larger validation_fr"):
        sides(classes(2, 2), validation_fraction=0.1, test_fraction=0.4)
