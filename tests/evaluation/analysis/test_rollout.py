from __future__ import annotations

import numpy as np
import pytest
import torch

from deitlt_hf import DeiTLTError, attention_rollout


def layers(number: int = 3, tokens: int = 7) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 4, tokens, tokens, generator=generator).mul(3).softmax(-1) for _ in range(number)]


def test_definition():
    attentions = layers()
    for image in range(2):
        expected = np.eye(7)
        for attention in attentions:
            mixed = attention[image].double().numpy().mean(0) + np.eye(7)
            expected = (mixed / mixed.sum(1, keepdims=True)) @ expected  # a later layer reads what earlier ones made
        np.testing.assert_allclose(attention_rollout(attentions)[image], expected, rtol=1e-5)


def test_later_layers_read_earlier_ones():
    # In the first layer token 1 takes token 2; in the second, token 0 takes token 1.
    first, second = torch.eye(3).repeat(2, 1, 1, 1, 1)
    first[0, 0, 1] = torch.tensor([0.0, 0.0, 1.0])
    second[0, 0, 0] = torch.tensor([0.0, 1.0, 0.0])
    assert attention_rollout([first, second])[0, 0].tolist() == [0.5, 0.25, 0.25]
    assert attention_rollout([second, first])[0, 0].tolist() == [0.5, 0.5, 0.0]


def test_rows_are_shares():
    rollout = attention_rollout(layer.bfloat16() for layer in layers())
    assert rollout.dtype == torch.float32
    torch.testing.assert_close(rollout.sum(-1), torch.ones(2, 7))
    torch.testing.assert_close(attention_rollout([torch.eye(4).expand(2, 3, 4, 4)] * 5), torch.eye(4).expand(2, 4, 4))


@pytest.mark.parametrize(("attentions", "said"), [([], "no layers"), ([torch.ones(4, 4)], r"\(4, 4\)")])
def test_wrong_attention_is_refused(attentions, said):
    with pytest.raises(DeiTLTError, match=said):
        attention_rollout(attentions)
