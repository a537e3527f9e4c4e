"""The page of the study: what stands between markers is made of what the runs saved, the prose around it stays."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from interleaved import markdown_table

from deitlt_hf.cards.paper_settings import PAPER_SETTINGS
from deitlt_hf.evaluation.measures import EXPERT_LABELS, EXPERTS, GROUPS, TEACHER
from deitlt_hf.recipes import load_recipe
from study.claims import CLAIMS, differences, standard_error, verdict
from study.saved_runs import (
    RUNS,
    STUDENTS,
    TEACHER_TITLES,
    TEACHERS,
    Run,
    Runs,
    holds_numbers,
    mean_and_deviation,
    student_directory,
    student_recipe,
    teacher_directory,
)
from study.settings import FOLLOWS, changed_settings

COLUMNS = ("overall", *GROUPS)
PAPERS = "cifar10-lt-if100"  # its setting of the same data
WHOLE_RUN = "the whole run"  # what run.json's hours are of, unless the run was resumed
ALTERNATIVES = {  # what a reader without pictures is told of them
    "accuracy": "Test accuracy of every student, overall and on head, mid and tail classes",
    "experts": "Accuracy of DeiT-LT's experts on each class, the most frequent first",
    "attention distance": "Mean attention distance in each block of ViT and of DeiT-LT",
    "rank": "Rank of DIST's features in each block, with SAM in the teacher and without",
}
PARTS = (
    "students",
    "experts",
    "claims",
    "teachers",
    "budget",
    "commands",
    *(f"figure of {name}" for name in ALTERNATIVES),
)


def make_parts(base: str, runs: Runs, teachers: Mapping[str, Run]) -> dict[str, str]:
    """The text of the page's parts, by the names in their markers.

    Args:
        base: recipe of DeiT-LT.
        runs: of the students, which may be missing.
        teachers: likewise.
    """
    return {
        "students": students_table(runs),
        "experts": experts_table(runs, teachers),
        "claims": claims_table(runs),
        "teachers": teachers_table(teachers),
        "budget": budget_table(runs | {f"teacher{suffix}": {0: run} for suffix, run in teachers.items()}),
        "commands": commands(base, runs),
    }


def figure_parts(figures: Mapping[str, Path | None], page: Path) -> dict[str, str]:
    """The pictures, by the names in their markers; `figures` has None where nothing is measured yet."""
    parts = {}
    for name, file in figures.items():
        link = file and Path(os.path.relpath(file, page.parent)).as_posix()
        parts[f"figure of {name}"] = f"![{ALTERNATIVES[name]}]({link})" if link else "Not measured yet."
    return parts


def check_page(page: Path) -> None:
    """Refuse a page that is not there or lacks a pair of markers."""
    if not page.is_file():
        raise SystemExit(f"{page} is not there; pass a page with markers, such as a copy of docs/results.md")
    numbers = page.with_suffix(".json")
    if numbers.exists() and not holds_numbers(numbers):
        raise SystemExit(f"{numbers} is no such page's; take it away, for the numbers of {page} go there")
    check_markers(page, PARTS)


def check_markers(page: Path, names: Iterable[str]) -> None:
    """Refuse a page without the pair of markers of each part, to whose end `write_parts` would add them."""
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    for name in names:
        begin, end = _markers(name)
        if end not in text.partition(begin)[2]:
            raise SystemExit(f"{page} lacks the lines {begin} and {end}, between which its {name} go")


def write_parts(page: Path, parts: Mapping[str, str]) -> None:
    """Put each part between its markers, see `check_markers`; the page is there whole or unchanged."""
    text = page.read_text(encoding="utf-8")
    for name, part in parts.items():
        begin, end = _markers(name)
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n\n{part}\n\n{end}{rest.partition(end)[2]}"
    aside = page.with_name(f"{page.name}.part")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, page)


def _markers(name: str) -> tuple[str, str]:
    return f"<!-- {name} -->", f"<!-- end of {name} -->"


def students_table(runs: Runs) -> str:
    """Every student's own prediction, and what the paper published."""
    rows = [["student", "seeds", *COLUMNS]]
    for name, of_seeds in runs.items():
        accuracies = [spread(run.accuracy(group) for run in of_seeds.values()) for group in COLUMNS]
        rows.append([STUDENTS[name].title, str(len(of_seeds)), *accuracies])
    setting, recipe = PAPER_SETTINGS[PAPERS], load_recipe(PAPERS)
    title = f"*the paper's DeiT-LT: ViT-B/16, {recipe['image_size']} pixels, {recipe['num_train_epochs']} epochs*"
    return markdown_table([*rows, [title, "", *(f"*{value:.1f}*" for value in setting.accuracy)]])


