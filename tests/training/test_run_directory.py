"""Whose a directory is before a run writes into it, and what says so."""

from __future__ import annotations

import pytest
import torch
import yaml
from safetensors.torch import save_file

from deitlt_hf import DeiTLTError, DeiTLTTrainingArguments, TeacherTrainingArguments
from deitlt_hf.training.run_directory import check_output_directory, claim_output_directory


def arguments(directory, **settings):
    return DeiTLTTrainingArguments(output_dir=str(directory), use_cpu=True, **settings)


@pytest.mark.parametrize("occupied_by", ["a run", "other files"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_an_occupied_directory_is_replaced_only_if_it_is_a_run(tmp_path, occupied_by, overwrite):
    (tmp_path / "thesis.txt").write_text("years of work")
    if occupied_by == "a run":
        (tmp_path / "recipe.yaml").write_text("data: digits-lt\n")
    args = arguments(tmp_path, overwrite=overwrite)
    if overwrite and occupied_by == "a run":
        assert check_output_directory(args) is None
        assert (tmp_path / "thesis.txt").exists()  # until training begins
        claim_output_directory(args, [args], None)
        assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]
        return
    message = "no run of this package" if overwrite else "is not empty"
    with pytest.raises(DeiTLTError, match=message):
        check_output_directory(args)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("exists", [False, True])
def test_resuming_needs_a_checkpoint(tmp_path, exists):
    directory = tmp_path / "run"
    if exists:
        directory.mkdir()
        (directory / "recipe.yaml").write_text("{}")
    args = arguments(directory, resume=True)
    instead = "pass --overwrite to start anew" if exists else "leave resume out"
    with pytest.raises(DeiTLTError, match=f"holds no checkpoint to resume from; {instead}"):
        check_output_directory(args)


def test_resuming_takes_the_last_checkpoint_or_the_named_one(tmp_path):
    for step in (2, 10, 20):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(f'{{"global_step": {step}}}')
        save_file({"weight": torch.ones(1)}, tmp_path / f"checkpoint-{step}" / "model.safetensors")
    (tmp_path / "checkpoint-20" / "trainer_state.json").write_text("")  # of a process that was killed
    last = check_output_directory(arguments(tmp_path, resume=True))
    assert last == str(tmp_path / "checkpoint-10")
    named = str(tmp_path / "checkpoint-2")
    assert check_output_directory(arguments(tmp_path, resume_from_checkpoint=named)) == named


def test_a_recipe_keeps_a_zero_but_nothing_that_was_left_unset(tmp_path):
    args = TeacherTrainingArguments(output_dir=str(tmp_path), drw_start_epoch=0, loss="ldam", use_cpu=True)
    claim_output_directory(args, [args], None)
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text()) == {"drw_start_epoch": 0, "loss": "ldam"}
