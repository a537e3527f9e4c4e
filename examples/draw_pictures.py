"""Draws camera-trap pictures of eight animals, a long tail from 330 pictures down to 4: data for docs/your-own-data.md.

    python examples/draw_pictures.py pictures

The pictures are drawings and stand in for your own: `pictures/CLASS/SITE/IMG_0001.JPG`, 1,280 x 960 pixels, day and
night, from twelve sites with a background each. The animals stand anywhere, in any size, facing either side, and
differ in build, colour, ears and tail.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from deitlt_hf import class_counts_for_imbalance

SIZE, SITES = (1280, 960), 12


class Animal(NamedTuple):
    """A build in shares of the body's length, and a colour."""

    height: float  # of the body
    legs: float
    neck: float
    ears: float
    tail: float
    colour: tuple[int, int, int]
    mark: str = ""


ANIMALS = {
    "deer": Animal(0.42, 0.62, 0.35, 0.14, 0.08, (133, 92, 58), "antlers"),
    "wild boar": Animal(0.58, 0.30, 0.05, 0.12, 0.16, (62, 52, 48)),
    "fox": Animal(0.34, 0.32, 0.12, 0.20, 0.75, (196, 98, 38), "white tail"),
    "hare": Animal(0.50, 0.26, 0.10, 0.52, 0.06, (150, 124, 92)),
    "badger": Animal(0.48, 0.18, 0.04, 0.07, 0.18, (112, 112, 112), "striped head"),
    "raccoon": Animal(0.52, 0.24, 0.06, 0.12, 0.60, (128, 122, 116), "ringed tail"),
    "lynx": Animal(0.44, 0.48, 0.14, 0.22, 0.12, (178, 146, 102), "spots"),
    "wolf": Animal(0.38, 0.50, 0.20, 0.16, 0.52, (124, 120, 114)),
}


def main(directory: Path) -> None:
    counts = class_counts_for_imbalance(len(ANIMALS), 330, 330 / 4)
    rng = np.random.default_rng(0)
    sites = [_background(np.random.default_rng(100 + site)) for site in range(SITES)]
    number = 0
    for name, count in zip(ANIMALS, counts, strict=True):
        for _ in range(count):
            site, number = int(rng.integers(SITES)), number + 1
            file = directory / name / f"site {site + 1:02d}" / f"IMG_{number:04d}.JPG"
            file.parent.mkdir(parents=True, exist_ok=True)
            _picture(sites[site], ANIMALS[name], rng).save(file, quality=85)
    print(f"{number} pictures of {len(ANIMALS)} animals: {directory}")


