from __future__ import annotations

import math

import pytest
import torch

from deitlt_hf import DeiTLTError, mean_attention_distance


def by_hand(weights: torch.Tensor, rows: int, cols: int, patch: tuple[int, int], specials: int) -> list[float]:
    """One image's distance for each head, by plain loops over pairs of patches."""
    places = [(row * patch[0], col * patch[1]) for row in range(rows) for col in range(cols)]
    heads = []
    for head in weights.double().tolist():
        total = 0.0
        for reader, place in enumerate(places):
            row = head[specials + reader][specials:]
            total += sum(w * math.dist(place, other) for w, other in zip(row, places, strict=True)) / sum(row)
        heads.append(total / len(places))
    return heads


def random_attention(batch: int, heads: int, tokens: int, dtype=torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, heads, tokens, tokens, generator=generator).mul(2).softmax(-1).to(dtype)


def test_attention_to_itself_has_no_distance():
    assert mean_attention_distance(torch.eye(2 + 16).expand(3, 2, 18, 18), patch_size=4).tolist() == [0.0, 0.0]


def test_uniform_attention_reaches_the_mean_distance_of_two_patches():
    # Of 3 x 3 patches: 24 ordered pairs are 1 apart, 12 are 2, 16 sqrt(2), 16 sqrt(5), 4 sqrt(8), and 9 are the same.
    expected = 8 * (24 + 12 * 2 + 16 * math.sqrt(2) + 16 * math.sqrt(5) + 4 * math.sqrt(8)) / 81
    uniform = torch.full((2, 1, 11, 11), 1 / 11)
    for token in ("all", "cls", "distillation"):
        assert mean_attention_distance(uniform, patch_size=8, token=token).item() == pytest.approx(expected)


def test_local_attention_reaches_one_patch():
    # Each of 4 x 4 patches looks at its right neighbour, those of the last column at their left one.
    attention = torch.zeros(1, 2, 18, 18)
    for patch in range(16):
        attention[0, 0, 2 + patch, 2 + (patch + 1 if patch % 4 < 3 else patch - 1)] = 1
        attention[0, 1, 2 + patch, 2 + (patch + 4) % 16] = 1  # below, and from the last row to the first, 3 away
    width, height = 5, 3
    distance = mean_attention_distance(attention, patch_size=(height, width), image_size=(4 * height, 4 * width))
    assert distance.tolist() == pytest.approx([width, (3 * height + 3 * height) / 4])


@pytest.mark.parametrize(("rows", "cols", "specials"), [(6, 6, 2), (2, 5, 1)])
def test_each_head_against_plain_loops(rows, cols, specials):
    attention = random_attention(3, 2, specials + rows * cols)
    size = None if rows == cols else (rows * 4, cols * 7)
    patch = (4, 4) if rows == cols else (4, 7)
    expected = torch.tensor([by_hand(image, rows, cols, patch, specials) for image in attention]).mean(0)
    distance = mean_attention_distance(attention, patch, size, num_special_tokens=specials)
    torch.testing.assert_close(distance, expected, rtol=1e-5, atol=0)


def test_what_goes_to_the_special_tokens_does_not_count():
    attention = random_attention(1, 1, 18)
    distracted = attention.clone()
    distracted[..., 2:] *= 0.01
    distracted[..., 0] += 1 - distracted.sum(-1)
    torch.testing.assert_close(mean_attention_distance(distracted, 8), mean_attention_distance(attention, 8))


def test_a_special_tokens_distance_is_that_of_two_patches_it_looks_at():
    attention = torch.zeros(1, 1, 11, 11)
    attention[0, 0, 0, 2 + 8] = 1  # the class token looks at the last patch alone
    attention[0, 0, 1, 1] = 0.5  # the distillation token at itself, and at the corners of a diagonal
    attention[0, 0, 1, [2, 10]] = torch.tensor([0.3, 0.1])
    assert mean_attention_distance(attention, 10, token="cls").item() == 0
    expected = 2 * 0.75 * 0.25 * math.dist((0, 0), (20, 20))
    assert mean_attention_distance(attention, 10, token="distillation").item() == pytest.approx(expected)


@pytest.mark.parametrize("stack", [list, torch.stack])
def test_layers_stay_in_their_order(stack):
    local, uniform = torch.eye(6).expand(1, 2, 6, 6), torch.full((1, 2, 6, 6), 1 / 6)
    distance = mean_attention_distance(stack([local, uniform, local]), patch_size=8)
    assert distance.shape == (3, 2)
    assert distance[0].tolist() == distance[2].tolist() == [0, 0]
    assert distance[1].min() > 6


def test_half_precision_is_computed_in_single():
    attention = random_attention(2, 2, 18, torch.bfloat16)
    distance = mean_attention_distance(attention, 4)
    assert distance.dtype == torch.float32
    torch.testing.assert_close(distance, mean_attention_distance(attention.float(), 4))


@pytest.mark.parametrize(
    ("attention", "options", "said"),
    [
        (torch.ones(2, 18, 18), {}, "(2, 18, 18)"),
        (torch.ones(1, 2, 17, 17), {}, "no square grid"),
        (torch.ones(1, 2, 18, 18), {"image_size": 24}, "no grid of 3 x 3"),
        (torch.ones(1, 2, 2, 2), {}, "0 tokens"),
        (torch.ones(1, 2, 18, 18), {"token": "dist"}, "all, cls, distillation"),
        (torch.ones(1, 2, 17, 17), {"token": "distillation", "num_special_tokens": 1}, "no distillation token"),
    ],
)
def test_wrong_attention_is_refused(attention, options, said):
    with pytest.raises(DeiTLTError, match=r".*") as error:
        mean_attention_distance(attention, patch_size=8, **options)
    assert said in str(error.value)
