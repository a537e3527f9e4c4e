"""Images to show: what was seen and said, and where the tokens looked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from deitlt_hf.evaluation.analysis.rollout import attention_rollout
from deitlt_hf.evaluation.analysis.vit import Patches, ViTPass
from deitlt_hf.evaluation.attention import TOKENS


@dataclass
class Example:
    """An image with what a model makes of it.

    Args:
        image: uint8 `(height, width, 3)`, as the model saw it.
        label: true class id.
        attention: of each token, `(rows, cols)` float32: its weights on the patches in the last layer, means over the
            heads; they sum to at most 1.
        rollout: of each token, the same by `attention_rollout`, through all layers.
        predicted: class id by each expert.
    """

    image: np.ndarray
    label: int
    attention: dict[str, np.ndarray]
    rollout: dict[str, np.ndarray]
    predicted: dict[str, int]


def spread_classes(class_counts: Sequence[int], number: int) -> list[int]:
    """At most `number` classes, evenly spaced from the most frequent to the rarest.

    Example:
        >>> spread_classes([5, 900, 60, 8, 30], number=3)
        [1, 4, 0]
    """
    by_frequency = sorted(range(len(class_counts)), key=lambda label: -class_counts[label])
    places = np.linspace(0, len(by_frequency) - 1, min(number, len(by_frequency))).round().astype(int)
    return [by_frequency[place] for place in places]


def make_example(
    index: int,
    pixel_values: torch.Tensor,
    label: int,
    output: ViTPass,
    patches: Patches,
    normalisation: tuple[Sequence[float], Sequence[float]],
) -> Example:
    """The example of one image of a batch.

    Args:
        index: the image's place in the batch.
        pixel_values: the batch, `(batch, 3, height, width)`, normalised.
        label: true class id.
        output: what `run_vit` gave for the batch.
        patches: of the model.
        normalisation: mean and standard deviation of the channels.
    """
    layers = [layer[index : index + 1] for layer in output.attentions]
    return Example(
        image=_as_picture(pixel_values[index], *normalisation),
        label=label,
        attention=_maps(layers[-1].float().mean(1)[0], output, patches),
        rollout=_maps(attention_rollout(layers)[0], output, patches),
        predicted={expert: int(logits[index].argmax()) for expert, logits in output.logits.items()},
    )


def _maps(weights: torch.Tensor, output: ViTPass, patches: Patches) -> dict[str, np.ndarray]:
    """Rows of `(tokens, tokens)` that belong to tokens with a head, as grids of patches."""
    rows, columns = patches.grid
    on_patches = weights[:, -rows * columns :].unflatten(-1, (rows, columns)).cpu().numpy()
    return {token: on_patches[TOKENS.index(token)] for token in output.tokens}


def _as_picture(pixel_values: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    pixels = pixel_values.float().cpu().numpy().transpose(1, 2, 0) * np.asarray(std) + np.asarray(mean)
    return (pixels * 255).round().clip(0, 255).astype(np.uint8)
