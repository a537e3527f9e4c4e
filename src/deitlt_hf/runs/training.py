"""A whole run, from a data set's name to a directory that holds a trained model and its evaluation."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, set_seed
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from deitlt_hf.cards.record import teacher_record
from deitlt_hf.data.arguments import Images, TrainingDataArguments
from deitlt_hf.data.dataset import ViewedDataset
from deitlt_hf.data.device_augmentation.device_views import BatchView
from deitlt_hf.data.views import Resizing, View, evaluation_view, image_processor, paco_key_view, paco_query_view
from deitlt_hf.errors import DeiTLTError, check_is_there
from deitlt_hf.evaluation.evaluate import evaluate_images
from deitlt_hf.evaluation.figures.run import report_figure
from deitlt_hf.evaluation.figures.style import save_figure
from deitlt_hf.evaluation.measures import MEASURES, MODEL
from deitlt_hf.files import METRICS_FILE, REPORT_FILE, write_json
from deitlt_hf.losses.ldam import has_cosine_classifier
from deitlt_hf.models.deit_lt.modeling_deit_lt import DeiTLTForImageClassification
from deitlt_hf.runs.adapting import Adapted, adapt_student, check_adapting, finish_adapting, label_features
from deitlt_hf.runs.directory import (
    check_output_directory,
    claimed_directory,
    finish_run,
    refuse_within,
    save_model,
)
from deitlt_hf.runs.estimate import TimeEstimate
from deitlt_hf.runs.features import features_of
from deitlt_hf.runs.images import data_record, load_images_to_train, say_draw_of_teacher
from deitlt_hf.runs.profiling import StepProfile, profile_training
from deitlt_hf.runs.resizing import load_resizing, resizing_of
from deitlt_hf.runs.selection import check_selection
from deitlt_hf.runs.settings import say_what_is_unused
from deitlt_hf.runs.student_models import StudentArguments, check_shape, load_start, student_config
from deitlt_hf.runs.trackers import open_trackers
from deitlt_hf.teachers.build import (
    check_architecture,
    load_classifier,
    make_classifier,
)
from deitlt_hf.training.arguments import DeiTLTTrainingArguments, LongTailTrainingArguments, TeacherTrainingArguments
from deitlt_hf.training.batch_views import training_views
from deitlt_hf.training.long_tail import LongTailTrainer, check_one_batch
from deitlt_hf.training.student import DeiTLTTrainer
from deitlt_hf.training.teacher import TeacherTrainer


@dataclass
class TeacherArguments:
    """Which CNN is trained as the teacher. Every field's help says what it is.

    Example:
        >>> from deitlt_hf import TeacherArguments
        >>> TeacherArguments(depth=20, classifier="cosine").architecture
        'cifar_resnet'
    """

    architecture: str = field(
        default="cifar_resnet",
        metadata={
            "help": "cifar_resnet; a timm model, such as resnet50; or a model type of transformers, such as resnet."
        },
    )
    init_from: str | None = field(
        default=None,
        metadata={
            "help": "Start from these weights, such as timm/resnet50.a1_in1k or microsoft/resnet-50, not an "
            "architecture from scratch."
        },
    )
    depth: int | None = field(
        default=None, metadata={"help": "Layers of the CIFAR ResNet: 20, 32, 44, 56 or 110; left out, 32."}
    )
    classifier: str = field(
        default="linear", metadata={"help": "linear, or cosine (for LDAM; cifar_resnet and timm models)."}
    )


@dataclass
class RunResult:
    """What a student's run measured: `expert_metrics`' result, and the Trainer's log."""

    metrics: dict[str, Any]
    log_history: list[dict[str, float]]


def check_teacher(teacher: TeacherArguments, args: TeacherTrainingArguments) -> str | None:
    """Refuse settings that cannot work, before any image is read; returns the checkpoint to resume from."""
    checkpoint = check_output_directory(args)
    args.check_built_in_measures()
    _check_start(teacher.init_from, args)
    if teacher.init_from is None:
        _checked(check_architecture, teacher.architecture, teacher.classifier, teacher.depth or 32)
    return checkpoint


def check_student(student: StudentArguments, args: DeiTLTTrainingArguments, image_size: int | None) -> str | None:
    """Refuse settings that cannot work, before any image is read; returns the checkpoint to resume from."""
    checkpoint = check_output_directory(args)
    args.check_built_in_measures()
    check_is_there(student.teacher)
    _check_start(student.init_from, args)
    check_adapting(student, args)
    if student.init_from is None:
        _checked(check_shape, student, image_size)
    return checkpoint


