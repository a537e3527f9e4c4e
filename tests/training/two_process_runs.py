"""Trainings for test_two_processes.py, which runs them in one process itself and starts this file in two."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import patch_environment
from torch import nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import PreTrainedConfig, PreTrainedModel, set_seed
from transformers.modeling_outputs import ImageClassifierOutput

from deitlt_hf import (
    DeiTLTConfig,
    DeiTLTForImageClassification,
    DeiTLTTrainer,
    DeiTLTTrainingArguments,
    TeacherTrainer,
    TeacherTrainingArguments,
)
from deitlt_hf.data.dataset import collate
from deitlt_hf.evaluation.evaluate import predict_experts
from deitlt_hf.teachers.frozen import FrozenTeacher

COUNTS = [500, 299, 179, 107, 64, 38, 23, 13, 8, 5]
GROUPS = {"head": [0, 1, 2], "mid": [3, 4, 5, 6], "tail": [7, 8, 9]}
BATCH, STEPS, SAVED, TEST_IMAGES = 8, 20, 10, 37


class Images(Dataset):
    """Random images, the first value of which says which one it is."""

    def __init__(self, length: int):
        self.pixel_values = torch.randn(length, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        self.pixel_values[:, 0, 0, 0] = torch.arange(length) / 100

    def __len__(self) -> int:
        return len(self.pixel_values)

    def __getitem__(self, index: int) -> dict:
        return {"pixel_values": self.pixel_values[index], "labels": index % 10}


class LinearConfig(PreTrainedConfig):
    model_type = "linear_in_two_processes"


class Linear(PreTrainedModel):
    """A teacher without batch statistics, which processes do not share."""

    config_class = LinearConfig
    _no_split_modules = ["Linear"]

    def __init__(self, config: LinearConfig):
        super().__init__(config)
        self.hidden = nn.Linear(3 * 8 * 8, 12)
        self.classifier = nn.Linear(12, config.num_labels)
        self.post_init()

    def forward(self, pixel_values, labels=None, **kwargs):
        return ImageClassifierOutput(logits=self.classifier(self.hidden(pixel_values.flatten(1)).tanh()))


def make_teacher() -> Linear:
    set_seed(1)
    return Linear(LinearConfig(num_labels=10))


def make_student() -> DeiTLTForImageClassification:
    set_seed(0)
    shape = {"image_size": 8, "patch_size": 4, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = DeiTLTConfig(
        num_labels=10, intermediate_size=32, drop_path_rate=0.3, class_counts=COUNTS, class_groups=GROUPS, **shape
    )
    return DeiTLTForImageClassification(config)


class Dealt(Sampler):
    """The images of a sampler in the order in which one process meets the batches of two, one after the other."""

    def __init__(self, sampler: Sampler):
        self.sampler = sampler

    def __len__(self) -> int:
        return len(self.sampler)

    def set_epoch(self, epoch: int) -> None:
        self.sampler.set_epoch(epoch)

    def __iter__(self):
        order = list(self.sampler)
        for start in range(0, len(order), 2 * BATCH):
            of_both = order[start : start + 2 * BATCH]
            yield from of_both[::2]
            yield from of_both[1::2]


class OneOfTwo:
    """A trainer whose random numbers depend on the batch and its process, and that notes what it sees.

    One process plays both: it accumulates twice as many batches, of process 0 and 1 in turn.
    """

    def training_step(self, model, inputs, *args, **kwargs):
        self.initial_seed = getattr(self, "initial_seed", torch.initial_seed())
        self.seen = [*getattr(self, "seen", []), (inputs["pixel_values"][:, 0, 0, 0] * 100).round().int().tolist()]
        batch, processes = len(self.seen) - 1, 2
        process = self.args.process_index if self.args.world_size == processes else batch % processes
        set_seed(1000 * process + (batch if self.args.world_size == processes else batch // processes))
        return super().training_step(model, inputs, *args, **kwargs)

    def _get_train_sampler(self, *args):
        sampler = super()._get_train_sampler(*args)
        deals = self.args.world_size == 1 and getattr(self.args, "repeated_augmentation", 1) > 1
        return Dealt(sampler) if deals else sampler


class StudentTrainer(OneOfTwo, DeiTLTTrainer):
    pass


class SamTrainer(OneOfTwo, TeacherTrainer):
    pass


def common(processes: int) -> dict:
    return {
        "per_device_train_batch_size": BATCH,
        "gradient_accumulation_steps": 4 // processes,
        "max_steps": STEPS,
        "per_device_eval_batch_size": 4,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "save_total_limit": None,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }


def student_trainer(directory: str | Path, processes: int, **settings) -> StudentTrainer:
    """Eight steps of 32 images an epoch; 16 of mixing in two epochs, then four of DRW."""
    defaults = {"num_train_epochs": 3, "drw_start_epoch": 2, "ema_decay": 0.9, "evaluate_ema": True}
    defaults |= {"learning_rate": 1e-3, "scale_learning_rate": False, "warmup_epochs": 1}
    defaults |= {"save_strategy": "steps", "save_steps": SAVED}
    args = DeiTLTTrainingArguments(str(directory), **common(processes) | defaults | settings)
    return StudentTrainer(
        make_student(),
        args,
        teacher=make_teacher(),
        train_dataset=Images(300),
        eval_dataset=Images(TEST_IMAGES),
    )


def sam_trainer(directory: str | Path, processes: int, **settings) -> SamTrainer:
    args = TeacherTrainingArguments(
        str(directory),
        **common(processes) | {"save_strategy": "no"} | settings,
        num_train_epochs=4,
        drw_start_epoch=2,
        loss="ldam",
        sam_rho=0.5,
        learning_rate=1e-3,
        warmup_epochs=0,
    )
    return SamTrainer(
        make_teacher(),
        args,
        class_counts=COUNTS,
        class_groups=GROUPS,
        train_dataset=Images(256),
        eval_dataset=Images(TEST_IMAGES),
    )


def whole(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name: (weight.full_tensor() if isinstance(weight, DTensor) else weight).detach().clone()
        for name, weight in weights.items()
    }


def outcome(trainer) -> dict:
    """What a run ended with, to be compared."""
    ema = getattr(trainer, "ema", None)
    result = {
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "gradient norms": [float(entry["grad_norm"]) for entry in trainer.state.log_history if "loss" in entry],
        "metrics": {name: value for name, value in trainer.evaluate().items() if not name.endswith(TIMES)},
        "weights": whole(trainer.model.state_dict()),
        "average": None if ema is None else whole(ema.weights),
        "seen": trainer.seen,
        "initial seed": trainer.initial_seed,
    }
    if ema is not None:
        loader = DataLoader(trainer.eval_dataset, batch_size=4, collate_fn=collate)
        result["predictions"] = np.column_stack(
            predict_experts(trainer.model, loader, accelerator=trainer.accelerator)
        ).tolist()
    return result


TIMES = ("runtime", "per_second", "preparation_time")


def frozen_teacher_of(directory: Path) -> torch.Tensor:
    """What a teacher that is loaded says where accelerate lets the first process alone load a model."""
    with patch_environment(ACCELERATE_USE_FSDP="true", FSDP_CPU_RAM_EFFICIENT_LOADING="true"):
        return FrozenTeacher(str(directory), make_student(), "cpu")(Images(4).pixel_values)


def train_in_two(directory: Path) -> None:
    """DDP first: the first FSDP plugin stays in force for the rest of a process."""
    results = {}
    for name, settings in (("ddp", {}), ("fsdp", {"fsdp": True})):
        trainer = student_trainer(directory / name, processes=2, **settings)
        process = trainer.args.process_index
        trainer.train()
        results[name] = outcome(trainer)
        trainer.save_model(str(directory / name / "final"))
        half = {"bf16": True, "max_steps": 3, "drw_start_epoch": 0, "save_strategy": "no"}
        half_trainer = student_trainer(directory / f"{name}-bf16", processes=2, **settings | half)
        half_trainer.train()
        results[f"{name}-bf16"] = outcome(half_trainer)
        sam = sam_trainer(directory / f"{name}-sam", processes=2, **settings)
        sam.train()
        results[f"{name}-sam"] = outcome(sam)
    results["teacher"] = frozen_teacher_of(directory / "teacher")
    resumed = student_trainer(directory / "fsdp", processes=2, fsdp=True)
    resumed.seen = results["fsdp"]["seen"][: 2 * SAVED]
    resumed.train(resume_from_checkpoint=str(directory / "fsdp" / f"checkpoint-{SAVED}"))
    results["resumed"] = outcome(resumed)
    torch.save(results, directory / f"process-{process}.pt")


if __name__ == "__main__":
    train_in_two(Path(sys.argv[1]))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
