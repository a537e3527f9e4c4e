"""The runs of the study, as they are saved."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from deitlt_hf.files import METRICS_FILE, RECIPE_FILE, RUN_FILE, read_json, read_settings, write_json

RUNS = Path("runs/study")  # where they are unless told otherwise
ANALYSIS_FILE = "analysis.json"
_OF_ANALYSIS = ("model", "attention_distance", "feature_rank")  # what the page is made of


class Student(NamedTuple):
    """A student of the study: what the base recipe's name goes on with, and likewise its teacher's."""

    title: str
    recipe: str
    teacher: str | None


STUDENTS = {
    "vit": Student("ViT", "-vit", None),
    "deit": Student("DeiT", "-deit", "-strong"),
    "no-drw": Student("DeiT-LT without DRW", "-no-drw", ""),
    "no-sam": Student("DeiT-LT, teacher without SAM", "", "-no-sam"),
    "deit-lt": Student("DeiT-LT", "", ""),
}
TEACHERS = {"cifar10-lt-small": "cifar10-lt-small-teacher", "cifar10-lt-if100": "cifar10-lt-if100-teacher-ldam"}
# Of a base whose own recipe has settings that the paper's does not have.
PAPERS_WAY = {"cifar10-lt-small": "cifar10-lt-small-paper"}
TEACHER_TITLES = {"": "as the paper's: weak views, SAM", "-no-sam": "without SAM", "-strong": "on strong views"}


@dataclass(frozen=True)
class Run:
    """A finished run: its settings, and what it and its analysis measured; `{}` for what it did not leave."""

    settings: Mapping[str, Any]
    metrics: Mapping[str, Any]
    took: Mapping[str, Any]
    analysis: Mapping[str, Any]

    @property
    def expert(self) -> str:
        """Which expert the model's own logits are."""
        return self.settings.get("expert", "average")

    def accuracy(self, group: str, expert: str | None = None) -> float:
        """Percent of the test images, by the model's own logits or by an expert."""
        return self.metrics["experts"][expert or self.expert][group]

    def attention_distance(self) -> list[float] | None:
        """Of each block in pixels, the mean over heads and patches; None before the analysis."""
        distances = self.analysis.get("attention_distance")
        return distances and [statistics.fmean(heads) for heads in distances["all"]]

    def distillation_rank(self) -> list[int] | None:
        """Of each block, how many components hold 99 % of the variance of DIST's features; None before the analysis."""
        rank = self.analysis.get("feature_rank")
        return rank and rank["distillation"]


Runs = dict[str, dict[int, Run]]  # of a student's name and a seed


def read_run(directory: Path) -> Run | None:
    """The run in a directory, None while it is not finished."""
    metrics = read_json(directory / METRICS_FILE)
    if metrics is None:
        return None
    took = (read_json(directory / RUN_FILE) or {}).get("training", {})
    analysis = read_json(directory / ANALYSIS_FILE) or {}
    return Run(read_settings(directory / RECIPE_FILE) or {}, metrics, took, analysis)


def student_recipe(base: str, student: Student) -> str:
    """The recipe of a student of the study over a base; DeiT-LT's is the paper's way."""
    return base + student.recipe if student.recipe else PAPERS_WAY.get(base, base)


def student_directory(directory: Path, name: str, seed: int | str) -> Path:
    return directory / f"{name}-seed{seed}"


def teacher_directory(directory: Path, suffix: str) -> Path:
    return directory / f"teacher{suffix}"


def read_students(directory: Path) -> Runs:
    """The finished runs of every student, seeds in order."""
    runs: Runs = {}
    for name in STUDENTS:
        seeds = (path.name.removeprefix(f"{name}-seed") for path in directory.glob(f"{name}-seed*"))
        seeds = sorted(int(seed) for seed in seeds if seed.isdigit())
        found = {seed: read_run(student_directory(directory, name, seed)) for seed in seeds}
        runs[name] = {seed: run for seed, run in found.items() if run is not None}
    return runs


def read_teachers(directory: Path) -> dict[str, Run]:
    """The finished teachers, by what their names go on with."""
    found = {suffix: read_run(teacher_directory(directory, suffix)) for suffix in TEACHER_TITLES}
    return {suffix: run for suffix, run in found.items() if run is not None}


def save_numbers(runs: Runs, teachers: Mapping[str, Run], file: Path) -> None:
    """Write what the page is made of, so that it can be made again where the runs are not."""
    students = {name: {str(seed): _numbers(run) for seed, run in of_seeds.items()} for name, of_seeds in runs.items()}
    write_json(file, {"students": students, "teachers": {suffix: _numbers(run) for suffix, run in teachers.items()}})


def read_numbers(file: Path) -> tuple[Runs, dict[str, Run]]:
    """The students' runs and the teachers', as `save_numbers` wrote them."""
    if not holds_numbers(file):
        raise SystemExit(f"{file} holds no numbers of a page; pass a file such as docs/results.json")
    numbers = read_json(file)
    students = {name: numbers["students"].get(name, {}).items() for name in STUDENTS}
    runs = {name: {int(seed): Run(**run) for seed, run in of_seeds} for name, of_seeds in students.items()}
    return runs, {suffix: Run(**run) for suffix, run in numbers["teachers"].items()}


def holds_numbers(file: Path) -> bool:
    """Whether a file is as `save_numbers` writes it."""
    return (read_json(file) or {}).keys() == {"students", "teachers"}


def _numbers(run: Run) -> dict[str, Any]:
    return asdict(run) | {"analysis": {name: run.analysis[name] for name in _OF_ANALYSIS if name in run.analysis}}


def mean_and_deviation(values: Iterable[float]) -> tuple[float, float | None]:
    """The mean over seeds and their standard deviation (over one less than their number); None for one seed."""
    values = list(values)
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None
