from __future__ import annotations

import math

import pytest
import torch

from deitlt_hf import DeiTLTError, token_similarity


def test_cosines_of_known_angles():
    degrees = torch.tensor([0.0, 60.0, 90.0, 180.0])
    first = torch.tensor([[2.0, 0.0]]).expand(4, 2)
    second = 5 * torch.stack([degrees.deg2rad().cos(), degrees.deg2rad().sin()], dim=-1)
    assert token_similarity(first, second).tolist() == pytest.approx([1, 0.5, 0, -1], abs=1e-6)


def test_one_number_for_each_pair_of_tokens():
    tokens = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))
    similarity = token_similarity(tokens, tokens.flip(0).bfloat16())
    assert similarity.shape == (3, 4)
    assert similarity.dtype == torch.float32
    left, right = tokens[0, 1].tolist(), tokens[2, 1].bfloat16().tolist()
    expected = sum(a * b for a, b in zip(left, right, strict=True)) / (math.hypot(*left) * math.hypot(*right))
    assert similarity[0, 1].item() == pytest.approx(expected, rel=1e-5)


def test_tokens_of_other_images_are_refused():
    with pytest.raises(DeiTLTError, match=r"\(3, 8\).*\(4, 8\)"):
        token_similarity(torch.zeros(3, 8), torch.zeros(4, 8))
