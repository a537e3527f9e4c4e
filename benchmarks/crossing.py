"""Draws how good a student and its teacher are after how many images, and where the student passes.

    python benchmarks/crossing.py --base digits-lt --figure docs/images/crossing.png       # about an hour on one core
    python benchmarks/crossing.py --base cifar10-lt-small --data_dir cifar10 --budgets 1 2 4 8 --seeds 0

Each point is a training of its own, with a whole schedule: the recipe's epochs times the budget. A student learns from
the teacher of its seed with the recipe's own epochs. The accuracies are those on the test split; nothing is chosen by
them. What is trained already is not trained again, and what was stopped goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from interleaved import markdown_table
from matplotlib.figure import Figure
from methods import Place, parser_of_runs, prepare, runs_of, train
from study.page import spread

from deitlt_hf.cli.console import quiet_libraries
from deitlt_hf.errors import DeiTLTError
from deitlt_hf.evaluation.figures.style import (
    EXPERT_STYLES,
    Series,
    finish,
    grid,
    label_logarithmic,
    legend_below,
    plot,
    save_figure,
)
from deitlt_hf.evaluation.measures import EXPERT_LABELS, EXPERTS

STUDENT, TEACHER = "chosen", "teacher"
GROUPS = {"overall": "all classes", "tail": "tail classes"}
LABELS = {"teacher": "teacher"} | {expert: EXPERT_LABELS[expert] for expert in EXPERTS}
STYLES = {"teacher": {"color": "#009E73", "linestyle": "-.", "marker": "D"}} | EXPERT_STYLES


class Point(NamedTuple):
    """What the trainings of one budget measured."""

    budget: float
    images_seen: float  # views of training images, in millions
    accuracies: list[Mapping[str, float]]  # in percent, of each seed

    def mean(self, group: str) -> float:
        return statistics.fmean(of[group] for of in self.accuracies)


def curves(place: Place, budgets: Collection[float]) -> dict[str, list[Point]]:
    """The points of the teacher and of each of the student's predictions, by rising budget."""
    points: dict[str, list[Point]] = {name: [] for name in LABELS}
    for budget in sorted(budgets):
        teachers = runs_of(TEACHER, place, budget)
        students = runs_of(STUDENT, place, budget)
        if teachers:
            found = [run.metrics["accuracy"] for run in teachers]
            points["teacher"].append(Point(budget, teachers[0].took["images_seen"] / 1e6, found))
        for expert in EXPERTS if students else ():
            found = [run.metrics["experts"][expert] for run in students]
            points[expert].append(Point(budget, students[0].took["images_seen"] / 1e6, found))
    return points


def crossing(points: Mapping[str, Sequence[Point]], group: str) -> str:
    """Where the mean of the student's own prediction reaches that of the teacher that taught it."""
    taught = next(point for point in points["teacher"] if point.budget == 1).mean(group)
    of_student = points["average"]
    reached = next((point for point in of_student if point.mean(group) >= taught), None)
    if reached is not None:
        seen = f"{reached.images_seen:.2g} million views"
        return f"{GROUPS[group]}: the student reaches its teacher, {taught:.1f} %, at {seen}"
    best = max(point.mean(group) for point in of_student)
    return f"{GROUPS[group]}: the student does not reach its teacher, {taught:.1f} %; its best is {best:.1f} %"


def table(points: Mapping[str, Sequence[Point]]) -> str:
    head = ["million views", "prediction", *GROUPS.values(), "seeds"]
    rows = [
        [
            f"{point.images_seen:.2g}",
            LABELS[name],
            *(spread([of[group] for of in point.accuracies]) for group in GROUPS),
            str(len(point.accuracies)),
        ]
        for name, of_name in points.items()
        for point in of_name
    ]
    return markdown_table([head, *rows])


def draw(points: Mapping[str, Sequence[Point]]) -> Figure:
    """Accuracy over views of training images, overall and on the tail; means over seeds."""
    figure, panels = grid(len(GROUPS), columns=2)
    for axes, (group, title) in zip(panels, GROUPS.items(), strict=True):
        for name, of_name in points.items():
            x, y = [point.images_seen for point in of_name], [point.mean(group) for point in of_name]
            plot(axes, x, y, Series(LABELS[name], STYLES[name], {}, name))
        axes.set_xscale("log")
        label_logarithmic(axes.xaxis)
        finish(axes, title, "views of training images, in millions", "accuracy (%)")
    legend_below(figure)
    return figure


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = parser_of_runs(__doc__.splitlines()[0])
    budgets = [0.25, 0.5, 1, 2, 4, 8]
    parser.add_argument("--budgets", nargs="+", type=float, default=budgets, help="default: 0.25 0.5 1 2 4 8")
    parser.add_argument("--figure", type=Path, help="draw the curves into this file")
    return parser.parse_args(argv, argparse.Namespace(split="test"))


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(argv)
    quiet_libraries()
    try:
        place = prepare(options)
        if not options.report_only:
            for budget in sorted(options.budgets):
                for seed in options.seeds:
                    for name in (TEACHER, STUDENT):
                        train(name, seed, place, budget)
    except DeiTLTError as error:  # such as data that are not there
        raise SystemExit(str(error)) from error
    points = curves(place, {1, *options.budgets})  # the students' own teachers have the recipe's epochs
    print(table(points), *(crossing(points, group) for group in GROUPS), sep="\n")
    if options.figure is not None:
        save_figure(draw(points), options.figure)


if __name__ == "__main__":
    main()
