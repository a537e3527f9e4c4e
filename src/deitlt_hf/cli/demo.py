"""`deitlt demo`: a teacher and a student on handwritten digits, and what each of the student's experts is good at."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deitlt_hf.cli.console import OneLineParser, quiet_libraries
from deitlt_hf.cli.next_steps import say_next
from deitlt_hf.errors import DeiTLTError

if TYPE_CHECKING:
    from deitlt_hf.data.arguments import TrainingDataArguments
    from deitlt_hf.runs.training import RunResult

# Twice the recipe's: from there on the student is as good as its teacher (docs/methods.md).
_LONGER = ["--num_train_epochs", "480"]
DEMO_FILES = {"teacher", "student", "analysis", "metrics.json", "report.png"}


def run(argv: Sequence[str]) -> None:
    parser = OneLineParser(prog="deitlt demo", description=__doc__.split(": ", 1)[1])
    parser.add_argument("--output_dir", type=Path, default=Path("demo-output"), help="default: %(default)s")
    parser.add_argument("--overwrite", action="store_true", help="replace the results of an earlier demo")
    options = parser.parse_args(argv)
    _prepare(options.output_dir, options.overwrite)

    from deitlt_hf.data.arguments import load_images
    from deitlt_hf.evaluation.measures import format_table
    from deitlt_hf.evaluation.page import PAGE_FILE, write_analysis
    from deitlt_hf.runs.analyzing import analyze_saved_model
    from deitlt_hf.runs.training import save_result

    quiet_libraries()
    teacher_dir, student_dir = options.output_dir / "teacher", options.output_dir / "student"
    analysis_dir = options.output_dir / "analysis"
    data, result = _train(teacher_dir, student_dir)
    save_result(result, options.output_dir)
    print("3/3 analysis: what the student's two tokens look at, hold and confuse")
    write_analysis({"student": analyze_saved_model(str(student_dir), load_images(data), data)}, analysis_dir)
    print(f"\nAccuracy in percent on {result.metrics['num_images']} test images, as many of each digit:\n")
    print(format_table(result.metrics))
    print(f"\n{_best_experts(result.metrics)}\n{_against_teacher(result.metrics)}\n")
    print(f"teacher  {teacher_dir}\nstudent  {student_dir}")
    print(f"numbers  {options.output_dir / 'metrics.json'}\npicture  {options.output_dir / 'report.png'}")
    print(f"analysis {analysis_dir / PAGE_FILE}")
    say_next(["app", student_dir], ["data", "inspect", "PICTURES"])


def _train(teacher_dir: Path, student_dir: Path) -> tuple[TrainingDataArguments, RunResult]:
    """Train a teacher and its student; returns the student's data settings and what it measured."""
    from deitlt_hf.cli.parsing import parse_with_recipe
    from deitlt_hf.data.arguments import TrainingDataArguments
    from deitlt_hf.runs.training import StudentArguments, TeacherArguments, train_student, train_teacher
    from deitlt_hf.training.arguments import DeiTLTTrainingArguments, TeacherTrainingArguments

    print("1/3 teacher: a small CNN on weak views, made flat by SAM")
    train_teacher(
        *parse_with_recipe(
            "demo",
            [TrainingDataArguments, TeacherArguments, TeacherTrainingArguments],
            ["--recipe", "digits-lt-teacher", "--output_dir", str(teacher_dir)],
        )
    )
    print("2/3 student: a small Vision Transformer that learns from the labels (CLS) and from the teacher (DIST)")
    data, student, args = parse_with_recipe(
        "demo",
        [TrainingDataArguments, StudentArguments, DeiTLTTrainingArguments],
        ["--recipe", "digits-lt", *_LONGER, "--teacher", str(teacher_dir), "--output_dir", str(student_dir)],
    )
    return data, train_student(data, student, args)


def _best_experts(metrics: dict) -> str:
    from deitlt_hf.evaluation.measures import EXPERT_LABELS, TEACHER

    rows = metrics["experts"] | {TEACHER: metrics[TEACHER]}

    def best(group: str) -> str:
        scores = {row: accuracies[group] for row, accuracies in rows.items()}
        return " and ".join(
            EXPERT_LABELS.get(row, row) for row, score in scores.items() if score == max(scores.values())
        )

    return (
        f"Best on head classes: {best('head')}. Best on tail classes: {best('tail')}. Best overall: {best('overall')}."
    )


def _against_teacher(metrics: dict) -> str:
    """Whether the student's own prediction is better than its teacher's, overall and on the tail, or may be."""
    differences = metrics["against_teacher"]["average"]

    def compared(group: str) -> str:
        points, is_sure = differences[group]["value"], differences[group]["excludes_zero"]
        which = "ahead of" if points > 0 else "behind"
        return f"{abs(points):.1f} points {which} its teacher{'' if is_sure else ', which may be chance'}"

    return (
        f"The student's average is {compared('overall')}; on tail classes it is {compared('tail')}. In three runs of "
        "this length it was as good as its teacher, and in one of twice the length better: see docs/methods.md."
    )


def _prepare(directory: Path, overwrite: bool) -> None:
    """Empty the directory, unless it holds files that no demo wrote."""
    if not directory.is_dir() or not any(directory.iterdir()):
        return
    if not overwrite:
        raise DeiTLTError(f"{directory} is not empty; pass --overwrite, or another --output_dir")
    if not {path.name for path in directory.iterdir()} <= DEMO_FILES:
        raise DeiTLTError(f"{directory} holds files that a demo does not write; pass another --output_dir")
    shutil.rmtree(directory)
