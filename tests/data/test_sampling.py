"""Repeated augmentation, against the reference's sampler."""

from __future__ import annotations

import hashlib
import re

import numpy as np

from deitlt_hf.data.sampling import repeated_augmentation_sampler


def test_the_sampler_draws_what_the_references_draws(golden_json: dict) -> None:
    cases = golden_json["repeated_augmentation_sampler"]
    assert len(cases) == 4
    for name, expected in cases.items():
        length, replicas, rank, epoch = map(int, re.findall(r"=(\d+)", name))
        sampler = repeated_augmentation_sampler(length, replicas, rank)
        sampler.set_epoch(epoch)
        indices = list(sampler)
        assert len(indices) == len(sampler) == expected["count"], name
        assert indices[:24] == expected["first"], name
        digest = hashlib.sha256(np.asarray(indices, dtype="<i8").tobytes()).hexdigest()
        assert digest == expected["sha256_of_int64_le"], name


def test_repeats_set_how_often_an_image_comes_in_a_row() -> None:
    indices = np.array(list(repeated_augmentation_sampler(512, repeats=2))).reshape(-1, 2)
    assert (indices[:, 0] == indices[:, 1]).all()
    assert len(np.unique(indices)) == 256
