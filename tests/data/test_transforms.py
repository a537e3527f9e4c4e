"""Views and the image processor, against timm, Pillow and brute force."""

from __future__ import annotations

import io
import pickle
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image
from timm.data import create_transform
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader
from torchvision.transforms import Compose, RandomCrop, RandomResizedCrop
from transformers import AutoImageProcessor

from deitlt_hf.data.dataset import ViewedDataset, ViewTransform, collate
from deitlt_hf.data.views import (
    Resizing,
    evaluation_view,
    image_processor,
    paco_key_view,
    paco_query_view,
    strong_view,
    weak_view,
)
from deitlt_hf.errors import DeiTLTError

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
VIEWS = [strong_view, weak_view, evaluation_view]


def _noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.RandomState(0).randint(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def _levels(pixel_values: torch.Tensor) -> np.ndarray:
    """Grey levels 0..255, `(H, W, 3)`, of normalised pixel values."""
    return ((pixel_values * STD + MEAN) * 255).permute(1, 2, 0).round().to(torch.int16).numpy()


def _seeded(view: Callable, image: Image.Image, seed: int) -> torch.Tensor:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return view(image)


def _reference_training_transform(image_size: int) -> Callable:
    transform = create_transform(
        image_size,
        is_training=True,
        color_jitter=0.3,
        auto_augment="rand-m9-mstd0.5-inc1",
        interpolation="bicubic",
        re_prob=0.25,
        re_mode="pixel",
        re_count=1,
    )
    if image_size <= 32:
        transform.transforms[0] = RandomCrop(image_size, padding=4)
    return transform


@pytest.mark.parametrize("image_size", [32, 64])
def test_strong_view_is_the_references_transform(image_size: int) -> None:
    image = _noise(image_size, image_size)
    view, reference = strong_view(image_size), _reference_training_transform(image_size)
    drawn = [_seeded(view, image, seed) for seed in range(8)]
    for seed, pixel_values in enumerate(drawn):
        torch.testing.assert_close(pixel_values, _seeded(reference, image, seed))
    assert not torch.equal(drawn[0], drawn[1])


@pytest.mark.parametrize("horizontal_flip", [True, False])
@pytest.mark.parametrize(("image_size", "padding"), [(32, 4), (8, 1)])
def test_weak_view_is_a_padded_crop_and_flip(image_size: int, padding: int, horizontal_flip: bool) -> None:
    image = _noise(image_size, image_size)
    padded = np.pad(np.asarray(image), ((padding, padding), (padding, padding), (0, 0)))
    crops = {}
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            crop = padded[top : top + image_size, left : left + image_size]
            crops[crop.tobytes()] = (top, left, False)
            crops[crop[:, ::-1].tobytes()] = (top, left, True)
    torch.manual_seed(0)
    view = weak_view(image_size, horizontal_flip)
    drawn = [crops[_levels(view(image)).astype(np.uint8).tobytes()] for _ in range(40)]
    assert {top for top, _, _ in drawn} >= {0, 2 * padding}
    assert {flipped for *_, flipped in drawn} == {False, horizontal_flip}


@pytest.mark.parametrize("image_size", [16, 48])
def test_no_mirrored_images_in_a_strong_view_without_flip(image_size: int) -> None:
    names = [type(step).__name__ for step in strong_view(image_size, horizontal_flip=False).transforms]
    assert "RandomHorizontalFlip" not in names
    assert "RandomHorizontalFlip" in [type(step).__name__ for step in strong_view(image_size).transforms]


def test_large_weak_view_draws_crops_of_other_scales() -> None:
    # A horizontal ramp of 0..255: the range of levels in a crop tells how wide it was.
    ramp = Image.fromarray(np.tile(np.linspace(0, 255, 128, dtype=np.uint8), (128, 1)))
    torch.manual_seed(0)
    view = weak_view(64)
    widths = [np.ptp(_levels(view(ramp))) for _ in range(20)]
    assert min(widths) < 128 < max(widths)


def test_evaluation_view_resizes_and_crops_the_centre() -> None:
    # 256/224 of 112 is 128: a 150 x 100 image becomes 192 x 128, cropped by 40 and 8 on each side.
    image = _noise(150, 100)
    expected = np.asarray(image.resize((192, 128), Image.Resampling.BICUBIC).crop((40, 8, 152, 120)))
    np.testing.assert_array_equal(_levels(evaluation_view(112)(image)), expected)


def test_small_evaluation_view_has_no_margin() -> None:
    view = evaluation_view(32)
    image = _noise(32, 32)
    np.testing.assert_array_equal(_levels(view(image)), np.asarray(image))
    image = _noise(40, 28)
    expected = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(_levels(view(image)), expected)


BILINEAR, BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC


@pytest.mark.parametrize(
    ("resizing", "resample", "resized", "crop"),
    [
        (Resizing("bilinear", 1.0, keeps_shape=False), BILINEAR, (48, 48), (0, 0, 48, 48)),
        (Resizing("bilinear", 48 / 56), BILINEAR, (84, 56), (18, 4, 66, 52)),
        (Resizing("bicubic", 1.0), BICUBIC, (72, 48), (12, 0, 60, 48)),
        (Resizing("bicubic", 48 / 56, keeps_shape=False), BICUBIC, (56, 56), (4, 4, 52, 52)),
    ],
)
def test_another_resizing(resizing: Resizing, resample: Image.Resampling, resized, crop) -> None:
    image = _noise(150, 100)
    expected = np.asarray(image.resize(resized, resample).crop(crop))
    np.testing.assert_array_equal(_levels(evaluation_view(48, resizing)(image)), expected)
    made = _levels(image_processor(48, resizing)(image, return_tensors="pt")["pixel_values"][0])
    assert np.abs(made - expected).max() <= 2  # by rounding, as below


def test_the_reference_s_edge_is_256_of_224_pixels_at_every_size() -> None:
    assert all(Resizing().edge(size) == size * 8 // 7 for size in range(33, 2000))
    # A ratio of whole numbers, as it is read from an image processor, gives them again.
    assert all(Resizing(crop_ratio=224 / edge).edge(224) == edge for edge in range(224, 449))


def test_training_views_resize_as_asked() -> None:
    image = _noise(150, 100)
    for resample, view in [(resample, view) for resample in (BILINEAR, BICUBIC) for view in (strong_view, weak_view)]:
        # An image of the output's size is not resized, so what is left is the same.
        small = view(16, interpolation=resample.name.lower())
        resized = image.resize((16, 16), resample)
        torch.testing.assert_close(_seeded(small, image, 3), _seeded(view(16), resized, 3), rtol=0, atol=0)
    crop = Compose(strong_view(48, interpolation="bilinear").transforms[:2])
    timms = create_transform(48, is_training=True, interpolation="bilinear").transforms[0]
    np.testing.assert_array_equal(np.asarray(_seeded(crop, image, 3)), np.asarray(_seeded(timms, image, 3)))
    crop = Compose(weak_view(48, interpolation="bilinear").transforms[:2])
    torchvisions = RandomResizedCrop(48)  # bilinear by default
    np.testing.assert_array_equal(np.asarray(_seeded(crop, image, 3)), np.asarray(_seeded(torchvisions, image, 3)))


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_views_take_images_of_any_mode(view: Callable, mode: str) -> None:
    for image_size in (8, 40):
        pixel_values = view(image_size)(_noise(30, 20, mode))
        assert pixel_values.shape == (3, image_size, image_size)
        assert pixel_values.dtype == torch.float32


@pytest.mark.parametrize("view", [*VIEWS, paco_query_view, paco_key_view])
def test_views_bring_images_upright(view: Callable) -> None:
    upright, buffer, exif = _noise(40, 30), io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(buffer, "PNG", exif=exif)
    pixel_values = _seeded(view(16), Image.open(buffer), 0)
    torch.testing.assert_close(pixel_values, _seeded(view(16), upright, 0), rtol=0, atol=0)


@pytest.mark.parametrize("view", [*VIEWS, image_processor])
def test_an_image_size_below_one_is_refused(view: Callable) -> None:
    with pytest.raises(DeiTLTError, match="image_size is 0"):
        view(0)


# No image here leaves a margin of 3, 7, 11, ... pixels: there the processor crops one pixel beside torchvision.
@pytest.mark.parametrize("image_size", [8, 32, 64, 224])
@pytest.mark.parametrize(
    "image", [_noise(32, 32), _noise(120, 80), _noise(90, 150, "RGBA"), _noise(28, 28, "L")], ids=lambda i: f"{i.size}"
)
def test_the_processor_agrees_with_the_evaluation_view(image_size: int, image: Image.Image, tmp_path) -> None:
    image_processor(image_size).save_pretrained(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    pixel_values = processor(image, return_tensors="pt")["pixel_values"]
    assert pixel_values.shape == (1, 3, image_size, image_size)
    difference = np.abs(_levels(pixel_values[0]) - _levels(evaluation_view(image_size)(image)))
    # Pillow and torch round the two passes of a bicubic resize differently: up to 2 levels of 255, in few pixels.
    assert difference.max() <= 2
    assert (difference > 0).mean() < 0.03


def test_a_data_set_with_views_goes_through_loader_workers() -> None:
    dataset = Dataset.from_dict({"image": [_noise(8, 8)] * 4, "label": [3, 0, 1, 2]})
    transform = ViewTransform({"pixel_values": strong_view(16), "weak_pixel_values": evaluation_view(8)})
    assert list(pickle.loads(pickle.dumps(transform)).views) == ["pixel_values", "weak_pixel_values"]
    loader = DataLoader(dataset.with_transform(transform), batch_size=4, collate_fn=collate, num_workers=1)
    (batch,) = loader
    assert batch["pixel_values"].shape == (4, 3, 16, 16)
    assert batch["labels"].dtype == torch.int64
    assert batch["labels"].tolist() == [3, 0, 1, 2]
    for pixel_values in batch["weak_pixel_values"]:
        np.testing.assert_array_equal(_levels(pixel_values), np.asarray(_noise(8, 8)))


def test_images_without_labels_give_a_batch_without_labels() -> None:
    rows = ViewTransform({"pixel_values": evaluation_view(8)})({"image": [_noise(9, 9)] * 2})
    assert list(rows) == ["pixel_values"]
    batch = collate([{"pixel_values": pixel_values} for pixel_values in rows["pixel_values"]])
    assert {name: tuple(value.shape) for name, value in batch.items()} == {"pixel_values": (2, 3, 8, 8)}


def _bytes(image: Image.Image) -> dict:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


FEATURES = Features({"image": ImageFeature(), "label": ClassLabel(names=["cat", "owl"])})


def _split(images: list[dict], labels: list[int] | None = None) -> Dataset:
    return Dataset.from_dict({"image": images, "label": labels or [0] * len(images)}, features=FEATURES)


def test_a_viewed_data_set_gives_what_with_transform_gives() -> None:
    rows = _split([_bytes(_noise(size, 8)) for size in (8, 9, 10, 11)], [0, 1, 1, 0]).select([3, 1, 0])
    views = {"pixel_values": evaluation_view(8), "weak_pixel_values": evaluation_view(16)}
    viewed, transformed = ViewedDataset(rows, views, "train"), rows.with_transform(ViewTransform(views))
    assert len(viewed) == 3
    for left, right in zip(
        [*viewed.__getitems__([2, 0]), viewed[1]], [*transformed.__getitems__([2, 0]), transformed[1]], strict=True
    ):
        assert left.keys() == right.keys()
        assert left["labels"] == right["labels"]
        for name in views:
            torch.testing.assert_close(left[name], right[name], rtol=0, atol=0)
    with pytest.raises(IndexError):
        viewed[3]


BAD = [
    (1, "image 1 of train cannot be read: it is empty; pass on_bad_image='skip' (--on_bad_image skip) to leave"),
    (2, "image 2 of train (x.jpg) cannot be read: it is no image that Pillow knows; pass on_bad_image='skip'"),
]


@pytest.fixture
def spoilt(tmp_path, monkeypatch: pytest.MonkeyPatch) -> ViewedDataset:
    """A sound image, an empty one, and a file of text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.jpg").write_text("no image")
    rows = _split([_bytes(_noise(8, 8)), {"bytes": b"", "path": None}, {"bytes": None, "path": "x.jpg"}])
    return ViewedDataset(rows, {"pixel_values": evaluation_view(8)}, "train")


@pytest.mark.parametrize(("index", "message"), BAD)
def test_a_bad_image_is_named(spoilt: ViewedDataset, index: int, message: str) -> None:
    for read in (lambda: spoilt[index], lambda: spoilt.__getitems__([0, index])):
        with pytest.raises(DeiTLTError) as error:
            read()
        assert str(error.value).startswith(message)


def test_a_bad_image_is_named_in_one_line_from_a_worker_process(spoilt: ViewedDataset) -> None:
    index, message = BAD[1]
    try:
        spoilt[index]
    except DeiTLTError:
        # What a loader's worker sends and the main process raises; a real worker takes five seconds to go after it.
        sent = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(DeiTLTError) as error:
        pickle.loads(pickle.dumps(sent)).reraise()
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_an_undecoded_column_goes_through_a_transform() -> None:
    rows = {"image": [_bytes(_noise(9, 9))], "label": [1]}
    transform = ViewTransform({"pixel_values": evaluation_view(8)})
    decoded = transform({"image": [_noise(9, 9)], "label": [1]})
    torch.testing.assert_close(transform(rows)["pixel_values"][0], decoded["pixel_values"][0])
    with pytest.raises(DeiTLTError, match="an image cannot be read: it is empty"):
        transform({"image": [{"bytes": b"", "path": None}]})


@pytest.mark.parametrize("labels", [[0.25, 0.75], torch.tensor([0.25, 0.75]), 1.5, "cat", None])
def test_only_class_ids_are_collated(labels):
    with pytest.raises(DeiTLTError, match=r"labels are of type \w+; give a class id, an int"):
        collate([{"pixel_values": torch.zeros(3, 2, 2), "labels": labels}])
