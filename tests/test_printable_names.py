"""Names from people's files, as hostile as they come, in everything that is printed, drawn or written as a page."""

from __future__ import annotations

import unicodedata
import warnings

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Features
from datasets import Image as ImageFeature
from datasets.features import ClassLabel
from matplotlib.text import Text
from PIL import Image

from deitlt_hf import DeiTLTError
from deitlt_hf.cards.markdown import escape
from deitlt_hf.data.inspection import format_inspection, inspect_dataset
from deitlt_hf.errors import notice, printable
from deitlt_hf.evaluation.compare import format_comparison, paired_differences
from deitlt_hf.evaluation.figures.run import report_figure
from deitlt_hf.evaluation.measures import expert_metrics

NAMES = [
    "\x1b[2J\x1b]0;owned\x07",
    "two\nlines",
    "tab\tand\rreturn",
    "\u202egnp.exe",
    "\x9b31m c1",
    "a|b `c` <script>alert(1)</script> $x_1$ \\frac{",
    "n" * 300,
    "мышь 鼠 ماوس",
]


def is_clean(text: str) -> bool:
    """Nothing that moves a terminal's cursor or turns the direction of a line."""
    return not any(
        (unicodedata.category(char) in ("Cc", "Zl", "Zp") and char != "\n") or char in "\u202e\u2066" for char in text
    )


@pytest.fixture
def metrics() -> dict:
    labels = np.repeat(np.arange(len(NAMES)), 2)
    groups = {"head": [0, 1], "mid": [2, 3], "tail": [4, 5, 6, 7]}
    return expert_metrics(np.stack([labels] * 3, axis=1), labels, [9, 8, 7, 6, 5, 4, 3, 2], groups, NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_messages(name, caplog):
    assert is_clean(str(DeiTLTError(f"the class {name} is empty")))
    assert "\n" not in str(DeiTLTError(f"the class {name} is empty"))
    notice(f"taken: {name}")
    assert is_clean(caplog.records[-1].getMessage())
    assert is_clean(escape(name))


def test_other_scripts_stay_as_they_are():
    assert printable(NAMES[-1]) == NAMES[-1]


def test_an_inspection():
    images = [Image.new("RGB", (4, 4), (index, 0, 0)) for index in range(len(NAMES))]
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=NAMES)})
    rows = Dataset.from_dict({"image": images, "label": list(range(len(NAMES)))}, features=features)
    text = format_inspection(inspect_dataset(DatasetDict(train=rows, test=rows), progress=False))
    assert is_clean(text)
    assert len(text.splitlines()) < 40  # a name makes no lines of its own


@pytest.mark.parametrize("name", NAMES)
def test_a_comparison(name):
    labels = np.repeat([0, 1], 20)
    groups = {"head": [0], "mid": [], "tail": [1]}
    differences = paired_differences(labels, labels, labels, groups)
    values = {measure: {"value": 50.0, "interval": [40.0, 60.0]} for measure in differences}
    text = format_comparison(
        {"reference": "A", "accuracies": {"A": values, name: values}, "differences": {name: differences}}
    )
    assert is_clean(text)
    assert len(text.splitlines()) == 13  # two tables of five lines, an empty one, and what the signs mean


def test_a_report_draws_names_as_text(metrics):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the font has no Chinese
        figure = report_figure(metrics, [])
        figure.canvas.draw()
    texts = [text for text in figure.findobj(Text) if text.get_text()]
    assert all(is_clean(text.get_text()) for text in texts)
    assert any("\\x1b[2J" in text.get_text() for text in texts)
