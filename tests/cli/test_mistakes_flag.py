"""`deitlt evaluate --mistakes`: its line, its page, and a directory that is in use."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
import torch

from deitlt_hf import DeiTLTConfig, DeiTLTForImageClassification
from deitlt_hf.cli.main import main

DATA = ["--data", "digits-lt", "--imbalance_factor", "20", "--group_boundaries", "3", "7"]


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    config = DeiTLTConfig(
        image_size=16, patch_size=8, hidden_size=12, num_hidden_layers=1, num_attention_heads=2, initializer_range=0.3,
        id2label={index: str(index) for index in range(10)}, label2id={str(index): index for index in range(10)},
    )  # fmt: skip
    directory = tmp_path_factory.mktemp("student") / "owls"
    DeiTLTForImageClassification(config).save_pretrained(directory)
    return directory


def test_the_page_shows_the_images_that_the_list_of_errors_has(student, tmp_path, capsys):
    (tmp_path / "list.txt").write_text("0\n9\n3\n")
    out, errors = tmp_path / "page", tmp_path / "errors.csv"
    flags = ["--only", str(tmp_path / "list.txt"), "--errors", str(errors), "--mistakes", str(out)]
    assert main(["evaluate", str(student), *DATA, *flags]) == 0
    printed = capsys.readouterr().out
    with errors.open(newline="") as text:
        wrong = {row["file"]: row for row in csv.DictReader(text)}
    (line,) = re.findall(r"^mistakes: (.*)$", printed, flags=re.MULTILINE)
    number = int(
        re.fullmatch(rf"{out}/index\.html has {len(wrong)} wrong images, (\d+) of them with a suspected label", line)[1]
    )
    page = (out / "index.html").read_text()
    assert "<title>Mistakes of owls</title>" in page
    assert "only 3 of 10 classes can occur (list.txt)" in page
    shown = re.findall(r"label: <b>(\d)</b>.*?predicted: <b>(\d)</b>.*?<span class=\"file\">(.*?)</span>", page)
    assert len({name for *_, name in shown}) == len(shown) >= 24
    for label, predicted, name in shown:
        assert (wrong[name]["true_class"], wrong[name]["predicted_class"]) == (label, predicted)
    suspected = page.split('id="classes"')[0].count("<figure>")
    assert suspected == min(number, 24)


def test_a_directory_in_use_is_refused_before_anything_is_measured(student, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["evaluate", str(student), *DATA, "--mistakes", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert printed.err == f"deitlt evaluate: {tmp_path} is not empty; pass a directory that does not exist yet\n"
    assert printed.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
