"""Views as a function of the seed, the epoch and the place in it."""

from __future__ import annotations

import pickle
import random

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from torch.utils.data import DataLoader

from deitlt_hf.data.dataset import ViewedDataset, collate
from deitlt_hf.data.sampling import Draw, DrawingSampler, ShufflingSampler, draw_seed, repeated_augmentation_sampler
from deitlt_hf.data.views import strong_view


def viewed() -> ViewedDataset:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    rows = Dataset.from_dict({"image": [Image.fromarray(image) for image in pixels], "label": list(range(8))})
    return ViewedDataset(rows, {"pixel_values": strong_view(16)}, "train")


def test_a_draw_is_an_index_that_travels_to_workers():
    draw = pickle.loads(pickle.dumps([Draw(3, seed=2**63 + 1)]))[0]
    assert (draw, draw.seed, [10, 11, 12, 13][draw]) == (3, 2**63 + 1, 13)


def test_a_view_follows_its_draw_and_leaves_the_generators_alone():
    dataset = viewed()
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    first, other = dataset.__getitems__([Draw(3, seed=1), Draw(3, seed=2)])
    again = dataset[Draw(3, seed=1)]
    assert torch.equal(first["pixel_values"], again["pixel_values"])
    assert not torch.equal(first["pixel_values"], other["pixel_values"])
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_plain_indices_draw_as_ever():
    dataset, views = viewed(), []
    for _ in range(2):
        torch.manual_seed(5)
        random.seed(5)
        np.random.seed(5)
        views += [dataset[0]["pixel_values"], dataset[0]["pixel_values"]]
    assert torch.equal(views[0], views[2])
    assert not torch.equal(views[0], views[1])


def test_seeds_differ_by_epoch_and_repeat_of_an_image():
    sampler = DrawingSampler(repeated_augmentation_sampler(8), seed=0)
    epochs = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        epochs.append(list(sampler))
        assert [int(draw) for draw in epochs[-1]] == list(sampler.sampler)
    assert len({draw.seed for draws in epochs for draw in draws}) == 16
    assert [draw.seed for draw in epochs[1]] == [draw_seed(0, 1, place) for place in range(8)]


def test_several_processes_share_the_seeds_of_one():
    whole = DrawingSampler(repeated_augmentation_sampler(512), seed=4)
    parts = [DrawingSampler(repeated_augmentation_sampler(512, 2, rank), 4, 2, rank) for rank in range(2)]
    together = [draw for pair in zip(*parts, strict=True) for draw in pair]
    assert [(int(draw), draw.seed) for draw in together] == [(int(draw), draw.seed) for draw in whole]


def test_a_loader_with_workers_gives_the_views_of_one_without():
    batches = []
    for workers in (0, 2):
        sampler = DrawingSampler(ShufflingSampler(8, seed=0), seed=0)
        loader = DataLoader(viewed(), batch_size=4, sampler=sampler, num_workers=workers, collate_fn=collate)
        batches.append(torch.cat([batch["pixel_values"] for batch in loader]))
    assert torch.equal(*batches)


def test_the_shuffled_order_is_that_of_accelerate():
    from accelerate.data_loader import SeedableRandomSampler

    ours, theirs = ShufflingSampler(50, seed=3), SeedableRandomSampler(range(50), data_seed=3)
    for epoch in (0, 7):
        ours.set_epoch(epoch)
        theirs.set_epoch(epoch)
        assert list(ours) == list(theirs)
