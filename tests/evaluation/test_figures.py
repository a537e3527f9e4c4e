from __future__ import annotations

import warnings
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from deitlt_hf.data.duplicates import Duplicates
from deitlt_hf.data.inspection import Inspection, SplitInspection
from deitlt_hf.errors import DeiTLTError
from deitlt_hf.evaluation.figures.inspection import draw_image_sizes, inspection_figure
from deitlt_hf.evaluation.figures.run import draw_class_accuracy, draw_class_counts, draw_losses, report_figure
from deitlt_hf.evaluation.figures.style import save_figure
from deitlt_hf.evaluation.measures import expert_metrics

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture
def axes():
    return Figure().add_subplot()


def metrics_of(class_counts, groups, class_names=None, correct=lambda label, column, repeat: True):
    """Four test images per class, of which `correct` says who gets them right."""
    num_classes = len(class_counts)
    labels = np.repeat(np.arange(num_classes), 4)
    predictions = [
        [label if correct(label, column, i % 4) else (label + 1) % num_classes for column in range(3)]
        for i, label in enumerate(labels)
    ]
    names = class_names or [f"c{label}" for label in range(num_classes)]
    return expert_metrics(predictions, labels, class_counts, groups, names)


FOUR_COUNTS, FOUR_GROUPS = [5, 90, 2, 30], {"head": [1], "mid": [3], "tail": [0, 2]}
HUNDRED_GROUPS = {"head": list(range(36)), "mid": list(range(36, 71)), "tail": list(range(71, 100))}


def log_history(num_epochs, drw_start=None, logs_per_epoch=1):
    """As the Trainer writes it: entries of training, one of evaluation per epoch, and a summary."""
    history = []
    for step in range(1, num_epochs * logs_per_epoch + 1):
        epoch = step / logs_per_epoch
        entry = {"epoch": epoch, "loss": 3.0 / step, "cls_loss": 2.0 / step, "distillation_loss": 1.0 / step}
        history.append(entry | {"drw": float(drw_start is not None and epoch > drw_start)})
        if step % logs_per_epoch == 0:
            history.append({"epoch": epoch, "eval_loss": 1.0})
    return [*history, {"epoch": float(num_epochs), "train_loss": 1.0}]


def lines(axes) -> dict:
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


def vertical_lines(axes) -> list[float]:
    return [line.get_xdata()[0] for line in axes.lines if list(line.get_ydata()) == [0, 1]]


def tick_labels(axes) -> list[str]:
    return [label.get_text() for label in axes.get_xticklabels()]


