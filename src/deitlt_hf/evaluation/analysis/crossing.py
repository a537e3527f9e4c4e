"""At which class frequency the CLS expert becomes better than the DIST expert."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NO_CROSSING = dict.fromkeys(("class_count", "slope", "at_most", "at_fewest"))


def find_crossing(
    cls_accuracy: Sequence[float | None],
    distillation_accuracy: Sequence[float | None],
    class_counts: Sequence[int],
) -> dict[str, float | None]:
    """Where the experts' accuracies cross over class frequency.

    A straight line is fitted by least squares to the classes' differences, DIST minus CLS, over the logarithm of their
    training images; they cross where it is 0. Classes without test or without training images are left out.

    Args:
        cls_accuracy, distillation_accuracy: accuracy on each class in percent, None for a class without test images.
        class_counts: training images per class.

    Returns:
        `class_count`: the number of training images at which they cross, None if that is beyond the rarest or the most
        frequent class; `at_most` and `at_fewest`: the line's difference in points at the most frequent and the rarest
        class; `slope`: points for each factor of ten in training images, below 0 where DIST is the expert on rare
        classes. All None for classes of fewer than two counts.

    Example:
        >>> crossing = find_crossing([90.0, 60.0, 30.0], [80.0, 60.0, 40.0], [1000, 100, 10])
        >>> {name: round(value, 1) for name, value in crossing.items()}
        {'class_count': 100.0, 'slope': -10.0, 'at_most': -10.0, 'at_fewest': 10.0}
    """
    tested = [index for index, accuracy in enumerate(cls_accuracy) if accuracy is not None and class_counts[index] > 0]
    logarithms = np.log10([class_counts[index] for index in tested])
    if len(set(logarithms.tolist())) < 2:
        return dict(NO_CROSSING)
    differences = [distillation_accuracy[index] - cls_accuracy[index] for index in tested]
    slope, intercept = np.polyfit(logarithms, differences, 1)
    ends = [float(slope * end + intercept) for end in (logarithms.max(), logarithms.min())]
    crosses = ends[0] * ends[1] < 0
    return {
        "class_count": float(10 ** (-intercept / slope)) if crosses else None,
        "slope": float(slope),
        "at_most": ends[0],
        "at_fewest": ends[1],
    }
