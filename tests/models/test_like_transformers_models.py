"""What transformers' common tests ask of every model, of ours and, beside them, of transformers' own DeiT."""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import DeiTConfig, DeiTForImageClassification, PreTrainedModel

from deitlt_hf import (
    CifarResNetConfig,
    CifarResNetForImageClassification,
    DeiTLTConfig,
    DeiTLTForImageClassification,
    TimmCosineConfig,
    TimmCosineForImageClassification,
)

VIT = {
    "image_size": 16,
    "patch_size": 8,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_labels": 3,
}


@dataclass
class Case:
    """A class and a small configuration; `hidden_states` of each shape without the batch."""

    model: type[PreTrainedModel]
    config: object
    hidden_states: list[tuple[int, ...]]
    attends: bool
    size: int = 16


CASES = {
    "transformers' DeiT": Case(DeiTForImageClassification, DeiTConfig(**VIT), [(6, 24)] * 3, True),
    "DeiT-LT": Case(DeiTLTForImageClassification, DeiTLTConfig(**VIT), [(6, 24)] * 3, True),
    "CIFAR ResNet": Case(
        CifarResNetForImageClassification,
        CifarResNetConfig(depth=20, num_labels=3),
        [(16, 16, 16), (16, 16, 16), (32, 8, 8), (64, 4, 4)],
        False,
    ),
    "timm cosine": Case(
        TimmCosineForImageClassification,
        TimmCosineConfig(architecture="test_resnet", image_size=32, num_labels=3),
        [(32, 16, 16), (32, 8, 8), (48, 4, 4), (192, 2, 2), (96, 1, 1)],
        False,
        size=32,
    ),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(params=[name for name, case in CASES.items() if case.attends])
def attending(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def build(case: Case, **settings) -> PreTrainedModel:
    torch.manual_seed(0)
    config = copy.deepcopy(case.config)
    for name, value in settings.items():
        setattr(config, name, value)
    return case.model(config).eval()


def pixels(case: Case, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, case.size, case.size, generator=torch.Generator().manual_seed(1))


def test_the_first_argument_is_the_main_input(case: Case) -> None:
    assert list(inspect.signature(case.model.forward).parameters)[1] == case.model.main_input_name == "pixel_values"


def test_two_passes_agree(case: Case) -> None:
    model = build(case)
    assert torch.equal(model(pixels(case)).logits, model(pixels(case)).logits)


def test_batches_are_independent(case: Case) -> None:
    model, images = build(case), pixels(case, 3)
    alone = torch.cat([model(image[None]).logits for image in images])
    torch.testing.assert_close(model(images).logits, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shard", ["5GB", "20KB"])
def test_saved_and_loaded(case: Case, shard: str, tmp_path: Path) -> None:
    model = build(case)
    model.save_pretrained(tmp_path, max_shard_size=shard)
    again, report = case.model.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    for name, weight in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name
    torch.testing.assert_close(again.eval()(pixels(case)).logits, model(pixels(case)).logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_saved_and_loaded_in_half_precision(case: Case, dtype: torch.dtype, tmp_path: Path) -> None:
    build(case).to(dtype).save_pretrained(tmp_path)
    again = case.model.from_pretrained(tmp_path)
    assert {weight.dtype for weight in again.parameters()} == {dtype}
    assert case.model.from_pretrained(tmp_path, dtype=torch.float32).dtype == torch.float32


def test_weights_given_as_a_state_dict(case: Case) -> None:
    model = build(case)
    again = case.model.from_pretrained(None, config=model.config, state_dict=model.state_dict()).eval()
    torch.testing.assert_close(again(pixels(case)).logits, model(pixels(case)).logits)


def test_other_labels_draw_the_classifier_anew(case: Case, tmp_path: Path) -> None:
    build(case).save_pretrained(tmp_path)
    again = case.model.from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True).eval()
    assert again(pixels(case)).logits.shape == (2, 5)
    assert torch.isfinite(again(pixels(case)).logits).all()


@pytest.mark.parametrize("by", ["argument", "configuration"])
def test_hidden_states(case: Case, by: str) -> None:
    model = build(case, **({"output_hidden_states": True} if by == "configuration" else {}))
    asked = {"output_hidden_states": True} if by == "argument" else {}
    outputs = model(pixels(case), **asked)
    assert [tuple(states.shape[1:]) for states in outputs.hidden_states] == case.hidden_states
    torch.testing.assert_close(outputs.logits, build(case)(pixels(case)).logits)


def test_hidden_states_take_part_in_the_gradient(case: Case) -> None:
    outputs = build(case)(pixels(case), output_hidden_states=True)
    for states in outputs.hidden_states:
        states.retain_grad()
    outputs.logits.sum().backward()
    assert all(states.grad is not None for states in outputs.hidden_states[:-1])


@pytest.mark.parametrize("options", [{}, {"output_hidden_states": True}])
def test_tuples_hold_what_dicts_hold(case: Case, options: dict) -> None:
    model = build(case)
    of_tuple = model(pixels(case), **options, return_dict=False)
    of_dict = model(pixels(case), **options).to_tuple()
    assert len(of_tuple) == len(of_dict)
    torch.testing.assert_close(of_tuple[0], of_dict[0])


def test_every_weight_is_trained(case: Case) -> None:
    check_every_weight_is_trained(build(case).train(), case)


def test_every_weight_is_trained_with_layers_computed_twice(attending: Case) -> None:
    model = build(attending).train()
    model.gradient_checkpointing_enable()
    check_every_weight_is_trained(model, attending)


def check_every_weight_is_trained(model: PreTrainedModel, case: Case) -> None:
    model(pixels(case), labels=torch.tensor([0, 2])).loss.backward()
    idle = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert [name for name in idle if "pooler" not in name] == []


def test_weights_are_drawn_finite_and_small(case: Case) -> None:
    for name, weight in build(case).named_parameters():
        assert torch.isfinite(weight).all(), name
        assert weight.abs().max() < 10, name


def test_the_layer_that_takes_the_input(case: Case) -> None:
    model = build(case)
    assert isinstance(model.get_input_embeddings(), torch.nn.Module)
    assert model.get_output_embeddings() is None


def test_the_input_can_require_gradients(case: Case) -> None:
    model = build(case).train()
    model.requires_grad_(False)
    model.enable_input_require_grads()
    assert model(pixels(case)).logits.requires_grad
    model.disable_input_require_grads()
    assert not model(pixels(case)).logits.requires_grad


def test_copies_are_equal(case: Case) -> None:
    model = build(case)
    torch.testing.assert_close(copy.deepcopy(model)(pixels(case)).logits, model(pixels(case)).logits)


def test_modules_that_stay_whole_are_there(case: Case) -> None:
    kinds = {type(module).__name__ for module in build(case).modules()}
    assert set(case.model._no_split_modules or []) <= kinds


def test_configuration_saved_and_loaded(case: Case, tmp_path: Path) -> None:
    case.config.save_pretrained(tmp_path)
    assert type(case.config).from_pretrained(tmp_path).to_dict() == case.config.to_dict()
    assert type(case.config)().num_labels == 2


def test_a_program_of_torch_export(case: Case) -> None:
    model = build(case)
    program = torch.export.export(model, (pixels(case),), strict=False).module()
    torch.testing.assert_close(program(pixels(case)).logits, model(pixels(case)).logits, rtol=1e-4, atol=1e-5)


def test_attentions(attending: Case) -> None:
    model = build(attending, _attn_implementation="eager")
    for attention in model(pixels(attending), output_attentions=True).attentions:
        assert attention.shape == (2, 2, 6, 6)
        torch.testing.assert_close(attention.sum(-1), torch.ones(2, 2, 6))


def test_fast_attention_answers_without_weights(attending: Case) -> None:
    outputs = build(attending, _attn_implementation="sdpa")(pixels(attending), output_attentions=True)
    assert not outputs.attentions
    assert torch.isfinite(outputs.logits).all()


def test_both_attentions_agree(attending: Case) -> None:
    eager, fast = (build(attending, _attn_implementation=kind) for kind in ("eager", "sdpa"))
    torch.testing.assert_close(eager(pixels(attending)).logits, fast(pixels(attending)).logits, rtol=1e-4, atol=1e-5)


def test_larger_images_by_interpolated_positions(attending: Case) -> None:
    images = torch.randn(1, 3, 32, 24)
    model = build(attending)
    assert model(images, interpolate_pos_encoding=True).logits.shape == (1, 3)
    with pytest.raises(ValueError, match="16"):
        model(images)
