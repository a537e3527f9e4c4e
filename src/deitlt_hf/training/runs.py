"""A whole run, from a data set's name to a directory that holds a trained model and its evaluation."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator, PartialState
from datasets import Dataset, DatasetDict
from torch.utils.data import DataLoader
from transformers import AutoConfig, PreTrainedModel, set_seed
from transformers.trainer_utils import get_last_checkpoint

from deitlt_hf.data.loading import class_counts, load_long_tailed_dataset
from deitlt_hf.data.long_tail import class_groups
from deitlt_hf.data.paco_views import paco_key_view, paco_query_view
from deitlt_hf.data.processing import image_processor
from deitlt_hf.data.transforms import View, ViewedDataset, collate, evaluation_view, strong_view, weak_view
from deitlt_hf.errors import DeiTLTError, loading_reason
from deitlt_hf.evaluation.accuracy import expert_metrics
from deitlt_hf.evaluation.figures import report_figure, save_figure
from deitlt_hf.evaluation.predicting import predict_experts
from deitlt_hf.hub.cards.descriptions import kind_of_data
from deitlt_hf.hub.cards.model_card import write_model_card
from deitlt_hf.hub.run_record import (
    METRICS_FILE,
    PRIVATE_SETTINGS,
    RECIPE_FILE,
    REPORT_FILE,
    RUN_FILE,
    find_hub_ids,
    installed_versions,
    last_part,
    teacher_record,
)
from deitlt_hf.models.deit_lt.configuration_deit_lt import DeiTLTConfig
from deitlt_hf.models.deit_lt.modeling_deit_lt import DeiTLTForImageClassification
from deitlt_hf.training.arguments import DeiTLTTrainingArguments, LongTailTrainingArguments, TeacherTrainingArguments
from deitlt_hf.training.base import LongTailTrainer
from deitlt_hf.training.teacher import TeacherTrainer
from deitlt_hf.training.teacher_models import has_cosine_classifier, load_classifier, make_classifier
from deitlt_hf.training.trainer import DeiTLTTrainer

# Not settings that another run, or a run on another machine, should take over.
_OF_THE_RUN = {"overwrite", "resume", "resume_from_checkpoint"} | PRIVATE_SETTINGS
_OF_THE_MACHINE = {"bf16", "dataloader_pin_memory", "report_to", "use_cpu", "disable_tqdm"}

# hidden size, layers, heads: DeiT's published sizes
STUDENT_SIZES = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12)}


@dataclass
class DataArguments:
    """Which images, and how they are split and grouped."""

    data: str = field(
        default="digits-lt",
        metadata={
            "help": "cifar10-lt, cifar100-lt, imagenet-lt, inaturalist-2018, digits-lt; a folder of images; Parquet, "
            "CSV or JSON lines; or a hub id."
        },
    )
    data_dir: str | None = field(default=None, metadata={"help": "Local directory of a named data set."})
    data_config: str | None = field(default=None, metadata={"help": "Configuration of a hub data set."})
    image_column: str | None = field(default=None, metadata={"help": "Left out, it is found by type or name."})
    label_column: str | None = field(default=None, metadata={"help": "Left out, it is found by type or name."})
    test_fraction: float = field(
        default=0.2, metadata={"help": "Share of each class that is held out where the data have no test split."}
    )
    on_bad_image: str = field(
        default="error", metadata={"help": "error, or skip: leave out images that cannot be read."}
    )
    imbalance_factor: float | None = field(
        default=None, metadata={"help": "Largest class count / smallest; left out, the data set's own."}
    )
    imbalance_profile: str = field(default="exp", metadata={"help": "exp or step."})
    split_seed: int = field(default=0, metadata={"help": "Seed of the selection of training images."})
    group_boundaries: list[int] | None = field(
        default=None,
        metadata={
            "help": "Where mid and tail begin in the classes sorted by frequency (CIFAR-10: 3 7); left out, head is "
            "above 100 training images and tail below 20."
        },
    )


@dataclass
class TrainingDataArguments(DataArguments):
    """Which images, and how a model that is trained on them sees them."""

    image_size: int = field(default=224, metadata={"help": "Pixels of a side."})
    horizontal_flip: bool = field(default=True, metadata={"help": "Mirror training images; not for digits or text."})


@dataclass
class StudentArguments:
    """Which student, and who teaches it."""

    teacher: str | None = field(default=None, metadata={"help": "Directory or hub id of the teacher."})
    init_from: str | None = field(
        default=None,
        metadata={
            "help": "Start from these weights, such as facebook/deit-base-distilled-patch16-224, not from scratch."
        },
    )
    student_size: str = field(default="base", metadata={"help": "tiny, small or base."})
    hidden_size: int | None = field(default=None, metadata={"help": "In place of the size's."})
    num_hidden_layers: int | None = field(default=None, metadata={"help": "In place of the size's."})
    num_attention_heads: int | None = field(default=None, metadata={"help": "In place of the size's."})
    patch_size: int = field(default=16, metadata={"help": "Pixels of a patch's side."})
    drop_path_rate: float = field(default=0.1, metadata={"help": "Stochastic depth of the last layer."})
    expert: str = field(default="average", metadata={"help": "What the model's logits are by default."})


@dataclass
class TeacherArguments:
    """Which teacher."""

    architecture: str = field(
        default="cifar_resnet",
        metadata={
            "help": "cifar_resnet; a timm model, such as resnet50; or a model type of transformers, such as resnet."
        },
    )
    init_from: str | None = field(
        default=None,
        metadata={
            "help": "Start from these weights, such as timm/resnet50.a1_in1k or microsoft/resnet-50, in place of an "
            "architecture from scratch."
        },
    )
    depth: int = field(default=32, metadata={"help": "Layers of the CIFAR ResNet: 20, 32, 44, 56 or 110."})
    classifier: str = field(
        default="linear", metadata={"help": "linear, or cosine (for LDAM; cifar_resnet and timm models)."}
    )


@dataclass
class Images:
    """The data of a run: splits with an `image` and a `label` column, and what is known of the classes."""

    train: Dataset
    test: Dataset
    class_names: list[str]
    class_counts: list[int]
    class_groups: dict[str, list[int]]

    @property
    def label_maps(self) -> dict[str, dict]:
        """`id2label` and `label2id` of a model's configuration."""
        id2label = dict(enumerate(self.class_names))
        return {"id2label": id2label, "label2id": {name: index for index, name in id2label.items()}}


