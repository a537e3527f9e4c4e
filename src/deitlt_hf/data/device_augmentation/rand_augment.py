"""timm's RandAugment `rand-m9-mstd0.5-inc1`, the reference's, for a batch on its device.

Each image has its own operations and magnitudes: two operations of fifteen, drawn with replacement, each done with
probability 1/2 at a magnitude from a normal distribution around 9 that is cut off at 0 and 10.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from timm.data import IMAGENET_DEFAULT_MEAN

from deitlt_hf.data.device_augmentation import operations
from deitlt_hf.data.device_augmentation.random_numbers import Draws

LAYERS = 2
PROBABILITY = 0.5
MAGNITUDE, MAGNITUDE_STD, LARGEST_MAGNITUDE = 9.0, 0.5, 10.0
FILL = np.array([round(255 * channel) for channel in IMAGENET_DEFAULT_MEAN], dtype=np.uint8)

# What batches of them have in common: a table of levels known beforehand; one that depends on the image's histogram; a
# blend with a background; a change of coordinates.
TABLES = ("Invert", "PosterizeIncreasing", "SolarizeIncreasing", "SolarizeAdd")
HISTOGRAMS = ("AutoContrast", "Equalize")
BLENDS = ("ColorIncreasing", "ContrastIncreasing", "BrightnessIncreasing", "SharpnessIncreasing")
MOVES = ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
OPERATIONS = np.array([*HISTOGRAMS, *TABLES, *BLENDS, *MOVES])  # timm's names


def rand_augment(images: torch.Tensor, draws: Draws) -> torch.Tensor:
    """RandAugment of a batch `(N, 3, H, W)` uint8, which may be written to."""
    for _ in range(LAYERS):
        names, arguments = draw_operations(len(images), draws)
        images = apply_operations(images, names, arguments, draws)
    return images


def draw_operations(count: int, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
    """The name `(count,)` of one operation for each image, empty for none, and its argument, see `argument_of`."""
    names = OPERATIONS[draws.host.integers(len(OPERATIONS), size=count)]
    magnitudes = draws.host.normal(MAGNITUDE, MAGNITUDE_STD, count).clip(0, LARGEST_MAGNITUDE)
    arguments = argument_of(names, magnitudes, draws.chance(0.5, count))
    return np.where(draws.chance(PROBABILITY, count), names, ""), arguments


def argument_of(names: np.ndarray, magnitudes: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """What timm makes of magnitudes in [0, 10], `(N,)` float64; `negative` ones go to the other side.

    Degrees, the slope of a shear, the share of a side to translate by, bits to keep, the threshold of solarising or
    what it adds, a factor of blending; 0 for operations without an argument.
    """
    share = magnitudes / LARGEST_MAGNITUDE
    signed = np.where(negative, -share, share)
    arguments = {
        BLENDS: np.maximum(0.1, 1 + 0.9 * signed),
        ("Rotate",): 30 * signed,
        ("PosterizeIncreasing",): 4 - np.trunc(4 * share),
        ("SolarizeIncreasing",): 256 - np.trunc(256 * share),
        ("SolarizeAdd",): np.trunc(110 * share),
        ("ShearX", "ShearY"): 0.3 * signed,
        ("TranslateXRel", "TranslateYRel"): 0.45 * signed,
    }
    return np.select([np.isin(names, kind) for kind in arguments], list(arguments.values()), 0.0)


def apply_operations(images: torch.Tensor, names: np.ndarray, arguments: np.ndarray, draws: Draws) -> torch.Tensor:
    """Do to each image of `(N, 3, H, W)` uint8 what its name says, in place; only such images are computed on."""
    for kind, apply in _KINDS.items():
        chosen = np.flatnonzero(np.isin(names, kind))
        if len(chosen):
            index = draws.send(chosen)
            images.index_copy_(0, index, apply(images[index], names[chosen], arguments[chosen], draws))
    return images


def _by_table(images: torch.Tensor, names: np.ndarray, arguments: np.ndarray, draws: Draws) -> torch.Tensor:
    return operations.look_up(images, draws.send(operations.level_tables(names, arguments)))


def _by_histogram(images: torch.Tensor, names: np.ndarray, arguments: np.ndarray, draws: Draws) -> torch.Tensor:
    counts = operations.histograms(images)
    is_equalize = draws.send(names == "Equalize").view(-1, 1, 1)
    tables = torch.where(is_equalize, operations.equalize_tables(counts), operations.autocontrast_tables(counts))
    return operations.look_up(images, tables)


def _by_blend(images: torch.Tensor, names: np.ndarray, arguments: np.ndarray, draws: Draws) -> torch.Tensor:
    backgrounds = torch.zeros_like(images, dtype=torch.int32)  # that of brightness is black
    for name, background in _BACKGROUNDS.items():
        chosen = np.flatnonzero(names == name)
        if len(chosen):
            index = draws.send(chosen)
            backgrounds[index] = background(images[index])
    return operations.blend(backgrounds, images, draws.send(arguments.astype(np.float32)))


def _by_move(images: torch.Tensor, names: np.ndarray, arguments: np.ndarray, draws: Draws) -> torch.Tensor:
    height, width = images.shape[2:]
    matrices = np.tile(np.array([1.0, 0, 0, 0, 1, 0]), (len(names), 1))
    for name, place, factor in (
        ("ShearX", 1, 1),
        ("ShearY", 3, 1),
        ("TranslateXRel", 2, width),
        ("TranslateYRel", 5, height),
    ):
        matrices[names == name, place] = factor * arguments[names == name]
    turned = names == "Rotate"
    angle = -np.radians(arguments[turned])
    cosine, sine = np.cos(angle), np.sin(angle)
    x, y = width / 2, height / 2  # about the centre
    columns = [cosine, sine, x - cosine * x - sine * y, -sine, cosine, y + sine * x - cosine * y]
    matrices[turned] = np.stack(columns, axis=1)
    return operations.affine(images, draws.send(matrices.astype(np.float32)), draws.send(FILL))


_KINDS: dict[tuple[str, ...], Callable[[torch.Tensor, np.ndarray, np.ndarray, Draws], torch.Tensor]] = {
    TABLES: _by_table,
    HISTOGRAMS: _by_histogram,
    BLENDS: _by_blend,
    MOVES: _by_move,
}
_BACKGROUNDS = {
    "ColorIncreasing": operations.grey,
    "ContrastIncreasing": operations.mean_grey,
    "SharpnessIncreasing": operations.smoothed,
}
