"""`deitlt set-expert`, and the words that mean an expert everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from deitlt_hf import (
    CifarResNetConfig,
    CifarResNetForImageClassification,
    DeiTLTConfig,
    DeiTLTForImageClassification,
    write_model_card,
)
from deitlt_hf.cli.main import main
from deitlt_hf.evaluation.measures import EXPERT_SYNONYMS, EXPERTS, expert_named
from deitlt_hf.models.deit_lt import configuration_deit_lt

ACCURACIES = {expert: {"overall": 50.0 + place, "head": 60.0} for place, expert in enumerate(EXPERTS)}


@pytest.fixture
def student(tmp_path) -> Path:
    """A saved student with the files of its run that a card is made from, and the card."""
    config = DeiTLTConfig(
        image_size=16, patch_size=8, hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48
    )
    directory = tmp_path / "student"
    DeiTLTForImageClassification(config).save_pretrained(directory)
    (directory / "metrics.json").write_text(json.dumps({"experts": ACCURACIES}))
    write_model_card(directory)
    return directory


def set_expert(*argv: str | Path) -> int:
    return main(["set-expert", *map(str, argv)])


def test_the_model_and_its_card_say_the_same(student, capsys):
    pixels = torch.rand(2, 3, 16, 16)
    before = {path.name: path.read_bytes() for path in student.iterdir()}
    assert set_expert(student, "tail") == 0
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first == f"{student} now answers with the DIST expert; changed: config.json and README.md"
    assert last.split() == ["deitlt", "app", str(student)]

    after = {path.name: path.read_bytes() for path in student.iterdir()}
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == {"config.json", "README.md"}
    assert json.loads(after["config.json"]) == {**json.loads(before["config.json"]), "expert": "distillation"}
    outputs = DeiTLTForImageClassification.from_pretrained(student)(pixels)
    assert torch.equal(outputs.logits, outputs.distillation_logits)
    card = ModelCard.load(student / "README.md")
    assert "Its `logits` are those of DIST." in card.text
    assert card.data.eval_results[0].metric_value == ACCURACIES["distillation"]["overall"]

    assert set_expert(student, "average") == 0
    assert {path.name: path.read_bytes() for path in student.iterdir() if path.name != "config.json"} == {
        name: content for name, content in before.items() if name != "config.json"
    }


def test_nothing_is_changed_where_nothing_is_new(student, capsys):
    assert set_expert(student, "average") == 0
    assert capsys.readouterr().out == f"{student} answers with the average already; nothing is changed\n"


def test_an_edited_card_stays_and_none_is_made(student, capsys):
    (student / "README.md").write_text("# Mine\n")
    assert set_expert(student, "head") == 0
    assert "changed: config.json; README.md was edited by hand" in capsys.readouterr().out
    assert (student / "README.md").read_text() == "# Mine\n"
    (student / "README.md").unlink()
    assert set_expert(student, "tail") == 0
    assert not (student / "README.md").exists()


@pytest.mark.parametrize(
    ("alpha", "expert", "said"),
    [
        (0.0, "distillation", "the DIST expert of"),
        (0.0, "average", "which is part of the average prediction, was not trained (distillation_alpha 0); pass cls"),
        (1.0, "cls", "was not trained (distillation_alpha 1); pass distillation"),
    ],
)
def test_an_untrained_head_is_refused(student, capsys, alpha, expert, said):
    (student / "recipe.yaml").write_text(yaml.safe_dump({"distillation_type": "none", "distillation_alpha": alpha}))
    before = (student / "config.json").read_bytes()
    assert set_expert(student, expert) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert (student / "config.json").read_bytes() == before


def test_what_is_no_student_of_this_machine_is_refused(student, tmp_path, capsys):
    CifarResNetForImageClassification(CifarResNetConfig()).save_pretrained(tmp_path / "teacher")
    (student / "model.safetensors").rename(student / "model.onnx")
    for directory, expert, words in (
        (tmp_path / "teacher", "cls", "not a DeiT-LT student"),
        ("owner/name", "cls", "hf download owner/name --local-dir name"),
        (student, "cls", "export that anew"),
        (tmp_path / "nothing", "cls", "there is no such directory"),
        (student, "middle", "unknown expert 'middle'; pass one of average, cls, distillation, fused"),
    ):
        assert set_expert(directory, expert) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line


def test_the_configuration_keeps_the_expert_s_own_name():
    assert configuration_deit_lt.EXPERT_SYNONYMS == EXPERT_SYNONYMS
    for word in ("head", "tail", "dist", *EXPERTS):
        assert DeiTLTConfig(expert=word).to_dict()["expert"] == expert_named(word)
    assert [expert_named(word) for word in ("head", "tail", "dist")] == ["cls", "distillation", "distillation"]