@dataclass
class RunResult:
    """What a student's run measured: `expert_metrics`' result, and the Trainer's log."""

    metrics: dict[str, Any]
    log_history: list[dict[str, float]]


def load_splits(data: DataArguments) -> DatasetDict:
    """The data set of a command's flags, see `load_long_tailed_dataset`."""
    return load_long_tailed_dataset(
        data.data,
        data.imbalance_factor,
        profile=data.imbalance_profile,
        seed=data.split_seed,
        data_dir=data.data_dir,
        data_config=data.data_config,
        image_column=data.image_column,
        label_column=data.label_column,
        test_fraction=data.test_fraction,
        on_bad_image=data.on_bad_image,
    )


def load_images(data: DataArguments) -> Images:
    """Load the data set and count its classes, once."""
    splits = load_splits(data)
    counts = class_counts(splits["train"])
    groups = group_classes(counts, data.group_boundaries)
    return Images(splits["train"], splits["test"], splits["train"].features["label"].names, counts, groups)


def group_classes(class_counts: list[int], boundaries: list[int] | None) -> dict[str, list[int]]:
    """Head, mid and tail at the `group_boundaries` of a command, or by `class_groups`' thresholds without them."""
    if boundaries is None:
        return class_groups(class_counts)
    if len(boundaries) != 2:
        raise DeiTLTError(f"group_boundaries are {boundaries}; pass two numbers, such as 3 7")
    return class_groups(class_counts, boundaries=tuple(boundaries))