def _check_start(init_from: str | None, args: LongTailTrainingArguments) -> None:
    """Refuse weights to start from that are not there, and a new classifier on features of no training."""
    check_is_there(init_from)
    if args.retrain_classifier and init_from is None:
        raise DeiTLTError("retrain_classifier needs trained features; pass init_from, such as the first stage's run")


def train_teacher(
    data: TrainingDataArguments, teacher: TeacherArguments, args: TeacherTrainingArguments
) -> dict[str, float]:
    """Train a CNN teacher, evaluate it, and write model, results and card into `args.output_dir`.

    `deitlt teacher` calls it.

    Args:
        data: which images, and their size.
        teacher: which architecture.
        args: how it is trained.

    Returns:
        Test accuracies in percent: `overall`, `head`, `mid`, `tail` and `balanced_accuracy`.

    Raises:
        DeiTLTError: settings, data or an output directory that cannot be used.
        Stopped: a signal ended the training, after a checkpoint was saved.

    Example:
        >>> from deitlt_hf import TeacherArguments, TeacherTrainingArguments, TrainingDataArguments, train_teacher
        >>> data = TrainingDataArguments(data="digits-lt", image_size=16, horizontal_flip=False)
        >>> args = TeacherTrainingArguments("runs/teacher", num_train_epochs=40, drw_start_epoch=32)
        >>> train_teacher(data, TeacherArguments(depth=20), args)["overall"]  # doctest: +SKIP
        96.0
    """
    row = run_teacher(data, teacher, args)["experts"][MODEL]
    return {of.key: math.nan if row[of.key] is None else row[of.key] for of in MEASURES if of.key in row}


def run_teacher(data: TrainingDataArguments, teacher: TeacherArguments, args: TeacherTrainingArguments) -> dict:
    """`train_teacher` with all that it measures: the metrics of `expert_metrics`, whose one row is `model`."""
    checkpoint = check_teacher(teacher, args)
    say_what_is_unused([data, teacher, args])
    sources = {"data": data.data, "data_dir": data.data_dir, "init_from": teacher.init_from}
    refuse_within(args.output_dir, args.overwrite, **sources)
    images = load_images_to_train(data, checkpoint)
    check_selection(args, images)
    trainer = make_teacher_trainer(data, teacher, args, images)
    record = data_record(images, sources)
    with claimed_directory(trainer, [data, teacher, args], checkpoint, record), open_trackers(trainer) as report:
        seconds = _train(trainer, images, checkpoint)
        save_model(trainer)
        # What a run reports is what `deitlt evaluate` finds in its files.
        with trainer.in_float32():
            metrics, _ = evaluate_images(
                trainer.model,
                images,
                evaluation_view(data.image_size),
                trainer.accelerator,
                batch_size=args.eval_batch_size,
                num_workers=args.dataloader_num_workers,
            )
        row = metrics["experts"][MODEL]
        accuracies = {of.key: row[of.key] for of in MEASURES if of.key in row}
        metrics = {"split": "test", "accuracy": accuracies} | metrics
        if args.should_save:
            write_json(Path(args.output_dir) / METRICS_FILE, metrics)
        report(metrics)
        finish_run(trainer, images, sources, seconds, checkpoint)
    return metrics


def profile_teacher(
    data: TrainingDataArguments, teacher: TeacherArguments, args: TeacherTrainingArguments
) -> StepProfile:
    """Profile a teacher's training step instead of training it; see `profile_training`."""
    checkpoint = check_teacher(teacher, args)
    images = load_images_to_train(data, checkpoint)
    return profile_training(make_teacher_trainer(data, teacher, args, images), args.profile, checkpoint)


def make_teacher_trainer(
    data: TrainingDataArguments, teacher: TeacherArguments, args: TeacherTrainingArguments, images: Images
) -> TeacherTrainer:
    """A trainer that is ready to train, with a model that `args.seed` determines."""
    check_one_batch(len(images.train), args)
    set_seed(args.seed)
    model = _build_teacher(data, teacher, images)
    views, batch_views = _teacher_views(data, args, images)
    return TeacherTrainer(
        model,
        args,
        class_counts=images.class_counts,
        class_groups=images.class_groups,
        train_dataset=ViewedDataset(images.train, views, "train"),
        batch_views=batch_views,
        eval_dataset=_evaluated_in_training(images, data),
        processing_class=image_processor(data.image_size),
    )


