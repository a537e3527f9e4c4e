"""The file of wrong images, against rows written by hand."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, Value

from deitlt_hf.evaluation.errors_file import write_errors
from deitlt_hf.evaluation.evaluate import Predictions

NAMES = ["cat", "dog, small", "lynx"]


def logits(*probabilities: list[float]) -> torch.Tensor:
    return torch.tensor(probabilities).log()


def rows_of(file: Path) -> list[list[str]]:
    with file.open(encoding="utf-8", newline="") as text:
        return list(csv.reader(text))


def made_up_images(paths: list[str | None]) -> Dataset:
    features = Features({"image": Image(decode=False), "label": Value("int64")})
    images = [{"path": path, "bytes": b"pixels"} for path in paths]
    return Dataset.from_dict({"image": images, "label": [0] * len(paths)}, features=features)


def test_wrong_images_of_a_student_the_most_confident_first(tmp_path):
    found = Predictions()
    average = logits([0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6], [0.05, 0.05, 0.9])
    cls = logits([0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.6, 0.2, 0.2], [0.05, 0.05, 0.9])
    dist = logits([0.1, 0.3, 0.6], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6], [0.05, 0.05, 0.9])
    teacher = logits([0.1, 0.8, 0.1], [0.8, 0.1, 0.1], [0.8, 0.1, 0.1], [0.8, 0.1, 0.1])
    found.add({"average": average, "cls": cls, "distillation": dist}, torch.tensor([1, 0, 1, 2]), teacher)
    images = made_up_images(["owls/0.png", None, "owls/2.png", "owls/3.png"])
    assert write_errors(tmp_path / "errors.csv", images, NAMES, found) == 3
    assert rows_of(tmp_path / "errors.csv") == [
        ["file", "row", "true_class", "predicted_class", "probability", "cls", "distillation", "teacher"],
        ["test image 1", "1", "cat", "dog, small", "0.800000", "dog, small", "dog, small", "cat"],
        ["owls/0.png", "0", "dog, small", "cat", "0.600000", "cat", "lynx", "dog, small"],
        ["owls/2.png", "2", "dog, small", "lynx", "0.600000", "cat", "lynx", "cat"],
    ]
    assert write_errors(tmp_path / "of_dist.csv", images, NAMES, found, own="distillation") == 3
    assert [row[3] for row in rows_of(tmp_path / "of_dist.csv")[1:]] == ["dog, small", "lynx", "lynx"]


@pytest.mark.parametrize(("label", "wrong"), [(2, 0), (1, 1)])
def test_a_model_with_one_head_has_no_columns_of_experts(tmp_path, label, wrong):
    found = Predictions()
    found.add({"model": logits([0.1, 0.1, 0.8])}, torch.tensor([label]))
    assert write_errors(tmp_path / "errors.csv", made_up_images(["a.png"]), NAMES, found, "model") == wrong
    heading, *rows = rows_of(tmp_path / "errors.csv")
    assert heading == ["file", "row", "true_class", "predicted_class", "probability"]
    assert rows == [["a.png", "0", "dog, small", "lynx", "0.800000"]] * wrong


def test_names_that_are_not_utf8_keep_their_bytes_and_rows_follow_a_selection(tmp_path):
    found = Predictions()
    found.add({"model": logits([0.9, 0.05, 0.05])}, torch.tensor([2]))
    images = made_up_images(["a.png", "b.png"]).select(np.array([1]))
    write_errors(tmp_path / "errors.csv", images, ["caf\udce9", "dog", "lynx"], found, "model")
    written = (tmp_path / "errors.csv").read_bytes().splitlines()
    assert written[1] == b"b.png,0,lynx,caf\xe9,0.900000"


def test_of_images_that_are_left_out_the_others_keep_their_rows(tmp_path):
    found = Predictions()
    found.add({"model": logits([0.9, 0.05, 0.05], [0.8, 0.1, 0.1])}, torch.tensor([2, 2]))
    write_errors(tmp_path / "errors.csv", made_up_images([None, "b.png"]), NAMES, found, "model", np.array([3, 7]))
    assert [row[:2] for row in rows_of(tmp_path / "errors.csv")[1:]] == [["test image 3", "3"], ["b.png", "7"]]