def train_teacher(
    data: TrainingDataArguments, teacher: TeacherArguments, args: TeacherTrainingArguments
) -> dict[str, float]:
    """Train a CNN teacher on weak views into `args.output_dir`; returns its test accuracies in percent."""
    checkpoint = check_output_directory(args)
    images = load_images(data)
    set_seed(args.seed)
    model = build_teacher(data, teacher, images)
    trainer = TeacherTrainer(
        model,
        args,
        class_counts=images.class_counts,
        class_groups=images.class_groups,
        train_dataset=ViewedDataset(images.train, _teacher_views(data, args.loss), "train"),
        eval_dataset=ViewedDataset(images.test, {"pixel_values": evaluation_view(data.image_size)}, "test"),
        processing_class=image_processor(data.image_size),
    )
    claim_output_directory(args, [data, teacher, args], checkpoint)
    seconds = _train(trainer, checkpoint)
    save_model(trainer)
    measured = trainer.evaluate()
    accuracies = {group: measured[f"eval_{group}"] for group in ("overall", "head", "mid", "tail")}
    if args.should_save:
        measured = {group: None if math.isnan(value) else value for group, value in accuracies.items()}
        write_json(Path(args.output_dir) / METRICS_FILE, {"accuracy": measured, "class_counts": images.class_counts})
    finish_run(trainer, data, images, seconds, checkpoint, init_from=teacher.init_from)
    return accuracies


def build_teacher(data: TrainingDataArguments, teacher: TeacherArguments, images: Images) -> PreTrainedModel:
    """An image classifier from scratch, or from `init_from`, for the classes at hand."""
    if teacher.init_from is not None:
        model = _checked(load_classifier, teacher.init_from, data.image_size, images.label_maps)
        if teacher.classifier == "cosine" and not has_cosine_classifier(model):
            raise DeiTLTError(
                f"{teacher.init_from} has a linear classifier; pass --classifier linear, or leave init_from out"
            )
    else:
        model = _checked(
            make_classifier,
            architecture=teacher.architecture,
            image_size=data.image_size,
            label_maps=images.label_maps,
            classifier=teacher.classifier,
            depth=teacher.depth,
        )
    model.config.class_counts, model.config.class_groups = images.class_counts, images.class_groups
    return model


def _teacher_views(data: TrainingDataArguments, loss: str) -> dict[str, View]:
    if loss != "paco":
        return {"pixel_values": weak_view(data.image_size, data.horizontal_flip)}
    return {
        "pixel_values": paco_query_view(data.image_size, data.horizontal_flip),
        "key_pixel_values": paco_key_view(data.image_size, data.horizontal_flip),
    }


def train_student(data: TrainingDataArguments, student: StudentArguments, args: DeiTLTTrainingArguments) -> RunResult:
    """Train a DeiT-LT student into `args.output_dir`, evaluate its experts, and draw the report."""
    checkpoint = check_output_directory(args)
    images = load_images(data)
    set_seed(args.seed)
    model = build_student(data, student, images)
    views = {"pixel_values": strong_view(data.image_size, data.horizontal_flip)}
    if args.distillation_view == "weak":
        views["weak_pixel_values"] = weak_view(data.image_size, data.horizontal_flip)
    trainer = DeiTLTTrainer(
        model,
        args,
        teacher=student.teacher,
        train_dataset=ViewedDataset(images.train, views, "train"),
        eval_dataset=ViewedDataset(images.test, {"pixel_values": evaluation_view(data.image_size)}, "test"),
        processing_class=image_processor(data.image_size),
    )
    taught = None if trainer.teacher is None else teacher_record(student.teacher, trainer.teacher.model.config)
    claim_output_directory(args, [data, student, args], checkpoint)
    seconds = _train(trainer, checkpoint)
    save_model(trainer)
    evaluate = partial(
        evaluate_student,
        images=images,
        image_size=data.image_size,
        accelerator=trainer.accelerator,
        batch_size=args.eval_batch_size,
        num_workers=args.dataloader_num_workers,
    )
    metrics = evaluate(model)
    if args.evaluate_ema:
        metrics["averaged_weights"] = evaluate(trainer.ema.module)["experts"]
    result = RunResult(metrics, trainer.state.log_history)
    if args.should_save:
        save_result(result, args.output_dir)
    finish_run(trainer, data, images, seconds, checkpoint, taught, teacher=student.teacher, init_from=student.init_from)
    return result


