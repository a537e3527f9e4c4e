"""`deitlt data build`, from published layouts to a directory that plain `datasets` loads."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pytest

from deitlt_hf.cli.main import main
from deitlt_hf.data.benchmarks import BENCHMARKS
from deitlt_hf.data.loading import class_counts, load_long_tailed_dataset
from deitlt_hf.recipes import load_recipe
from hub_server import HubServer
from published_layouts import SPECIES, write_cifar, write_imagenet_lt, write_inaturalist_json


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def fails(capsys, *argv: str) -> str:
    """The one line that a command which must fail prints."""
    capsys.readouterr()
    try:
        status = main(["data", *argv])
    except SystemExit as stop:
        status = stop.code
    output = capsys.readouterr()
    assert (status, output.out, output.err.count("\n")) == (2, "", 1), output
    return output.err


@pytest.fixture
def cifar(tmp_path: Path) -> str:
    labels = np.tile(np.arange(10), 40)
    write_cifar(tmp_path / "cifar10", labels, labels[:20])
    return str(tmp_path / "cifar10")


def test_cifar_is_built_as_asked(tmp_path: Path, cifar: str, capsys) -> None:
    out = str(tmp_path / "out")
    argv = ["build", "cifar10-lt", "--data-dir", cifar, "--out", out, "--imbalance-factor", "20"]
    assert main(["data", *argv, "--imbalance_profile", "step", "--seed", "3"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "CIFAR-10-LT: train 210, test 20 images, 10 classes, largest 40, smallest 2 training images",
        f"saved to {out}",
        f"next: deitlt data inspect {out}",
        f"      deitlt teacher --data {out}",
    ]
    loaded = datasets.load_dataset(out)
    assert class_counts(loaded["train"]) == [40] * 5 + [2] * 5
    assert loaded["train"].features["label"].names[0] == "airplane"
    assert "imbalance factor 20, profile step, seed 3" in (Path(out) / "README.md").read_text()
    # The package takes the directory too, and finds it the same.
    own = load_long_tailed_dataset("cifar10-lt", 20, profile="step", seed=3, data_dir=cifar)
    again = load_long_tailed_dataset(out)
    for split in ("train", "test"):
        assert _bytes(again[split]) == _bytes(own[split])


def _bytes(split: datasets.Dataset) -> list[bytes]:
    return [row["image"]["bytes"] for row in split.cast_column("image", datasets.Image(decode=False))]


def test_the_digits_are_built_without_a_source(tmp_path: Path, capsys) -> None:
    assert main(["data", "build", "digits-lt", "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.startswith(
        "digits-lt: train 453, test 400 images, 10 classes, largest 134, smallest 6"
    )
    loaded, own = datasets.load_dataset(str(tmp_path / "out")), load_long_tailed_dataset("digits-lt")
    for split in ("train", "test"):
        assert _bytes(loaded[split]) == _bytes(own[split])
        assert loaded[split].features == own[split].features
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: cc-by-4.0" in card
    assert "imbalance factor 20, profile exp, seed 0" in card


def test_the_help_names_every_data_set_and_where_its_images_come_from(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["data", "build", "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    for name, benchmark in BENCHMARKS.items():
        assert f"{name}: {benchmark.origin}" in printed


@pytest.mark.parametrize("embed", [False, True])
def test_imagenet_lt_is_referenced_or_embedded(tmp_path: Path, capsys, embed: bool) -> None:
    tree, out = tmp_path / "ILSVRC2012", tmp_path / "out"
    expected = write_imagenet_lt(tree, tmp_path / "lists")
    argv = ["build", "imagenet-lt", "--data_dir", str(tree), "--lists_dir", str(tmp_path / "lists"), "--no_check"]
    assert main(["data", *argv, "--out", str(out), *(["--embed"] if embed else [])]) == 0
    assert ("not copied" in capsys.readouterr().out) != embed
    loaded = datasets.load_dataset(str(out))
    assert list(loaded) == ["train", "validation", "test"]
    contents = {name: [(tree / path).read_bytes() for path, _ in rows] for name, rows in expected.items()}
    if embed:
        tree.rename(tmp_path / "elsewhere")
        assert {name: _bytes(split) for name, split in loaded.items()} == contents
    assert {image.size for split in loaded.values() for image in split["image"]} == {(8, 6)}
    assert loaded["test"].features["label"].names[1] == "crane (n02012849)"


def test_inaturalist_is_built_and_its_card_says_what_test_is(tmp_path: Path) -> None:
    write_inaturalist_json(tmp_path / "inat", names=SPECIES)
    argv = ["build", "inaturalist-2018", "--data_dir", str(tmp_path / "inat"), "--no-check"]
    assert main(["data", *argv, "--out", str(tmp_path / "out")]) == 0
    loaded = datasets.load_dataset(str(tmp_path / "out"))
    assert class_counts(loaded["train"]) == [4, 2, 2]
    assert loaded["test"].features["label"].names == ["Grus grus (0)", "Tinca tinca", "Grus grus (2)"]
    assert "val2018" in (tmp_path / "out" / "README.md").read_text()


def test_pushing_embeds_and_prints_the_address(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = write_imagenet_lt(tmp_path / "tree", tmp_path / "tree")
    argv = ["build", "imagenet-lt", "--data_dir", str(tmp_path / "tree"), "--no_check", "--push_to_hub", "lt"]
    with HubServer(tmp_path) as hub:
        hub.connect(monkeypatch)
        assert main(["data", *argv]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-3:] == [
        f"pushed to {hub.endpoint}/datasets/me/lt",
        "next: deitlt data inspect me/lt",
        "      deitlt teacher --data me/lt",
    ]
    (warning,) = [line for line in printed.err.splitlines() if "anyone will see these images" in line]
    assert "do not allow passing the images on" in warning
    assert warning.endswith("--private keeps them to you")
    pushed = hub.files("me/lt", kind="datasets")
    assert sorted(pushed) == [
        "README.md",
        "class_counts.png",
        *(f"data/{split}-00000-of-00001.parquet" for split in ("test", "train", "validation")),
        "eval.yaml",
    ]
    assert b"load_dataset('me/lt')" in pushed["README.md"]
    image = (tmp_path / "tree" / expected["train"][0][0]).read_bytes()
    assert image[:20] in pushed["data/train-00000-of-00001.parquet"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "required: action"),
        (["bild"], "bild"),
        (["build"], "required: NAME"),
        (["build", "cifar11-lt", "--out", "x"], "cifar11-lt"),
        (["build", "cifar10-lt"], "pass --out DIR, --push_to_hub REPO, or both"),
        (["build", "cifar10-lt", "--out", "x", "--lists_dir", "y"], "--lists_dir and --no_check go with imagenet-lt"),
        (["build", "imagenet-lt", "--out", "x", "--seed", "0"], "--seed go with cifar10-lt"),
        (["build", "imagenet-lt", "--out", "x"], "imagenet-lt is not downloaded: pass data_dir"),
        (["build", "imagenet-lt", "--out", "x", "--data_dir", "gone"], "gone' does not exist"),
        (["build", "cifar10-lt", "--out", "x", "--imbalance_factor", "0.01"], "imbalance_factor is 0.01"),
        (["build", "cifar10-lt", "--out", "x", "--imbalance_factor", "0"], "imbalance_factor is 0"),
        (["build", "cifar10-lt", "--out", "x", "--imbalance_factor", "many"], "invalid float value: 'many'"),
        (["build", "cifar10-lt", "--out", "full"], "full is not empty"),
        (["build", "cifar10-lt", "--push_to_hub", "me/x"], "cannot push to me/x"),
        (["build", "cifar10-lt", "--out", "x", "--private"], "--private goes with --push_to_hub"),
        (["build", "cifar10-lt", "--out", "x", "--outt", "y"], "--outt"),
    ],
)
def test_a_mistake_ends_in_one_line_and_status_2(capsys, monkeypatch, tmp_path: Path, argv: list, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "photo.jpg").write_bytes(b"")
    assert message in fails(capsys, *argv)
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_wrong_lists_leave_nothing(tmp_path: Path, capsys) -> None:
    write_imagenet_lt(tmp_path / "tree", tmp_path / "tree")
    error = fails(capsys, "build", "imagenet-lt", "--data_dir", str(tmp_path / "tree"), "--out", str(tmp_path / "out"))
    assert "has 9 lines, 3 classes" in error
    assert "--no_check" in error
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]


@pytest.mark.parametrize(
    ("name", "epochs", "drw", "boundaries"),
    [("imagenet-lt", 1400, 1200, [390, 835]), ("inaturalist-2018", 1000, 900, [842, 4543])],
)
def test_the_recipes_of_the_large_data_sets_have_the_papers_settings(
    name: str, epochs: int, drw: int, boundaries: list[int]
) -> None:
    own = {"data": name, "num_train_epochs": epochs, "drw_start_epoch": drw, "group_boundaries": boundaries}
    own["mixup_in_drw"] = True
    # All the rest is as on CIFAR, but for the imbalance, which the data bring along.
    common = load_recipe("cifar10-lt-if100")
    del common["imbalance_factor"]
    assert load_recipe(name) == common | own
    assert tuple(boundaries) == BENCHMARKS[name].boundaries
