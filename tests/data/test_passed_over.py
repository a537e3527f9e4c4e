"""What lies in a directory beside the data is passed over, and said in one line."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from PIL import Image

from deitlt_hf.data.loading import read_splits
from deitlt_hf.errors import DeiTLTError
from deitlt_hf.inference.classifier import named_images


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes of two images."""
    for name in ("cat", "owl"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for index in range(2):
            Image.new("L", (4, 4), index).save(tmp_path / "pictures" / name / f"{index}.png")
    return tmp_path / "pictures"


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING, "deitlt_hf")
    return lambda: [record.getMessage() for record in caplog.records]


def write(directory: Path, *names: str) -> None:
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text("x")


def test_everything_is_counted_in_one_line(pictures: Path, said) -> None:
    write(pictures, "cat/a.heic", "cat/b.HEIC", "owl/notes.txt", "LICENSE", "montage.jpg", "cat/._0.png", "Thumbs.db")
    write(pictures, "@eaDir/0.png/thumb.jpg", "cat/__MACOSX/0.png", "cat/Thumbs.db")
    assert read_splits(pictures)["train"].num_rows == 4
    assert said() == [
        f"passed over in {str(pictures)!r}: 4 files of other kinds "
        "(2 .heic, 1 .txt, 1 without suffix; first 'LICENSE'), 1 image beside the class folders ('montage.jpg'), "
        "2 folders of the system ('@eaDir', 'cat/__MACOSX'), "
        "1 hidden file"
    ]


def test_hidden_files_alone_need_no_word(pictures: Path, said) -> None:
    write(pictures, ".DS_Store", "cat/._0.png", ".git/config", "owl/desktop.ini")
    assert read_splits(pictures)["train"].num_rows == 4
    assert said() == []


@pytest.mark.parametrize(
    "files",
    [
        ["runs/pictures/recipe.yaml", "runs/pictures/report.png"],
        ["runs/pictures/checkpoint-9/trainer_state.json", "runs/pictures/checkpoint-9/model.safetensors"],
        ["model/config.json", "model/model.safetensors", "model/report.png"],
        ["pictures-onnx/config.json", "pictures-onnx/model.onnx"],
        ["analysis/analysis.json", "analysis/index.html", "analysis/figures/examples.png"],
        ["inspection/inspection.json", "inspection/inspection.png", "inspection/inspection.html"],
        ["out/deep/run.json", "out/deep/panel.png"],
    ],
)
def test_runs_and_outputs_are_no_classes(files: list[str], pictures: Path, said) -> None:
    write(pictures, *files)
    assert read_splits(pictures)["train"].features["label"].names == ["cat", "owl"]
    place = files[0].split("/")[0]
    assert said() == [f"passed over in {str(pictures)!r}: 1 directory of runs or outputs ({place!r})"]


def test_a_class_folder_without_images_is_still_refused(pictures: Path) -> None:
    write(pictures, "bat/config.json")
    with pytest.raises(DeiTLTError, match=r"the class folder 'bat' in .* holds no images"):
        read_splits(pictures)


PREDICTIONS = "file,rank,class,average,cls,distillation\ncat/0.png,1,owl,0.6,0.7,0.5\ncat/1.png,1,cat,0.6,0.7,0.5\n"


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("predictions.csv", PREDICTIONS, "1 .csv; first 'predictions.csv'"),
        ("to_check.csv", "file,label\ncat/0.png,dark\nowl/0.png,blurred\n", "folders are read, not 'to_check.csv'"),
        ("cat/notes/check.csv", "file,label\n../0.png,dark\n../1.png,sharp\n", "are read, not 'cat/notes/check.csv'"),
        ("features.parquet", "no Parquet at all", "the class folders are read, not 'features.parquet'"),
        ("cat/metadata.csv", "file,label\n0.png,dark\n1.png,sharp\n", "are read, not 'cat/metadata.csv'"),
    ],
)
def test_class_folders_win_over_a_list_beside_them(file: str, content: str, words: str, pictures: Path, said) -> None:
    write(pictures, file)
    (pictures / file).write_text(content)
    splits = read_splits(pictures)
    assert (splits["train"].features["label"].names, splits["train"].num_rows) == (["cat", "owl"], 4)
    assert words in " ".join(said())


@pytest.mark.parametrize("given", ["metadata.csv", "birds_metadata.csv", "list.csv"])
def test_metadata_or_a_list_that_is_given_itself_wins(given: str, pictures: Path, said) -> None:
    (pictures / given).write_text("file,label\ncat/0.png,dark\nowl/0.png,sharp\nowl/1.png,dark\n")
    splits = read_splits(pictures / given if given == "list.csv" else pictures)
    assert splits["train"].features["label"].names == ["dark", "sharp"]
    assert (given in " ".join(said())) == (given != "list.csv")


def test_predictions_are_no_labels(pictures: Path) -> None:
    (pictures / "predictions.csv").write_text(PREDICTIONS)
    with pytest.raises(DeiTLTError, match="holds predictions, no labels"):
        read_splits(pictures / "predictions.csv")


def test_prediction_looks_where_training_does(pictures: Path, tmp_path: Path, said) -> None:
    (tmp_path / "elsewhere").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "elsewhere" / "linked.png")
    (pictures / "link").symlink_to(tmp_path / "elsewhere")
    (pictures / "cat" / "circle").symlink_to(pictures)
    write(pictures, "cat/._0.png", "@eaDir/thumb.png", "runs/a/recipe.yaml", "runs/a/report.png", "owl/x.heic")
    found = [str(path.relative_to(pictures)) for path in named_images([pictures])]
    assert found == ["cat/0.png", "cat/1.png", "link/linked.png", "owl/0.png", "owl/1.png"]
    (line,) = said()
    assert "1 .heic" in line
    assert "'@eaDir'" in line
    assert "'runs/a'" in line
