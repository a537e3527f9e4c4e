from __future__ import annotations

import numpy as np
import pytest

from deitlt_hf.evaluation.analysis.predictions import find_crossing

COUNTS = [1000, 300, 100, 30, 10]


def accuracies(at: float, slope: float) -> tuple[list[float], list[float]]:
    """CLS and DIST on five classes, with a difference that is a line over the logarithm of the counts."""
    cls = [90.0, 70.0, 75.0, 40.0, 20.0]
    return cls, [one + slope * np.log10(count / at) for one, count in zip(cls, COUNTS, strict=True)]


@pytest.mark.parametrize(("at", "slope"), [(55.0, -8.0), (700.0, -3.0), (55.0, 8.0)])
def test_finds_where_the_difference_is_zero(at, slope):
    crossing = find_crossing(*accuracies(at, slope), COUNTS)
    assert crossing["class_count"] == pytest.approx(at)
    assert crossing["slope"] == pytest.approx(slope)
    assert crossing["at_most"] == pytest.approx(slope * np.log10(1000 / at))
    assert crossing["at_fewest"] == pytest.approx(slope * np.log10(10 / at))


def test_noise_about_the_line_is_averaged():
    cls, distillation = accuracies(100.0, -10.0)
    noisy = [one + shift for one, shift in zip(distillation, [1, -2, 2, -2, 1], strict=True)]
    fitted = np.polynomial.Polynomial.fit(np.log10(COUNTS), np.subtract(noisy, cls), 1)
    assert find_crossing(cls, noisy, COUNTS)["class_count"] == pytest.approx(10 ** fitted.roots()[0])


def test_no_crossing_where_one_expert_is_better_throughout():
    crossing = find_crossing(*accuracies(5.0, -10.0), COUNTS)
    assert crossing["class_count"] is None
    assert crossing["at_most"] < crossing["at_fewest"] < 0


def test_classes_without_test_images_are_left_out():
    cls, distillation = accuracies(55.0, -8.0)
    cls[1] = distillation[1] = None
    assert find_crossing(cls, distillation, COUNTS)["class_count"] == pytest.approx(55.0)


def test_classes_without_training_images_are_left_out():
    cls, distillation = accuracies(55.0, -8.0)
    assert find_crossing([*cls, 3.0], [*distillation, 90.0], [*COUNTS, 0])["class_count"] == pytest.approx(55.0)


@pytest.mark.parametrize(("cls", "counts"), [([50.0, 60.0], [7, 7]), ([50.0, None], [7, 70]), ([None, None], [7, 70])])
def test_one_frequency_is_no_line(cls, counts):
    assert set(find_crossing(cls, cls, counts).values()) == {None}


def test_equal_experts_do_not_cross():
    crossing = find_crossing([50.0, 60.0], [50.0, 60.0], [7, 70])
    assert crossing == {"class_count": None, "slope": 0.0, "at_most": 0.0, "at_fewest": 0.0}
