"""The parts of a card that say what was measured, what the numbers mean, and what they do not say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from deitlt_hf.cards.data import percent, row_label
from deitlt_hf.cards.facts import ONLY_ROW, ModelFacts
from deitlt_hf.cards.markdown import escape, table
from deitlt_hf.evaluation.measures import MEASURES

_MEANING = (
    "Overall is the share of test images that are right. A group's accuracy is the mean over its classes of each "
    "class's accuracy, so that every class of a group weighs the same however many test images it has."
)
FEW_IMAGES = 10  # fewer leave an accuracy unknown to more than 30 points
_SHORT = {"average": "the average", "cls": "CLS", "distillation": "DIST"}


def results_section(facts: ModelFacts) -> str | None:
    """`## Results`: accuracy of the average and of each expert by group, or None where nothing was measured.

    Example:
        >>> results_section(facts)  # doctest: +SKIP
    """
    results = facts.results
    if results is None:
        return None
    parts = ["## Results", _caption(facts), _accuracy_table(results.rows)]
    best = _best_rows(results.rows)
    parts += [best] if best else []
    if results.averaged_weights:
        parts += ["With the averaged weights (EMA) of the same run:", _accuracy_table(results.averaged_weights)]
    return "\n\n".join([*parts, _MEANING])


def _caption(facts: ModelFacts) -> str:
    results = facts.results
    if results.published_in is not None:
        return (
            "**These are the paper's numbers, not this package's.** They are published in "
            f"[{results.published_in}]({results.published_at}), for the average of both heads; accuracy in percent:"
        )
    number = results.num_images or sum(facts.classes.test_counts or ())
    images = f" on {number:,} test images" if number else " on the test split"
    when = f", measured by the Trainer at step {results.after_step:,}" if results.after_step else ""
    return f"Accuracy in percent{images}{when}:"


def _accuracy_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    # The paper published four of the measures.
    columns = [measure for measure in MEASURES if any(measure.key in values for values in rows.values())]
    cells = [
        (row_label(row), *(measure.text(values.get(measure.key)) for measure in columns))
        for row, values in rows.items()
    ]
    return table(("", *(measure.label for measure in columns)), cells)


def _best_rows(rows: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Who is best on what, where there are several rows to choose from."""
    if len(rows) < 2:
        return None
    best = []
    for column, where in {"head": "on head classes", "tail": "on tail classes", "overall": "overall"}.items():
        measured = {row: values.get(column) for row, values in rows.items() if values.get(column) is not None}
        names = [row_label(row) for row, value in measured.items() if value == max(measured.values())]
        best += [f"{where}: {' and '.join(names)}"] if 0 < len(names) < len(rows) else []
    return f"Best {', '.join(best)}." if best else None


def limits_section(facts: ModelFacts) -> str:
    """`## Limits and risks`, from the facts at hand.

    Example:
        >>> limits_section(facts)  # doctest: +SKIP
    """
    points = [
        _few_test_images(facts),
        _one_run(facts),
        _chosen_by_the_test_split(facts),
        _trade_off(facts),
        _real_use(facts),
        "**Groups follow training images.** Whether a class is head or tail depends on how many training images it has "
        "here and on where the groups are cut, not on how common or how difficult it is in the world.",
        _calibration(facts),
        _spurious(facts),
        f"**It knows {facts.classes.number:,} classes.** It gives one of them to any picture, also to one that shows "
        "none of them.",
    ]
    return "\n".join(["## Limits and risks\n", *(f"- {point}" for point in points if point)])


