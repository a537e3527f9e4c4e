"""Ways to adapt a pretrained student: all weights, low-rank adapters, or the heads alone, on features computed once."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from deitlt_hf.data.dataset import ViewedDataset
from deitlt_hf.durable.weights import wraps_adapters
from deitlt_hf.errors import DeiTLTError, check_is_there
from deitlt_hf.files import read_json
from deitlt_hf.foreign.adapters import ADAPTER_FILE, CLASSES_FILE, WEIGHTS_FILE
from deitlt_hf.foreign.configurations import find_file
from deitlt_hf.inference.loading import load_any_config, loading
from deitlt_hf.models.deit_lt.modeling_deit_lt import DeiTLTForImageClassification, DeiTLTModel
from deitlt_hf.runs.features import Features, features_of
from deitlt_hf.runs.student_models import StudentArguments, image_size_of, load_start
from deitlt_hf.teachers.class_means import CLASS_MEANS, class_mean_classifier
from deitlt_hf.teachers.frozen import FrozenTeacher
from deitlt_hf.training.arguments import DeiTLTTrainingArguments
from deitlt_hf.training.kept_pixels import read_pixels
from deitlt_hf.training.student import DeiTLTTrainer

ADAPTER_DIRECTORY = "adapter"
HEADS = ("cls_classifier", "distillation_classifier")
_ATTENTION = ("attention", "attn", "self_attn")  # what the families call it


def check_adapting(student: StudentArguments, args: DeiTLTTrainingArguments) -> None:
    """Refuse settings that do not go with the way to adapt, before anything is loaded."""
    if student.init_from is None:
        for name, default in (("adapt", "full"), ("head_start", None), ("token_start", "class_token")):
            if getattr(student, name) != default:
                value = getattr(student, name)
                raise DeiTLTError(f"{name} {value} needs a pretrained model; pass init_from, or leave {name} out")
        if student.teacher == CLASS_MEANS:
            raise DeiTLTError(f"teacher {CLASS_MEANS} is made of a pretrained model's features; pass init_from too")
    if class_means_teach(student, args) and args.teacher_pixels == "own":
        raise DeiTLTError(
            f"teacher_pixels is own, but teacher {CLASS_MEANS} is made of init_from and takes the student's pixels; "
            "leave teacher_pixels out"
        )
    if student.adapt == "full":
        return
    name = f"adapt {student.adapt}"
    if args.ema_decay is not None:
        raise DeiTLTError(f"ema_decay averages whole models; leave it out with {name}")
    if args.retrain_classifier:
        raise DeiTLTError(f"retrain_classifier freezes the features itself; leave it out with {name}")
    if args.fsdp or args.deepspeed:
        raise DeiTLTError(f"{name} needs whole weights in each process; train without FSDP and DeepSpeed")
    if student.adapt == "lora":
        _peft()
        return
    if args.rewind_at_non_finite:
        raise DeiTLTError("rewind_at_non_finite goes back to a checkpoint, and adapt head writes none; leave it out")
    needed = {"mixup": 0, "cutmix": 0, "repeated_augmentation": 1, "distillation_view": "strong"}
    for setting, value in (needed | {"load_best_model_at_end": False}).items():
        if getattr(args, setting) != value:
            raise DeiTLTError(
                f"{setting} is {getattr(args, setting)}, but adapt head learns from features that are computed once, "
                f"without augmentation; pass {setting} {str(value).lower()}"
            )


@dataclass
class Adapted:
    """What a trainer needs to adapt a student."""

    model: nn.Module  # that learns
    teacher: PreTrainedModel | str | None
    features: Features | None = None  # to train on, in place of images
    body: DeiTLTModel | None = None  # that makes features


def adapt_student(
    model: DeiTLTForImageClassification, student: StudentArguments, args: DeiTLTTrainingArguments, train: ViewedDataset
) -> Adapted:
    """Prepare a pretrained student for the way in which it is adapted.

    Args:
        model: with new heads, or those of `init_from`.
        student: how it is adapted.
        args: of the run.
        train: the training images without augmentation.
    """
    start = start_of_heads(student, model.config.id2label)
    features = None
    if computes_features(student, args, start):
        features = features_of(model.deit, train, args)
    teacher: PreTrainedModel | str | None = student.teacher
    if class_means_teach(student, args):
        teacher = class_mean_teacher(model, features, CLASS_MEANS if start == "random" else start)
    if start != "random" and not args.retrain_classifier:
        start_heads(model, features, start)
    elif student.head_start == "random":
        _draw_heads(model)
    if student.adapt == "lora":
        return Adapted(with_adapters(model, student.lora_rank, student.init_from), teacher)
    if student.adapt == "full":
        return Adapted(model, teacher)
    return heads_alone(model, teacher, features)


def heads_alone(
    model: DeiTLTForImageClassification, teacher: PreTrainedModel | str | None, features: Features
) -> Adapted:
    """The student with features as its input, so that the heads alone learn."""
    body, model.deit = model.deit, _TakesFeatures(model.deit)
    return Adapted(model, teacher, features, body)


def computes_features(student: StudentArguments, args: DeiTLTTrainingArguments, start: str) -> bool:
    """Whether features of all training images are computed before a pretrained student is trained.

    `start` is what `start_of_heads` says.
    """
    return student.adapt == "head" or class_means_teach(student, args) or start != "random"


def class_means_teach(student: StudentArguments, args: DeiTLTTrainingArguments) -> bool:
    """Whether the class means of the pretrained model's features are the teacher."""
    return student.teacher == CLASS_MEANS and args.distillation_type != "none"