def test_bars_hold_the_counts_from_head_to_tail(axes):
    draw_class_counts(axes, metrics_of(FOUR_COUNTS, FOUR_GROUPS))
    assert [(bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in axes.patches] == [
        pytest.approx((0, 90)),
        pytest.approx((1, 30)),
        pytest.approx((2, 5)),
        pytest.approx((3, 2)),
    ]
    assert tick_labels(axes) == ["c1", "c3", "c0", "c2"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "head (1 class)",
        "mid (1 class)",
        "tail (2 classes)",
    ]
    looks = [(bar.get_facecolor(), bar.get_hatch()) for bar in axes.patches]
    assert looks[2] == looks[3]
    assert len({color for color, _ in looks}) == len({hatch for _, hatch in looks}) == 3


@pytest.mark.parametrize(("smallest", "scale"), [(9, "log"), (10, "linear"), (0, "log")])
def test_scale_is_logarithmic_above_an_imbalance_factor_of_ten(axes, smallest, scale):
    draw_class_counts(axes, metrics_of([100, smallest], {"head": [0], "mid": [], "tail": [1]}))
    assert axes.get_yscale() == scale
    assert axes.get_ylim()[0] < max(smallest, 1)  # the smallest bar is seen


def test_many_classes_are_drawn_as_one_shape_per_group(axes):
    counts = [200 - label for label in range(100)]
    draw_class_counts(axes, metrics_of(counts, HUNDRED_GROUPS))
    drawn = [patch.get_data() for patch in axes.patches]
    assert np.concatenate([data.values for data in drawn]).tolist() == counts
    assert [(data.edges[0], data.edges[-1]) for data in drawn] == [(-0.5, 35.5), (35.5, 70.5), (70.5, 99.5)]
    assert tick_labels(axes) == []


def test_accuracy_lines_follow_the_classes_by_frequency(axes):
    # The average gets every image right, CLS none of classes 0 and 2, DIST a quarter of each class.
    def correct(label, column, repeat):
        return (True, label in (1, 3), repeat == 0)[column]

    draw_class_accuracy(axes, metrics_of(FOUR_COUNTS, FOUR_GROUPS, correct=correct))
    drawn = lines(axes)
    assert {label: list(line.get_ydata()) for label, line in drawn.items()} == {
        "average": [100, 100, 100, 100],
        "CLS expert": [100, 100, 0, 0],
        "DIST expert": [25, 25, 25, 25],
    }
    for look in ("get_color", "get_linestyle", "get_marker"):
        assert len({getattr(line, look)() for line in drawn.values()}) == 3
    assert vertical_lines(axes) == [0.5, 1.5]
    assert tick_labels(axes) == ["c1", "c3", "c0", "c2"]


def test_classes_without_test_images_and_empty_groups_are_left_out(axes):
    groups = {"head": [0, 1], "mid": [2], "tail": []}
    metrics = expert_metrics([[0, 0, 0], [2, 2, 0]], [0, 2], [9, 5, 2], groups, ["a", "b", "c"])
    draw_class_accuracy(axes, metrics)
    np.testing.assert_array_equal(lines(axes)["average"].get_ydata(), [100, np.nan, 100])
    assert vertical_lines(axes) == [1.5]


def test_many_classes_show_the_mean_over_neighbours(axes):
    # CLS gets every tenth class right. By hand for a window of five: 20 % inside; at the ends fewer neighbours count.
    draw_class_accuracy(
        axes,
        metrics_of(list(range(200, 100, -1)), HUNDRED_GROUPS, correct=lambda label, column, _: label % 10 == 0),
    )
    values = lines(axes)["CLS expert"].get_ydata()
    assert values[:4] == pytest.approx([100 / 3, 25, 20, 0])
    assert values[8:13] == pytest.approx([20] * 5)
    assert values[96:] == pytest.approx([0] * 4)
    assert "5 neighbours" in axes.get_title()
    assert tick_labels(axes) == []


@pytest.mark.parametrize(
    ("names", "rotation"),
    [
        ([str(digit) for digit in range(10)], 0),
        (CIFAR10, 45),
        ([f"species number {i}" for i in range(30)], 90),
    ],
)
def test_class_names_are_turned_when_they_need_room(axes, names, rotation):
    groups = {"head": list(range(len(names))), "mid": [], "tail": []}
    draw_class_counts(axes, metrics_of([7] * len(names), groups, names))
    assert {label.get_rotation() for label in axes.get_xticklabels()} == {rotation}
    assert tick_labels(axes) == names


def test_labels_do_not_run_into_each_other(axes):
    groups = {"head": list(range(10)), "mid": [], "tail": []}
    figure = report_figure(metrics_of([7] * 10, groups, [name[:5] for name in CIFAR10]), [])
    figure.canvas.draw()
    for panel in figure.axes:
        boxes = [label.get_window_extent() for label in panel.get_xticklabels()]
        assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_odd_class_names_are_drawn_as_they_are(tmp_path):
    names = ["$100 bill", "$\\frac{", "Tinca tinca, a long-named freshwater fish"]
    figure = report_figure(metrics_of([9, 4, 1], {"head": [0], "mid": [1], "tail": [2]}, names), [])
    save_figure(figure, tmp_path / "names.png")
    assert tick_labels(figure.axes[0]) == ["$100 bill", "$\\frac{", "Tinca tinca…ter fish"]


def test_losses_are_those_of_the_log(axes):
    draw_losses(axes, log_history(4, drw_start=2))
    drawn = lines(axes)
    assert list(drawn) == ["loss (sum of both)", "CLS part", "DIST part", "DRW begins (epoch 2)"]
    assert list(drawn["CLS part"].get_xdata()) == [1, 2, 3, 4]
    for label, first in (("loss (sum of both)", 3), ("CLS part", 2), ("DIST part", 1)):
        assert drawn[label].get_ydata() == pytest.approx([first, first / 2, first / 3, first / 4])


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        (log_history(6, drw_start=None), []),
        (log_history(6, drw_start=4), [4]),
        (log_history(6, drw_start=0), [0]),
        (log_history(12, drw_start=9, logs_per_epoch=7), [9]),
        (log_history(6, drw_start=4)[1::2], []),  # evaluations only
        ([{key: value for key, value in entry.items() if key != "drw"} for entry in log_history(3)], []),
    ],
)
def test_a_vertical_line_stands_where_drw_begins(axes, history, expected):
    draw_losses(axes, history)
    assert vertical_lines(axes) == expected


@pytest.mark.parametrize("last_epoch_before", [2.8, 3.0, np.nextafter(3.0, 4.0)])
def test_drw_line_stands_at_the_epoch_whenever_was_logged(axes, last_epoch_before):
    """DRW from epoch 3: the last entry before it comes within epoch 2 or at its end, perhaps with a rounding error."""
    entry = {"loss": 2.0, "cls_loss": 1.0, "distillation_loss": 1.0}
    draw_losses(axes, [entry | {"epoch": last_epoch_before, "drw": 0.0}, entry | {"epoch": 3.2, "drw": 1.0}])
    assert vertical_lines(axes) == [3]


