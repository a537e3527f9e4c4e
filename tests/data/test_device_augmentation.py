"""Views made on the device, against Pillow's and timm's own operations and the distribution of timm's draws."""

from __future__ import annotations

import math
import random
from collections import Counter
from unittest import mock

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from scipy.stats import chi2_contingency, ks_2samp
from sklearn.datasets import load_sample_images
from timm.data.auto_augment import LEVEL_TO_ARG, NAME_TO_OP, AugmentOp
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.transforms import functional as pil_functional

from deitlt_hf.data.dataset import ViewedDataset, collate
from deitlt_hf.data.device_augmentation import device_views as device_views_module
from deitlt_hf.data.device_augmentation.crops import draw_boxes, padded_crops, resized_crops
from deitlt_hf.data.device_augmentation.device_views import (
    BatchView,
    device_views,
    normalized,
    small_common_size,
    to_levels,
)
from deitlt_hf.data.device_augmentation.erasing import AREA, ASPECT, draw_rectangles
from deitlt_hf.data.device_augmentation.rand_augment import (
    FILL,
    LAYERS,
    MAGNITUDE,
    MAGNITUDE_STD,
    OPERATIONS,
    PROBABILITY,
    apply_operations,
    argument_of,
    draw_operations,
)
from deitlt_hf.data.device_augmentation.random_numbers import Draws
from deitlt_hf.data.views import strong_view, weak_view

SIGNED = ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
WHOLE = ("PosterizeIncreasing", "SolarizeIncreasing", "SolarizeAdd")  # timm's arguments are ints


def draws(*key: int) -> Draws:
    return Draws(*key, device="cpu")