def start_of_heads(student: StudentArguments, names: Mapping[int, str]) -> str:
    """What the heads begin with, for classes of these names; `random` where those of `init_from` stay, too."""
    return student.head_start or (CLASS_MEANS if new_heads(student, names) else "random")


def start_heads(model: DeiTLTForImageClassification, features: Features, kind: str) -> None:
    """Make both heads nearest-class-mean classifiers of their token's features.

    Args:
        model: a student.
        features: of the training images, by this student.
        kind: see `class_mean_classifier`.
    """
    for token, head in enumerate(HEADS):
        found = class_mean_classifier(features.tokens[:, token], features.labels, model.config.num_labels, kind)
        with torch.no_grad():
            for weight, value in zip((getattr(model, head).weight, getattr(model, head).bias), found, strict=True):
                weight.copy_(value)


@torch.no_grad()
def _draw_heads(model: DeiTLTForImageClassification) -> None:
    """New heads as those of a student from scratch, also where `init_from` has some for the same classes."""
    for head in HEADS:
        nn.init.trunc_normal_(getattr(model, head).weight, std=model.config.initializer_range)
        nn.init.zeros_(getattr(model, head).bias)


def class_mean_teacher(
    model: DeiTLTForImageClassification, features: Features, kind: str
) -> DeiTLTForImageClassification:
    """A copy of the pretrained student that classifies by the class means of its class token's features."""
    teacher = copy.deepcopy(model)
    start_heads(teacher, features, kind)
    teacher.config.expert = "cls"
    return teacher


def new_heads(student: StudentArguments, names: Mapping[int, str]) -> bool:
    """Whether the heads of `init_from` are for other classes, or there are none."""
    found = load_any_config(student.init_from)
    return found.model_type not in ("deit", "deit_lt") or [*found.id2label.values()] != [*names.values()]


def with_adapters(model: DeiTLTForImageClassification, rank: int, source: str) -> nn.Module:
    """The student in peft's wrapper: adapters at the projections of its attention, its heads and its new token learn.

    Args:
        model: a student.
        rank: of the adapters, whose factor `lora_alpha` is twice it.
        source: directory or hub id of what the student was made of, which the adapter's files name.
    """
    peft = _peft()
    lora = peft.LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=attention_projections(model),
        modules_to_save=[*HEADS, *(["distillation_token"] if model.config.backbone_config else [])],
    )
    model.name_or_path = source
    return peft.get_peft_model(model, lora)


