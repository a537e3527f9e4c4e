"""The wrong predictions that a model is most sure of, with small pictures of their images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from deitlt_hf.evaluation.attention import shrink

MOST_SHOWN = 24
THUMBNAIL = 160  # pixels of the longer side


@dataclass
class WrongImage:
    """An image that is predicted wrongly."""

    row: int  # its place in the data, from 0
    label: int
    predicted: int
    probability: float  # of the prediction
    image: np.ndarray  # uint8 `(height, width, 3)`, as the model saw it, made smaller


class MostConfidentErrors:
    """Of a stream of images, the `most` wrong predictions with the largest probability; of equals the first.

    Attributes:
        kept: the most confident first.
    """

    def __init__(self, most: int = MOST_SHOWN) -> None:
        self._most = most
        self.kept: list[WrongImage] = []
        self._seen = 0

    def add(self, logits: torch.Tensor, labels: torch.Tensor, picture: Callable[[int], np.ndarray]) -> None:
        """Add a batch: logits `(batch, classes)`, true class ids, and what makes the picture of one of its images."""
        probabilities, predicted = logits.float().softmax(-1).max(-1)
        # One copy from the device for a batch; ids and probabilities are exact in float64.
        rows = torch.stack([column.cpu().double() for column in (probabilities, predicted, labels)]).T.tolist()
        lowest = self.kept[-1].probability if len(self.kept) == self._most else -1.0
        for index, (probability, predicted_id, label) in enumerate(rows):
            if predicted_id != label and probability > lowest:
                small = np.asarray(shrink(Image.fromarray(picture(index)), THUMBNAIL))
                found = WrongImage(self._seen + index, int(label), int(predicted_id), probability, small)
                self.kept.append(found)
        self.kept = sorted(self.kept, key=lambda found: (-found.probability, found.row))[: self._most]
        self._seen += len(rows)