def photographs(size: int) -> list[Image.Image]:
    """Pieces of real photographs, a flat image, a dark one, and noise."""
    pieces = [
        Image.fromarray(photo[50 * k : 50 * k + 250, 90 * k : 90 * k + 250]).resize((size, size))
        for photo in load_sample_images().images
        for k in range(3)
    ]
    noise = np.random.RandomState(0).randint(0, 256, (size, size, 3), dtype=np.uint8)
    return [*pieces, Image.new("RGB", (size, size), (9, 200, 31)), Image.fromarray(noise // 9), Image.fromarray(noise)]


def batch_of(images: list[Image.Image]) -> torch.Tensor:
    return torch.stack([to_levels(image) for image in images])


def differences(ours: torch.Tensor, theirs: list[Image.Image]) -> torch.Tensor:
    return (ours.int() - batch_of(theirs).int()).abs()


@pytest.mark.parametrize("size", [32, 97])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_pillows(name: str, size: int) -> None:
    images = photographs(size)
    for magnitude, negative in ((9.0, False), (8.1, True), (10.0, False)):
        arguments = argument_of(np.array([name]), np.array([magnitude]), np.array([negative]))
        count = len(images)
        ours = apply_operations(batch_of(images), np.repeat(name, count), np.repeat(arguments, count), draws(0))
        given = () if LEVEL_TO_ARG[name] is None else (int(arguments[0]) if name in WHOLE else arguments[0],)
        options = {"fillcolor": tuple(FILL.tolist()), "resample": Image.Resampling.BICUBIC}
        difference = differences(ours, [NAME_TO_OP[name](image, *given, **options) for image in images])
        if name not in SIGNED:
            assert difference.max() == 0
        else:  # coordinates in float32: now and then a value falls on the other side of a whole number
            assert difference.max() <= 1
            assert (difference > 0).float().mean() < 0.004


@pytest.mark.parametrize(
    ("source", "size", "interpolation"), [(32, 224, "bicubic"), (97, 64, "bicubic"), (97, 64, "bilinear")]
)
def test_a_resized_crop_is_pillows(source: int, size: int, interpolation: str) -> None:
    images = photographs(source)
    ours = resized_crops(batch_of(images), size, 0.5, draws(3), interpolation)
    again = draws(3)
    boxes, flips = draw_boxes(len(images), source, source, again), again.chance(0.5, len(images))
    assert 0 < flips.sum() < len(images)
    theirs = []
    for image, box, is_flipped in zip(images, boxes.tolist(), flips, strict=True):
        crop = pil_functional.resized_crop(image, *box, (size, size), Image.Resampling[interpolation.upper()])
        theirs.append(pil_functional.hflip(crop) if is_flipped else crop)
    difference = differences(ours, theirs)
    assert difference.max() <= 1
    # One box is 72 pixels high: at 72/64, bilinear values often lie exactly between two levels.
    assert (difference > 0).float().mean() < (0.001 if interpolation == "bicubic" else 0.01)


def test_what_is_constant_is_timms() -> None:
    augment = strong_view(32).transforms[4]
    assert (augment.num_layers, augment.choice_weights) == (LAYERS, None)
    assert sorted(operation.name for operation in augment.ops) == sorted(OPERATIONS)
    for operation in augment.ops:
        assert (operation.prob, operation.magnitude, operation.magnitude_std) == (PROBABILITY, MAGNITUDE, MAGNITUDE_STD)
        assert operation.magnitude_max is None
        assert operation.kwargs == {"fillcolor": tuple(FILL.tolist()), "resample": Image.Resampling.BICUBIC}
    erasing = strong_view(32).transforms[-1]
    assert (erasing.probability, erasing.min_area, erasing.max_area) == (0.25, *AREA)
    assert erasing.log_aspect_ratio == tuple(map(math.log, ASPECT))
    assert (erasing.per_pixel, erasing.min_count, erasing.max_count) == (True, 1, 1)


def test_padded_crops_are_all_crops_of_the_padded_image() -> None:
    image = batch_of(photographs(16))[0]
    padded = np.pad(image.numpy(), ((0, 0), (2, 2), (2, 2)))
    crops = {}
    for top in range(5):
        for left in range(5):
            crop = padded[:, top : top + 16, left : left + 16]
            crops[crop.tobytes()] = (top, left, False)
            crops[crop[..., ::-1].tobytes()] = (top, left, True)
    drawn = padded_crops(image.expand(2000, -1, -1, -1), 0.5, draws(0))
    counts = Counter(crops[crop.numpy().tobytes()] for crop in drawn)
    assert len(counts) == 50
    assert max(counts.values()) < 70  # 40 in the mean
    unflipped = padded_crops(image.expand(200, -1, -1, -1), 0.0, draws(0))
    assert not any(crops[crop.numpy().tobytes()][2] for crop in unflipped)


def timms_operations(count: int) -> list[tuple[str, float]]:
    """Names and arguments of what timm's RandAugment does to `count` images; the names alone of what it spares."""
    augment = strong_view(32).transforms[4]
    seen: list[tuple[str, float]] = []

    def record(self: AugmentOp, image: list) -> list:
        function = self.aug_fn
        self.aug_fn = lambda image, *arguments, **_: image.append((self.name, float(arguments[0] if arguments else 0)))
        before = len(image)
        call(self, image)
        self.aug_fn = function
        if len(image) == before:
            image.append(("", 0.0))
        return image

    call = AugmentOp.__call__
    random.seed(0)
    np.random.seed(0)
    with mock.patch.object(AugmentOp, "__call__", record):
        for _ in range(count):
            augment(seen)
    return seen


def test_operations_and_arguments_are_distributed_as_timms() -> None:
    theirs = timms_operations(15000)
    names, arguments = draw_operations(30000, draws(1))
    known = ["", *OPERATIONS]
    our_counts, their_counts = Counter(names.tolist()), Counter(name for name, _ in theirs)
    assert our_counts.keys() == their_counts.keys() == set(known)
    table = [[our_counts[name] for name in known], [their_counts[name] for name in known]]
    assert chi2_contingency(table).pvalue > 0.01
    for name in OPERATIONS:
        if LEVEL_TO_ARG[name] is not None:
            expected = [argument for other, argument in theirs if other == name]
            assert ks_2samp(arguments[names == name], expected).pvalue > 0.001, name


@pytest.mark.parametrize("name", [name for name in OPERATIONS if LEVEL_TO_ARG[name] is not None])
def test_an_argument_is_timms_at_every_magnitude(name: str) -> None:
    for magnitude in np.linspace(0, 10, 41):
        for negative, number in ((False, 0.0), (True, 1.0)):
            with mock.patch("random.random", return_value=number):
                (expected,) = LEVEL_TO_ARG[name](magnitude, {})
            got = argument_of(np.array([name]), np.array([magnitude]), np.array([negative]))
            assert got[0] == pytest.approx(expected)


def test_boxes_are_distributed_as_timms() -> None:
    image = Image.new("RGB", (40, 90))
    random.seed(0)
    theirs = np.array(
        [RandomResizedCropAndInterpolation.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(4000)]
    )
    ours = draw_boxes(4000, 90, 40, draws(2))
    for column in range(4):
        assert ks_2samp(ours[:, column], theirs[:, column]).pvalue > 0.001
    assert (ours[:, 0] + ours[:, 2] <= 90).all()
    assert (ours[:, 1] + ours[:, 3] <= 40).all()


def test_erased_rectangles_are_distributed_as_timms() -> None:
    erasing = RandomErasing(0.25, mode="pixel", max_count=1, device="cpu")
    random.seed(0)
    torch.manual_seed(0)
    theirs = []
    for _ in range(4000):
        is_erased = erasing(torch.full((3, 24, 32), np.nan)).isfinite().all(0)
        if is_erased.any():
            rows, columns = is_erased.any(1).nonzero()[:, 0], is_erased.any(0).nonzero()[:, 0]
            theirs.append([int(rows[0]), int(columns[0]), len(rows), len(columns)])
    ours = draw_rectangles(4000, 24, 32, draws(3))
    ours = ours[ours[:, 2] > 0]
    assert abs(len(ours) - len(theirs)) < 4 * np.sqrt(2 * 4000 * 0.25 * 0.75)
    for column in range(4):
        assert ks_2samp(ours[:, column], np.array(theirs)[:, column]).pvalue > 0.001


@pytest.mark.parametrize("strong", [True, False])
@pytest.mark.parametrize("size", [32, 48])
def test_pixels_have_the_statistics_of_the_loaders_views(size: int, strong: bool) -> None:
    images = photographs(32)[:6]
    view = strong_view(size) if strong else weak_view(size)
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    theirs = torch.stack([view(image) for image in images for _ in range(150)])
    batch = batch_of(images).repeat_interleave(150, 0)
    ours = BatchView(size, strong=strong)(batch, draws(4))
    assert ours.shape == theirs.shape
    # Per image: its mean, its contrast, and how far neighbours differ.
    for statistic in (
        lambda x: x.mean((1, 2, 3)),
        lambda x: x.std((1, 2, 3)),
        lambda x: (x[..., 1:] - x[..., :-1]).abs().mean((1, 2, 3)),
        lambda x: x[:, :, : size // 4].mean((1, 2, 3)),
    ):
        assert ks_2samp(statistic(ours).numpy(), statistic(theirs).numpy()).pvalue > 0.001


def test_views_follow_from_the_key_alone() -> None:
    images, view = batch_of(photographs(32)), BatchView(32, strong=True)
    first = view(images, draws(1, 2))
    torch.manual_seed(17)
    torch.testing.assert_close(view(images, draws(1, 2)), first, rtol=0, atol=0)
    assert not torch.equal(view(images, draws(1, 3)), first)
    torch.testing.assert_close(images, batch_of(photographs(32)))  # they are not written to


def test_without_flip_no_view_is_mirrored() -> None:
    ramp = torch.arange(32, dtype=torch.uint8).expand(64, 3, 32, 32)
    for size in (32, 64):
        middle = BatchView(size, horizontal_flip=False)(ramp, draws(0))[:, :, size // 2]
        assert (middle[..., -6] > middle[..., 5]).all()


def rows_of(*sizes: tuple[int, int]) -> Dataset:
    images = [Image.new("RGB", size, (40, 50, 60)) for size in sizes]
    return Dataset.from_dict({"image": images, "label": [0] * len(images)})


@pytest.mark.parametrize(
    ("sizes", "image_size", "sent", "crops"),
    [
        ([(40, 30), (20, 20)], 32, (32, 32), True),  # resized by the loader, as the loader's views are
        ([(32, 32), (32, 32)], 64, (32, 32), True),
        ([(40, 30), (20, 20)], 64, (64, 64), False),
        ([(300, 300)], 64, (64, 64), False),
    ],
)
def test_what_the_loader_sends(sizes, image_size: int, sent: tuple[int, int], crops: bool) -> None:
    rows = rows_of(*sizes)
    of_loader, of_batch = device_views({"pixel_values": True, "weak_pixel_values": False}, image_size, True, rows)
    batch = collate(ViewedDataset(rows, of_loader, "train").__getitems__(list(range(len(rows)))))
    assert batch["pixel_values"].dtype == batch["weak_pixel_values"].dtype == torch.uint8
    assert tuple(batch["pixel_values"].shape[2:]) == sent
    assert [view.strong for view in of_batch.values()] == [True, False]
    assert {view.crops for view in of_batch.values()} == {crops}
    for name, view in of_batch.items():
        assert view(batch[name], draws(0)).shape == (len(rows), 3, image_size, image_size)


def test_the_loaders_half_and_the_batches_half_interpolate_as_asked() -> None:
    image = photographs(97)[0]
    (of_loader,) = device_views({"pixel_values": True}, 16, True, rows_of((97, 97)), "bilinear")[0].values()
    torch.testing.assert_close(of_loader(image), to_levels(image.resize((16, 16), Image.Resampling.BILINEAR)))
    batch = batch_of([image])
    for asked in ("bilinear", "bicubic"):
        (of_batch,) = device_views({"pixel_values": False}, 48, True, rows_of((97, 97)), asked)[1].values()
        expected = normalized(resized_crops(batch, 48, 0.5, draws(3), asked))
        torch.testing.assert_close(of_batch(batch, draws(3)), expected)
    (of_loader,) = device_views({"pixel_values": True}, 48, True, rows_of((300, 300)), "bilinear")[0].values()
    random.seed(0)
    expected = RandomResizedCropAndInterpolation(48, interpolation="bilinear")(image)
    random.seed(0)
    torch.testing.assert_close(of_loader(image), to_levels(expected))


def test_a_common_size_is_that_of_upright_images(tmp_path) -> None:
    assert small_common_size(rows_of((40, 30), (40, 30))) == (40, 30)
    assert small_common_size(rows_of((40, 30), (30, 40))) is None
    assert small_common_size(rows_of((257, 30))) is None
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    Image.new("RGB", (30, 40)).save(tmp_path / "turned.jpg", exif=exif)
    Image.new("RGB", (40, 30)).save(tmp_path / "upright.jpg")
    (tmp_path / "bad.jpg").write_text("no image")
    files = [str(tmp_path / name) for name in ("turned.jpg", "bad.jpg", "upright.jpg")]
    assert small_common_size(Dataset.from_dict({"image": files})) == (40, 30)


class FakeDraws(Draws):
    """On a GPU that is not there: tensors know their shapes, types and devices."""

    def __init__(self, *key: int) -> None:
        self.device, self.host = torch.device("cuda:0"), np.random.default_rng(key)

    def send(self, array: np.ndarray) -> torch.Tensor:
        return torch.empty(array.shape, dtype=torch.from_numpy(array[:0].copy()).dtype, device=self.device)

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.empty(shape, device=self.device)


@pytest.mark.parametrize("strong", [True, False])
@pytest.mark.parametrize(
    ("size", "source", "crops"), [(32, (32, 32), True), (64, (32, 40), True), (64, (64, 64), False)]
)
def test_views_need_nothing_from_the_host(size: int, source: tuple, crops: bool, strong: bool, monkeypatch) -> None:
    # A tensor left on the host, or a shape that depends on values of the device, is an error here as it is there.
    with FakeTensorMode():
        monkeypatch.setattr(
            device_views_module, "_scale_and_shift", lambda device: torch.empty(2, 1, 3, 1, 1, device=device).unbind()
        )
        images = torch.empty(64, 3, *source, dtype=torch.uint8, device="cuda:0")
        made = BatchView(size, strong=strong, crops=crops)(images, FakeDraws(0))
    assert (made.shape, made.dtype, made.device.type) == ((64, 3, size, size), torch.float32, "cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("size", [32, 64])
def test_a_gpu_makes_the_views_of_the_cpu_and_is_never_waited_for(size: int, monkeypatch) -> None:
    images, view = batch_of(photographs(32)).repeat(8, 1, 1, 1), BatchView(size, strong=True)
    on_gpu = images.cuda()
    view(on_gpu, Draws(0, device="cuda"))
    torch.cuda.set_sync_debug_mode("error")
    try:
        view(on_gpu, Draws(1, device="cuda"))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    # Each device has noise of its own for erased rectangles.
    monkeypatch.setattr(Draws, "normal", lambda self, *shape: torch.ones(shape, device=self.device))
    ours, expected = view(on_gpu, Draws(1, device="cuda")), view(images, draws(1))
    # Up to single levels where a sum is rounded, and what equalising and the like make of them.
    assert ((ours.cpu() - expected).abs() < 0.02).float().mean() > 0.99
