"""The student: against the reference, transformers' DeiT, timm, and arithmetic by hand.

Its logits against the reference's are in tests/hub/test_conversion.py.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.layers import DropPath as TimmDropPath
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

from deitlt_hf import DeiTLTConfig, DeiTLTForImageClassification, DeiTLTModel, convert_reference_checkpoint
from deitlt_hf.models.deit_lt.modeling_deit_lt import DeiTLTLayer, DropPath

TINY = {
    "image_size": 16,
    "patch_size": 8,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 48,
}
NUM_LABELS = 5
NUM_TOKENS = 2 + (16 // 8) ** 2
EXPERT_FIELDS = {"average": "logits", "cls": "cls_logits", "distillation": "distillation_logits"}


def make_model(seed: int = 0, **config) -> DeiTLTForImageClassification:
    torch.manual_seed(seed)
    return DeiTLTForImageClassification(DeiTLTConfig(**{**TINY, "num_labels": NUM_LABELS, **config})).eval()


def make_images(count: int = 4, height: int = 16, width: int = 16) -> torch.Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def randomised(model: nn.Module) -> nn.Module:
    """The model with every weight, biases and norms too, off its initial value."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def gradients(model: nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    model.train().zero_grad()
    torch.manual_seed(seed)
    model(make_images(), labels=torch.arange(4)).loss.backward()
    return {name.removeprefix("_orig_mod."): weight.grad.clone() for name, weight in model.named_parameters()}


# Forward


