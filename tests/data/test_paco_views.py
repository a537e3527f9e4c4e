"""PaCo's two views, against the published lists of transforms and what each step must do to simple images."""

from __future__ import annotations

import colorsys
import pickle
import random
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as tvf
from PIL import Image, ImageFilter
from timm.data.auto_augment import rand_augment_transform
from torchvision import transforms

from deitlt_hf.data.views import Cutout, GaussianBlur, paco_key_view, paco_query_view
from deitlt_hf.errors import DeiTLTError

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
BROWN = (130, 90, 60)  # no jitter of 0.4 drives it to black or white


def _noise(side: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.RandomState(0).randint(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def _levels(pixel_values: torch.Tensor) -> np.ndarray:
    """Grey levels 0..255, `(H, W, 3)`, of normalised pixel values."""
    return ((pixel_values * STD + MEAN) * 255).permute(1, 2, 0).round().to(torch.int16).numpy()


def _seeded(view: Callable, image: Image.Image, seed: int) -> torch.Tensor:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return view(image)


def _is_blur(step: Callable) -> bool:
    return any(isinstance(inner, GaussianBlur) for inner in getattr(step, "transforms", []))


def _published_query_transform(image_size: int, horizontal_flip: bool) -> Callable:
    """PaCo's own lists, the small one without its Cutout, which comes last and so draws last."""
    flip = [transforms.RandomHorizontalFlip()] if horizontal_flip else []
    if image_size <= 32:
        auto_augment = transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10, fill=[128, 128, 128])
        steps = [transforms.RandomCrop(32, padding=4), *flip, auto_augment]
    else:
        rand_augment = rand_augment_transform(
            "rand-n2-m10-mstd0.5", {"translate_const": int(image_size * 0.45), "img_mean": (123, 116, 103)}
        )
        jitter = transforms.ColorJitter(0.4, 0.4, 0.4, 0.0)
        steps = [transforms.RandomResizedCrop(image_size, scale=(0.08, 1.0)), *flip, jitter, rand_augment]
    normalize = transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    return transforms.Compose([*steps, transforms.ToTensor(), normalize])


@pytest.mark.parametrize("horizontal_flip", [True, False])
def test_large_query_view_is_the_published_transform(horizontal_flip: bool) -> None:
    view, published = paco_query_view(64, horizontal_flip), _published_query_transform(64, horizontal_flip)
    for seed in range(8):
        torch.testing.assert_close(_seeded(view, _noise(64), seed), _seeded(published, _noise(64), seed))


@pytest.mark.parametrize("horizontal_flip", [True, False])
def test_small_query_view_is_the_published_transform_with_a_black_square(horizontal_flip: bool) -> None:
    view, published = paco_query_view(32, horizontal_flip), _published_query_transform(32, horizontal_flip)
    black = (-MEAN / STD).expand(3, 32, 32)
    for seed in range(12):
        drawn, whole = _seeded(view, _noise(32), seed), _seeded(published, _noise(32), seed)
        square = (drawn != whole).any(0)
        rows, columns = (torch.nonzero(square.any(axis)).flatten() for axis in (1, 0))
        square[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True  # black in both: no difference
        assert max(len(rows), len(columns)) <= 16
        torch.testing.assert_close(drawn[:, square], black[:, square])
        torch.testing.assert_close(drawn[:, ~square], whole[:, ~square])


def test_cutout_cuts_squares_with_centres_uniform_over_the_image() -> None:
    # A centre c covers c - 8 up to c + 8, as far as that lies in 0..32: 32 intervals on each axis, each once in 32.
    intervals = {(max(centre - 8, 0), min(centre + 8, 32)) for centre in range(32)}
    assert len(intervals) == 32
    torch.manual_seed(0)
    ones, drawn, areas = torch.ones(3, 32, 32), (Counter(), Counter()), Counter()
    for _ in range(1600):
        hole = (Cutout(16)(ones) == 0).all(0)
        for axis in (0, 1):
            inside = torch.nonzero(hole.any(1 - axis)).flatten()
            drawn[axis][inside[0].item(), inside[-1].item() + 1] += 1
        areas[int(hole.sum())] += 1
    for axis in drawn:
        assert axis.keys() == intervals
        assert 22 < min(axis.values()) < max(axis.values()) < 78  # 50 on average, standard deviation 7
    assert max(areas) == 16 * 16
    assert min(areas) >= 8 * 8
    assert areas[16 * 16] / 1600 == pytest.approx((17 / 32) ** 2, abs=0.03)  # the whole square: centres 8 to 24
    assert torch.equal(ones, torch.ones(3, 32, 32))


@pytest.mark.parametrize(("image_size", "length"), [(32, 16), (28, 14), (8, 4)])
def test_cutout_of_a_view_is_half_its_side(image_size: int, length: int) -> None:
    (cutout,) = [step for step in paco_query_view(image_size).transforms if isinstance(step, Cutout)]
    holes = [int((cutout(torch.ones(1, image_size, image_size)) == 0).sum()) for _ in range(60)]
    assert max(holes) == length**2


@pytest.mark.parametrize("image_size", [32, 64])
def test_blur_of_a_key_view_takes_radii_up_to_two(image_size: int) -> None:
    (sometimes,) = [step for step in paco_key_view(image_size).transforms if _is_blur(step)]
    image = _noise(32)
    torch.manual_seed(0)
    drawn = [np.asarray(sometimes(image)) for _ in range(100)]
    assert np.mean([(pixels == np.asarray(image)).all() for pixels in drawn]) == pytest.approx(0.5, abs=0.15)
    roughness = [pixels.std() for pixels in drawn]
    smoothest = np.asarray(image.filter(ImageFilter.GaussianBlur(2.0))).std()
    assert smoothest <= min(roughness) < 1.1 * smoothest


@pytest.mark.parametrize(("image_size", "spared", "hue_change"), [(32, 0.2, 0.1), (40, 0.0, 0.0)])
def test_key_view_of_one_colour(image_size: int, spared: float, hue_change: float) -> None:
    # Crop, flip and blur leave it as it is; a fifth becomes grey; the jitter scales levels, saturation, and turns hues.
    image = Image.new("RGB", (image_size, image_size), BROWN)
    torch.manual_seed(0)
    drawn = [_levels(paco_key_view(image_size)(image)) for _ in range(300)]
    assert all((levels == levels[0, 0]).all() for levels in drawn)
    colours = [levels[0, 0] for levels in drawn]
    coloured = [colour for colour in colours if np.ptp(colour)]
    assert len(coloured) / 300 == pytest.approx(0.8, abs=0.05)
    assert sum((colour == BROWN).all() for colour in coloured) / 300 == pytest.approx(0.8 * spared, abs=0.04)
    hue = colorsys.rgb_to_hsv(*BROWN)[0]
    turns = [(colorsys.rgb_to_hsv(*colour.tolist())[0] - hue + 0.5) % 1 - 0.5 for colour in coloured]
    rounding = 0.03  # levels are whole numbers, at every step of the jitter
    assert max(map(abs, turns)) <= hue_change + rounding
    assert max(map(abs, turns)) >= hue_change - rounding


def test_large_key_view_scales_brightness_and_colour_by_two_fifths() -> None:
    image = Image.new("RGB", (40, 40), BROWN)
    torch.manual_seed(0)
    colours = [_levels(paco_key_view(40)(image))[0, 0] for _ in range(300)]
    # Contrast and saturation of a single colour both scale its distance from grey and keep its luma.
    luma = np.array([0.299, 0.587, 0.114])
    brightness = [colour @ luma / (BROWN @ luma) for colour in colours]
    assert min(brightness) == pytest.approx(0.6, abs=0.02)
    assert max(brightness) == pytest.approx(1.4, abs=0.02)
    chroma = [np.ptp(colour) / (colour @ luma) / (np.ptp(BROWN) / (BROWN @ luma)) for colour in colours]
    assert 0.6**2 - 0.05 < min(filter(None, chroma)) < 0.6
    assert 1.4 < max(chroma) < 1.4**2 + 0.05


@pytest.mark.parametrize(
    ("view", "image_size", "smallest"),
    [(paco_key_view, 32, 0.2), (paco_key_view, 40, 0.08), (paco_query_view, 40, 0.08)],
)
def test_crops_cover_the_published_shares(view: Callable, image_size: int, smallest: float, monkeypatch) -> None:
    resized_crop, shares = tvf.resized_crop, []

    def spy(image, top, left, height, width, *args, **kwargs):
        shares.append(height * width / (image.width * image.height))
        return resized_crop(image, top, left, height, width, *args, **kwargs)

    monkeypatch.setattr(tvf, "resized_crop", spy)
    torch.manual_seed(0)
    for _ in range(100):
        view(image_size)(_noise(image_size))
    assert len(shares) == 100
    assert smallest - 0.02 < min(shares) < smallest + 0.05  # sides are whole numbers
    assert max(shares) > 0.9


@pytest.mark.parametrize("image_size", [32, 40])
@pytest.mark.parametrize("horizontal_flip", [True, False])
def test_key_view_mirrors_half_of_the_images_unless_told(image_size: int, horizontal_flip: bool) -> None:
    ramp = Image.fromarray(np.tile(np.linspace(40, 200, image_size, dtype=np.uint8), (image_size, 1)))
    torch.manual_seed(0)
    drawn = [paco_key_view(image_size, horizontal_flip)(ramp) for _ in range(80)]
    mirrored = [bool(pixel_values[0, :, 0].mean() > pixel_values[0, :, -1].mean()) for pixel_values in drawn]
    assert np.mean(mirrored) == pytest.approx(0.5 * horizontal_flip, abs=0.15 * horizontal_flip)


@pytest.mark.parametrize("view", [paco_query_view, paco_key_view])
@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_views_take_images_of_any_mode_and_travel_to_loader_workers(view: Callable, mode: str) -> None:
    for image_size in (8, 40):
        travelled = pickle.loads(pickle.dumps(view(image_size)))
        pixel_values = _seeded(travelled, _noise(30, mode), seed=1)
        assert pixel_values.shape == (3, image_size, image_size)
        assert pixel_values.dtype == torch.float32
        torch.testing.assert_close(pixel_values, _seeded(view(image_size), _noise(30, mode).convert("RGB"), seed=1))


@pytest.mark.parametrize(("view", "image_size"), [(paco_query_view, 32), (paco_key_view, 32), (paco_key_view, 64)])
def test_torchs_seed_alone_decides_where_timm_has_no_part(view: Callable, image_size: int) -> None:
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(view(image_size)(_noise(image_size)))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("view", [paco_query_view, paco_key_view])
def test_an_image_size_below_one_is_refused(view: Callable) -> None:
    with pytest.raises(DeiTLTError, match="image_size is 0"):
        view(0)
