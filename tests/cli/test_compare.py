"""`deitlt compare` as a user types it: what it prints and writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

from deitlt_hf import (
    CifarResNetConfig,
    CifarResNetForImageClassification,
    DeiTLTConfig,
    DeiTLTForImageClassification,
)
from deitlt_hf.cli.main import main
from deitlt_hf.data.arguments import DataArguments, images_for_model, load_images
from deitlt_hf.data.views import image_processor
from deitlt_hf.evaluation import page as analysis_page
from deitlt_hf.long_tail_accuracy.scores import MEASURES
from deitlt_hf.runs import analyzing

DATA = ["--data", "digits-lt", "--imbalance_factor", "20", "--group_boundaries", "3", "7"]
SHAPE = {"image_size": 16, "patch_size": 8, "hidden_size": 24, "intermediate_size": 48, "num_attention_heads": 2}
DIGITS = {index: str(index) for index in range(10)}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A student, a ViT of other depth, and a student of other classes, none of them trained."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    label_maps = {"id2label": DIGITS, "label2id": {name: index for index, name in DIGITS.items()}}
    student = DeiTLTConfig(**SHAPE, num_hidden_layers=2, **label_maps)
    others = DeiTLTConfig(**SHAPE, num_hidden_layers=1, id2label={0: "cat", 1: "lynx"}, label2id={"cat": 0, "lynx": 1})
    for name, model in (
        ("student", DeiTLTForImageClassification(student)),
        ("vit", ViTForImageClassification(ViTConfig(**SHAPE, num_hidden_layers=1, **label_maps))),
        ("cats", DeiTLTForImageClassification(others)),
        ("teacher", CifarResNetForImageClassification(CifarResNetConfig(depth=20, image_size=16, **label_maps))),
    ):
        model.save_pretrained(folder / name)
        image_processor(16).save_pretrained(folder / name)
    return folder


def fails(capsys, *argv: str) -> str:
    """The one line that a command which must fail prints."""
    capsys.readouterr()
    assert main([*argv]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.count("\n") == 1
    return error.removeprefix("deitlt compare: ").rstrip("\n")


def test_a_table_figures_and_a_page_of_models_side_by_side(models, tmp_path, capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr(analysis_page, "save_figure", lambda figure, path: _stand_in(drawn, path))  # takes seconds
    out = tmp_path / "new" / "compared"
    student, vit = str(models / "student"), str(models / "vit")
    assert main(["compare", vit, student, f"again={student}", *DATA, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    content = json.loads((out / "analysis.json").read_text())
    assert list(content["models"]) == ["vit", "student", "again"]
    assert content["reference"] == "vit"
    for name, differences in content["differences"].items():
        for measure, difference in differences.items():
            of = content["accuracies"]
            assert difference["value"] == pytest.approx(of[name][measure]["value"] - of["vit"][measure]["value"])
    assert content["differences"]["student"] == content["differences"]["again"]  # the same images for all
    assert {record["num_images"] for record in content["models"].values()} == {400}
    of_student = content["models"]["student"]["experts"]["average"]
    assert {name: value["value"] for name, value in content["accuracies"]["student"].items()} == {
        measure.key: of_student[measure.key] for measure in MEASURES
    }
    low, high = content["accuracies"]["vit"]["tail"]["interval"]
    assert f"[{low:.1f}, {high:.1f}]" in printed.splitlines()[3]
    assert printed.startswith("Accuracy in percent on 400 test images: the test split of digits-lt\n\n")
    assert "student - vit" in printed
    overall = {name: of["overall"]["value"] for name, of in content["accuracies"].items()}
    best = vit if overall["vit"] >= overall["student"] else student  # the first of those that are as good
    following = f"next: deitlt analyze {best} {' '.join(DATA)} --out {best}-analysis\n"
    following += f"      deitlt app {best}\n" if best == student else ""  # it is for students
    assert printed.endswith(f"numbers: {out}/analysis.json\npage: {out}/index.html\n{following}")
    assert {"attention_distance.svg", "token_similarity.png", "examples_3.png"} <= set(drawn)


def test_a_cnn_beside_a_student_has_no_tokens(models, tmp_path, capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr(analysis_page, "save_figure", lambda figure, path: _stand_in(drawn, path))  # takes seconds
    argv = [str(models / "teacher"), str(models / "student"), *DATA, "--out", str(tmp_path / "compared")]
    assert main(["compare", *argv]) == 0
    printed = capsys.readouterr().out
    assert "student - teacher" in printed
    records = json.loads((tmp_path / "compared" / "analysis.json").read_text())["models"]
    assert list(records["teacher"]["experts"]) == ["model"]
    assert "attention_distance" not in records["teacher"]
    assert {"attention_distance.svg", "class_confusion.svg", "examples_2.svg"} <= set(drawn)
    assert "examples_1.svg" not in drawn


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{models}/vit"], "there is only {models}/vit to compare; pass at least two models"),
        (
            ["{models}/vit", "{models}/student", "{models}/../other/vit"],
            "{models}/vit and {models}/../other/vit are both named vit; name one of them yourself: "
            "other={models}/../other/vit",
        ),
        (
            ["{models}/vit", "{models}/cats"],
            "{models}/cats was trained for other classes than digits-lt has: 'cat', 'lynx' are missing, '0', '1', '2' "
            "and 7 more are new; pass its own data with --data",
        ),
        (
            ["{models}/vit", "{models}/student", "--out", "{models}"],
            "{models} is not empty; pass a directory that does not exist yet",
        ),
        (
            ["{models}/vit", "{models}/student", "--out", "{models}/vit/config.json/compared"],
            "cannot write {models}/vit/config.json/compared: {models}/vit/config.json is no directory to write into; "
            "pass another",
        ),
        (["{models}/vit", "{models}/student", "--batch_size", "0"], "batch_size is 0; pass 1 or more"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(models, capsys, arguments, said):
    argv = [argument.format(models=models) for argument in arguments]
    assert fails(capsys, "compare", *argv, *DATA) == said.format(models=models)


def test_a_missing_model_is_refused_before_the_first_is_analyzed(models, capsys):
    line = fails(capsys, "compare", str(models / "vit"), str(models / "nothing"), *DATA)
    assert line.startswith(f"cannot load a model from {models / 'nothing'}: ")


def test_models_of_other_groups_are_refused_before_the_first_is_analyzed(models, capsys, tmp_path, monkeypatch):
    groups = {"head": [0, 1, 2], "mid": [3, 4, 5, 6], "tail": [7, 8, 9]}
    DeiTLTConfig.from_pretrained(models / "student", class_groups=groups).save_pretrained(tmp_path / "other")
    monkeypatch.setattr(analyzing, "analyze_saved_model", None)
    line = fails(capsys, "compare", str(models / "vit"), str(tmp_path / "other"), *DATA[:4])
    assert line.startswith("other has other groups than vit; pass models of the same classes")


def test_the_classes_of_a_configuration_are_in_order_of_their_numbers(models):
    data = DataArguments("digits-lt", imbalance_factor=20, group_boundaries=[3, 7])
    config = DeiTLTConfig.from_pretrained(models / "student")
    config.id2label = dict(sorted(DIGITS.items(), reverse=True))
    images = load_images(data)
    assert images_for_model(images, data, config, "student").class_names == images.class_names


def _stand_in(drawn: list[str], path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"")
    drawn.append(path.name)
