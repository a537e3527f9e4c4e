"""`deitlt calibrate`: weighs both experts on a validation split, and makes that the student's answer."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deitlt_hf.cli.flags import check_flags
from deitlt_hf.errors import check_model_is_there, counted, printable

if TYPE_CHECKING:
    from deitlt_hf.runs.calibrating import Calibration


@dataclass
class CalibrateArguments:
    """How to calibrate."""

    undo: bool = field(default=False, metadata={"help": "Take the calibration back: the student answers as before."})
    batch_size: int = field(default=64, metadata={"help": "Images per step."})


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="directory of a student, which is changed")


def run(argv: Sequence[str]) -> None:
    check_model_is_there(
        check_flags(
            "calibrate",
            "MODEL [options]",
            "Fit the share of each expert, an adjustment by class frequency and a temperature on validation images, "
            "and let the student answer with that. The data are those of the run unless flags say otherwise.",
            ["DataArguments", "CalibrateArguments"],
            argv,
            _add_model,
            of_run=True,
        ).model
    )

    from deitlt_hf.cli.console import quiet_libraries
    from deitlt_hf.cli.next_steps import after_measuring, say_next
    from deitlt_hf.cli.parsing import parse_with_data_of_run
    from deitlt_hf.inference.default_expert import student_to_change
    from deitlt_hf.runs.calibrating import calibrate, undo_calibration
    from deitlt_hf.runs.validation_images import load_validation

    choice, data, options, of_model = parse_with_data_of_run("calibrate", CalibrateArguments, argv, _add_model)
    quiet_libraries()
    source = of_model.model
    if options.undo:
        print(f"{printable(source)} answers as before; changed: {', '.join(undo_calibration(source))}")
        return
    student_to_change(source, "fused")  # before the images are read
    validation, images, taken = load_validation(data, choice, source)
    found = calibrate(source, validation, images, data, taken=taken, batch_size=options.batch_size)
    say_fit(found)
    _print_table(found)
    print(f"\n{printable(source)} now answers with the fused prediction; changed: {', '.join(found.changed)}")
    print(f"to take it back: {printable(shlex.join(['deitlt', 'calibrate', source, '--undo']))}")
    say_next(*after_measuring(source))


def say_fit(found: Calibration) -> None:
    """Print what was fitted, and how the kinds compared in cross-validation."""
    from deitlt_hf.evaluation.measures import EXPERT_LABELS

    fit, images = found.fit, [count for count in found.class_images if count]
    print(f"Fitted on {counted(sum(images), 'image')}, {min(images)} to {max(images)} of a class: {found.taken}")
    if fit.cross_validation:
        losses = [f"{kind} {fold.loss:.3f} +- {fold.error:.3f}" for kind, fold in fit.cross_validation.items()]
        print(f"loss in cross-validation ({fit.folds} folds): {', '.join(losses)}; taken: {fit.kind}")
    shares = ", ".join(f"{EXPERT_LABELS[expert]} {100 * share:.0f} %" for expert, share in fit.shares.items())
    print(f"shares: {shares}; temperature {fit.temperature:.2f}")


def _print_table(found: Calibration) -> None:
    from deitlt_hf.evaluation.measures import EXPERT_LABELS, FUSED, format_table

    if found.test is not None:
        print(f"\nAccuracy in percent on {counted(found.test.metrics['num_images'], 'test image')}:\n")
        print(format_table(found.test.metrics, FUSED))
        errors = (f"{EXPERT_LABELS[row]} {error:.1f}" for row, error in found.calibration_errors.items())
        print(f"calibration error in percent: {', '.join(errors)}")
