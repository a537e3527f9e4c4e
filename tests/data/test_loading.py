"""Loading: whatever the source, columns `image` and `label`, the train split long-tailed, the bytes untouched."""

from __future__ import annotations

import io
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from PIL import Image
from sklearn.datasets import load_digits

from deitlt_hf.data.loading import class_counts, load_long_tailed_dataset
from deitlt_hf.data.long_tail import long_tailed_indices
from deitlt_hf.errors import DeiTLTError

NAMES = ["cat", "dog", "eel"]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def _png(value: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.RandomState(value).randint(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=value % 10)
    return buffer.getvalue()


def _rows(labels: list, image: str = "img", label: str = "label", first: int = 0) -> dict[str, list]:
    images = [{"bytes": _png(first + i), "path": None} for i in range(len(labels))]
    return {image: images, label: labels, "note": ["x"] * len(labels)}


def _write_parquet(path: Path, rows: dict[str, list]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(rows), path)


@pytest.fixture
def cifar_dir(tmp_path: Path) -> Path:
    """The hub's layout: 3 classes, 12 images each in two train shards, 2 each for the test."""
    directory = tmp_path / "cifar"
    _write_parquet(directory / "train-00000-of-00002.parquet", _rows([0, 1, 2] * 6))
    _write_parquet(directory / "train-00001-of-00002.parquet", _rows([0, 1, 2] * 6, first=18))
    _write_parquet(directory / "test-00000-of-00001.parquet", _rows([0, 1, 2] * 2, first=36))
    (directory / "README.md").write_text("not data")
    return directory


def _bytes(dataset: Dataset) -> list[bytes]:
    return [row["image"]["bytes"] for row in dataset.cast_column("image", datasets.Image(decode=False))]


def test_cifar_directory_gives_the_selected_images_unchanged(cifar_dir: Path) -> None:
    splits = load_long_tailed_dataset("cifar10-lt", 4, data_dir=cifar_dir, seed=5)
    assert list(splits) == ["train", "test"]
    for split in splits.values():
        assert split.features == Features({"image": datasets.Image(), "label": ClassLabel(num_classes=3)})
    # 12, then int(12 * 0.25 ** 0.5) and int(12 * 0.25)
    assert class_counts(splits["train"]) == [12, 6, 3]
    indices = long_tailed_indices([0, 1, 2] * 12, 4, seed=5)
    assert _bytes(splits["train"]) == [_png(i) for i in indices]
    assert list(splits["train"]["label"]) == [i % 3 for i in indices]
    assert _bytes(splits["test"]) == [_png(i) for i in range(36, 42)]


def test_cifar100_takes_the_fine_labels(tmp_path: Path) -> None:
    labels = list(range(4)) * 100
    for split in ("train", "test"):
        rows = _rows(labels, label="fine_label") | {"coarse_label": [label // 2 for label in labels]}
        _write_parquet(tmp_path / f"{split}-00000-of-00001.parquet", rows)
    splits = load_long_tailed_dataset("cifar100-lt", data_dir=tmp_path)
    assert splits["train"].column_names == ["image", "label"]
    # the default imbalance factor of 100
    assert class_counts(splits["train"]) == [100, 21, 4, 1]
    assert np.bincount(splits["test"]["label"]).tolist() == [100] * 4


def test_digits_are_scikit_learns_with_a_balanced_test() -> None:
    splits = load_long_tailed_dataset("digits-lt")
    assert splits["train"].features["label"].names == [str(digit) for digit in range(10)]
    # The rarest digit has 174 images: 40 are held out, and 134 * 20 ** (-i / 9) of class i stay.
    assert class_counts(splits["train"]) == [int(134 * 0.05 ** (i / 9)) for i in range(10)]
    assert class_counts(splits["test"]) == [40] * 10
    digits = load_digits()
    by_pixels = {image.astype(int).tobytes(): label for image, label in zip(digits.images, digits.target, strict=True)}
    seen = set()
    for split in splits.values():
        for row in split:
            pixels = np.asarray(row["image"])
            assert pixels.shape == (8, 8, 3)
            original = np.rint(pixels[..., 0] / 255 * 16).astype(int).tobytes()
            assert by_pixels[original] == row["label"]
            seen.add(original)
    # No image is both held out and trained on.
    assert len(seen) == splits["train"].num_rows + splits["test"].num_rows


def test_the_digits_test_split_does_not_depend_on_the_seed() -> None:
    first, second = (load_long_tailed_dataset("digits-lt", 50, seed=seed) for seed in (0, 1))
    assert _bytes(first["test"]) == _bytes(second["test"])
    assert _bytes(first["train"]) != _bytes(second["train"])


def test_other_data_stay_as_they_are_without_a_factor(cifar_dir: Path, tmp_path: Path) -> None:
    from_parquet = load_long_tailed_dataset(str(cifar_dir))
    assert class_counts(from_parquet["train"]) == [12, 12, 12]
    from_parquet.save_to_disk(tmp_path / "saved")
    saved = load_long_tailed_dataset(tmp_path / "saved", 12, profile="step")
    assert class_counts(saved["train"]) == [12, 1, 1]
    assert _bytes(saved["test"]) == _bytes(from_parquet["test"])


def test_a_dataset_dict_with_names_and_a_validation_split() -> None:
    train = Dataset.from_dict(_rows(["eel", "cat", "dog", "cat"], image="image", label="labels"))
    splits = DatasetDict({"train": train, "validation": train.select([0]), "extra": train})
    loaded = load_long_tailed_dataset(DatasetDict(splits | {"test": train}))
    assert list(loaded) == ["train", "test", "validation"]
    assert loaded["train"].features["label"].names == NAMES
    assert loaded["train"]["label"][:] == [2, 0, 1, 0]
    assert loaded["train"][0]["image"].size == (8, 8)
    assert train.column_names == ["image", "labels", "note"]


def test_split_folders_are_read(tmp_path: Path) -> None:
    _write_parquet(tmp_path / "data" / "train" / "0.parquet", _rows([0, 1]))
    _write_parquet(tmp_path / "data" / "test" / "0.parquet", _rows([1]))
    loaded = load_long_tailed_dataset(tmp_path)
    assert {name: split.num_rows for name, split in loaded.items()} == {"train": 2, "test": 1}


def _splits(train: list, test: list | None = None, feature=None) -> DatasetDict:
    splits = {"train": train, "test": train if test is None else test}
    built = DatasetDict({name: Dataset.from_dict(_rows(labels)) for name, labels in splits.items()})
    return built.cast_column("label", feature) if feature else built


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("cifar10", "unknown data source 'cifar10'.* did you mean cifar10-lt"),
        ("pets", "neither a name, a file, a directory, nor a data set of the hub .*: the names are cifar10-lt"),
        ("no/such/place", "the names are cifar10-lt, cifar100-lt, digits-lt"),
        (None, "source has type NoneType"),
        (DatasetDict({"test": Dataset.from_dict(_rows([0]))}), "no train split, only test"),
        (DatasetDict({"train": Dataset.from_dict(_rows([0, 1]))}), "no test split, and test_fraction 0.2"),
        (_splits([0]).rename_column("label", "y"), "no label column, only img, y, note"),
        (_splits([0, 2, 2], test=[1]), "class without training images: class 1 of 3 .'1'. has none; add"),
        (_splits([0, 3, 3, 3], test=[1, 2]), "class without training images: class 1 of 4 .'1'. has .* 1 others; add"),
        (_splits(["cat", "cat"]), "all images have the label 'cat': pass data with at least two classes"),
        (_splits(["cat"], test=["owl"]), "class without training images: class 1 of 2 .'owl'. has none"),
        (_splits([0, 1], feature=ClassLabel(names=NAMES)), "class without training images: class 2 of 3 .'eel'."),
        (_splits([0, 1], test=[-1, 0], feature=ClassLabel(names=NAMES)), "the test split has images without a label"),
        (_splits([0, 1, None]), "the train split has images without a label"),
        (_splits([0.5], feature=Value("float32")), "the label column holds"),
        (_splits([0], test=["a"]), "give all splits the same label names"),
    ],
)
def test_data_that_cannot_be_used_are_refused_in_one_line(source, message: str) -> None:
    with pytest.raises(DeiTLTError, match=message) as error:
        load_long_tailed_dataset(source)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("source", ["digits-lt", "cifar10-lt"])
def test_an_imbalance_factor_below_one_is_refused_before_loading(source: str) -> None:
    with pytest.raises(DeiTLTError, match=r"imbalance_factor is 0\.01"):
        load_long_tailed_dataset(source, 0.01, data_dir="/no/such/place")


def test_a_factor_that_leaves_a_class_empty_is_refused() -> None:
    with pytest.raises(DeiTLTError, match=r"imbalance_factor 500 leaves class 8 .* at most 134"):
        load_long_tailed_dataset("digits-lt", 500)


def test_a_missing_data_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeiTLTError, match="gone' does not exist"):
        load_long_tailed_dataset("cifar10-lt", data_dir=tmp_path / "gone")