def test_token_similarity_is_the_references(golden: Path) -> None:
    expected = load_file(golden / "student_forward.safetensors")
    model = convert_reference_checkpoint(golden / "student.pth", num_attention_heads=3)
    with torch.no_grad():
        outputs = model(expected["pixel_values"])
    torch.testing.assert_close(outputs.token_similarity, expected["token_cosine_similarity"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(
    ("height", "width", "interpolate"), [(16, 16, False), (16, 16, True), (24, 24, True), (16, 32, True)]
)
def test_forward_is_that_of_transformers_deit(attention: str, height: int, width: int, interpolate: bool) -> None:
    model = randomised(make_model(attn_implementation=attention))
    config = DeiTConfig(**TINY, num_labels=NUM_LABELS, layer_norm_eps=1e-6, attn_implementation=attention)
    peer = DeiTForImageClassificationWithTeacher(config).eval()
    peer.load_state_dict(model.state_dict(), strict=True)
    inputs = {"pixel_values": make_images(2, height, width), "interpolate_pos_encoding": interpolate}
    with torch.no_grad():
        outputs = model(**inputs, output_hidden_states=True)
        expected = peer(**inputs, output_hidden_states=True)
    for field in ("logits", "cls_logits", "distillation_logits"):
        torch.testing.assert_close(outputs[field], expected[field], atol=1e-5, rtol=0)
    assert len(outputs.hidden_states) == TINY["num_hidden_layers"] + 1
    torch.testing.assert_close(outputs.hidden_states, expected.hidden_states, atol=1e-5, rtol=0)


def test_another_image_size_needs_interpolation() -> None:
    with pytest.raises(ValueError, match=re.escape("Input image size (24*24) doesn't match model (16*16)")):
        make_model()(make_images(1, 24, 24))


def test_attentions() -> None:
    model = make_model(attn_implementation="eager")
    attentions = model(make_images(2), output_attentions=True).attentions
    assert [tuple(layer.shape) for layer in attentions] == [(2, 3, NUM_TOKENS, NUM_TOKENS)] * 2
    for layer in attentions:
        torch.testing.assert_close(layer.sum(-1), torch.ones(2, 3, NUM_TOKENS))


def test_return_dict_false_gives_the_same_as_a_tuple() -> None:
    model, images, labels = make_model(), make_images(), torch.arange(4)
    outputs = model(images, labels=labels)
    as_tuple = model(images, labels=labels, return_dict=False)
    assert isinstance(as_tuple, tuple)
    torch.testing.assert_close(
        as_tuple,
        (outputs.loss, outputs.logits, outputs.cls_logits, outputs.distillation_logits, outputs.token_similarity),
    )


@pytest.mark.parametrize("expert", EXPERT_FIELDS)
def test_expert_selects_the_logits(expert: str) -> None:
    model, images = make_model(), make_images()
    plain = model(images)
    torch.testing.assert_close(plain.logits, (plain.cls_logits + plain.distillation_logits) / 2)
    assert not torch.allclose(plain.cls_logits, plain.distillation_logits, atol=1e-3)
    expected = plain[EXPERT_FIELDS[expert]]
    assert torch.equal(model(images, expert=expert).logits, expected)
    assert torch.equal(make_model(expert=expert)(images).logits, expected)
    # A call's expert wins over the configuration's.
    other = "cls" if expert != "cls" else "distillation"
    assert torch.equal(make_model(expert=other)(images, expert=expert).logits, expected)


def test_unknown_expert_in_a_call() -> None:
    with pytest.raises(ValueError, match=r"^unknown expert 'rare'; pass one of average, cls, distillation$"):
        make_model()(make_images(), expert="rare")


# Configuration


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"expert": "rare"}, "unknown expert 'rare'; pass one of average, cls, distillation, fused"),
        ({"drop_path_rate": 1.0}, "drop_path_rate is 1.0; pass a number from 0 up to, not including, 1"),
        ({"drop_path_rate": -0.1}, "drop_path_rate is -0.1; pass a number from 0 up to, not including, 1"),
        (
            {"num_attention_heads": 5},
            "hidden_size 24 is not divisible by num_attention_heads 5; pass a number of heads that divides it",
        ),
        (
            {"num_attention_heads": 0},
            "hidden_size 24 is not divisible by num_attention_heads 0; pass a number of heads that divides it",
        ),
        (
            {"image_size": 224, "patch_size": 15},
            "image_size 224 is not divisible by patch_size 15; pass a patch size that divides it, such as 14",
        ),
        (
            {"image_size": [32, 24], "patch_size": [8, 16]},
            "image_size [32, 24] is not divisible by patch_size [8, 16]; pass a patch size that divides it, such as 12",
        ),
        (
            {"class_counts": [5, 3, 1], "num_labels": 4},
            "class_counts has 3 entries for 4 labels; pass one per label",
        ),
    ],
)
def test_wrong_configuration_is_one_line(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 -- the whole message is compared
        DeiTLTConfig(**{**TINY, **wrong})
    assert str(caught.value) == message


def test_default_configuration_is_the_papers() -> None:
    config = DeiTLTConfig()
    assert (config.image_size, config.patch_size, config.hidden_size, config.num_hidden_layers) == (224, 16, 768, 12)
    assert (config.layer_norm_eps, config.drop_path_rate, config.expert) == (1e-6, 0.1, "average")


@pytest.mark.parametrize(("size", "hidden_size", "heads"), [("tiny", 192, 3), ("small", 384, 6), ("base", 768, 12)])
def test_sizes_have_timms_parameter_counts(size: str, hidden_size: int, heads: int) -> None:
    config = DeiTLTConfig(
        hidden_size=hidden_size, num_attention_heads=heads, intermediate_size=4 * hidden_size, num_labels=1000
    )
    with torch.device("meta"):
        model = DeiTLTForImageClassification(config)
        peer = timm.create_model(f"deit_{size}_distilled_patch16_224")
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in peer.parameters())


# Initialisation


def assert_drawn_from_normal(weight: torch.Tensor, std: float) -> None:
    """Mean 0, this std, and not uniform: within five standard errors of the three statistics."""
    count, values = weight.numel(), weight.detach().flatten() / std
    assert values.mean().abs() < 5 / math.sqrt(count)
    assert (values.std() - 1).abs() < 5 / math.sqrt(2 * count)
    assert (values.pow(4).mean() - 3).abs() < 5 * math.sqrt(96 / count)