def attention_projections(model: nn.Module) -> list[str]:
    """The names of the linear layers in a Vision Transformer's attention, as its architecture calls them."""
    names = (name for name, module in model.named_modules() if isinstance(module, nn.Linear))
    return [name for name in names if any(part in _ATTENTION for part in name.split("."))]


class _TakesFeatures(nn.Module):
    """Stands in a student where the body was, while the heads alone learn: its input are features."""

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = [body]  # in a list, so that it is no part of the model

    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        return BaseModelOutputWithPooling(last_hidden_state=pixel_values)


@torch.no_grad()
def label_features(
    features: Features, teacher: FrozenTeacher, images: ViewedDataset, args: DeiTLTTrainingArguments
) -> None:
    """Let the teacher label the images, once and without augmentation, as the features are computed."""
    batches = read_pixels(images, args.eval_batch_size, args, "the teacher's labels")
    features.teacher_logits = torch.cat([teacher(pixels).cpu() for pixels in batches])


def finish_adapting(trainer: DeiTLTTrainer) -> None:
    """Make the trainer's model a whole student again, with what was learned; adapters are saved alone before."""
    model = trainer.model
    if wraps_adapters(model):
        directory = Path(trainer.args.output_dir) / ADAPTER_DIRECTORY
        trainer.save_model(str(directory), _internal_call=True)
        if trainer.args.should_save:
            (directory / "training_args.bin").unlink()  # a pickle
        model = model.merge_and_unload()
    elif isinstance(model.deit, _TakesFeatures):
        model.deit = model.deit.body[0]
    trainer.model = trainer.model_wrapped = model.to(trainer.args.device)


def load_adapted_student(
    source: str | os.PathLike[str], base: str | None = None, revision: str | None = None
) -> DeiTLTForImageClassification:
    """A student of a pretrained model and of the adapters that `deitlt train --adapt lora` saved, merged.

    Args:
        source: directory or hub id of the adapters, such as `runs/pictures/adapter`.
        base: directory or hub id of the pretrained model; by default what the adapters name.
        revision: of the adapters on the hub.

    Raises:
        DeiTLTError: `source` has no adapters of a student, or they do not fit the base.

    Example:
        >>> student = load_adapted_student("runs/pictures/adapter")  # doctest: +SKIP
    """
    peft, source = _peft(), str(source)
    files = {name: find_file(source, name, revision) for name in (WEIGHTS_FILE, ADAPTER_FILE, CLASSES_FILE)}
    for name, file in files.items():
        if file is None:
            raise DeiTLTError(f"{source} has no {name}; pass what `deitlt train --adapt lora` saved")
    settings, classes = (read_json(files[name]) or {} for name in (ADAPTER_FILE, CLASSES_FILE))
    base = base or settings.get("base_model_name_or_path")
    if not isinstance(base, str) or not isinstance(classes.get("id2label"), dict):
        raise DeiTLTError(f"{source} names no base, or no classes; pass what `deitlt train --adapt lora` saved")
    check_is_there(base)
    image_size = classes.pop("image_size", None) or image_size_of(base)
    classes["id2label"] = {int(label): name for label, name in classes["id2label"].items()}
    student = load_start(StudentArguments(init_from=base), image_size, classes)
    with loading(source):
        # From the folder of the file that was found: peft would take a pickle too, where there is one.
        adapted = peft.PeftModel.from_pretrained(student, files[WEIGHTS_FILE].parent)
    return adapted.merge_and_unload().eval()


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise DeiTLTError("adapt lora needs peft; pip install 'deitlt-hf[peft]'") from error
    return peft
