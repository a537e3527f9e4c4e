"""What is known to be wrong only once the data are there, refused before the first step."""

from __future__ import annotations

import pytest
import torch

from deitlt_hf import CifarResNetConfig, CifarResNetForImageClassification, DeiTLTError, DeiTLTTrainer, TeacherTrainer


def test_drw_beyond_the_epochs_of_max_steps(tiny_student, images, arguments):
    settings = {"distillation_type": "none", "max_steps": 8, "num_train_epochs": 100}  # two epochs of four steps
    trainer = DeiTLTTrainer(tiny_student(), arguments(**settings, drw_start_epoch=2), train_dataset=images())
    with pytest.raises(DeiTLTError, match=r"^drw_start_epoch 2 is beyond the last epoch; pass one below 2, [^\n]*$"):
        trainer.train()
    trainer = DeiTLTTrainer(tiny_student(), arguments(**settings, drw_start_epoch=1), train_dataset=images())
    trainer.train()
    assert [entry["drw"] for entry in trainer.state.log_history if "drw" in entry] == [0] * 4 + [1] * 4


@pytest.mark.parametrize(("count", "refused"), [(9, True), (10, False)])
def test_a_last_batch_of_one_for_batch_normalisation(images, teacher_arguments, count, refused):
    torch.manual_seed(0)
    model = CifarResNetForImageClassification(CifarResNetConfig(depth=20, num_labels=10, image_size=8))
    args = teacher_arguments(dataloader_drop_last=False, num_train_epochs=1)
    trainer = TeacherTrainer(model, args, train_dataset=images(count))
    if not refused:
        trainer.train()
        assert trainer.state.global_step == 3
        return
    with pytest.raises(DeiTLTError, match=r"^9 training images in batches of 4 leave a last batch of one"):
        trainer.train()
