from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from deitlt_hf import CifarResNetForImageClassification, DeiTLTForImageClassification

EXAMPLES = Path(__file__).parents[2] / "examples"
EXPERTS = ("average", "CLS expert", "DIST expert")


def run_example(name: str, *arguments: object) -> str:
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def table_rows(output: str) -> dict[str, list[float]]:
    """The first table's accuracies in percent of each expert and the teacher: overall, head, mid, tail, balanced."""
    found = re.findall(rf"^({'|'.join([*EXPERTS, 'teacher'])}) +([\d. ]+)$", output, re.MULTILINE)
    return {row: [float(value) for value in values.split()] for row, values in reversed(found)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, str]:
    directory = tmp_path_factory.mktemp("digits")
    output = run_example("train_with_python.py", "--teacher-epochs", 1, "--epochs", 1, "--output-dir", directory)
    return directory, output


def test_train_with_python_leaves_a_teacher_and_an_evaluated_student(trained):
    directory, output = trained
    teacher = CifarResNetForImageClassification.from_pretrained(directory / "teacher")
    student = DeiTLTForImageClassification.from_pretrained(directory / "student")
    assert teacher.config.id2label == student.config.id2label
    metrics = json.loads((directory / "student" / "metrics.json").read_text())
    rows = metrics["experts"] | {"teacher": metrics["teacher"]}
    printed = table_rows(output)
    assert printed.keys() == {*EXPERTS, "teacher"}
    for expert, name in zip([*EXPERTS, "teacher"], ("average", "cls", "distillation", "teacher"), strict=True):
        measured = [rows[name][group] for group in ("overall", "head", "mid", "tail", "balanced_accuracy")]
        assert printed[expert] == pytest.approx(measured, abs=0.06)


def test_a_plain_trainer_fine_tunes_the_student(trained, tmp_path):
    student = trained[0] / "student"
    output = run_example(
        "finetune_with_plain_trainer.py", "--student", student, "--epochs", 1, "--output-dir", tmp_path
    )
    assert table_rows(output).keys() == set(EXPERTS)
    before = DeiTLTForImageClassification.from_pretrained(student)
    after = DeiTLTForImageClassification.from_pretrained(tmp_path)
    # Both heads learn from the labels.
    assert not torch.equal(before.cls_classifier.weight, after.cls_classifier.weight)
    assert not torch.equal(before.distillation_classifier.weight, after.distillation_classifier.weight)
    assert after.config.id2label == before.config.id2label


def test_lora_finetuning_saves_small_adapters_and_a_merged_student(trained, tmp_path):
    student, adapters, merged = trained[0] / "student", tmp_path / "adapters", tmp_path / "merged"
    output = run_example(
        "lora_finetune.py", "--student", student, "--epochs", 1, "--output-dir", adapters, "--merged", merged
    )
    before, after = output.split("after:")
    assert table_rows(before).keys() == table_rows(after).keys() == set(EXPERTS)
    assert (adapters / "adapter_model.safetensors").stat().st_size < (student / "model.safetensors").stat().st_size / 10
    base = DeiTLTForImageClassification.from_pretrained(student)
    alone = DeiTLTForImageClassification.from_pretrained(merged)
    assert not torch.equal(base.deit.layers[0].attention.q_proj.weight, alone.deit.layers[0].attention.q_proj.weight)
    assert torch.equal(base.deit.layers[0].mlp.fc1.weight, alone.deit.layers[0].mlp.fc1.weight)
    assert alone.config.class_counts[-1] < base.config.class_counts[-1]


def test_drawn_pictures_are_a_folder_of_classes_with_the_sites_as_groups(tmp_path, monkeypatch):
    drawing = runpy.run_path(str(EXAMPLES / "draw_pictures.py"))
    monkeypatch.setitem(drawing["main"].__globals__, "class_counts_for_imbalance", lambda classes, *_: [1] * classes)
    drawing["main"](tmp_path)
    files = sorted(tmp_path.rglob("*.JPG"))
    assert [file.parts[-3] for file in files] == sorted(drawing["ANIMALS"])
    assert all(file.parent.name.startswith("site ") for file in files)
    assert {Image.open(file).size for file in files} == {(1280, 960)}
    assert len({file.read_bytes() for file in files}) == len(drawing["ANIMALS"])
