"""The private methods of transformers' Trainer that this package overrides or calls are still what it was written for.

transformers may change them in any release. A red line here names the method to read again, in place of a run that
silently saves, resumes or logs something else.
"""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest
from transformers import Trainer

import deitlt_hf

# Parameters that the overrides and calls in `durable/` and `training/` rely on.
PARAMETERS = {
    "_finish_current_push": ["self"],
    "_get_dataloader": ["self", "dataset", "description", "batch_size", "sampler_fn", "is_training", "dataloader_key"],
    "_get_grad_norm": ["self", "model", "grad_norm"],
    "_get_output_dir": ["self", "trial"],
    "_get_train_sampler": ["self", "train_dataset"],
    "_init_training_state": [
        "self",
        "max_steps",
        "num_update_steps_per_epoch",
        "num_train_epochs",
        "resume_from_checkpoint",
        "trial",
    ],
    "_load_best_model": ["self"],
    "_load_from_checkpoint": ["self", "resume_from_checkpoint", "model"],
    "_load_optimizer_and_scheduler": ["self", "checkpoint"],
    "_maybe_log_save_evaluate": [
        "self",
        "tr_loss",
        "grad_norm",
        "model",
        "trial",
        "epoch",
        "ignore_keys_for_eval",
        "start_time",
        "learning_rate",
    ],
    "_prepare_for_training": ["self", "max_steps", "train_dataloader", "resume_from_checkpoint"],
    "_prepare_inputs": ["self", "inputs"],
    "_push_from_checkpoint": ["self", "checkpoint_folder"],
    "_run_epoch": [
        "self",
        "model",
        "epoch",
        "train_dataloader",
        "steps_in_epoch",
        "num_update_steps_per_epoch",
        "trial",
        "ignore_keys_for_eval",
        "start_time",
        "resume_from_checkpoint",
        "epochs_trained",
        "steps_trained_in_current_epoch",
    ],
    "_save": ["self", "output_dir", "state_dict"],
    "_save_checkpoint": ["self", "model", "trial"],
    "_save_optimizer_and_scheduler": ["self", "output_dir"],
    "_save_rng_state": ["self", "output_dir"],
    "_save_scaler": ["self", "output_dir"],
}


@pytest.mark.parametrize("method", PARAMETERS)
def test_parameters_of_a_private_method_are_as_before(method):
    found = getattr(Trainer, method, None)
    assert found is not None, f"Trainer.{method} is gone"
    assert list(inspect.signature(found).parameters) == PARAMETERS[method], f"Trainer.{method} has changed"


def test_every_private_method_in_use_is_recorded():
    theirs = {name for name in vars(Trainer) if name.startswith("_") and not name.startswith("__")}
    used = set()
    package = Path(deitlt_hf.__file__).parent
    for file in [*package.joinpath("training").glob("*.py"), *package.joinpath("durable").glob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef):
                used.add(node.name)
            elif isinstance(node, ast.Attribute):
                used.add(node.attr)
    assert used & theirs == set(PARAMETERS)


def test_private_methods_are_overridden_in_durable_alone():
    theirs = {name for name in vars(Trainer) if name.startswith("_") and not name.startswith("__")}
    overridden = {
        f"{file.name}: {node.name}"
        for file in Path(deitlt_hf.__file__).parent.joinpath("training").glob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name in theirs
    }
    # Whose name begins with an underscore, and that transformers documents for overriding.
    assert overridden == {"long_tail.py: _get_train_sampler", "student.py: _get_train_sampler"}
