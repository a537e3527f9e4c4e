"""`deitlt analyze` as a user types it, in this process."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch

from deitlt_hf import DeiTLTConfig, DeiTLTForImageClassification
from deitlt_hf.cli.main import main
from deitlt_hf.data.arguments import DataArguments, load_images
from deitlt_hf.evaluation import page as analysis_page
from deitlt_hf.runs.analyzing import analyze_saved_model

NAMES = {index: str(index) for index in range(10)}


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> str:
    directory = tmp_path_factory.mktemp("runs") / "student"
    config = DeiTLTConfig(
        image_size=16,
        patch_size=8,
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        id2label=NAMES,
        label2id={name: index for index, name in NAMES.items()},
    )
    torch.manual_seed(0)
    DeiTLTForImageClassification(config).save_pretrained(directory)
    (directory / "recipe.yaml").write_text("imbalance_factor: 20\ngroup_boundaries: [3, 7]\nteacher: runs/gone\n")
    return str(directory)


def fails(capsys, *argv: str) -> str:
    """The one line that a command which must fail prints."""
    try:
        status = main(["analyze", *argv])
    except SystemExit as stop:  # the parser's own errors
        status = stop.code
    printed = capsys.readouterr()
    assert status == 2
    assert not printed.out
    assert printed.err.count("\n") == 1
    return printed.err


def test_writes_numbers_figures_and_a_page(student, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(analysis_page, "save_figure", lambda figure, path: _stand_in(path))  # takes seconds
    out, numbers = tmp_path / "analysis", tmp_path / "numbers.json"
    assert main(["analyze", student, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "no teacher was found to compare with" in printed
    assert f"page: {out / 'index.html'}" in printed
    assert (out / "index.html").is_file()
    assert (out / "figures" / "attention_distance.svg").is_file()
    assert main(["evaluate", student, "--output", str(numbers)]) == 0
    rounded = partial(json.loads, parse_float=lambda digits: round(float(digits), 9))  # sums in another order
    record, metrics = rounded((out / "analysis.json").read_text()), rounded(numbers.read_text())
    assert {name: record[name] for name in metrics} == metrics  # the run's data and groups, as in an evaluation
    assert len(record["groups"]["head"]) == 3
    assert capsys.readouterr().out.splitlines()[:5] == printed.splitlines()[:5]


def test_the_models_own_prediction_is_compared_with_its_teacher(student, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(analysis_page, "write_analysis", lambda analyses, directory: None)
    run = shutil.copytree(student, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"expert": "distillation"}))
    assert main(["analyze", str(run), "--teacher", student, "--out", str(tmp_path / "out")]) == 0
    assert "\nDIST expert - teacher: overall " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "--out"),
        (["--out", "OUT", "--batch_size", "0"], "batch_size is 0; pass 1 or more"),
        (["--out", "OUT", "--data", "no-such-data"], "no-such-data"),
        (["--out", "OUT", "--teacher", "/no/such/teacher"], "cannot load a teacher from /no/such/teacher"),
        (["--out", "FULL"], "is not empty"),
        (["--out", "OUT", "--batchsize", "2"], "did you mean --batch_size"),
    ],
)
def test_mistakes_are_one_line(student, tmp_path, capsys, options, said):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file.txt").write_text("mine")
    places = {"OUT": str(tmp_path / "out"), "FULL": str(tmp_path / "full")}
    assert said in fails(capsys, student, *(places.get(option, option) for option in options))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]


@pytest.mark.parametrize(("alpha", "experts"), [(0.0, ("cls",)), (0.5, ("average", "cls", "distillation"))])
def test_a_student_without_a_teacher_has_the_experts_that_learned(student, tmp_path, alpha, experts):
    run = shutil.copytree(student, tmp_path / "run")  # that of the ViT recipes has alpha 0
    (run / "recipe.yaml").write_text(f"distillation_type: none\ndistillation_alpha: {alpha}\n")
    data = DataArguments("digits-lt", imbalance_factor=20, group_boundaries=[3, 7])
    assert analyze_saved_model(str(run), load_images(data), data).experts == experts


def test_a_model_that_is_not_there_is_one_line(tmp_path, capsys):
    assert "no such directory" in fails(capsys, "/no/such/model", "--out", str(tmp_path / "out"))


def _stand_in(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"")