def build_student(
    data: TrainingDataArguments, student: StudentArguments, images: Images
) -> DeiTLTForImageClassification:
    """A student from scratch, or from `init_from`, for the classes at hand."""
    classes = images.label_maps | {"class_counts": images.class_counts, "class_groups": images.class_groups}
    if student.init_from is not None:
        model_type = _checked(AutoConfig.from_pretrained, student.init_from).model_type
        if model_type not in ("deit", DeiTLTConfig.model_type):
            raise DeiTLTError(f"{student.init_from} is a {model_type} model; pass a DeiT-LT or distilled DeiT one")
        settings = {"drop_path_rate": student.drop_path_rate, "expert": student.expert}
        model = _checked(DeiTLTForImageClassification.from_pretrained, student.init_from, **settings, **classes)
        if model.config.image_size != data.image_size:
            raise DeiTLTError(
                f"{student.init_from} takes images of {model.config.image_size} pixels, not {data.image_size}; pass "
                f"--image_size {model.config.image_size}"
            )
        return model
    if student.student_size not in STUDENT_SIZES:
        raise DeiTLTError(f"unknown student size {student.student_size!r}; pass one of {', '.join(STUDENT_SIZES)}")
    hidden_size, layers, heads = STUDENT_SIZES[student.student_size]
    hidden_size = student.hidden_size or hidden_size
    config = _checked(
        DeiTLTConfig,
        image_size=data.image_size,
        patch_size=student.patch_size,
        hidden_size=hidden_size,
        intermediate_size=4 * hidden_size,
        num_hidden_layers=student.num_hidden_layers or layers,
        num_attention_heads=student.num_attention_heads or heads,
        drop_path_rate=student.drop_path_rate,
        expert=student.expert,
        **classes,
    )
    return DeiTLTForImageClassification(config)


def evaluate_student(
    model: PreTrainedModel,
    images: Images,
    image_size: int,
    accelerator: Accelerator,
    batch_size: int = 64,
    num_workers: int = 0,
    confidence_intervals: bool = False,
) -> dict[str, Any]:
    """Evaluate the average and both experts on the test split; see `expert_metrics`."""
    dataset = ViewedDataset(images.test, {"pixel_values": evaluation_view(image_size)}, "test")
    dataloader = DataLoader(dataset, batch_size=batch_size, collate_fn=collate, num_workers=num_workers)
    predictions, labels = predict_experts(model, dataloader, accelerator=accelerator)
    return expert_metrics(
        predictions, labels, images.class_counts, images.class_groups, images.class_names, confidence_intervals
    )


def save_result(result: RunResult, directory: str | Path) -> None:
    """Write `metrics.json` and `report.png`, each whole or not at all."""
    write_json(Path(directory) / METRICS_FILE, result.metrics)
    save_figure(report_figure(result.metrics, result.log_history), Path(directory) / REPORT_FILE)


def _train(trainer: LongTailTrainer, checkpoint: str | None) -> float:
    """Train, from a checkpoint where there is one; returns the seconds it took."""
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=checkpoint)
    return time.perf_counter() - started


def finish_run(
    trainer: LongTailTrainer,
    data: TrainingDataArguments,
    images: Images,
    seconds: float,
    checkpoint: str | None,
    taught_by: dict[str, Any] | None = None,
    **sources: str | None,
) -> None:
    """Write `run.json` and the card beside what was measured, and push all of it where that was asked for.

    Args:
        trainer: it has trained, and its model is saved.
        data: the flags that the images were loaded by.
        images: what the model was trained and tested on.
        seconds: that training took.
        checkpoint: that it was resumed from.
        taught_by: what `teacher_record` tells of the teacher.
        **sources: the other settings that may name something on the hub.
    """
    args = trainer.args
    if args.should_save:
        hub_ids = find_hub_ids({"data": data.data, **sources})
        record = {
            "versions": installed_versions(),
            "python": platform.python_version(),
            "data": {
                "name": last_part(data.data),
                "kind": kind_of_data(data.data, "data" in hub_ids),
                "train_images": len(images.train),
                "test_images": len(images.test),
                "test_counts": class_counts(images.test),
            },
            "hub_ids": hub_ids,
            "teacher": taught_by,
            "training": _what_it_took(trainer, seconds, checkpoint),
        }
        write_json(Path(args.output_dir) / RUN_FILE, record)
        write_model_card(args.output_dir, trainer.hub_model_id if args.push_to_hub else None)
    if args.push_to_hub:
        trainer.push_to_hub()


