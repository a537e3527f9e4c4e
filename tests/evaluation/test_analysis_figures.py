"""The figures of an analysis show the record's numbers, of one model and of several, in sizes that can be read."""

from __future__ import annotations

import copy
import subprocess
import sys

import numpy as np
import pytest
from made_up_analysis import COUNTS, FOUR, made_up_analysis
from PIL import Image

from deitlt_hf.evaluation.attention import draw_attention
from deitlt_hf.evaluation.figures.classes import (
    agreement_figure,
    class_confusion_figure,
    class_frequency_figure,
    confusion_figure,
    reliability_figure,
)
from deitlt_hf.evaluation.figures.examples import examples_figure
from deitlt_hf.evaluation.figures.layers import (
    attention_distance_figure,
    feature_rank_figure,
    token_similarity_figure,
)
from deitlt_hf.evaluation.figures.style import EXPERT_STYLES, model_styles, shortened_names
from deitlt_hf.evaluation.page import SECTIONS


@pytest.fixture(scope="module")
def one() -> dict:
    return {"DeiT-LT": made_up_analysis(teacher=True).record}


@pytest.fixture(scope="module")
def several() -> dict:
    return {
        "ViT": made_up_analysis(1, two_tokens=False).record,
        "_DeiT $5": made_up_analysis(2, layers=8).record,
        "DeiT-LT": made_up_analysis(3, teacher=True).record,
    }


def shown(axes) -> dict[str, list[float]]:
    """The values of the lines that the legend tells of."""
    return {line.shown_as: list(line.get_ydata()) for line in axes.lines if hasattr(line, "shown_as")}


def titles(figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes if axes.get_visible()]