def experts_table(runs: Runs, teachers: Mapping[str, Run]) -> str:
    """Average and experts of every student that has a teacher, its teacher, and the average's difference from it."""
    rows = [["student", "prediction", *COLUMNS]]
    for name in (name for name in runs if STUDENTS[name].teacher is not None):
        for expert in EXPERTS:
            accuracies = [spread(run.accuracy(group, expert) for run in runs[name].values()) for group in COLUMNS]
            rows.append([STUDENTS[name].title, EXPERT_LABELS[expert], *accuracies])
        if runs[name] and STUDENTS[name].teacher in teachers:
            taught = teachers[STUDENTS[name].teacher].metrics["accuracy"]
            rows.append([STUDENTS[name].title, TEACHER, *(f"{taught[group]:.1f}" for group in COLUMNS)])
            behind = [
                spread((run.accuracy(group, "average") - taught[group] for run in runs[name].values()), sign="+")
                for group in COLUMNS
            ]
            rows.append([STUDENTS[name].title, f"average - {TEACHER}", *behind])
    return markdown_table(rows)


def claims_table(runs: Runs) -> str:
    """The paper's claims, the differences that they are about, and what these decide."""
    rows = [["the paper's claim", "difference", "of each seed", "verdict"]]
    for claim in CLAIMS:
        found = list(differences(claim, runs).values())
        error = standard_error(found)
        of_error = "" if error is None else f" ± {error:.1f}"
        difference = f"{statistics.fmean(found):+.1f}{of_error} {claim.unit}" if found else "-"
        rows.append([claim.text, difference, ", ".join(f"{value:+.1f}" for value in found), verdict(found)])
    return markdown_table(rows)


def teachers_table(teachers: Mapping[str, Run]) -> str:
    rows = [["teacher", *COLUMNS]]
    for suffix, run in teachers.items():
        rows.append([TEACHER_TITLES[suffix], *(f"{run.metrics['accuracy'][group]:.1f}" for group in COLUMNS)])
    return markdown_table(rows)


def budget_table(runs: Runs) -> str:
    """What every run saw and took; runs that left no record of it are left out."""
    rows = [["run", "images seen", "epochs", "hours, by seed", "hours in all"]]
    for name, of_seeds in runs.items():
        took = [run.took for run in of_seeds.values() if run.took]
        if took:
            seen = _each({f"{part['images_seen']:,}" for part in took})
            epochs = _each({f"{part['epochs']:g}" for part in took})
            hours = ", ".join(f"{part['hours']:.2f}{'*' * (part['hours_of'] != WHOLE_RUN)}" for part in took)
            title = STUDENTS[name].title if name in STUDENTS else name
            rows.append([title, seen, epochs, hours, f"{sum(part['hours'] for part in took):.2f}"])
    return markdown_table(rows)


def commands(base: str, runs: Runs) -> str:
    """The study's command, and those that it gives, from the settings that the runs saved."""
    teachers, students, common = [], [], {}
    for suffix in TEACHER_TITLES:
        output = teacher_directory(RUNS, suffix)
        teachers.append(f"deitlt teacher --recipe {TEACHERS[base]}{suffix} --output_dir {output} --data_dir cifar10")
    for name, of_seeds in runs.items():
        student = STUDENTS[name]
        for run in list(of_seeds.values())[:1]:
            changed = changed_settings(run, student_recipe(base, student))
            common |= changed
            taught = "" if student.teacher is None else f" --teacher {teacher_directory(RUNS, student.teacher)}"
            students.append(
                f"deitlt train --recipe {student_recipe(base, student)}{taught}{_flags(changed)} --seed SEED "
                f"--output_dir {student_directory(RUNS, name, 'SEED')} --data_dir cifar10"
            )
    common.pop(FOLLOWS, None)
    epochs = _flags({"epochs": common.pop("num_train_epochs")}) if "num_train_epochs" in common else ""
    seeds = " ".join(map(str, sorted({seed for of_seeds in runs.values() for seed in of_seeds})))
    flags = f" --{_flags(common)}" if common else ""
    study = f"python benchmarks/cifar10_lt_study.py --data_dir cifar10{epochs} --seeds {seeds}{flags}"
    given = [f"    {line}" for line in teachers + students]
    return "\n".join(
        [f"    {study}", "", "It runs these commands, each with `--augmentation_device device`:", "", *given]
    )


def _flags(settings: Mapping[str, Any]) -> str:
    said = ((name, f"{value:g}" if isinstance(value, float) else str(value)) for name, value in settings.items())
    return "".join(f" --{name} {value}" for name, value in said)


def spread(values: Iterable[float], sign: str = "") -> str:
    """Mean and standard deviation over seeds; the mean alone of one seed, and a dash of none."""
    values = list(values)
    if not values:
        return "-"
    mean, deviation = mean_and_deviation(values)
    return f"{mean:{sign}.1f}" if deviation is None else f"{mean:{sign}.1f} ± {deviation:.1f}"


def _each(texts: Iterable[str]) -> str:
    return " or ".join(sorted(texts))
