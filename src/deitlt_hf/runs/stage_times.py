"""How long the stages of `deitlt fit` will take on this machine: a few steps or images of each are timed first."""

from __future__ import annotations

import tempfile
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers.trainer_utils import IntervalStrategy

from deitlt_hf.data.arguments import Images
from deitlt_hf.data.columns import labels_of
from deitlt_hf.data.dataset import ViewedDataset
from deitlt_hf.data.views import View, evaluation_view, image_processor
from deitlt_hf.errors import counted
from deitlt_hf.models.deit_lt.modeling_deit_lt import DeiTLTForImageClassification
from deitlt_hf.runs.adapting import class_means_teach, computes_features, heads_alone, start_of_heads
from deitlt_hf.runs.estimate import EVALUATED, TrainingTime, clock, time_training
from deitlt_hf.runs.features import Features, features_of
from deitlt_hf.runs.fitting import CALIBRATION, STUDENT, TEACHER, StudentSettings, TeacherSettings
from deitlt_hf.runs.resizing import load_resizing
from deitlt_hf.runs.student_models import load_start
from deitlt_hf.runs.training import make_student_trainer, make_teacher_trainer, make_trainer_of_heads
from deitlt_hf.training.arguments import DeiTLTTrainingArguments, LongTailTrainingArguments

FEW_IMAGES = 16  # that a pretrained model is timed on


@dataclass(frozen=True)
class StageTime:
    """What a stage will do, in words, and in how many seconds on this machine."""

    what: str
    seconds: float


def time_stages(
    teacher: TeacherSettings | None, student: StudentSettings, images: Images, calibrates: bool
) -> dict[str, StageTime]:
    """Time what the stages are made of: a few steps, or a few images; takes seconds, and leaves nothing behind."""
    times, (data, which, args), test = {}, student, len(images.test)
    with tempfile.TemporaryDirectory() as folder:
        if teacher is not None:
            trainer = make_teacher_trainer(*teacher[:2], _for_the_clock(teacher[2], folder), images)
            trainer.model.save_pretrained(folder)  # an untrained one, for the student's steps
            trainer.processing_class.save_pretrained(folder)
            times[TEACHER] = _of_training(time_training(trainer, test))
            which = replace(which, teacher=folder)
        if which.init_from is None:
            trainer = make_student_trainer(data, which, _for_the_clock(args, folder), images)
            found = time_training(trainer, test * (1 + args.evaluate_ema))
            times[STUDENT], forward = _of_training(found), EVALUATED * found.step / found.images
        else:
            times[STUDENT], forward = _time_pretrained((data, which, args), images, folder)
    if calibrates:
        what = counted(len(images.validation), "validation image")
        times[CALIBRATION] = StageTime(what, forward * (len(images.validation) + test))
    return times


def _time_pretrained(student: StudentSettings, images: Images, folder: str) -> tuple[StageTime, float]:
    """The time of a student of a pretrained model, and the seconds in which that predicts an image."""
    data, which, args = student
    classes = images.label_maps | {"class_counts": images.class_counts, "class_groups": images.class_groups}
    model = load_start(which, data.image_size, classes)
    view = evaluation_view(data.image_size, load_resizing(which.init_from))
    forward = _time_forward(model, view, _for_the_clock(args, folder), images)
    teaches_itself = class_means_teach(which, args)
    start = start_of_heads(which, model.config.id2label)
    features = forward * len(images.train) if computes_features(which, args, start) else 0.0
    test = forward * len(images.test) * (1 + teaches_itself)
    if which.adapt == "head":
        features += forward * len(images.train) * (args.distillation_type != "none")  # the teacher's labels
        found = _time_heads(model, (data, which, args), images, folder)
        what = f"features of {counted(len(images.train), 'image')}, {found.steps:,} steps of the heads"
        return StageTime(what, features + found.seconds + test), forward
    if teaches_itself:  # by a copy of the model, with other heads
        model.save_pretrained(folder)
        image_processor(data.image_size).save_pretrained(folder)
        which = replace(which, teacher=folder)
    which = replace(which, head_start="random")
    found = time_training(make_student_trainer(data, which, _for_the_clock(args, folder), images), 0)
    return StageTime(_of_training(found).what, found.seconds + features + test), forward


def _time_forward(
    model: DeiTLTForImageClassification, view: View, args: DeiTLTTrainingArguments, images: Images
) -> float:
    """Seconds in which a model predicts an image, reading it included."""
    args.dataloader_num_workers, args.disable_tqdm = 0, True
    for number in (2, min(FEW_IMAGES, len(images.train))):  # the first are the warm-up
        some = ViewedDataset(images.train.select(range(number)), {"pixel_values": view}, f"first {number}")
        started = clock(args.device)
        features_of(model.deit, some, args)
    return (clock(args.device) - started) / number


def _time_heads(
    model: DeiTLTForImageClassification, student: StudentSettings, images: Images, folder: str
) -> TrainingTime:
    """The time of the heads' training, on features that are no image's."""
    data, _, args = student
    args = _for_the_clock(args, folder)
    args.distillation_type, args.eval_strategy = "none", IntervalStrategy.NO
    labels = torch.tensor(labels_of(images.train), dtype=torch.long)
    features = Features(torch.randn(len(labels), 2, model.config.hidden_size), labels)
    return time_training(make_trainer_of_heads(heads_alone(model, None, features), data, args, images), 0)


def _of_training(found: TrainingTime) -> StageTime:
    return StageTime(f"{found.steps:,} steps of {counted(found.images, 'image')}", found.seconds)


def _for_the_clock(args: LongTailTrainingArguments, folder: str) -> Any:
    args = copy(args)
    args.output_dir, args.report_to = folder, []
    return args