def _background(rng: np.random.Generator) -> Image.Image:
    """Sky, ground, trees and bushes of a site."""
    picture = Image.new("RGB", SIZE, tuple(rng.integers(120, 190, 3)))
    draw = ImageDraw.Draw(picture)
    horizon = int(rng.integers(250, 450))
    draw.rectangle((0, horizon, *SIZE), fill=tuple(rng.integers((50, 80, 30), (120, 130, 70))))
    for _ in range(rng.integers(4, 12)):
        x, width = int(rng.integers(SIZE[0])), int(rng.integers(15, 70))
        draw.rectangle((x, 0, x + width, int(horizon + rng.integers(20, 200))), fill=tuple(rng.integers(30, 90, 3)))
    for _ in range(40):
        x, y, radius = *rng.integers((0, horizon), SIZE), int(rng.integers(8, 60))
        colour = tuple(rng.integers((30, 60, 20), (110, 140, 70)))
        draw.ellipse((x - radius, y - radius // 2, x + radius, y + radius // 2), fill=colour)
    return picture.filter(ImageFilter.GaussianBlur(2))


def _picture(site: Image.Image, animal: Animal, rng: np.random.Generator) -> Image.Image:
    """An animal at a site, by day or by night."""
    picture = site.copy()
    length = int(rng.integers(220, 520))
    place = int(rng.integers(0, SIZE[0] - 2 * length)), int(rng.integers(420, 800 - length // 3))
    drawing = Image.new("RGBA", (2 * length, 2 * length))
    _draw_animal(ImageDraw.Draw(drawing), animal, length, rng)
    if rng.random() < 0.5:
        drawing = drawing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    drawing = drawing.rotate(float(rng.normal(0, 4)))
    picture.paste(drawing, (place[0], place[1] - length // 2), drawing)
    pixels = np.asarray(picture, dtype=np.float32) * rng.uniform(0.7, 1.15)
    if rng.random() < 0.4:  # infrared: grey, and dark at the edges
        y, x = np.mgrid[-1 : 1 : SIZE[1] * 1j, -1 : 1 : SIZE[0] * 1j]
        pixels = pixels.mean(-1, keepdims=True) * (1.1 - 0.5 * (x**2 + y**2))[..., None].clip(0.15) * np.ones(3)
    noisy = pixels + rng.normal(0, 10, (*pixels.shape[:2], 1))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def _draw_animal(draw: ImageDraw.ImageDraw, animal: Animal, length: int, rng: np.random.Generator) -> None:
    """An animal that faces right, in a square of twice its length."""
    colour = tuple(int(value) for value in np.clip(np.array(animal.colour) * rng.uniform(0.85, 1.15), 0, 255))
    dark, pale = tuple(value // 2 for value in colour), (230, 226, 215)
    left, top, tall = length // 2, length // 2, int(animal.height * length)
    right, bottom = left + length, top + tall
    leg, wide = int(animal.legs * length), max(length // 16, 6)
    for x in (0.12, 0.24, 0.74, 0.86):
        shift = int(rng.normal(0, 0.03) * length)
        draw.line((left + x * length, bottom - tall // 3, left + x * length + shift, bottom + leg), dark, wide)
    tail = int(animal.tail * length)
    end = (left - 0.6 * tail, top + 0.7 * tail + rng.normal(0, 0.1) * tail)
    draw.line((left + 0.08 * length, top + tall * 0.35, *end), colour, 2 * wide)
    if animal.mark in ("white tail", "ringed tail"):
        for share in (0.75, 0.95) if animal.mark == "white tail" else (0.35, 0.65, 0.95):
            x, y = left + share * (end[0] - left), top + tall * 0.35 + share * (end[1] - top - tall * 0.35)
            draw.ellipse((x - wide, y - wide, x + wide, y + wide), fill=pale if animal.mark == "white tail" else dark)
    draw.ellipse((left, top, right, bottom), fill=colour)
    if animal.mark == "spots":
        for x, y in rng.uniform((0.15, 0.2), (0.85, 0.8), (22, 2)):
            x, y = left + x * length, top + y * tall
            draw.ellipse((x - wide / 3, y - wide / 3, x + wide / 3, y + wide / 3), fill=dark)
    head = int(0.17 * length)
    x, y = right + head // 3, top + tall * 0.25 - animal.neck * length
    draw.line((right - 0.12 * length, top + tall * 0.4, x, y), colour, int(1.5 * head))
    draw.ellipse((x - head, y - 0.8 * head, x + 1.3 * head, y + 0.8 * head), fill=colour)
    if animal.mark == "striped head":
        draw.ellipse((x - head, y - 0.5 * head, x + 1.3 * head, y + 0.1 * head), fill=pale)
        draw.line((x - 0.6 * head, y, x + 1.2 * head, y), (20, 20, 20), wide // 2)
    ears = int(animal.ears * length)
    for offset in (-0.5, 0.1):
        base = x + offset * head
        feet, tip = y - 0.5 * head, y - 0.6 * head - ears
        draw.polygon(((base - wide, feet), (base + wide, feet), (base, tip)), dark)
    if animal.mark == "antlers" and rng.random() < 0.7:
        for side in (-1, 1):
            tips = (x + side * head, y - 3 * head, x + side * 0.4 * head, y - 3.6 * head)
            draw.line((x, y - head, *tips), dark, wide // 2)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