def _build_teacher(data: TrainingDataArguments, teacher: TeacherArguments, images: Images) -> PreTrainedModel:
    """An image classifier from scratch, or from `init_from`, for the classes at hand."""
    if teacher.init_from is not None:
        model = load_classifier(teacher.init_from, data.image_size, images.label_maps)
        if teacher.classifier == "cosine" and not has_cosine_classifier(model.config):
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
            depth=teacher.depth or 32,
        )
    model.config.class_counts, model.config.class_groups = images.class_counts, images.class_groups
    return model


def _teacher_views(
    data: TrainingDataArguments, args: TeacherTrainingArguments, images: Images
) -> tuple[dict[str, View], dict[str, BatchView]]:
    if args.loss != "paco":
        strong = {"pixel_values": args.training_view == "strong"}
        return training_views(args, images.train, strong, data.image_size, data.horizontal_flip)
    if args.augmentation_device == "device":
        raise DeiTLTError("augmentation_device is 'device', where PaCo's views cannot be made; pass auto or cpu")
    return {
        "pixel_values": paco_query_view(data.image_size, data.horizontal_flip),
        "key_pixel_values": paco_key_view(data.image_size, data.horizontal_flip),
    }, {}


def train_student(data: TrainingDataArguments, student: StudentArguments, args: DeiTLTTrainingArguments) -> RunResult:
    """Train a DeiT-LT student, evaluate it, and write model, results, report and card into `args.output_dir`.

    `deitlt train` calls it.

    Args:
        data: which images, and their size.
        student: its shape, its teacher, and what it starts from.
        args: how it is trained.

    Returns:
        What was measured, and the log of the training.

    Raises:
        DeiTLTError: settings, data, a teacher or an output directory that cannot be used.
        Stopped: a signal ended the training, after a checkpoint was saved.

    Example:
        >>> from deitlt_hf import DeiTLTTrainingArguments, StudentArguments, TrainingDataArguments, train_student
        >>> data = TrainingDataArguments(data="digits-lt", image_size=16, horizontal_flip=False)
        >>> student = StudentArguments("runs/teacher", hidden_size=96, num_attention_heads=3, patch_size=4)
        >>> args = DeiTLTTrainingArguments("runs/student", num_train_epochs=100, drw_start_epoch=80)
        >>> result = train_student(data, student, args)  # doctest: +SKIP
        >>> result.metrics["experts"]["average"]["overall"]  # doctest: +SKIP
        79.0
    """
    checkpoint = check_student(student, args, data.image_size)
    say_what_is_unused([data, student, args])
    sources = {"data": data.data, "data_dir": data.data_dir, "teacher": student.teacher, "init_from": student.init_from}
    refuse_within(args.output_dir, args.overwrite, **sources)
    images = load_images_to_train(data, checkpoint)
    check_selection(args, images)
    say_draw_of_teacher(data, images, student.teacher)
    trainer = make_student_trainer(data, student, args, images)
    taught = None if trainer.teacher is None else teacher_record(student.teacher, trainer.teacher.model.config)
    evaluate = partial(
        evaluate_images,
        images=images,
        view=evaluation_view(data.image_size, resizing_of(trainer.processing_class, args.output_dir)),
        accelerator=trainer.accelerator,
        batch_size=args.eval_batch_size,
        num_workers=args.dataloader_num_workers,
        teacher=trainer.teacher,
    )
    record = data_record(images, sources)
    with claimed_directory(trainer, [data, student, args], checkpoint, record), open_trackers(trainer) as report:
        seconds = _train(trainer, images, checkpoint)
        finish_adapting(trainer)
        save_model(trainer)
        # What a run reports is what `deitlt evaluate` finds in its files.
        with trainer.in_float32():
            metrics = {"split": "test"} | evaluate(trainer.model).metrics
            if args.evaluate_ema:
                with trainer.averaged_weights():
                    metrics["averaged_weights"] = evaluate(trainer.model).metrics["experts"]
        result = RunResult(metrics, trainer.state.log_history)
        if args.should_save:
            save_result(result, args.output_dir)
        report(metrics, Path(args.output_dir) / REPORT_FILE)
        finish_run(trainer, images, sources, seconds, checkpoint, taught)
    return result