@pytest.fixture(scope="module")
def fresh() -> DeiTLTForImageClassification:
    sizes = {"hidden_size": 192, "image_size": 64, "intermediate_size": 256, "num_hidden_layers": 1}
    return make_model(seed=3, **sizes, num_labels=20)


@pytest.mark.parametrize(
    ("name", "std"), [("position_embeddings", 0.02), ("distillation_token", 0.02), ("cls_token", 1e-6)]
)
def test_tokens_and_positions_are_drawn_as_in_the_reference(
    fresh: DeiTLTForImageClassification, name: str, std: float
) -> None:
    assert_drawn_from_normal(getattr(fresh.deit.embeddings, name), std)


def test_linear_and_norm_layers_are_drawn_as_in_the_reference(fresh: DeiTLTForImageClassification) -> None:
    linears = [module for module in fresh.modules() if isinstance(module, nn.Linear)]
    norms = [module for module in fresh.modules() if isinstance(module, nn.LayerNorm)]
    assert (len(linears), len(norms)) == (6 + 2, 2 + 1)
    for linear in linears:
        assert_drawn_from_normal(linear.weight, 0.02)
        assert not linear.bias.any()
    for norm in norms:
        assert (norm.weight == 1).all()
        assert not norm.bias.any()


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_patch_projection_keeps_torchs_default(fresh: DeiTLTForImageClassification, name: str) -> None:
    # torch draws both from a uniform distribution within 1 / sqrt(fan-in).
    values = getattr(fresh.deit.embeddings.patch_embeddings.projection, name).detach()
    default = getattr(nn.Conv2d(3, 192, 8, 8), name).detach()
    bound = 1 / math.sqrt(3 * 8 * 8)
    for drawn in (values, default):
        assert 0.95 * bound < drawn.abs().max() <= bound
        assert drawn.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)


def test_tokens_differ_at_initialisation(fresh: DeiTLTForImageClassification) -> None:
    with torch.no_grad():
        outputs = fresh(make_images(2, 64, 64))
    assert outputs.token_similarity.max() < 0.9


# Stochastic depth


@pytest.mark.parametrize(
    ("num_layers", "rate", "expected"),
    [(1, 0.3, [0.0]), (2, 0.1, [0.0, 0.1]), (5, 0.2, [0.0, 0.05, 0.1, 0.15, 0.2]), (2, 0, [0.0, 0.0])],
)
def test_drop_path_rate_grows_linearly(num_layers: int, rate: float, expected: list[float]) -> None:
    model = make_model(num_hidden_layers=num_layers, drop_path_rate=rate)
    assert [layer.drop_path.rate for layer in model.deit.layers] == pytest.approx(expected)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.75])
@pytest.mark.parametrize("train", [True, False])
def test_drop_path_is_timms(rate: float, train: bool) -> None:
    branch = make_images(64).flatten(2)
    results = []
    for module in (DropPath(rate), TimmDropPath(rate)):
        torch.manual_seed(5)
        results.append(module.train(train)(branch))
    torch.testing.assert_close(*results)


def test_drop_path_drops_whole_samples_and_keeps_the_expectation() -> None:
    torch.manual_seed(0)
    dropped = DropPath(0.2).train()(torch.ones(20_000, 2, 3))
    per_sample = dropped[:, 0, 0]
    assert torch.equal(dropped, per_sample[:, None, None].expand_as(dropped))
    assert per_sample.unique().tolist() == pytest.approx([0, 1 / 0.8])
    assert per_sample.mean().item() == pytest.approx(1, abs=5 * 0.5 / math.sqrt(20_000))  # std of a sample is 0.5


