"""Batches arrive from a loader's workers whether or not shared memory has room for them."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader

from deitlt_hf.data import dataset
from deitlt_hf.data.dataset import collate, collate_for_workers

EXAMPLES = [{"pixel_values": torch.full((3, 8, 8), float(n)), "labels": n} for n in range(8)]
BATCH = 4 * (3 * 8 * 8 * 4 + 8)  # bytes of four images in float32 and their labels in int64


@pytest.fixture
def free(monkeypatch):
    """Makes shared memory have so many free bytes."""
    monkeypatch.setattr(dataset, "_notified", False)

    def set_free(number: int) -> None:
        monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=number, f_frsize=1))

    return set_free


def load(workers: int) -> list[dict]:
    loader = DataLoader(EXAMPLES, batch_size=4, collate_fn=collate, num_workers=workers)
    collate_for_workers(loader)
    return list(loader)


# Two workers, each with two batches in advance and one at hand, in half of the memory: twelve batches.
@pytest.mark.parametrize(("room", "by_pipe"), [(12 * BATCH, False), (12 * BATCH - 12, True), (0, True)])
def test_batches_arrive_and_where_pipes_are_needed_that_is_said_once(free, caplog, room, by_pipe):
    free(room)
    for got, whole in zip(load(2), [collate(EXAMPLES[:4]), collate(EXAMPLES[4:])], strict=True):
        assert got.keys() == whole.keys()
        assert all(torch.equal(got[name], whole[name]) and got[name].dtype == whole[name].dtype for name in whole)
        got["pixel_values"] += 1  # may be written, as others
    said = [record.message for record in caplog.records if record.name == "deitlt_hf"]
    assert len(said) == by_pipe
    assert all("--shm-size" in line for line in said)


def test_without_workers_nothing_travels(free, caplog):
    free(0)
    assert [batch["labels"].tolist() for batch in load(0)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert not caplog.records
