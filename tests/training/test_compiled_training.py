"""transformers' torch_compile: the same training, in one graph for the student and one for the teacher."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.utils import counters

from deitlt_hf import (
    CifarResNetConfig,
    CifarResNetForImageClassification,
    DeiTLTForImageClassification,
    DeiTLTTrainer,
    TeacherTrainer,
)


def cifar_resnet() -> CifarResNetForImageClassification:
    torch.manual_seed(1)
    return CifarResNetForImageClassification(CifarResNetConfig(depth=20, num_labels=10, image_size=8))


@pytest.fixture(autouse=True)
def _fresh_graphs():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


# The backend that runs the traced graph as it is: tracing is what can fail, and compiling takes a minute.
COMPILED = {"torch_compile": True, "torch_compile_backend": "eager"}


def test_a_compiled_student_and_teacher_train_as_they_do_otherwise(tiny_student, arguments, images) -> None:
    def train(**settings) -> DeiTLTTrainer:
        args = arguments(
            num_train_epochs=3,
            drw_start_epoch=1,
            mixup=0.8,
            cutmix=1.0,
            ema_decay=0.9,
            evaluate_ema=True,
            eval_strategy="epoch",
            save_strategy="epoch",
            **settings,
        )
        trainer = DeiTLTTrainer(
            tiny_student(drop_path_rate=0.3, num_hidden_layers=2),
            args,
            teacher=cifar_resnet(),
            train_dataset=images(8),
            eval_dataset=images(7),
            class_groups={"head": [0], "mid": [1], "tail": list(range(2, 10))},
        )
        trainer.train()
        return trainer

    plain, compiled = train(), train(**COMPILED)
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == 2
    for key in ("loss", "eval_loss", "eval_average_overall", "eval_ema_loss"):
        logged = [[entry[key] for entry in trainer.state.log_history if key in entry] for trainer in (plain, compiled)]
        assert logged[0] == pytest.approx(logged[1], rel=1e-5)
    expected = plain.model.state_dict()
    torch.testing.assert_close(compiled.model.state_dict(), expected)  # under the same names
    torch.testing.assert_close(compiled.ema.weights, plain.ema.weights)
    saved = DeiTLTForImageClassification.from_pretrained(f"{compiled.args.output_dir}/checkpoint-6")
    torch.testing.assert_close(saved.state_dict(), expected)


@pytest.mark.parametrize("loss", ["ldam", "paco"])
def test_a_compiled_teacher_trains_as_it_does_otherwise(teacher_arguments, images, loss: str) -> None:
    class TwoViews(images):
        def __getitem__(self, index: int) -> dict:
            example = super().__getitem__(index)
            return example | {"key_pixel_values": -example["pixel_values"]}

    def train(**settings) -> TeacherTrainer:
        args = teacher_arguments(num_train_epochs=2, loss=loss, sam_rho=0.1, paco_queue=8, paco_dim=4, **settings)
        model = cifar_resnet()
        trainer = TeacherTrainer(model, args, class_counts=[1] * 10, train_dataset=TwoViews(8))
        trainer.train()
        return trainer

    expected = train().model.state_dict()
    torch.testing.assert_close(train(**COMPILED).model.state_dict(), expected)
    assert not counters["graph_break"]
