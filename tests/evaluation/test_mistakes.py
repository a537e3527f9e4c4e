"""Which mistakes are shown first: by hand, and with labels that were flipped on purpose."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deitlt_hf.evaluation import mistakes
from deitlt_hf.evaluation.evaluate import Predictions
from deitlt_hf.evaluation.mistakes import choose_mistakes, suspected_labels

# Rows are images, columns classes; class 2 is one that the model is never sure of.
PROBABILITIES = np.array(
    [
        [0.9, 0.1, 0.0],
        [0.7, 0.2, 0.1],  # thresholds: (0.9 + 0.7 + 0.05 + 0.35) / 4 = 0.5 of class 0
        [0.05, 0.9, 0.05],  # labelled 0: 0.9 reaches class 1's threshold, lead 0.85
        [0.35, 0.2, 0.45],  # labelled 0: 0.45 reaches class 2's threshold of 0.4, lead 0.1
        [0.1, 0.8, 0.1],
        [0.48, 0.4, 0.12],  # labelled 1: 0.48 is below class 0's threshold
        [0.6, 0.3, 0.1],  # labelled 1: lead 0.3; (0.8 + 0.4 + 0.3) / 3 = 0.5 of class 1
        [0.3, 0.3, 0.4],
    ]
)
LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 2])


def test_suspects_reach_the_threshold_of_their_class_by_the_largest_lead():
    predicted, rows = PROBABILITIES.argmax(1), np.arange(8)
    of = (LABELS, predicted, PROBABILITIES.max(1), PROBABILITIES[rows, LABELS])
    assert suspected_labels(*of, 3).tolist() == [2, 6, 3]
    agreed = np.ones(8, dtype=bool)
    agreed[6] = False
    assert suspected_labels(*of, 3, agreed).tolist() == [2, 3]


def test_a_class_without_images_has_no_threshold():
    labels, predicted = np.array([0, 0]), np.array([0, 2])
    found = suspected_labels(labels, predicted, np.array([0.9, 0.99]), np.array([0.9, 0.01]), 3)
    assert (found.tolist(), found.dtype) == ([], np.int64)


@pytest.mark.parametrize("seed", range(3))
def test_flipped_labels_are_found(seed):
    """Five classes of normal distributions, 300 images down to 20, 5 % of the labels flipped: logistic regression."""
    generator = np.random.default_rng(seed)
    counts = [300, 150, 80, 40, 20]
    true = np.repeat(np.arange(5), counts)
    angles = 2 * np.pi * np.arange(5) / 5
    centres = 3 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    points = centres[true] + generator.normal(size=(len(true), 2))
    logits = points @ centres.T - (centres**2).sum(1) / 2  # what the logistic model of these classes is
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    flipped = generator.choice(len(true), size=len(true) // 20, replace=False)
    labels = true.copy()
    labels[flipped] = (true[flipped] + generator.integers(1, 5, size=len(flipped))) % 5
    predicted = probabilities.argmax(1)
    assert (predicted != true).mean() > 0.03  # the model makes mistakes of its own
    found = suspected_labels(labels, predicted, probabilities.max(1), probabilities[np.arange(len(true)), labels], 5)
    first = found[: len(flipped)]
    assert np.isin(first, flipped).mean() > 0.6  # of any 20 images one is flipped, of 5 wrong predictions two
    assert np.isin(flipped, found).mean() > 0.7


def predictions_of(rows: dict[str, list[list[float]]], labels: list[int]) -> Predictions:
    found = Predictions()
    found.add({row: torch.tensor(of).log() for row, of in rows.items()}, torch.tensor(labels))
    return found


def test_both_experts_must_say_the_class():
    average = [[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.1, 0.9]]
    agreeing = predictions_of({"average": average, "cls": average, "distillation": average}, [0, 0, 0, 1])
    chosen = choose_mistakes(agreeing, "average", [9, 3])
    assert chosen == ([], {0: [1, 2]}, 0, 2)  # class 1's threshold is 0.9

    sure = [[0.9, 0.1], [0.02, 0.98], [0.01, 0.99], [0.1, 0.9]]
    other = [[0.9, 0.1], [0.02, 0.98], [0.99, 0.01], [0.1, 0.9]]
    of_rows = {"average": sure, "cls": sure, "distillation": other}
    assert choose_mistakes(predictions_of(of_rows, [0, 0, 0, 1]), "average", [9, 3]) == ([1], {0: [2]}, 1, 2)
    assert choose_mistakes(predictions_of({"model": sure}, [0, 0, 0, 1]), "model", [9, 3]) == ([2, 1], {}, 2, 2)


def test_classes_share_the_page_the_rarest_first(monkeypatch):
    monkeypatch.setattr(mistakes, "MOST_IN_ALL", 6)
    monkeypatch.setattr(mistakes, "MOST_OF_SECTION", 3)
    right = [[0.99, 0.005, 0.005], [0.005, 0.99, 0.005], [0.005, 0.005, 0.99]]
    wrong = [[0.1 * lead, 0.9 - 0.1 * lead, 0.1] for lead in (3, 1, 2, 0)]  # of class 0, taken for 1
    wrong += [[0.6, 0.1, 0.3], [0.2, 0.5, 0.3]]  # of class 2
    wrong += [[0.7, 0.2, 0.1], [0.8, 0.1, 0.1], [0.75, 0.2, 0.05]]  # of class 1
    against = [row[1:] + row[:1] for row in right + wrong]  # so that no image is suspected
    of_rows = {"average": right + wrong, "cls": right + wrong, "distillation": against}
    found = predictions_of(of_rows, [0, 1, 2, 0, 0, 0, 0, 2, 2, 1, 1, 1])
    chosen = choose_mistakes(found, "average", [50, 7, 20])
    # Errors of a class by falling probability: 1 has 10, 11, 9; 2 has 7, 8; 0 has 6, 4, 5, 3. Six in turns, 1, 2, 0.
    assert chosen == ([], {1: [10, 11], 2: [7, 8], 0: [6, 4]}, 0, 9)
    monkeypatch.setattr(mistakes, "MOST_IN_ALL", 200)
    assert choose_mistakes(found, "average", [50, 7, 20]).by_class == {1: [10, 11, 9], 2: [7, 8], 0: [6, 4, 5]}


def test_suspects_beyond_the_first_are_among_the_errors_of_their_class(monkeypatch):
    monkeypatch.setattr(mistakes, "MOST_OF_SECTION", 1)
    sure = [[0.9, 0.1], [0.02, 0.98], [0.01, 0.99], [0.1, 0.9]]
    assert choose_mistakes(predictions_of({"model": sure}, [0, 0, 0, 1]), "model", [9, 3]) == ([2], {0: [1]}, 2, 2)
