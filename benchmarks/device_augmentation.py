"""Times the student's strong views of a batch: made on the device, and by the alternatives.

    python benchmarks/device_augmentation.py                # a minute or two
    python benchmarks/device_augmentation.py --rounds 1     # a quick look

All start from decoded images and end with normalised pixels on the device. timm's transforms go image by image on one
core, as in a loader's worker. The others take a whole batch: ours with operations and magnitudes of each image's own,
torchvision v2 with one draw for the batch, since its RandAugment knows no other way, and v2 image by image. kornia,
where it is installed, draws the operations for the batch and magnitudes for each image. Only ours has timm's
magnitudes, and bicubic interpolation.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import torch
from interleaved import machine, markdown_table, median_and_quartiles, now, time_in_turns
from PIL import Image
from torchvision.transforms import v2

from deitlt_hf import strong_view
from deitlt_hf.data.device_augmentation.device_views import BatchView
from deitlt_hf.data.device_augmentation.random_numbers import Draws

BATCH_SIZE = 128
SOURCE_SIZE = 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

View = Callable[[torch.Tensor], torch.Tensor]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="batches per way")
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows: list[list[str]] = []
    for image_size in (32, 224):
        ways = views_of_a_batch(image_size, options.batch_size, device)
        for view in ways.values():
            view()
        seconds = time_in_turns({name: partial(timed, view) for name, view in ways.items()}, options.rounds)
        speeds = {name: options.batch_size / median_and_quartiles(times)[0] for name, times in seconds.items()}
        rows = rows or [["images per second", *speeds]]
        rows.append([f"{SOURCE_SIZE} to {image_size} pixels", *(f"{speed:,.0f}" for speed in speeds.values())])
    print(markdown_table(rows))
    print(f"\nbatches of {options.batch_size}, medians of {options.rounds}; {machine(device)}")


def timed(view: Callable[[], Any]) -> float:
    start = now()
    view()
    return now() - start


def views_of_a_batch(image_size: int, batch_size: int, device: torch.device) -> dict[str, Callable[[], Any]]:
    """The ways to make strong views of a batch; each call makes other ones."""
    random = np.random.default_rng(0)
    coarse = [Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(batch_size)]
    images = [image.resize((SOURCE_SIZE, SOURCE_SIZE), Image.Resampling.BICUBIC) for image in coarse]
    batch = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous() for image in images])
    batch = batch.to(device)
    view, ours, steps = strong_view(image_size), BatchView(image_size, strong=True), count()
    torchvisions = torchvision_view(image_size)
    ways = {
        "ours": lambda: ours(batch, Draws(next(steps), device=device)),
        "timm, one core": lambda: torch.stack([view(image) for image in images]).to(device),
        "torchvision v2, a draw per batch": lambda: torchvisions(batch),
        "torchvision v2, per image": lambda: torch.stack([torchvisions(image) for image in batch]),
    }
    kornias = kornia_view(image_size)
    return ways if kornias is None else ways | {"kornia": lambda: kornias(batch.float() / 255)}


def torchvision_view(image_size: int) -> View:
    if image_size <= SOURCE_SIZE:
        crop = v2.RandomCrop(image_size, padding=image_size // 8)
    else:
        crop = v2.RandomResizedCrop(image_size, interpolation=v2.InterpolationMode.BICUBIC)
    return v2.Compose(
        [
            crop,
            v2.RandomHorizontalFlip(),
            v2.RandAugment(2, 9, interpolation=v2.InterpolationMode.BILINEAR),  # tensors have no bicubic one
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
            v2.RandomErasing(0.25, (0.02, 1 / 3), (0.3, 1 / 0.3), value="random"),
        ]
    )


def kornia_view(image_size: int) -> View | None:
    try:
        from kornia import augmentation
        from kornia.augmentation.auto import RandAugment
    except ImportError:
        return None
    if image_size <= SOURCE_SIZE:
        crop = augmentation.RandomCrop((image_size, image_size), padding=image_size // 8)
    else:
        crop = augmentation.RandomResizedCrop((image_size, image_size), resample="bicubic")
    return torch.nn.Sequential(
        crop,
        augmentation.RandomHorizontalFlip(),
        RandAugment(n=2, m=9),
        augmentation.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
        augmentation.RandomErasing((0.02, 1 / 3), (0.3, 1 / 0.3), p=0.25),
    )


if __name__ == "__main__":
    main()