def _few_test_images(facts: ModelFacts) -> str | None:
    classes, results = facts.classes, facts.results
    if results is None:
        return "**No measurement of these weights is known.** Measure every group on images of your own before use."
    if not classes.test_counts:
        return (
            "**Accuracies of rare classes are uncertain.** Each is measured on few test images where the test split is "
            "small or uneven; small differences need not mean anything."
        )
    rarest, tested = "The class with the fewest has", min(classes.test_counts)
    if classes.rarest is not None and classes.names is not None:
        tested = classes.test_counts[classes.rarest]
        counted = _images(classes.counts[classes.rarest], "training")
        name = escape(classes.names[classes.rarest])
        is_alone = classes.counts.count(classes.smallest) == 1
        rarest = f"The rarest class, {name}, has" if is_alone else f"One of the rarest classes, {name}, has"
        rarest += f" {counted} and"
    if tested == 0:
        return f"**Not every class was tested.** {rarest} no test image, so that nothing is known of it."
    if tested < FEW_IMAGES:
        return (
            f"**Accuracies of rare classes are uncertain.** {rarest} {_images(tested, 'test')}, too few to say what "
            "its accuracy is. The mean over a group is the steadier the more classes it has."
        )
    half = min(98 / math.sqrt(tested), 50)  # 1.96 standard deviations of a share of one half, in percent
    return (
        f"**Accuracies of rare classes are uncertain.** {rarest} {_images(tested, 'test')}: one test image is "
        f"{100 / tested:.1f} points of its accuracy, which near 50 % is known to within about {half:.0f} points "
        "(95 %). The mean over a group is the steadier the more classes it has."
    )


def _images(number: int, kind: str) -> str:
    return f"{number:,} {kind} image{'' if number == 1 else 's'}"


def _one_run(facts: ModelFacts) -> str | None:
    seed = (facts.run.get("training") or {}).get("seed")
    if facts.results is None or seed is None:
        return None
    return (
        f"**This is one run.** It was trained once, with seed {seed}, on one selection of images. Another seed gives "
        "other numbers, and the fewer images a class has, the more they change."
    )


def _chosen_by_the_test_split(facts: ModelFacts) -> str | None:
    settings = facts.settings or {}
    if facts.results is None or not settings.get("load_best_model_at_end"):
        return None
    by = escape(settings.get("metric_for_best_model") or "loss")
    return (
        f"**The test split chose these weights.** Of all evaluations in the run, that with the best {by} was kept, so "
        "new images tend to have lower numbers."
    )


def _trade_off(facts: ModelFacts) -> str | None:
    if not facts.is_student:
        return None
    rows = facts.results.rows if facts.results else {}
    values = [rows.get(row, {}).get(column) for row in ("cls", "distillation") for column in ("head", "tail")]
    measured = ""
    if None not in values:
        cls_head, cls_tail, dist_head, dist_tail = map(percent, values)
        measured = f" Here CLS has {cls_head} % on head and {cls_tail} % on tail, DIST {dist_head} % and {dist_tail} %."
    return (
        f"**CLS is meant for head classes, DIST for tail classes.**{measured} Which of them to use, or their average, "
        "depends on what a mistake costs on a common class and on a rare one."
    )


def _real_use(facts: ModelFacts) -> str | None:
    """Balanced test sets say what happens where every class is as common; weighted by training images, where not."""
    classes, results = facts.classes, facts.results
    if results is None or results.published_in is not None:
        return None
    text = "**Test images are not those of your use.**"
    if classes.test_counts and min(classes.test_counts) == max(classes.test_counts):
        text += " The test split has as many images of each class; where yours come unevenly, overall differs."
        expected = {row: _expected(facts, values.get("per_class")) for row, values in results.rows.items()}
        if None not in expected.values():
            shown = ", ".join(
                f"{percent(value)} %" if row == ONLY_ROW else f"{percent(value)} % for {_SHORT[row]}"
                for row, value in expected.items()
            )
            text += f" Were they as uneven as the training images, it would be about {shown}."
    else:
        text += " Overall depends on how often each class occurs in them."
    return text + " Other cameras, places and times change all numbers."


def _expected(facts: ModelFacts, per_class: list[float | None] | None) -> float | None:
    counts = facts.classes.counts
    if counts is None or not per_class or None in per_class:
        return None
    return sum(count * accuracy for count, accuracy in zip(counts, per_class, strict=True)) / sum(counts)


def _calibration(facts: ModelFacts) -> str:
    why = " DeiT-LT mixes images, smooths labels and weighs rare classes up, which changes what they mean."
    return (
        f"**Probabilities are not calibrated.**{why * facts.is_student} Choose thresholds on images that were not "
        "trained on."
    )


def _spurious(facts: ModelFacts) -> str:
    few = f", {facts.classes.smallest:,} for the rarest here" if facts.classes.smallest is not None else ""
    look = "attention maps and mistakes" if facts.is_student else "mistakes"
    return (
        f"**Rare classes are learned from few images**{few}. What these happen to share, such as a background, a "
        f"camera or a site, may be what the model goes by; look at its {look}."
    )
