"""`deitlt fit`: from a folder of images to a calibrated student, by one command that shows its plan first."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deitlt_hf.cli.console import quiet_libraries
from deitlt_hf.cli.next_steps import say_next
from deitlt_hf.cli.training_flags import check_training
from deitlt_hf.errors import DeiTLTError, counted, printable

if TYPE_CHECKING:
    from deitlt_hf.cli.fit_settings import FromData
    from deitlt_hf.runs.fitting import Plan, StudentSettings, TeacherSettings

_ABOUT = (
    "Inspect images, choose settings, train a teacher and a student, calibrate and evaluate the student, and write its "
    "card. The plan is shown first, with the time of each stage. If it is stopped, the same command goes on. The flags "
    "are those of `deitlt train`; the teacher takes those of the data and of the machine, and --teacher_epochs."
)


@dataclass
class FitArguments:
    """What `deitlt fit` takes beside the flags of `deitlt train`."""

    teacher_epochs: float | None = field(
        default=None, metadata={"help": "Epochs of the teacher that is trained; left out, they follow from the data."}
    )


def run(argv: Sequence[str]) -> None:
    dataclasses = ["TrainingDataArguments", "StudentArguments", "DeiTLTTrainingArguments", "FitArguments"]
    given = vars(check_training("fit", _ABOUT, dataclasses, argv))
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise DeiTLTError("`deitlt fit` runs in one process; launch `deitlt teacher`, and then `deitlt train`")

    from deitlt_hf.cli.fit_settings import FromData, flags_to_compare, parse_stages
    from deitlt_hf.cli.parsing import usual_directory
    from deitlt_hf.runs.estimate import duration
    from deitlt_hf.runs.fitting import begin, check_data, earlier_plan, is_trained, locked

    quiet_libraries()
    overwrite = given.get("overwrite", False)
    directory = Path(given.pop("output_dir", None) or usual_directory(given["data"]))
    sources = {name: given.get(name) for name in ("data", "data_dir", "teacher", "init_from")}
    plan = earlier_plan(directory, flags_to_compare(given), overwrite, sources)
    if plan is not None:
        print(f"{printable(directory)} was begun before: it goes on with the settings of then", flush=True)
        stages = parse_stages(given, directory, lambda stage, *_: plan.settings[stage])
        with locked(directory):
            if not is_trained(stages[-1][-1].output_dir):
                check_data(directory, stages[-1])
            _run_stages(plan, directory, *stages)
        _show_result(directory, *stages)
        return
    chosen = FromData(given)
    stages = parse_stages(given, directory, chosen)
    expected = _show_plan(chosen, directory, *stages)
    started = time.perf_counter()
    with locked(directory, replaced=overwrite):
        plan = begin(directory, flags_to_compare(given), chosen.settings, chosen.no_calibration, chosen.images, sources)
        _run_stages(plan, directory, *stages)
    took = f"{duration(time.perf_counter() - started)}; the plan said about {duration(expected)}"
    _show_result(directory, *stages, took)


def _show_plan(chosen: FromData, directory: Path, teacher: TeacherSettings | None, student: StudentSettings) -> float:
    """Print what was found, what is chosen, and how long each stage will take; returns the sum in seconds."""
    from deitlt_hf.cli.fit_settings import format_settings
    from deitlt_hf.data.inspection import format_inspection
    from deitlt_hf.evaluation.measures import aligned
    from deitlt_hf.runs.estimate import duration
    from deitlt_hf.runs.fitting import CALIBRATION
    from deitlt_hf.runs.pretrained import SMALL_IMAGES, say_pretrained_start
    from deitlt_hf.runs.stage_times import time_stages

    images = chosen.images
    print(f"{format_inspection(chosen.inspection)}\n\nSettings. Override one with a flag.\n")
    print(f"{format_settings(chosen.suggestions)}\n", flush=True)
    if student[1].init_from is None and student[0].image_size > SMALL_IMAGES:
        say_pretrained_start()
    times = time_stages(teacher, student, images, chosen.no_calibration is None)
    whole = sum(of.seconds for of in times.values())
    rows = [
        [
            stage,
            of.what,
            f"about {duration(max(of.seconds, 1))}",
            "" if stage == CALIBRATION else str(directory / stage),
        ]
        for stage, of in times.items()
    ]
    table = aligned([*rows, ["together", "", f"about {duration(whole)}", ""]], left=(0, 1, 2, 3))
    print("The plan, and its time on this machine. If it is stopped, the same command goes on.\n")
    print("\n".join(map(printable, table)))
    if chosen.no_calibration is not None:
        print(f"no calibration: {chosen.no_calibration}")
    elif images.held_for_validation is not None:
        print(
            f"for the calibration {counted(len(images.validation), 'image')} are held out of train "
            f"(validation_fraction {images.held_for_validation.fraction:g}; with none they are trained on)"
        )
    sys.stdout.flush()
    return whole


def _run_stages(plan: Plan, directory: Path, teacher: TeacherSettings | None, student: StudentSettings) -> None:
    """Do what is not done yet, and say of each stage what becomes of it."""
    from deitlt_hf.cli.calibrate import say_fit
    from deitlt_hf.cli.teacher import accuracy_line
    from deitlt_hf.runs.fitting import CALIBRATION, DONE, STUDENT, TEACHER, calibrate_student, is_trained, train_rest
    from deitlt_hf.runs.training import run_teacher, train_student

    trainings = [(TEACHER, run_teacher, teacher)] if teacher is not None else []
    trainings += [(STUDENT, train_student, student)]
    number = len(trainings) + 1
    for place, (stage, train, settings) in enumerate(trainings, start=1):
        if is_trained(settings[-1].output_dir):
            print(f"{place}/{number} {stage}: done before, {printable(settings[-1].output_dir)}", flush=True)
            continue
        print(f"\n{place}/{number} {stage}", flush=True)
        found = train_rest(train, settings)
        if stage == TEACHER:
            print(accuracy_line(found))
        elif plan.calibration == DONE:  # of an earlier training, whose files were removed
            plan.calibration = None
    title = f"{number}/{number} {CALIBRATION}"
    if plan.calibration == DONE:
        print(f"{title}: done before")
    elif plan.calibration is None:
        print(f"\n{title}", flush=True)
        fitted = calibrate_student(student)
        plan.calibration = fitted if isinstance(fitted, str) else DONE
        plan.write(directory)
        print(f"left out: {fitted}") if isinstance(fitted, str) else say_fit(fitted)
    else:
        print(f"{title}: left out: {plan.calibration}")


def _show_result(
    directory: Path, teacher: TeacherSettings | None, student: StudentSettings, took: str | None = None
) -> None:
    """Print the tables, where everything is, and what makes sense next."""
    from deitlt_hf.cards.model_card import CARD_FILE
    from deitlt_hf.evaluation.measures import FUSED, MOST_LISTED_CLASSES, format_class_table, format_table
    from deitlt_hf.files import METRICS_FILE, REPORT_FILE, read_json

    place = Path(student[2].output_dir)
    metrics: dict[str, Any] = read_json(place / METRICS_FILE) or {}
    own = FUSED if FUSED in metrics["experts"] else student[1].expert
    print(f"\nAccuracy in percent on {counted(metrics['num_images'], 'test image')}\n")
    print(format_table(metrics, own))
    print(f"\n{format_class_table(metrics, own, MOST_LISTED_CLASSES)}\n")
    if advice := _teacher_is_ahead(metrics, own):
        print(f"{advice}\n")
    lines = {"model": place, "card": place / CARD_FILE, "picture": place / REPORT_FILE}
    lines |= {} if teacher is None else {"teacher": teacher[2].output_dir}
    lines |= {} if took is None else {"time": took}
    for name, what in lines.items():
        print(f"{name:<9}{printable(what)}")
    say_next(["predict", place, "photo.jpg"], ["app", place], ["push", place, f"OWNER/{directory.name}"])


def _teacher_is_ahead(metrics: Mapping[str, Any], own: str) -> str | None:
    """What to do where the teacher is the better one overall, or of classes that count the same; None elsewhere."""
    differences = metrics.get("against_teacher", {}).get(own, {})
    sure = [differences[key]["value"] for key in ("overall", "balanced_accuracy") if _is_sure(differences.get(key))]
    if not sure or max(sure) > 0:
        return None
    return (
        "The teacher is better than the student by more than chance. Keep the teacher, or give the student more epochs "
        "(--num_train_epochs), more images, or a pretrained start (--init_from)."
    )


def _is_sure(difference: Mapping[str, Any] | None) -> bool:
    return difference is not None and difference["excludes_zero"]
