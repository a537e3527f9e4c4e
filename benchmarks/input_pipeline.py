"""Times the training input, decoding and strong views, against timm's own loader on the same image files.

    python benchmarks/input_pipeline.py                 # a few minutes
    python benchmarks/input_pipeline.py --rounds 1      # a quick look

Both read a folder of images written for the occasion, in one process without workers, so that the numbers are images
per second and core. Two kinds: small PNGs for 32 pixels and JPEGs of 500 x 375 for 224 pixels. Both loaders decode each
image in each pass; another line is ours as it is used for the small ones, which it keeps decoded after the first pass.
Augmentation is the reference's on both sides; at 32 pixels it pads and crops where timm's loader crops and resizes.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from interleaved import HEAD, compare, machine, markdown_table, time_in_turns
from PIL import Image
from timm.data import create_dataset, create_loader
from torch.utils.data import DataLoader
from transformers import set_seed

from deitlt_hf import ViewedDataset, collate, load_long_tailed_dataset, strong_view

BATCH_SIZE = 64
CASES = {  # image size: number of files, their width and height, their suffix, whether whole data sets of them are kept
    32: (1024, (32, 32), ".png", True),
    224: (128, (500, 375), ".jpg", False),
}
CLASSES = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="passes over the images per loader")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print(markdown_table([HEAD, *measure(rounds)]))
    print(f"\n{machine(torch.device('cpu'))}, {rounds} rounds")


def measure(rounds: int) -> list[list[str]]:
    """The lines of the table."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for image_size, (count, shape, suffix, is_kept) in CASES.items():
            root = Path(folder) / str(image_size)
            write_images(root, count, shape, suffix)
            loaders = {"ours": ours(root, image_size, keeps=False), "timm": timms(root, image_size)}
            if is_kept:
                loaders["kept"] = ours(root, image_size, keeps=True)
                timed_pass(loaders["kept"], count)()
            seconds = time_in_turns({name: timed_pass(loader, count) for name, loader in loaders.items()}, rounds)
            what = f"input, {shape[0]} x {shape[1]} {suffix[1:]} at {image_size} pixels, timm's loader"
            show = partial(speed, count)
            rows.append(compare(what, seconds["ours"], seconds["timm"], show, ">= 1.00"))
            if is_kept:
                rows.append(
                    compare("the same, kept decoded in memory", seconds["kept"], seconds["timm"], show, ">= 1.00")
                )
    return rows


def speed(count: int, seconds: float) -> str:
    return f"{count / seconds:,.0f} images/s"


def write_images(root: Path, count: int, shape: tuple[int, int], suffix: str) -> None:
    """Smooth random pictures with a little noise, which compress about as photographs do."""
    random = np.random.default_rng(0)
    for number in range(count + CLASSES):
        folder = root / ("train" if number < count else "test") / f"class {number % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        picture = np.asarray(coarse.resize(shape, Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = picture + random.integers(-6, 7, picture.shape)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{number}{suffix}", quality=90)


def ours(root: Path, image_size: int, keeps: bool) -> DataLoader:
    train = load_long_tailed_dataset(str(root))["train"]
    dataset = ViewedDataset(train, {"pixel_values": strong_view(image_size)}, "train")
    if not keeps:
        dataset.kept = None
    return DataLoader(dataset, batch_size=BATCH_SIZE, shuffle=True, collate_fn=collate)


def timms(root: Path, image_size: int) -> DataLoader:
    return create_loader(
        create_dataset("", root=str(root / "train")),
        input_size=image_size,
        batch_size=BATCH_SIZE,
        is_training=True,
        interpolation="bicubic",
        color_jitter=0.3,
        auto_augment="rand-m9-mstd0.5-inc1",
        re_prob=0.25,
        re_mode="pixel",
        num_workers=0,
        persistent_workers=False,
        use_prefetcher=False,
        device=torch.device("cpu"),
    )


def timed_pass(loader: DataLoader, count: int) -> Callable[[], float]:
    rounds = itertools.count()

    def seconds() -> float:
        set_seed(next(rounds))  # in a round every loader draws the same operations, whose costs differ
        start = time.process_time()  # of one process on one core; other programs do not count
        seen = sum(len(next(iter(batch.values())) if isinstance(batch, dict) else batch[0]) for batch in loader)
        elapsed = time.process_time() - start
        if seen != count:  # a loader that leaves images out would look fast
            raise SystemExit(f"a pass saw {seen} images of {count}")
        return elapsed

    return seconds


if __name__ == "__main__":
    main()
