from __future__ import annotations

import numpy as np
import torch

from deitlt_hf.evaluation.analysis.wrong_images import THUMBNAIL, MostConfidentErrors


def stream(probabilities, labels, size, most):
    """What is kept of images whose class 1 has these probabilities, and the rows whose pictures were made."""
    errors, made = MostConfidentErrors(most), []
    of_one = torch.tensor(probabilities)
    logits = torch.stack([1 - of_one, of_one], dim=1).log()
    for start in range(0, len(labels), size):

        def picture(index, start=start):
            made.append(start + index)
            return np.full((2, 3, 3), start + index, dtype=np.uint8)

        errors.add(logits[start : start + size], torch.tensor(labels[start : start + size]), picture)
    return errors.kept, made


def test_the_most_confident_errors_over_batches():
    # Rows 0, 2, 3, 5 and 6 are wrong; row 0 is sure of class 0.
    kept, made = stream([0.05, 0.9, 0.6, 0.8, 0.2, 0.8, 0.55], [1, 1, 0, 0, 0, 0, 0], size=3, most=3)
    assert [(error.row, error.label, error.predicted) for error in kept] == [(0, 1, 0), (3, 0, 1), (5, 0, 1)]
    np.testing.assert_allclose([error.probability for error in kept], [0.95, 0.8, 0.8], rtol=1e-6)
    assert [error.image[0, 0, 0] for error in kept] == [0, 3, 5]
    assert made == [0, 2, 3, 5]  # no picture of what is right, and none of row 6, which is less sure than those kept


def test_pictures_are_made_small():
    errors = MostConfidentErrors()
    errors.add(torch.eye(2)[:1], torch.tensor([1]), lambda index: np.zeros((2 * THUMBNAIL, THUMBNAIL, 3), np.uint8))
    assert errors.kept[0].image.shape == (THUMBNAIL, THUMBNAIL // 2, 3)
