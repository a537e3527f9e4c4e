"""The logits and attention of the shortened forward are those of the model's own."""

from __future__ import annotations

import pytest
import torch

from deitlt_hf import DeiTLTConfig, DeiTLTForImageClassification
from deitlt_hf.evaluation.two_tokens import run_two_tokens


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("layers", [1, 3])
def test_same_logits_and_attention_as_the_model(implementation, layers):
    torch.manual_seed(0)
    config = DeiTLTConfig(
        image_size=(16, 24),
        patch_size=8,
        hidden_size=48,
        num_hidden_layers=layers,
        num_attention_heads=3,
        num_labels=7,
        initializer_range=0.2,  # logits far from 0
    )
    model = DeiTLTForImageClassification(config).eval()
    pixel_values = torch.randn(5, 3, 16, 24)
    with torch.inference_mode():
        model.set_attn_implementation("eager")
        expected = model(pixel_values, output_attentions=True)
        model.set_attn_implementation(implementation)
        output = run_two_tokens(model, pixel_values)
    assert expected.cls_logits.abs().max() > 1
    torch.testing.assert_close(output.cls_logits, expected.cls_logits, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(output.distillation_logits, expected.distillation_logits, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(output.attention, expected.attentions[-1][:, :, :2], atol=1e-6, rtol=1e-5)


def test_half_precision_weights_take_float32_pixels():
    config = DeiTLTConfig(
        image_size=16, patch_size=8, hidden_size=48, num_hidden_layers=2, num_attention_heads=3, num_labels=7
    )
    model = DeiTLTForImageClassification(config).eval().to(torch.bfloat16)
    with torch.inference_mode():
        output = run_two_tokens(model, torch.randn(2, 3, 16, 16))
    assert output.cls_logits.dtype == torch.bfloat16


def test_another_image_size_is_refused():
    config = DeiTLTConfig(image_size=16, patch_size=8, hidden_size=48, num_hidden_layers=1, num_attention_heads=3)
    with pytest.raises(ValueError, match="32"):
        run_two_tokens(DeiTLTForImageClassification(config), torch.zeros(1, 3, 32, 32))
