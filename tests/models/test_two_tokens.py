"""The forward of both tokens alone gives what the whole one gives, in answers, gradients and training."""

from __future__ import annotations

import pytest
import torch

from deitlt_hf import DeiTLTConfig, DeiTLTForImageClassification
from deitlt_hf.evaluation.attention import run_with_attention

SHAPE = {"image_size": (16, 24), "patch_size": 8, "hidden_size": 48, "num_attention_heads": 3, "num_labels": 7}
ALL = {"output_hidden_states": True}  # asks for what only the whole forward has


def make(layers: int = 3, implementation: str = "sdpa", **settings) -> DeiTLTForImageClassification:
    torch.manual_seed(0)
    config = DeiTLTConfig(**SHAPE, num_hidden_layers=layers, initializer_range=0.2, **settings)  # logits far from 0
    config._attn_implementation = implementation
    return DeiTLTForImageClassification(config).eval()


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("layers", [1, 3])
def test_logits_and_attention_are_those_of_the_whole_forward(implementation, layers):
    model, pixel_values = make(layers, implementation), torch.randn(5, 3, 16, 24)
    with torch.inference_mode():
        output, weights = run_with_attention(model, pixel_values)
        model.set_attn_implementation("eager")
        expected = model(pixel_values, output_attentions=True)
    assert expected.cls_logits.abs().max() > 1
    for name in ("logits", "cls_logits", "distillation_logits", "token_similarity"):
        torch.testing.assert_close(output[name], expected[name], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(weights, expected.attentions[-1][:, :, :2], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_and_random_draws_are_those_of_the_whole_forward(precision, checkpointing):
    model = make(drop_path_rate=0.5).train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    pixel_values, labels = torch.randn(6, 3, 16, 24), torch.arange(6)
    found = []
    for asked in ({}, ALL):
        torch.manual_seed(1)
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
            loss = model(pixel_values, labels=labels, **asked).loss
        loss.backward()
        gradients = {name: weight.grad.clone() for name, weight in model.named_parameters()}
        found.append({"loss": loss.detach(), "next draw": torch.rand(1)} | gradients)
    tolerance = {"atol": 1e-6, "rtol": 1e-5} if precision == torch.float32 else {"atol": 0.02, "rtol": 0.05}
    torch.testing.assert_close(*found, **tolerance)


def test_the_last_layer_computes_two_tokens_alone():
    model, seen = make(), {}
    for name, module in model.named_modules():
        if name.endswith(("q_proj", "k_proj", "o_proj", "mlp")):
            module.register_forward_hook(
                lambda _module, _input, output, name=name: seen.update({name: output.shape[1]})
            )
    model(torch.zeros(1, 3, 16, 24))
    tokens = {name.removeprefix("deit.layers."): number for name, number in seen.items()}
    everything, two = 2 + 6, 2
    assert {name: tokens[f"2.{name}"] for name in ("attention.q_proj", "attention.o_proj", "mlp")} == {
        "attention.q_proj": two, "attention.o_proj": two, "mlp": two
    }  # fmt: skip
    assert tokens["2.attention.k_proj"] == everything
    assert tokens["1.mlp"] == everything


@pytest.mark.parametrize("dropout", ["hidden_dropout_prob", "attention_probs_dropout_prob"])
def test_dropout_draws_for_all_tokens(dropout):
    """Its draws in training are those of transformers' DeiT."""
    model, pixel_values = make(**{dropout: 0.5}).train(), torch.randn(2, 3, 16, 24)
    logits = []
    for asked in ({}, ALL):
        torch.manual_seed(1)
        logits.append(model(pixel_values, **asked).logits)
    torch.testing.assert_close(*logits)


def test_compiled_it_is_one_graph():
    model, pixel_values = make(), torch.randn(2, 3, 16, 24)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(pixel_values).logits, model(pixel_values).logits)


def test_half_precision_weights_take_float32_pixels():
    with torch.inference_mode():
        output, _ = run_with_attention(make().to(torch.bfloat16), torch.randn(2, 3, 16, 24))
    assert output.cls_logits.dtype == torch.bfloat16


def test_another_image_size_is_refused():
    with pytest.raises(ValueError, match="32"):
        make()(torch.zeros(1, 3, 32, 32))