def _what_it_took(trainer: LongTailTrainer, seconds: float, checkpoint: str | None) -> dict[str, Any]:
    args, steps = trainer.args, trainer.state.global_step
    global_batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    is_cuda = args.device.type == "cuda"
    return {
        "epochs": round(trainer.state.epoch or 0, 2),
        "steps": steps,
        "images_seen": steps * global_batch,
        "processes": args.world_size,
        "device": torch.cuda.get_device_name(args.device) if is_cuda else args.device.type,
        "hours": round(seconds / 3600, 4),
        "hours_of": "the whole run" if checkpoint is None else "the part after it was resumed",
        "seed": args.seed,
    }


def check_output_directory(args: LongTailTrainingArguments) -> str | None:
    """Refuse a directory that holds a run, unless it is resumed or replaced; returns the checkpoint to resume from.

    Raises:
        DeiTLTError: the directory is occupied, or holds no checkpoint to resume from.
    """
    directory = Path(args.output_dir)
    if args.resume or args.resume_from_checkpoint:
        checkpoint = args.resume_from_checkpoint
        if not isinstance(checkpoint, str):
            checkpoint = get_last_checkpoint(directory) if directory.is_dir() else None
        if checkpoint is None or not Path(checkpoint).is_dir():
            raise DeiTLTError(f"{checkpoint or directory} holds no checkpoint to resume from; leave resume out")
        return checkpoint
    if _is_occupied(directory) and not args.overwrite:
        raise DeiTLTError(f"{directory} is not empty; pass --resume, --overwrite, or another --output_dir")
    if _is_occupied(directory) and not (directory / RECIPE_FILE).is_file():
        raise DeiTLTError(f"{directory} holds files that are no run of this package; pass another --output_dir")
    return None


def claim_output_directory(args: LongTailTrainingArguments, settings: Sequence[object], checkpoint: str | None) -> None:
    """Just before training: remove the run that is replaced, and write the settings that mark a directory as a run."""
    PartialState().wait_for_everyone()  # other processes must not find what the main one writes now
    if checkpoint is not None or not args.should_save:
        return
    directory = Path(args.output_dir)
    if _is_occupied(directory):
        shutil.rmtree(directory)
    directory.mkdir(parents=True, exist_ok=True)
    changed = {name: value for part in settings for name, value in _changed_settings(part).items()}
    (directory / RECIPE_FILE).write_text(yaml.safe_dump(changed, sort_keys=False))


def _is_occupied(directory: Path) -> bool:
    return directory.is_dir() and any(directory.iterdir())


def save_model(trainer: LongTailTrainer) -> None:
    """Put the trained model into the run's directory; it appears there only once it is written completely."""
    directory = Path(trainer.args.output_dir)
    staging = directory / "saving"
    trainer.save_model(str(staging), _internal_call=True)  # else it would push what has no card and no numbers yet
    if not trainer.args.should_save:
        return
    (staging / "training_args.bin").unlink()  # a pickle; recipe.yaml says the same in text
    for path in sorted(staging.iterdir(), key=lambda path: path.name == "config.json"):  # what loading looks for, last
        target = directory / path.name
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(path, target)
    staging.rmdir()


def write_json(path: Path, content: dict[str, Any]) -> None:
    aside = path.with_name(f"{path.name}.part")
    aside.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(aside, path)


def _checked(build, *args, **kwargs):
    """Build a model or configuration; what the models' room reports as a ValueError is the user's to mend."""
    try:
        return build(*args, **kwargs)
    except (ValueError, OSError, ImportError) as error:  # transformers' answer to a model that this timm lacks
        reason = loading_reason(args[0], error) if args else str(error).splitlines()[0]
        raise DeiTLTError(f"{args[0]}: {reason}" if args else reason) from error


def _changed_settings(settings: object) -> dict[str, Any]:
    """The fields of a dataclass that differ from their defaults and that YAML can hold."""
    changed = {}
    for part in dataclasses.fields(settings):
        default = part.default if part.default_factory is dataclasses.MISSING else part.default_factory()
        value = getattr(settings, part.name)
        plain = getattr(value, "value", value)  # transformers turns some strings into enumerations
        left_out = part.name in _OF_THE_RUN | _OF_THE_MACHINE or (
            default in (None, "") and (plain is False or plain == [])
        )
        if part.init and not left_out and plain != default and isinstance(plain, (str, int, float, bool, list)):
            changed[part.name] = plain
    return changed
