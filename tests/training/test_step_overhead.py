"""What a training step leaves out: waiting for the device, and work that is the same in every step."""

from __future__ import annotations

import traceback

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Trainer, TrainerCallback

from deitlt_hf import CifarResNetConfig, CifarResNetForImageClassification, DeiTLTTrainer, TeacherTrainer
from deitlt_hf.data.device_augmentation.device_views import BatchView

aten = torch.ops.aten
# What hands a tensor's values, or a shape that depends on them, to the host: a GPU would be waited for.
WAITING = {
    aten._local_scalar_dense,
    aten.nonzero,
    aten.equal,
    aten._unique2,
    aten.masked_select,
    aten.repeat_interleave,
    aten.lift_fresh,  # numbers of Python that become a tensor, also where they are indices
}

NO_WAITING = (
    "F.one_hot(",  # it looks at its labels on a CPU alone
    "in send\n",  # of `Draws`, from pinned memory
    "in _scale_and_shift\n",  # once for a device
)


class Waits(TorchDispatchMode):
    """Records where the host asks for values."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        indices = args[1] if function.overloadpacket in (aten.index, aten.index_put_) else ()
        by_mask = any(index is not None and index.dtype == torch.bool for index in indices)
        if by_mask or function.overloadpacket in WAITING:
            stack = "".join(traceback.format_stack())
            if not any(call in stack for call in NO_WAITING):
                self.found.append(stack)
        return function(*args, **kwargs or {})


class WatchSteps(TrainerCallback):
    """Watches from the first step's begin to the last one's end."""

    def __init__(self):
        self.waits = Waits()

    def on_step_begin(self, args, state, control, **kwargs):
        self.waits.__enter__()

    def on_step_end(self, args, state, control, **kwargs):
        self.waits.__exit__(None, None, None)


class Levels(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict:
        levels = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)
        return {"pixel_values": levels, "key_pixel_values": levels.float(), "labels": index % 10}


QUIET = {"logging_strategy": "no", "num_train_epochs": 2, "drw_start_epoch": 1}


def watch(trainer, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    # On a CPU the loss is looked at in every step, where that costs nothing; on a GPU when it is logged.
    monkeypatch.setattr(trainer, "_stop_if_not_finite", lambda: None)
    watcher = WatchSteps()
    trainer.add_callback(watcher)
    trainer.train()
    assert trainer.state.global_step == 8
    return watcher.waits.found


@pytest.mark.parametrize("distillation_type", ["hard", "ltkd"])
def test_a_students_step_never_waits_for_the_device(
    tiny_student, tiny_teacher, arguments, monkeypatch, distillation_type: str
) -> None:
    args = arguments(mixup=0.8, cutmix=1.0, ema_decay=0.9, distillation_type=distillation_type, **QUIET)
    trainer = DeiTLTTrainer(
        tiny_student(drop_path_rate=0.3, num_hidden_layers=2),
        args,
        teacher=tiny_teacher(),
        class_groups={"head": [0, 1, 2], "mid": [3, 4, 5, 6], "tail": [7, 8, 9]},
        train_dataset=Levels(),
        batch_views={"pixel_values": BatchView(8, strong=True)},
    )
    assert watch(trainer, monkeypatch) == []


@pytest.mark.parametrize("loss", ["ldam", "paco"])
def test_a_teachers_step_never_waits_for_the_device(teacher_arguments, monkeypatch, loss: str) -> None:
    settings = QUIET | ({"drw_start_epoch": None} if loss == "paco" else {})
    args = teacher_arguments(loss=loss, sam_rho=0.1, paco_queue=8, paco_dim=4, **settings)
    model = CifarResNetForImageClassification(CifarResNetConfig(depth=20, num_labels=10, image_size=8))
    views = {"pixel_values": BatchView(8)}
    trainer = TeacherTrainer(model, args, class_counts=[1] * 10, train_dataset=Levels(), batch_views=views)
    assert watch(trainer, monkeypatch) == []


def test_the_watch_sees_waiting() -> None:
    mask, sent = torch.tensor([True, False, True]), torch.tensor([0, 1])
    with Waits() as waits:
        float(torch.ones(()).sum())
        torch.ones(3)[mask]
        torch.ones(3)[[0, 1]]
        torch.ones(3)[sent]
    assert len(waits.found) == 3


def test_weights_are_counted_once(tiny_student, arguments, images, monkeypatch) -> None:
    trainer = DeiTLTTrainer(tiny_student(), arguments(distillation_type="none"), train_dataset=images(8))
    batches = [{"pixel_values": torch.zeros(count, 3, 8, 8)} for count in (4, 2, 4, 4)]
    expected = [Trainer.floating_point_ops(trainer, batch) for batch in batches]
    assert expected[0] == 2 * expected[1] > 0
    counted, count = [], trainer.model.num_parameters
    monkeypatch.setattr(trainer.model, "num_parameters", lambda **options: counted.append(1) or count(**options))
    assert [trainer.floating_point_ops(batch) for batch in batches] == expected
    assert len(counted) == 2


def test_batches_are_sent_without_waiting_where_they_lie_in_pinned_memory(arguments, monkeypatch) -> None:
    assert not arguments().accelerator_config.non_blocking  # without a GPU nothing is pinned
    args = arguments()
    args.accelerator_config, args.dataloader_pin_memory, args.use_cpu = None, True, False
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    args.__post_init__()
    assert args.accelerator_config.non_blocking