def test_a_data_directory_without_parquet_files_is_named(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(_png(0))
    with pytest.raises(DeiTLTError, match="holds 1 image but no class folders: pass one with"):
        load_long_tailed_dataset("cifar10-lt", data_dir=tmp_path)


@pytest.mark.parametrize("keep", [0, 100, -30])
def test_a_corrupt_file_is_one_clear_line(cifar_dir: Path, keep: int) -> None:
    path = cifar_dir / "train-00001-of-00002.parquet"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DeiTLTError, match="cannot read the data in") as error:
        load_long_tailed_dataset("cifar10-lt", data_dir=cifar_dir)
    assert "\n" not in str(error.value)


def test_a_corrupt_saved_data_set_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train"]}')
    with pytest.raises(DeiTLTError, match="cannot read the data in"):
        load_long_tailed_dataset(tmp_path)


def test_without_the_hub_the_error_says_to_pass_data_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args, **kwargs):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(DeiTLTError, match=r"cannot load uoft-cs/cifar100 from the hub: no route; pass data_dir"):
        load_long_tailed_dataset("cifar100-lt")


@pytest.mark.parametrize("source", ["digits-lt", DatasetDict()])
def test_data_dir_beside_a_source_that_reads_none_is_refused(source, tmp_path: Path) -> None:
    with pytest.raises(DeiTLTError, match="data_dir"):
        load_long_tailed_dataset(source, data_dir=tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_bad_image": "ignore"}, "on_bad_image is 'ignore': pass 'error', 'skip' or 'keep'"),
        ({"test_fraction": 1.0}, "test_fraction is 1.0: pass a share above 0 and below 1"),
        ({"data_config": "small"}, "data_config 'small' goes with a data set of the hub"),
    ],
)
def test_options_out_of_their_range_are_refused(options: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(DeiTLTError, match=message):
        load_long_tailed_dataset(tmp_path, **options)


def test_a_named_source_has_no_configuration_to_choose() -> None:
    with pytest.raises(DeiTLTError, match="data_config 'small' goes with a data set of the hub"):
        load_long_tailed_dataset("digits-lt", data_config="small")


def test_given_columns_of_a_dataset_dict() -> None:
    splits = _splits([0, 1, 1]).rename_columns({"img": "front", "label": "y"})
    loaded = load_long_tailed_dataset(splits, image_column="front", label_column="y")
    assert class_counts(loaded["train"]) == [1, 2]
