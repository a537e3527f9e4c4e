"""Mixup, cutmix and label smoothing of a whole batch, on the device that holds it."""

from __future__ import annotations

import torch
from timm.data.mixup import Mixup, mixup_target

from deitlt_hf.errors import DeiTLTError


class BatchMixing:
    """Mixes each image of a batch with the one at the mirrored position, as the reference does.

    A batch gets either mixup (Zhang et al. 2018: a weighted sum) or cutmix (Yun et al. 2019: a pasted rectangle), one
    weight for the whole batch, drawn from numpy's global generator: `mixup` and `cutmix` are the parameters of its Beta
    distribution, and 0 is off; where both are on, each comes with probability 1/2. The soft targets are mixed by the
    same weight; for cutmix it is the share of pixels that really stay. The defaults are the paper's.

    Calling it takes `pixel_values` `(N, 3, H, W)` and `labels` `(N,)` int64, N even, and returns new mixed pixel values
    of the same shape and dtype, and soft targets `(N, C)` float32. With `mixup=0` and `cutmix=0` the pixel values come
    back as they are, and only the labels are smoothed.
    """

    def __init__(
        self,
        num_classes: int,
        mixup: float = 0.8,
        cutmix: float = 1.0,
        label_smoothing: float = 0.1,
    ) -> None:
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self._mix = None
        if mixup > 0 or cutmix > 0:
            self._mix = Mixup(
                mixup_alpha=mixup,
                cutmix_alpha=cutmix,
                label_smoothing=label_smoothing,
                num_classes=num_classes,
            )

    def __call__(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self._mix is None:
            return pixel_values, mixup_target(labels, self.num_classes, smoothing=self.label_smoothing)
        if len(labels) % 2:
            raise DeiTLTError(
                f"mixup and cutmix pair the images of a batch, and this one has {len(labels)}: use an even batch size "
                "and drop the last incomplete batch"
            )
        # timm's Mixup writes into its input.
        return self._mix(pixel_values.clone(), labels)
