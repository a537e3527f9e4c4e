from __future__ import annotations

import pytest
import torch
from small_vits import KINDS, make_vit
from transformers import SwinConfig, SwinForImageClassification

from deitlt_hf import CifarResNetConfig, DeiTLTError
from deitlt_hf.evaluation.analysis.vit import eager_attention, run_vit
from deitlt_hf.evaluation.attention import patches_of


@pytest.fixture(scope="module")
def pixel_values() -> torch.Tensor:
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_reads_logits_tokens_and_attention(kind, pixel_values):
    model = make_vit(kind)
    after_layers = []
    layers = model.base_model.layers
    hooks = [layer.register_forward_hook(lambda *call: after_layers.append(call[-1])) for layer in layers]
    plain = model(pixel_values)
    for hook in hooks:
        hook.remove()

    with eager_attention(model):
        output = run_vit(model, pixel_values)

    two_heads = kind in ("DeiT-LT", "DeiT with teacher")
    assert list(output.logits) == (["average", "cls", "distillation"] if two_heads else ["cls"])
    torch.testing.assert_close(output.logits["average" if two_heads else "cls"], plain.logits)
    if two_heads:
        torch.testing.assert_close(output.logits["distillation"], plain.distillation_logits)
    assert list(output.tokens) == (["cls", "distillation"] if two_heads else ["cls"])
    for index, token in enumerate(output.tokens):
        torch.testing.assert_close(output.tokens[token], torch.stack([states[:, index] for states in after_layers]))
    tokens = 16 + (1 if kind == "ViT" else 2)
    assert [layer.shape for layer in output.attentions] == [(3, 2, tokens, tokens)] * 3
    torch.testing.assert_close(output.attentions[1].sum(-1), torch.ones(3, 2, tokens))


@pytest.mark.parametrize("before", ["sdpa", "eager"])
def test_attention_implementation_is_restored(before):
    model = make_vit("DeiT-LT")
    model.set_attn_implementation(before)

    def fail() -> None:
        with eager_attention(model):
            assert model.config._attn_implementation == "eager"
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert model.config._attn_implementation == model.deit.config._attn_implementation == before


def test_patches_may_be_oblong():
    patches = patches_of(make_vit("ViT", image_size=[16, 24], patch_size=[4, 8]).config)
    assert (patches.image_size, patches.patch_size, patches.grid) == ((16, 24), (4, 8), (4, 3))


def test_networks_without_patches_are_refused():
    with pytest.raises(DeiTLTError, match=r"cifar_resnet model has no patches.*DeiT-LT, DeiT"):
        patches_of(CifarResNetConfig())


def test_networks_without_a_class_token_are_refused(pixel_values):
    swin = SwinConfig(image_size=16, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4)
    model = SwinForImageClassification(swin).eval()
    with eager_attention(model), pytest.raises(DeiTLTError, match=r"SwinForImageClassification gives no .*class token"):
        run_vit(model, pixel_values)
