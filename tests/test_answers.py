"""The benchmark of calibrated students: its halves and its table, without a model."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

GROUPS = {"head": [0], "mid": [1], "tail": [2]}


@pytest.fixture(scope="module")
def answers():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
        yield importlib.import_module("answers")


def test_halves_share_no_image_and_have_as_many_of_each_class(answers):
    labels = np.array([2, 0, 0, 1, 0, 1, 2, 0, 2])
    drawn = [answers.halves(labels, split) for split in range(3)]
    for first, second in drawn:
        assert sorted([*first, *second]) == list(range(9))
        assert np.bincount(labels[first]).tolist() == [2, 1, 1]
        assert np.bincount(labels[second]).tolist() == [2, 1, 2]
    assert len({tuple(sorted(first)) for first, _ in drawn}) > 1


def test_the_table_is_of_images_that_were_not_fitted(answers):
    labels = np.tile([0, 1, 2], 40)
    right, wrong = 4.0 * np.eye(3)[labels], 4.0 * np.eye(3)[(labels + 1) % 3]
    found = answers.measure(answers.Logits(right, 2 * wrong, labels, [60, 40, 20], GROUPS))
    assert found["cls"]["overall"] == found["cls"]["tail"] == 100
    assert found["average"]["overall"] == found["distillation"]["overall"] == 0
    assert found["fused"]["overall"] == 100  # DIST, always wrong, gets no share
    confidence = np.exp(4) / (np.exp(4) + 2)
    assert found["cls"]["error"] == pytest.approx(100 * (1 - confidence), abs=1e-4)
    lines = answers.table([found, found]).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["average", "CLS expert", "DIST expert", "fused"]
    assert "100.0 ± 0.0" in lines[3]
