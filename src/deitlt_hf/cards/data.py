"""The part of a card that is about the data: where they come from and how long their tail is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deitlt_hf.cards.class_counts import group_row, labels_to_list
from deitlt_hf.cards.facts import ONLY_ROW, ModelFacts
from deitlt_hf.cards.markdown import escape, table
from deitlt_hf.data.long_tail import class_groups
from deitlt_hf.evaluation.measures import EXPERT_LABELS, GROUPS
from deitlt_hf.files import REPORT_FILE
from deitlt_hf.long_tail_accuracy.scores import USUAL_THRESHOLDS


def data_section(facts: ModelFacts) -> str:
    """`## Data`: source, counts, groups, and the classes with their images and accuracies.

    Example:
        >>> data_section(facts)  # doctest: +SKIP
    """
    data = facts.data
    parts = ["## Data"]
    if data is not None:
        parts.append(f"**{escape(data.title)}.** {data.about}")
        parts += [data.terms] if data.terms else []
    parts += [table(("of the data", ""), _totals(facts)), *_leak(facts), *_groups(facts)]
    if facts.has_picture:
        parts.append(f"![Training images per class, and what was measured on each class]({REPORT_FILE})")
    return "\n\n".join([*parts, *_class_table(facts)])


def selection(settings: Mapping[str, Any]) -> str | None:
    """How the train split was made long-tailed, in words; None where a run's settings do not ask for it.

    Example:
        >>> selection({"imbalance_factor": 100})
        'imbalance factor 100, profile exp, seed 0'
    """
    if settings.get("imbalance_factor") is None:
        return None
    profile, seed = settings.get("imbalance_profile", "exp"), settings.get("split_seed", 0)
    return f"imbalance factor {settings['imbalance_factor']:g}, profile {profile}, seed {seed}"


def group_rule(settings: Mapping[str, Any], class_counts: Sequence[int] | None = None) -> str:
    """How classes are told into head, mid and tail, in a sentence.

    Args:
        settings: of the run.
        class_counts: training images per class, where they are known.

    Example:
        >>> group_rule({"group_boundaries": [3, 7]})
        'Of the classes sorted by training images, head is the first 3, mid the next 4, tail the rest.'
    """
    boundaries = settings.get("group_boundaries")
    if boundaries is None:
        if class_counts and class_groups(class_counts) != class_groups(class_counts, USUAL_THRESHOLDS):
            return (
                "Head, mid and tail are about thirds of the classes, by frequency: with the usual thresholds of 100 "
                "and 20 training images one of them would have no class."
            )
        return "Head classes have more than 100 training images, tail classes fewer than 20."
    first, second = boundaries
    return (
        f"Of the classes sorted by training images, head is the first {first:,}, mid the next {second - first:,}, tail "
        "the rest."
    )


def _totals(facts: ModelFacts) -> list[tuple[str, str]]:
    classes, rows = facts.classes, []
    rows.append(("classes", f"{classes.number:,}"))
    if classes.images is not None:
        rows += [
            ("training images", f"{classes.images:,}"),
            ("training images of the largest class", f"{classes.largest:,}"),
            ("training images of the smallest class", f"{classes.smallest:,}"),
            ("imbalance factor (largest / smallest)", f"{classes.largest / classes.smallest:.4g}"),
        ]
    chosen = selection(facts.settings or {})
    if chosen:
        rows.append(("training images selected by", chosen))
    test = _test_images(facts)
    if test:
        rows.append(("test images", test))
    return rows


def _test_images(facts: ModelFacts) -> str | None:
    counts = facts.classes.test_counts
    number = sum(counts) if counts else facts.results and facts.results.num_images
    if not number:
        return None
    if not counts:
        return f"{number:,}"
    spread = (
        f"{min(counts):,} of each class"
        if min(counts) == max(counts)
        else f"{min(counts):,} to {max(counts):,} per class"
    )
    return f"{number:,} ({spread})"


def _leak(facts: ModelFacts) -> list[str]:
    """That test images are in train too, where the run found that."""
    of_data = facts.run.get("data") or {}
    leaked, total = of_data.get("test_images_in_train"), of_data.get("test_images")
    if not leaked or not total:
        return []
    are = "test image is" if leaked == 1 else "test images are"
    return [
        f"{leaked:,} of {total:,} {are} identical to training images ({100 * leaked / total:.1f} %), so that the "
        "accuracies are too high by an unknown part."
    ]


def _groups(facts: ModelFacts) -> list[str]:
    classes = facts.classes
    if classes.groups is None:
        return []
    if classes.counts is None:
        rows = [(name, f"{len(classes.groups[name]):,}") for name in GROUPS]
        shown = table(("group", "classes"), rows)
    else:
        rows = [group_row(name, [classes.counts[label] for label in classes.groups[name]]) for name in GROUPS]
        shown = table(("group", "classes", "training images per class", "together"), rows)
    if facts.settings is None:
        return [shown]
    return [group_rule(facts.settings, classes.counts), shown]


def _class_table(facts: ModelFacts) -> list[str]:
    """A row per class, the largest first; of many classes the largest and the smallest."""
    classes = facts.classes
    if classes.counts is None or classes.names is None:
        return []
    labels, which = labels_to_list(classes.counts)
    columns = _class_columns(facts)
    rows = [[cell(label) for cell in columns.values()] for label in labels]
    return [f"### Classes{which}", table(list(columns), rows)]


def _class_columns(facts: ModelFacts) -> dict[str, Any]:
    """Head of each column, and what gives its cell for a label."""
    classes = facts.classes
    columns: dict[str, Any] = {
        "class": lambda label: escape(classes.names[label]),
        "training images": lambda label: f"{classes.counts[label]:,}",
    }
    if classes.groups is not None:
        group_of = {label: name for name in GROUPS for label in classes.groups[name]}
        columns["group"] = lambda label: group_of.get(label, "")
    if classes.test_counts is not None:
        columns["test images"] = lambda label: f"{classes.test_counts[label]:,}"
    for row, accuracies in (facts.results.rows if facts.results else {}).items():
        if accuracies.get("per_class"):
            per_class = accuracies["per_class"]
            columns[f"{row_label(row)}, %"] = lambda label, values=per_class: percent(values[label])
    return columns


def row_label(row: str) -> str:
    """What a row of results is called: average, CLS expert, DIST expert, or accuracy of a network with one head.

    Example:
        >>> row_label("cls")
        'CLS expert'
    """
    return "accuracy" if row == ONLY_ROW else EXPERT_LABELS[row]


def percent(value: float | None) -> str:
    """A percentage with one decimal, a dash where nothing was measured.

    Example:
        >>> percent(87.25), percent(None)
        ('87.2', '-')
    """
    return "-" if value is None else f"{value:.1f}"
