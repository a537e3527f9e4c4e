"""The card says what the data are, in a form that the hub reads; the directory is whole or not there."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features
from huggingface_hub import DatasetCard

from deitlt_hf.cards.dataset_card import BuiltDataset, dataset_card
from deitlt_hf.data.benchmarks import BENCHMARKS
from deitlt_hf.data.long_tail import class_counts_for_imbalance
from deitlt_hf.errors import DeiTLTError
from deitlt_hf.files import check_is_free
from deitlt_hf.hub.dataset_directory import push_dataset, write_dataset
from deitlt_hf.hub.repository import check_hub
from hub_server import HubServer
from published_layouts import encoded


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def _built(name: str, counts: list[int], names: list[str] | None = None, **changes) -> BuiltDataset:
    names = names or [f"class {label}" for label in range(len(counts))]
    features = Features({"image": datasets.Image(), "label": ClassLabel(names=names)})
    labels = {"train": np.repeat(np.arange(len(counts)), counts), "test": np.arange(len(counts))}
    image = {"bytes": encoded(0), "path": None}
    splits = DatasetDict(
        {
            split: Dataset.from_dict({"image": [image] * len(of_split), "label": of_split}, features=features)
            for split, of_split in labels.items()
        }
    )
    return BuiltDataset(BENCHMARKS[name], splits, counts, **({"embedded": True} | changes))


def _rows(card: DatasetCard) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in card.text.splitlines() if line[:1] == "|"
    ]


def test_the_card_has_source_licence_counts_groups_and_how_to_load(tmp_path: Path) -> None:
    counts = class_counts_for_imbalance(10, 500, 100)
    built = _built("cifar10-lt", counts, selection="imbalance factor 100, profile exp, seed 0")
    dataset_card(built, "me/cifar10-lt").save(tmp_path / "README.md")
    card = DatasetCard.load(tmp_path / "README.md")
    assert card.data.license == "unknown"
    assert card.data.pretty_name == "CIFAR-10-LT"
    assert card.data.task_categories == ["image-classification"]
    assert card.data.size_categories == ["1K<n<10K"]
    (config,) = card.data.configs
    assert config["data_files"] == [
        {"split": "train", "path": "data/train-*"},
        {"split": "test", "path": "data/test-*"},
    ]
    rows = _rows(card)
    assert ["imbalance factor (largest / smallest)", "100"] in rows
    assert ["images", "train 1,236, test 10"] in rows
    # 500, 299, 179; 107, 64, 38, 23; 13, 8, 5
    assert ["head", "3", "500 to 179", "978"] in rows
    assert ["mid", "4", "107 to 23", "232"] in rows
    assert ["tail", "3", "13 to 5", "26"] in rows
    assert [row[2] for row in rows if row[1].startswith("class ")] == list(map(str, counts))
    for part in (BENCHMARKS["cifar10-lt"].homepage, "no licence", "load_dataset('me/cifar10-lt')", "@techreport"):
        assert part in card.text


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_every_header_has_what_the_hub_asks_for(name: str) -> None:
    card = dataset_card(_built(name, [3, 2, 1]), "x")
    if card.data.license == "other":
        assert card.data.license_name == f"{name}-terms"
        assert card.data.license_link.startswith("https://")
    assert f"# {BENCHMARKS[name].title}\n" in card.text
    # Too few classes for the paper's groups, and none with more than 100 images: thirds.
    assert ["head", "1", "3", "3"] in _rows(card)
    assert ["tail", "1", "1", "1"] in _rows(card)


def test_of_many_classes_the_ends_are_shown_and_the_papers_groups_kept() -> None:
    counts = [*range(1000, 0, -1)]
    names = [f"a|b {label}" for label in range(1000)]
    features = Features({"image": datasets.Image(), "label": ClassLabel(names=names)})
    one = Dataset.from_dict({"image": [{"bytes": encoded(0), "path": None}], "label": [0]}, features=features)
    built = BuiltDataset(BENCHMARKS["imagenet-lt"], {"train": one, "test": one}, counts, embedded=False)
    rows = _rows(dataset_card(built, "x"))
    listed = [row[0] for row in rows if "b " in row[1]]
    assert listed == [*map(str, range(10)), *map(str, range(990, 1000))]
    assert [row[1] for row in rows if row[0] in ("head", "mid", "tail")] == ["390", "445", "165"]
    assert "absolute paths" in dataset_card(built, "x").text


def test_the_directory_is_loaded_by_plain_datasets_with_its_names(tmp_path: Path) -> None:
    built = _built("cifar10-lt", [5, 2, 1], ["cat", "dog", "eel"])
    write_dataset(built, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md",
        "class_counts.png",
        "data",
        "eval.yaml",
    ]
    loaded = datasets.load_dataset(str(tmp_path / "out"))
    assert {name: split.num_rows for name, split in loaded.items()} == {"train": 8, "test": 3}
    assert loaded["train"].features == built.splits["train"].features
    assert loaded["train"]["label"][:] == [0] * 5 + [1] * 2 + [2]
    undecoded = loaded["test"].cast_column("image", datasets.Image(decode=False))
    assert undecoded[0]["image"]["bytes"] == encoded(0)
    assert "![Training images per class](class_counts.png)" in (tmp_path / "out" / "README.md").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_empty_directory_is_filled_though_a_shell_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write_dataset(_built("cifar10-lt", [2, 1]), ".")
    assert sorted(path.name for path in Path().iterdir()) == ["README.md", "class_counts.png", "data", "eval.yaml"]
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_what_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("deitlt_hf.hub.dataset_directory.save_figure", full)
    with pytest.raises(DeiTLTError, match=r"cannot write .*out: No space left on device"):
        write_dataset(_built("cifar10-lt", [2, 1]), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_only_a_new_or_empty_directory_is_free(tmp_path: Path) -> None:
    check_is_free(tmp_path)
    (tmp_path / "photo.jpg").write_bytes(b"")
    with pytest.raises(DeiTLTError, match="is not empty"):
        write_dataset(_built("cifar10-lt", [2, 1]), tmp_path)
    with pytest.raises(DeiTLTError, match="is a file"):
        check_is_free(tmp_path / "photo.jpg")


def test_pushing_makes_the_data_set_and_replaces_old_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    write_dataset(_built("cifar10-lt", [2, 1]), first, location="me/x")
    write_dataset(_built("cifar10-lt", [3, 1]), second, location="me/x")
    (first / "data" / "train-00001-of-00002.parquet").write_bytes(b"PAR1")
    with HubServer(tmp_path) as hub:
        hub.connect(monkeypatch)
        for directory in (first, second):
            assert push_dataset(directory, "me/x", private=True) == f"{hub.endpoint}/datasets/me/x"
        assert hub.repos["datasets", "me/x"].private
        expected = {path.relative_to(second).as_posix(): path.read_bytes() for path in second.rglob("*.*")}
        assert hub.files("me/x", kind="datasets") == expected
        messages = [
            "initial commit",
            "Add the data set",
            "Add eval.yaml",
            "Add the data set",
        ]  # the second has the same
        assert hub.messages("me/x", kind="datasets") == messages


@pytest.mark.parametrize("repo_id", ["me/x", "a/b/c", "not an id"])
def test_a_hub_that_cannot_be_reached_is_one_line(repo_id: str, tmp_path: Path) -> None:
    # The tests' environment is offline, and has no token.
    for push in (lambda: check_hub(repo_id), lambda: push_dataset(tmp_path, repo_id)):
        with pytest.raises(DeiTLTError, match=f"cannot push to {repo_id}: ") as error:
            push()
        assert "\n" not in str(error.value)
