"""Images that are decoded once for all processes."""

from __future__ import annotations

import pickle

import numpy as np
import psutil
import pytest
import torch
from datasets import Dataset
from PIL import Image
from torch.utils.data import DataLoader

from deitlt_hf.data import dataset as dataset_module
from deitlt_hf.data.dataset import KeptImages, ViewedDataset, collate, keep_images
from deitlt_hf.data.views import evaluation_view
from deitlt_hf.errors import DeiTLTError

VIEWS = {"pixel_values": evaluation_view(8)}


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.RandomState(seed).randint(0, 256, (height, width, 3), dtype=np.uint8))


def rows_of(*sizes: tuple[int, int]) -> Dataset:
    images = [noise(*size, seed) for seed, size in enumerate(sizes)]
    return Dataset.from_dict({"image": images, "label": list(range(len(images)))})


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list:
    """Everything that `ViewedDataset` has decoded."""
    seen, decode = [], dataset_module.decode_image
    monkeypatch.setattr(dataset_module, "decode_image", lambda value: seen.append(value) or decode(value))
    return seen


def test_an_image_is_decoded_once_and_stays_what_it_was(decoded: list) -> None:
    rows = rows_of((9, 8), (9, 8), (9, 8), (9, 8))
    dataset = ViewedDataset(rows, VIEWS, "train")
    assert len(decoded) <= 1  # the first one, for its size
    decoded.clear()
    for indices in ([2, 0, 2], [0, 2, 1], [-1, 2]):
        batch = collate(dataset.__getitems__(indices))
        expected = torch.stack([VIEWS["pixel_values"](rows[index]["image"]) for index in indices])
        torch.testing.assert_close(batch["pixel_values"], expected, rtol=0, atol=0)
        assert batch["labels"].tolist() == [index % 4 for index in indices]
    assert len(decoded) == 4
    with pytest.raises(IndexError):
        dataset[4]


def test_images_of_another_size_are_decoded_each_time(decoded: list) -> None:
    dataset = ViewedDataset(rows_of((9, 8), (8, 9)), VIEWS, "train")
    decoded.clear()
    for _ in range(3):
        dataset.__getitems__([0, 1])
    assert len(decoded) == 1 + 3


def test_a_bad_image_is_reported_when_it_is_read() -> None:
    rows = rows_of((9, 8), (9, 8)).cast_column("image", dataset_module.undecoded(rows_of((9, 8))).features["image"])
    spoilt = rows.map(
        lambda row, index: {"image": {"bytes": b"", "path": None}} if index == 0 else row, with_indices=True
    )
    dataset = ViewedDataset(spoilt, VIEWS, "train")
    assert dataset[1]["labels"] == 1
    for _ in range(2):
        with pytest.raises(DeiTLTError, match="image 0 of train cannot be read: it is empty"):
            dataset[0]


def test_what_a_worker_decodes_is_there_for_all() -> None:
    dataset = ViewedDataset(rows_of(*[(9, 8)] * 6), VIEWS, "train")
    expected = collate(dataset.__getitems__(range(6)))["pixel_values"]
    dataset = ViewedDataset(rows_of(*[(9, 8)] * 6), VIEWS, "train")
    loader = DataLoader(
        dataset,
        batch_size=3,
        collate_fn=collate,
        num_workers=1,
        multiprocessing_context="fork",
        persistent_workers=False,
    )
    torch.testing.assert_close(torch.cat([batch["pixel_values"] for batch in loader]), expected, rtol=0, atol=0)
    assert all(dataset.kept.has(index) for index in range(6))  # decoded in another process
    np.testing.assert_array_equal(np.asarray(dataset.kept.get(5)), np.asarray(noise(9, 8, 5)))


def test_a_process_that_is_spawned_decodes_for_itself() -> None:
    dataset = ViewedDataset(rows_of((9, 8)), VIEWS, "train")
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.kept is None
    torch.testing.assert_close(copy[0]["pixel_values"], dataset[0]["pixel_values"])


def test_views_cannot_change_what_is_kept() -> None:
    kept = KeptImages(1, (9, 8))
    kept.keep(0, noise(9, 8))
    kept.get(0).paste((1, 2, 3), (0, 0, 9, 8))
    np.testing.assert_array_equal(np.asarray(kept.get(0)), np.asarray(noise(9, 8)))


def test_what_does_not_fit_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    image = noise(10, 10)  # 300 bytes
    monkeypatch.setattr(dataset_module, "MOST_KEPT", 3000)
    assert keep_images(10, image) is not None
    assert keep_images(11, image) is None
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert keep_images(5, image) is not None
    assert keep_images(6, image) is None
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 4000}))
    assert keep_images(1, image) is not None
    assert keep_images(2, image) is None