def test_layer_drops_both_residual_branches_independently() -> None:
    model = randomised(make_model())
    layer = DeiTLTLayer(model.config, drop_path_rate=0.5)
    layer.load_state_dict(model.deit.layers[0].state_dict())
    tokens = torch.randn(16, NUM_TOKENS, 24, generator=torch.Generator().manual_seed(4))
    torch.manual_seed(6)
    output = layer.train()(tokens)

    torch.manual_seed(6)
    keep_attention, keep_mlp = (torch.empty(16, 1, 1).bernoulli_(0.5) for _ in range(2))
    assert not torch.equal(keep_attention, keep_mlp)
    expected = tokens + 2 * keep_attention * layer.attention(layer.layernorm_before(tokens))[0]
    expected = expected + 2 * keep_mlp * layer.mlp(layer.layernorm_after(expected))
    torch.testing.assert_close(output, expected)


def test_drop_path_is_off_in_evaluation_and_on_in_training() -> None:
    model, without = make_model(drop_path_rate=0.9), make_model(drop_path_rate=0.0)
    images = make_images(16)
    assert torch.equal(model(images).logits, without(images).logits)
    torch.manual_seed(0)
    assert not torch.allclose(model.train()(images).logits, without(images).logits)


# Training


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param(torch.tensor([0, 4, 2, 2]), id="hard"),
        pytest.param(torch.tensor([[0.9, 0.1, 0, 0, 0], [0.2] * 5, [0, 0, 0.5, 0.5, 0], [0, 0, 0, 0, 1.0]]), id="soft"),
    ],
)
def test_labels_give_the_mean_of_both_heads_cross_entropies(labels: torch.Tensor) -> None:
    outputs = make_model()(make_images(), labels=labels)
    probabilities = labels if labels.dim() == 2 else torch.eye(NUM_LABELS)[labels]
    losses = [
        -(probabilities * head.softmax(-1).log()).sum(-1).mean()
        for head in (outputs.cls_logits, outputs.distillation_logits)
    ]
    torch.testing.assert_close(outputs.loss, sum(losses) / 2)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_plain_trainer_fine_tunes_with_the_gradient_of_the_whole_batch(tmp_path: Path, accumulation: int) -> None:
    images, labels, lr = make_images(), torch.tensor([0, 1, 2, 2]), 0.5
    by_hand = make_model(drop_path_rate=0.0)
    for _ in range(2):
        by_hand.zero_grad()
        by_hand(images, labels=labels).loss.backward()
        with torch.no_grad():
            for parameter in by_hand.parameters():
                parameter -= lr * parameter.grad

    model = make_model(drop_path_rate=0.0)
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=4 // accumulation,
        gradient_accumulation_steps=accumulation,
        optim="sgd",
        learning_rate=lr,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    samples = [{"pixel_values": image, "labels": label} for image, label in zip(images, labels, strict=True)]
    trainer = Trainer(model=model, args=arguments, train_dataset=samples)
    trainer.train()
    assert not trainer.model_accepts_loss_kwargs
    for (name, trained), expected in zip(model.named_parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(trained, expected, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning")
@pytest.mark.parametrize("drop_path_rate", [0.0, 0.5])
def test_gradient_checkpointing_gives_the_same_gradients(drop_path_rate: float) -> None:
    model = make_model(drop_path_rate=drop_path_rate)
    plain = gradients(model)
    model.gradient_checkpointing_enable()
    assert all(layer.gradient_checkpointing for layer in model.deit.layers)
    torch.testing.assert_close(gradients(model), plain)
    assert all(gradient.any() for gradient in plain.values() if drop_path_rate == 0)


def test_compiles_in_training_without_graph_breaks() -> None:
    model = make_model(drop_path_rate=0.5)
    plain = gradients(model)
    torch._dynamo.reset()
    try:
        torch.testing.assert_close(gradients(torch.compile(model, fullgraph=True, backend="eager")), plain)
    finally:
        torch._dynamo.reset()


# Saving and loading


def test_round_trip_through_safetensors(tmp_path: Path) -> None:
    groups = {"head": [0, 1], "mid": [2], "tail": [3, 4]}
    model = randomised(make_model(class_counts=[9, 7, 5, 3, 1], class_groups=groups, expert="distillation"))
    model.save_pretrained(tmp_path)
    code = {"configuration_deit_lt.py", "modeling_deit_lt.py"}
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"} | code
    loaded = DeiTLTForImageClassification.from_pretrained(tmp_path)
    assert not loaded.training
    for key in ("class_counts", "class_groups", "expert", "layer_norm_eps", "drop_path_rate", "id2label"):
        assert getattr(loaded.config, key) == getattr(model.config, key)
    assert torch.equal(loaded(make_images()).logits, model(make_images()).logits)


def test_auto_classes_load_both_models(tmp_path: Path) -> None:
    model = make_model()
    model.save_pretrained(tmp_path)
    classifier = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert type(classifier) is DeiTLTForImageClassification
    assert torch.equal(classifier(make_images()).logits, model(make_images()).logits)
    bare = AutoModel.from_pretrained(tmp_path)
    assert type(bare) is DeiTLTModel
    assert torch.equal(bare(make_images()).last_hidden_state, model.deit(make_images()).last_hidden_state)


class WithOneMoreHead(DeiTLTForImageClassification):
    def __init__(self, config):
        super().__init__(config)
        self.count = torch.nn.Linear(config.hidden_size, 1)
        self.post_init()


def test_a_subclass_may_begin_with_a_student(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    student = randomised(make_model())
    student.save_pretrained(tmp_path)
    started = WithOneMoreHead.from_pretrained(tmp_path).state_dict()
    assert started.pop("count.weight").std() > 0
    assert not started.pop("count.bias").any()
    torch.testing.assert_close(started, student.state_dict())
    assert f"{tmp_path} lacks count.bias, count.weight, which were initialised anew" in caplog.text


def test_heads_that_a_file_lacks_are_initialised_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bare = randomised(make_model(hidden_size=96, num_labels=100).deit)
    bare.save_pretrained(tmp_path)
    torch.manual_seed(8)
    model = DeiTLTForImageClassification.from_pretrained(tmp_path, num_labels=100)
    torch.testing.assert_close(model.deit.state_dict(), bare.state_dict(), atol=0, rtol=0)
    for head in (model.cls_classifier, model.distillation_classifier):
        assert_drawn_from_normal(head.weight, 0.02)
        assert not head.bias.any()
    assert (
        f"{tmp_path} lacks cls_classifier.bias, cls_classifier.weight, distillation_classifier.bias, "
        "distillation_classifier.weight, which were initialised anew; train the model before using its predictions."
    ) in caplog.messages


@pytest.mark.parametrize("changes", [{"num_labels": 3}, {"id2label": {0: "a", 1: "b", 2: "c"}}])
@pytest.mark.parametrize("new_counts", [None, [8, 4, 2]])
def test_other_classes_leave_the_files_counts_behind(tmp_path: Path, changes: dict, new_counts: list | None) -> None:
    make_model(class_counts=[9, 7, 5, 3, 1], class_groups={"head": [0], "mid": [1], "tail": [4]}).save_pretrained(
        tmp_path / "five"
    )
    if new_counts is not None:
        changes = {**changes, "class_counts": new_counts}
    model = DeiTLTForImageClassification.from_pretrained(tmp_path / "five", **changes)
    assert (model.config.num_labels, model.cls_classifier.out_features) == (3, 3)
    assert (model.config.class_counts, model.config.class_groups) == (new_counts, None)
    model.save_pretrained(tmp_path / "three")
    assert DeiTLTForImageClassification.from_pretrained(tmp_path / "three").config.class_counts == new_counts


@pytest.mark.parametrize("same", [{}, {"num_labels": 5}, {"expert": "cls"}])
def test_the_same_classes_keep_the_files_counts(tmp_path: Path, same: dict) -> None:
    make_model(class_counts=[9, 7, 5, 3, 1]).save_pretrained(tmp_path)
    config = DeiTLTForImageClassification.from_pretrained(tmp_path, **same).config
    assert config.class_counts == [9, 7, 5, 3, 1]
    assert config.expert == same.get("expert", "average")


def test_a_change_while_loading_is_checked_too(tmp_path: Path) -> None:
    make_model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"^unknown expert 'rare'; pass one of"):
        DeiTLTForImageClassification.from_pretrained(tmp_path, expert="rare")


# Starting from a distilled DeiT


OLD_NAMES = {
    "deit.layers.": "deit.encoder.layer.",
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def old_name(name: str) -> str:
    """The name in the files of `facebook/deit-*-distilled-*`."""
    for new, old in OLD_NAMES.items():
        name = name.replace(new, old)
    return name


@pytest.fixture(scope="module")
def deit() -> DeiTForImageClassificationWithTeacher:
    return randomised(DeiTForImageClassificationWithTeacher(DeiTConfig(**TINY, num_labels=NUM_LABELS)))


@pytest.fixture(scope="module", params=["old", "new"])
def deit_folder(
    deit: DeiTForImageClassificationWithTeacher,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    deit.config.save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "deit"
    tensors = {old_name(name) if request.param == "old" else name: t for name, t in deit.state_dict().items()}
    assert len(tensors) == 4 + 16 * 2 + 3 + 4
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_every_weight_of_a_distilled_deit_arrives(
    deit: DeiTForImageClassificationWithTeacher, deit_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, report = DeiTLTForImageClassification.from_pretrained(deit_folder, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    torch.testing.assert_close(model.state_dict(), deit.state_dict(), atol=0, rtol=0)
    assert "initialised anew" not in caplog.text
    # The architecture's own loading agrees that these are the two forms of one file.
    peer = DeiTForImageClassificationWithTeacher.from_pretrained(deit_folder)
    torch.testing.assert_close(peer.state_dict(), deit.state_dict(), atol=0, rtol=0)

    model.save_pretrained(tmp_path)
    again, report = DeiTLTForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert again.config.model_type == "deit_lt"
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    torch.testing.assert_close(again.state_dict(), deit.state_dict(), atol=0, rtol=0)
    bare = AutoModel.from_pretrained(tmp_path)
    torch.testing.assert_close(bare.state_dict(), deit.deit.state_dict(), atol=0, rtol=0)


def test_heads_for_other_classes_are_initialised_anew_with_a_warning(
    deit: DeiTForImageClassificationWithTeacher, deit_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(9)
    model = DeiTLTForImageClassification.from_pretrained(deit_folder, num_labels=400)
    assert (
        f"The heads of {deit_folder} are for 5 classes and were initialised anew for 400; train the model before "
        "using its predictions."
    ) in caplog.messages
    torch.testing.assert_close(model.deit.state_dict(), deit.deit.state_dict(), atol=0, rtol=0)
    for head in (model.cls_classifier, model.distillation_classifier):
        assert_drawn_from_normal(head.weight, 0.02)
        assert not head.bias.any()


@pytest.mark.parametrize(
    ("changes", "tensor"),
    [
        ({"image_size": 32}, r"deit\.embeddings\.position_embeddings of shape \(1, 6, 24\) .* has \(1, 18, 24\)"),
        ({"image_size": 8, "patch_size": 4}, r"patch_embeddings\.projection\.weight of shape \(24, 3, 8, 8\)"),
        ({"intermediate_size": 96}, r"mlp\.fc\d\.\w+ of shape"),
        ({"num_hidden_layers": 3}, r"lacks 16 weights of a DeiT-LT model, among them deit\.layers\.2\."),
    ],
)
def test_a_lost_weight_is_an_error_that_names_it(deit_folder: Path, changes: dict, tensor: str) -> None:
    with pytest.raises(ValueError, match=tensor) as caught:
        DeiTLTForImageClassification.from_pretrained(deit_folder, **changes)
    assert "\n" not in str(caught.value)


def test_another_architecture_is_an_error(tmp_path: Path) -> None:
    ViTForImageClassification(ViTConfig(**TINY, num_labels=NUM_LABELS)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=re.escape(str(tmp_path))) as caught:
        DeiTLTForImageClassification.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)