def legend_texts(figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_attention_distance_has_a_dot_per_head_and_their_mean(several):
    figure = attention_distance_figure(several)
    assert titles(figure) == ["patches", "CLS token", "DIST token"]
    for axes, token in zip(figure.axes, ("all", "cls", "distillation"), strict=True):
        having = {
            name: of["attention_distance"][token] for name, of in several.items() if token in of["attention_distance"]
        }
        assert shown(axes) == {name: pytest.approx(np.mean(heads, axis=1)) for name, heads in having.items()}
        dots = [line.get_ydata().tolist() for line in axes.lines if line.get_linestyle() == "None"]
        assert dots == [list(head) for heads in having.values() for head in zip(*heads, strict=True)]
    assert list(shown(figure.axes[2])) == ["_DeiT $5", "DeiT-LT"]
    assert legend_texts(figure) == list(several)


def test_feature_rank_of_one_model_has_both_tokens_in_one_panel(one):
    figure = feature_rank_figure(one)
    ranks, gathered = figure.axes
    record = one["DeiT-LT"]
    assert shown(ranks) == {
        "CLS token": record["feature_rank"]["cls"],
        "DIST token": record["feature_rank"]["distillation"],
    }
    last = {name: values[-1] for name, values in record["spectrum"].items()}
    assert shown(gathered)["DIST token"][:3] == pytest.approx(
        [100 * last["distillation"][0], 100 * sum(last["distillation"][:2]), 100 * sum(last["distillation"][:3])]
    )
    assert shown(gathered)["CLS token"][-1] == pytest.approx(100)
    assert legend_texts(figure) == ["CLS token", "DIST token"]
    assert "99 %" in ranks.get_ylabel()


def test_feature_rank_of_several_models_has_them_in_one_panel_per_token(several):
    figure = feature_rank_figure(several)
    cls, _, distillation, _ = figure.axes
    assert shown(cls) == {name: record["feature_rank"]["cls"] for name, record in several.items()}
    assert list(shown(distillation)) == ["_DeiT $5", "DeiT-LT"]
    assert cls.get_ylim() == distillation.get_ylim()


def test_similarity_is_about_models_with_two_tokens(several):
    (axes,) = token_similarity_figure(several).axes
    assert shown(axes) == {name: several[name]["token_similarity"] for name in ("_DeiT $5", "DeiT-LT")}
    assert token_similarity_figure({"ViT": several["ViT"]}) is None
    assert agreement_figure({"ViT": several["ViT"]}) is None


def test_class_accuracy_and_difference_stand_over_training_images(one):
    accuracy, difference = class_frequency_figure(one).axes
    experts = one["DeiT-LT"]["experts"]
    assert shown(accuracy) == {
        "average": experts["average"]["per_class"],
        "CLS expert": experts["cls"]["per_class"],
        "DIST expert": experts["distillation"]["per_class"],
    }
    assert list(accuracy.lines[0].get_xdata()) == COUNTS
    assert accuracy.get_xscale() == "log"
    line, fitted, stroke = difference.lines[:3]
    assert line.get_color() not in {style["color"] for style in EXPERT_STYLES.values()}  # the legend is of both panels
    assert line.get_ydata() == pytest.approx(
        np.subtract(experts["distillation"]["per_class"], experts["cls"]["per_class"])
    )
    assert [*fitted.get_xdata(), *fitted.get_ydata()] == pytest.approx([5, 500, 45.8, -34.2])
    assert [*stroke.get_xdata(), *stroke.get_ydata()] == [70, 0]


def test_several_models_are_compared_by_their_own_prediction(several):
    accuracy, difference = class_frequency_figure(several).axes
    own = {"ViT": "cls", "_DeiT $5": "average", "DeiT-LT": "average"}
    assert shown(accuracy) == {name: several[name]["experts"][expert]["per_class"] for name, expert in own.items()}
    assert list(shown(difference)) == ["_DeiT $5", "DeiT-LT"]
    assert [axes.get_title() for axes in confusion_figure(several).axes] == list(several)
    assert len(class_frequency_figure({"ViT": several["ViT"]}).axes) == 1


def test_classes_without_test_images_and_without_crossing_leave_a_gap(one):
    record = copy.deepcopy(one["DeiT-LT"])
    for scores in record["experts"].values():
        scores["per_class"][4] = None
    record["crossing"] = dict.fromkeys(record["crossing"])
    accuracy, difference = class_frequency_figure({"DeiT-LT": record}).axes
    assert np.isnan(shown(accuracy)["average"]).nonzero()[0].tolist() == [4]
    assert [list(line.get_xdata()) for line in difference.lines] == [COUNTS, [0, 1]]


def test_many_classes_are_means_over_neighbours(one):
    record = copy.deepcopy(one["DeiT-LT"])
    record["class_names"], record["class_counts"] = [f"class {label}" for label in range(100)], list(range(100, 0, -1))
    record["groups"] = {"head": list(range(30)), "mid": list(range(30, 60)), "tail": list(range(60, 100))}
    for scores in record["experts"].values():
        scores["per_class"] = [100.0 * (label % 5 == 0) for label in range(100)]
    figure = class_frequency_figure({"DeiT-LT": record})
    accuracy, difference = figure.axes
    assert shown(accuracy)["average"][10:20] == pytest.approx([20.0] * 10)  # of five neighbours one is right
    assert accuracy.lines[0].get_xdata()[10:12] == pytest.approx([90, 89])
    assert "mean over 5 neighbours" in accuracy.get_title()
    figure.draw_without_rendering()
    assert difference.title.get_window_extent().x1 < figure.bbox.x1  # nothing of it is cut off


def test_agreement_bars_are_the_records(one, several):
    figure = agreement_figure(one)
    (axes,) = figure.axes
    agreement = one["DeiT-LT"]["agreement"]
    heights = {bars.shown_as: [bar.get_height() for bar in bars] for bars in axes.containers}
    for label, pair in (
        ("CLS and DIST expert", "cls-distillation"),
        ("teacher and CLS expert", "teacher-cls"),
        ("teacher and DIST expert", "teacher-distillation"),
    ):
        np.testing.assert_array_equal(
            heights.pop(label), np.array([agreement[pair][name] for name in FOUR], dtype=float)
        )
    assert heights == {}
    assert len({bars[0].get_hatch() for bars in axes.containers}) == 3
    figure = agreement_figure(several)
    assert titles(figure) == ["CLS and DIST expert", "teacher and CLS expert", "teacher and DIST expert"]
    assert [[bars.shown_as for bars in axes.containers] for axes in figure.axes] == [
        ["_DeiT $5", "DeiT-LT"],
        ["DeiT-LT"],
        ["DeiT-LT"],
    ]


def test_reliability_leaves_empty_bins_out_and_tells_the_error(one):
    figure = reliability_figure(one)
    assert titles(figure) == list(FOUR)
    for axes, group in zip(figure.axes, FOUR, strict=True):
        bins = one["DeiT-LT"]["calibration"]["cls"][group]["bins"][2:]  # the first two are empty
        assert shown(axes)["CLS expert"] == [entry["accuracy"] for entry in bins]
        texts = [text.get_text() for text in axes.get_legend().get_texts()]
        assert texts == ["average: ECE 7.5", "CLS expert: ECE 7.5", "DIST expert: ECE 7.5"]
    nobody = copy.deepcopy(one["DeiT-LT"])
    for of_expert in nobody["calibration"].values():
        of_expert["tail"] = {"ece": None, "bins": [{"confidence": None, "accuracy": None, "count": 0}]}
    assert shown(reliability_figure({"DeiT-LT": nobody}).axes[3]) == {}


def test_confusions_are_written_into_their_cells(one):
    figure = confusion_figure(one)
    assert titles(figure) == ["average", "CLS expert", "DIST expert"]
    cells = {text.get_position(): text.get_text() for text in figure.axes[0].texts}
    assert (cells[0, 2], cells[2, 0], cells[2, 2]) == ("35.0", "2.0", "49.5")  # (column, row): tail taken for head
    unknown = copy.deepcopy(one["DeiT-LT"])
    unknown["confusion"]["cls"]["groups"][2] = [None] * 3
    assert [text.get_text() for text in confusion_figure({"a": unknown}).axes[1].texts][6:] == ["-"] * 3


def test_the_confusion_matrix_shows_percentages_and_the_other_classes(several):
    names, matrix = ["$elk", "owl", "fox"], {"labels": [2, 0], "percent": [[70.0, 0.0], [None, None]]}
    record = {"class_names": names, "class_confusion": matrix | {"others": [30.0, None]}}
    (axes,) = class_confusion_figure({"DeiT-LT": record}).axes
    assert {text.get_position(): text.get_text() for text in axes.texts} == {(0, 0): "70", (2, 0): "30"}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["fox", "$elk", "other classes"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["fox", "$elk"]
    figure = class_confusion_figure(several)
    assert titles(figure) == list(several)
    assert [len(axes.get_xticklabels()) for axes in figure.axes[:3]] == [10] * 3  # all classes, so no others


def test_long_names_of_classes_that_differ_in_the_middle_stay_apart():
    names = [f"class number {number:03} of three hundred" for number in (7, 12, 250)]
    apart = [f"…{number} of t…ee hundred" for number in ("007", "012", "250")]
    assert shortened_names([*names, "owl"], 20) == [*apart, "owl"]
    assert shortened_names(["a" * 30, "b" * 30], 20) == ["a" * 9 + "…" + "a" * 10, "b" * 9 + "…" + "b" * 10]
    together = [f"{'m' * 12}{letter}{'n' * 12}" for letter in "xy"]  # one word
    assert shortened_names(together, 9) == ["…xnn…nnnn", "…ynn…nnnn"]


def test_a_network_without_tokens_beside_others_and_alone(several):
    cnn = copy.deepcopy(several["ViT"])
    for part in ("attention_distance", "feature_rank", "spectrum", "token_similarity"):
        del cnn[part]
    cnn["experts"] = {"model": cnn["experts"]["cls"]}
    cnn["calibration"], cnn["confusion"] = ({"model": cnn[part]["cls"]} for part in ("calibration", "confusion"))
    cnn["model"]["prediction"] = "model"
    for draw in (attention_distance_figure, feature_rank_figure, token_similarity_figure, agreement_figure):
        assert draw({"CNN": cnn}) is None
    beside = {"CNN": cnn, "DeiT-LT": several["DeiT-LT"]}
    assert {label for axes in attention_distance_figure(beside).axes for label in shown(axes)} == {"DeiT-LT"}
    assert {label for axes in feature_rank_figure(beside).axes for label in shown(axes)} == {"DeiT-LT"}
    assert titles(confusion_figure({"CNN": cnn})) == ["model"]
    assert shown(class_frequency_figure({"CNN": cnn}).axes[0])["model"] == cnn["experts"]["model"]["per_class"]
    cnn["agreement"] = {"teacher-model": dict.fromkeys(FOUR, 60.0)}
    assert len(agreement_figure({"CNN": cnn}).axes[0].patches) == 4


def test_examples_show_the_picture_its_classes_and_the_maps():
    analysis = made_up_analysis()
    analysis.examples[0].predicted["fused"] = 1  # of a student after `deitlt calibrate`
    figure = examples_figure(analysis)
    rows = np.reshape(figure.axes, (3, 6))
    assert [axes.get_title() for axes in rows[0, 2:]] == [
        "CLS attention",
        "DIST attention",
        "CLS rollout",
        "DIST rollout",
    ]
    said = rows[0, 0].texts[0].get_text().splitlines()
    assert said == [
        "true: airplane",
        "average: airplane ✓",
        "CLS: automobile ✗",
        "DIST: airplane ✓",
        "fused: automobile ✗",
    ]
    example = analysis.examples[1]
    picture = rows[1, 1].images[0].get_array()
    assert np.array_equal(picture[::7, ::7], example.image)  # 32 pixels, each drawn as 7 x 7
    drawn = draw_attention(Image.fromarray(np.asarray(picture)), example.rollout["cls"])
    assert np.array_equal(rows[1, 4].images[0].get_array(), np.asarray(drawn))
    assert len(examples_figure(made_up_analysis(two_tokens=False)).axes) == 3 * 4
    analysis.examples.clear()
    assert examples_figure(analysis) is None


def test_everything_can_be_read_at_half_width(one, several):
    figures = [section.draw(records) for section in SECTIONS for records in (one, several)]
    for figure in [*figures, examples_figure(made_up_analysis())]:
        assert figure.get_figwidth() <= 12
        texts = [text for legend in figure.legends for text in legend.get_texts()]
        for axes in filter(lambda axes: axes.get_visible() and axes.axison, figure.axes):
            texts += [*axes.get_xticklabels(), *axes.get_yticklabels(), axes.xaxis.label, axes.yaxis.label, axes.title]
            texts += [*axes.texts, *(axes.get_legend().get_texts() if axes.get_legend() else [])]
        assert min([text.get_fontsize() for text in texts], default=12) >= 10 * figure.get_figwidth() / 12


def test_no_two_models_look_the_same_in_grey():
    looks = [(style["marker"], str(style["linestyle"])) for style in model_styles(map(str, range(35))).values()]
    assert len(set(looks)) == 35
    assert len({style["color"] for style in model_styles("abcdefg").values()}) == 7


def test_figures_of_saved_records_need_neither_torch_nor_pyplot():
    code = (
        "import sys; from matplotlib.figure import Figure;"
        "from deitlt_hf.evaluation.figures import classes, layers, run; run.draw_losses(Figure().add_subplot(), []);"
        "sys.exit(bool({'matplotlib.pyplot', 'torch', 'transformers'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