def test_report_has_three_panels_and_readable_text():
    figure = report_figure(metrics_of(FOUR_COUNTS, FOUR_GROUPS), log_history(4, drw_start=2))
    titles = ["Training images per class", "Accuracy per class", "Training loss"]
    assert [panel.get_title() for panel in figure.axes] == titles
    assert figure.get_figwidth() == 12
    for panel in figure.axes:
        texts = [*panel.get_xticklabels(), *panel.get_yticklabels(), *panel.get_legend().get_texts()]
        assert min(text.get_fontsize() for text in [*texts, panel.xaxis.label, panel.yaxis.label, panel.title]) >= 9


def test_report_of_a_finished_model_has_no_loss_panel():
    figure = report_figure(metrics_of(FOUR_COUNTS, FOUR_GROUPS), [])
    assert [panel.get_title() for panel in figure.axes] == ["Training images per class", "Accuracy per class"]


QUANTILES = ("min", "lower_quartile", "median", "upper_quartile", "max")


def split_of(width, height) -> SplitInspection:
    spreads = [dict(zip(QUANTILES, values, strict=False)) for values in (width, height)]
    return SplitInspection(9, FOUR_COUNTS, 0, [], *spreads, {}, [], {}, {})


@pytest.mark.parametrize(("largest", "scale"), [(300, "linear"), (301, "log")])
def test_image_sizes_show_range_middle_half_and_median(axes, largest, scale):
    splits = {"train": split_of((40, 50, 60, 80, largest), (30, 31, 32, 33, 34)), "test": split_of((), ())}
    draw_image_sizes(axes, splits)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["train\nwidth", "train\nheight"]
    assert [(bar.get_x(), bar.get_width()) for bar in axes.patches] == [(50, 30), (31, 2)]
    ranges = [collection.get_segments()[0][:, 0].tolist() for collection in axes.collections]
    assert ranges == [[40, largest], [30, 34]]
    assert [text.get_text() for text in axes.texts] == ["60", "32"]
    assert axes.get_xscale() == scale
    assert axes.get_xlim()[0] < 30 < largest < axes.get_xlim()[1]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # train is on top


@pytest.mark.parametrize("sizes", [(32,) * 5, ()])
def test_image_sizes_that_are_all_the_same_or_unknown(axes, sizes):
    draw_image_sizes(axes, {"train": split_of(sizes, sizes)})
    axes.figure.canvas.draw()
    low, high = axes.get_xlim()
    assert high - low > (10 if sizes else 0)


def test_an_inspections_picture_has_two_panels(tmp_path):
    inspection = Inspection(
        class_names=["ape", "蛙", "$5", "d"],
        class_groups=FOUR_GROUPS,
        drw_weights=[1.0] * 4,
        splits={"train": split_of((20, 30, 40, 50, 60), (20, 30, 40, 50, 60))},
        duplicates=Duplicates(0, 0, {"train": 0}, 0, {}, 0, []),
    )
    figure = inspection_figure(inspection)
    titles = ["Training images per class", "Image sizes: range, middle half, median"]
    assert [panel.get_title() for panel in figure.axes] == titles
    assert [bar.get_height() for bar in figure.axes[0].patches] == [90, 30, 5, 2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figure(figure, tmp_path / "inspection.png")
    for panel in figure.axes:
        texts = [*panel.get_xticklabels(), *panel.get_yticklabels(), *panel.texts, panel.xaxis.label, panel.title]
        assert min(text.get_fontsize() for text in texts) >= 9


def test_save_figure_replaces_the_whole_file(tmp_path, axes):
    path = tmp_path / "new" / "report.png"
    for _ in range(2):
        save_figure(axes.figure, path)
        with Image.open(path) as image:
            assert image.size == tuple(int(inches * 150) for inches in axes.figure.get_size_inches())
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_save_keeps_the_old_file(tmp_path, axes, monkeypatch):
    path = tmp_path / "report.png"
    path.write_bytes(b"old")

    def write_half(aside, **_):
        aside.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(axes.figure, "savefig", write_half)
    with pytest.raises(DeiTLTError, match="disk full"):
        save_figure(axes.figure, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["report", "report.docx"])
def test_save_figure_refuses_unknown_suffixes(tmp_path, axes, name):
    with pytest.raises(DeiTLTError, match=r"pass a name that ends in \.png"):
        save_figure(axes.figure, tmp_path / name)