def profile_student(
    data: TrainingDataArguments, student: StudentArguments, args: DeiTLTTrainingArguments
) -> StepProfile:
    """Profile a student's training step instead of training it; see `profile_training`."""
    checkpoint = check_student(student, args, data.image_size)
    images = load_images_to_train(data, checkpoint)
    return profile_training(make_student_trainer(data, student, args, images), args.profile, checkpoint)


def make_student_trainer(
    data: TrainingDataArguments, student: StudentArguments, args: DeiTLTTrainingArguments, images: Images
) -> DeiTLTTrainer:
    """A trainer that is ready to train, with a model that `args.seed` determines."""
    check_one_batch(len(images.train), args)
    set_seed(args.seed)
    classes = images.label_maps | {"class_counts": images.class_counts, "class_groups": images.class_groups}
    if student.init_from is None:
        model = DeiTLTForImageClassification(student_config(student, data.image_size, **classes))
        adapted, resizing = Adapted(model, student.teacher), None
    else:
        model, resizing = load_start(student, data.image_size, classes), load_resizing(student.init_from)
        adapted = adapt_student(model, student, args, _viewed(images.train, data, "train", resizing))
    if adapted.features is not None:
        return make_trainer_of_heads(adapted, data, args, images, resizing)
    strong = {"pixel_values": args.training_view == "strong"}
    strong |= {"weak_pixel_values": False} if args.distillation_view == "weak" else {}
    views, batch_views = training_views(args, images.train, strong, data.image_size, data.horizontal_flip, resizing)
    return DeiTLTTrainer(
        adapted.model,
        args,
        teacher=adapted.teacher,
        train_dataset=ViewedDataset(images.train, views, "train"),
        batch_views=batch_views,
        eval_dataset=_evaluated_in_training(images, data, resizing),
        processing_class=image_processor(data.image_size, resizing),
    )


def make_trainer_of_heads(
    adapted: Adapted,
    data: TrainingDataArguments,
    args: DeiTLTTrainingArguments,
    images: Images,
    resizing: Resizing | None = None,
) -> DeiTLTTrainer:
    """A trainer of heads alone, on features that are computed already; it writes no checkpoints."""
    args.save_strategy = SaveStrategy.NO  # seconds of training: they would not be whole models
    evaluated = None
    if args.eval_strategy != IntervalStrategy.NO:
        evaluated = features_of(adapted.body, _evaluated_in_training(images, data, resizing), args)
    trainer = DeiTLTTrainer(
        adapted.model,
        args,
        teacher=adapted.teacher,
        train_dataset=adapted.features,
        eval_dataset=evaluated,
        processing_class=image_processor(data.image_size, resizing),
    )
    trainer.writes_checkpoints = False  # at a signal neither
    if trainer.teacher is not None:
        label_features(adapted.features, trainer.teacher, _viewed(images.train, data, "train", resizing), args)
    return trainer


def _evaluated_in_training(
    images: Images, data: TrainingDataArguments, resizing: Resizing | None = None
) -> ViewedDataset:
    """The validation split, or the test split where there is none."""
    if images.validation is None:
        return _viewed(images.test, data, "test", resizing)
    return _viewed(images.validation, data, "validation", resizing)


def _viewed(split: Dataset, data: TrainingDataArguments, name: str, resizing: Resizing | None) -> ViewedDataset:
    return ViewedDataset(split, {"pixel_values": evaluation_view(data.image_size, resizing)}, name)


def save_result(result: RunResult, directory: str | Path) -> None:
    """Write `metrics.json` and `report.png`, each whole or not at all.

    A resumed run ends with the numbers of an undisturbed one, but its picture differs: a loss is the mean over the
    steps since the last line of the log, or since the checkpoint.
    """
    write_json(Path(directory) / METRICS_FILE, result.metrics)
    save_figure(report_figure(result.metrics, result.log_history), Path(directory) / REPORT_FILE)


def _train(trainer: LongTailTrainer, images: Images, checkpoint: str | None) -> float:
    """Train, from a checkpoint if one is given; returns the seconds it took."""
    test_passes = 1 + bool(getattr(trainer.args, "evaluate_ema", False))
    trainer.add_callback(TimeEstimate(trainer, test_passes * len(images.test)))
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=checkpoint)
    return time.perf_counter() - started


def _checked(build, *args, **kwargs):
    """Build a model or configuration, and turn transformers' errors into one line."""
    try:
        return build(*args, **kwargs)
    except DeiTLTError:
        raise
    except (ValueError, OSError, ImportError) as error:  # ImportError: of a model that the installed timm lacks
        raise DeiTLTError(str(error).splitlines()[0]) from error
