"""Ways to adapt a pretrained Vision Transformer: heads on features, adapters, all weights with layer-wise decay."""

from __future__ import annotations

import hashlib
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import NearestCentroid
from torch import nn

from deitlt_hf import (
    DeiTLTError,
    DeiTLTForImageClassification,
    DeiTLTTrainer,
    DeiTLTTrainingArguments,
    Resizing,
    StudentArguments,
    TrainingDataArguments,
    evaluation_view,
    export_model,
    load_adapted_student,
    load_images,
    push_model,
    train_student,
)
from deitlt_hf.data.dataset import ViewedDataset
from deitlt_hf.durable.signals import Stopped, signals_end_runs
from deitlt_hf.inference.loading import load_student
from deitlt_hf.runs.adapting import adapt_student, check_adapting
from deitlt_hf.runs.analyzing import analyze_saved_model
from deitlt_hf.runs.features import features_of
from deitlt_hf.runs.pretrained import say_pretrained_start
from deitlt_hf.runs.student_models import load_start
from deitlt_hf.runs.training import make_student_trainer
from deitlt_hf.teachers.class_means import class_mean_classifier
from deitlt_hf.training.layer_decay import layer_of
from hub_server import HubServer

DATA = TrainingDataArguments(data="digits-lt", image_size=16, horizontal_flip=False)
UNMIXED = {"mixup": 0, "cutmix": 0, "repeated_augmentation": 1}
SHORT = UNMIXED | {
    "num_train_epochs": 1,
    "warmup_epochs": 0,
    "learning_rate": 1e-3,
    "scale_learning_rate": False,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    shape = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    directory = tmp_path_factory.mktemp("backbone")
    hf.ViTModel(hf.ViTConfig(image_size=16, patch_size=8, **shape)).save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="module")
def digits():
    return load_images(DATA)


@pytest.fixture(scope="module")
def runs(backbone: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run for each way, with the backbone's own class means as the teacher."""
    root, before = tmp_path_factory.mktemp("runs"), _digest(Path(backbone))
    for way in ("lora", "head"):
        student = StudentArguments("class_means", init_from=backbone, adapt=way, lora_rank=2)
        train_student(DATA, student, DeiTLTTrainingArguments(str(root / way), **SHORT))
    assert _digest(Path(backbone)) == before
    return {way: root / way for way in ("lora", "head")}


def _digest(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


def _trainer(backbone: str, digits, directory: Path, teacher: str | None = None, **student) -> DeiTLTTrainer:
    settings = SHORT | ({} if teacher else {"distillation_type": "none"})
    args = DeiTLTTrainingArguments(str(directory), **settings)
    return make_student_trainer(DATA, StudentArguments(teacher, init_from=backbone, **student), args, digits)


def _pixels(digits, split: str = "test", count: int = 64) -> torch.Tensor:
    viewed = ViewedDataset(getattr(digits, split), {"pixel_values": evaluation_view(16)}, split)
    return torch.stack([viewed[index]["pixel_values"] for index in range(min(count, len(viewed)))])


@pytest.mark.parametrize("kind", ["class_means", "cosine"])
def test_the_nearest_class_mean_is_scikit_learn_s(kind):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, 60)
    features = generator.normal(labels[:, None] / 2, 1.0, (60, 5)).astype("float32")
    weight, bias = class_mean_classifier(torch.tensor(features), torch.tensor(labels), 4, kind)
    found = (torch.tensor(features) @ weight.T + bias).argmax(-1)
    nearest = NearestCentroid().fit(features, labels)
    if kind == "class_means":
        expected = nearest.predict(features)
    else:
        expected = cosine_similarity(features, nearest.centroids_).argmax(-1)
    assert found.tolist() == expected.tolist()
    assert len({*expected}) == 4


def test_a_class_without_images_is_not_predicted_more_than_by_chance():
    weight, bias = class_mean_classifier(torch.eye(2), torch.tensor([0, 1]), 3)
    assert (torch.eye(2) @ weight.T + bias).argmax(-1).tolist() == [0, 1]
    assert torch.isfinite(weight).all()


@pytest.mark.parametrize("dimensions", [64, 768])
def test_its_probabilities_are_those_that_fit_images_it_has_not_seen(dimensions):
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(10, dimensions, generator=generator) / 4
    counts = torch.tensor([100, 60, 36, 22, 13, 8, 5, 3, 2, 1])

    def drawn(of_each: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.arange(10).repeat_interleave(of_each)
        return centres[labels] + torch.randn(len(labels), dimensions, generator=generator), labels

    weight, bias = class_mean_classifier(*drawn(counts), 10)
    features, labels = drawn(torch.full((10,), 50))
    logits = features @ weight.T + bias
    losses = {of: nn.functional.cross_entropy(of * logits, labels).item() for of in (1, *torch.logspace(-3, 3, 61))}
    assert losses[1] < 1.25 * min(losses.values())


@torch.no_grad()
def test_step_0_is_a_nearest_mean_classifier(backbone, digits, tmp_path):
    model = _trainer(backbone, digits, tmp_path).model.eval()
    body = model.deit
    train = body(_pixels(digits, "train", 10**6)).last_hidden_state[:, 0].numpy()
    nearest = NearestCentroid().fit(train, digits.train["label"])
    pixels = _pixels(digits)
    expected = nearest.predict(body(pixels).last_hidden_state[:, 0].numpy())
    outputs = model(pixels)
    for logits in (outputs.cls_logits, outputs.distillation_logits):
        assert (logits.argmax(-1).numpy() == expected).mean() > 0.98  # but for ties by rounding


def test_random_heads_where_asked(backbone, digits, tmp_path):
    model = _trainer(backbone, digits, tmp_path, head_start="random").model
    assert not model.cls_classifier.bias.any()
    assert not (tmp_path / "features-train.safetensors").exists()


def test_fewer_images_than_a_batch_are_refused_before_features_are_computed(backbone, digits, tmp_path, monkeypatch):
    monkeypatch.setattr("deitlt_hf.runs.training.load_start", lambda *args: pytest.fail("a model was loaded"))
    args = DeiTLTTrainingArguments(str(tmp_path), **SHORT, per_device_train_batch_size=len(digits.train) + 1)
    with pytest.raises(DeiTLTError, match=f"^{len(digits.train)} training images do not fill one batch of [^\n]*$"):
        make_student_trainer(DATA, StudentArguments("class_means", init_from=backbone), args, digits)


def test_class_means_that_teach_nothing_need_no_features(runs, digits, tmp_path):
    args = DeiTLTTrainingArguments(str(tmp_path), **SHORT, distillation_type="none")
    make_student_trainer(DATA, StudentArguments("class_means", init_from=str(runs["head"])), args, digits)
    assert not (tmp_path / "features-train.safetensors").exists()


@pytest.mark.parametrize("head_start", [None, "random"])
def test_heads_of_the_same_classes_stay_unless_asked(runs, digits, tmp_path, head_start):
    heads = load_student(str(runs["head"])).cls_classifier.weight
    model = _trainer(str(runs["head"]), digits, tmp_path, head_start=head_start).model
    assert torch.equal(model.cls_classifier.weight, heads) == (head_start is None)
    assert model.cls_classifier.weight.std() < 0.03 or head_start is None  # the configuration's 0.02


def test_heads_on_features_learn_as_on_images_with_a_frozen_body(backbone, digits, tmp_path):
    on_features = _trainer(backbone, digits, tmp_path / "a", adapt="head")
    on_features.train()
    model = load_start(StudentArguments(init_from=backbone), 16, digits.label_maps | _counts(digits))
    args = DeiTLTTrainingArguments(str(tmp_path / "b"), **SHORT, distillation_type="none")
    viewed = ViewedDataset(digits.train, {"pixel_values": evaluation_view(16)}, "train")
    adapt_student(model, StudentArguments(init_from=backbone), args, viewed)
    model.deit.requires_grad_(False)
    on_images = DeiTLTTrainer(model, args, train_dataset=viewed)
    on_images.train()
    for head in ("cls_classifier", "distillation_classifier"):
        found, expected = (getattr(of.model, head).weight for of in (on_features, on_images))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def _counts(digits) -> dict:
    return {"class_counts": digits.class_counts, "class_groups": digits.class_groups}


def test_features_are_taken_from_the_run_until_images_or_weights_change(backbone, digits, tmp_path, caplog):
    model = load_start(StudentArguments(init_from=backbone), 16, digits.label_maps)
    args = DeiTLTTrainingArguments(str(tmp_path), **SHORT)
    few = ViewedDataset(digits.train.select(range(20)), {"pixel_values": evaluation_view(16)}, "train")
    others = ViewedDataset(digits.train.select(range(1, 21)), {"pixel_values": evaluation_view(16)}, "train")
    first = features_of(model.deit, few, args)
    assert "are taken from" not in caplog.text
    with torch.no_grad():
        expected = model.deit(torch.stack([few[index]["pixel_values"] for index in range(20)])).last_hidden_state
    torch.testing.assert_close(first.tokens, expected[:, :2])
    torch.testing.assert_close(features_of(model.deit, few, args).tokens, first.tokens, atol=0, rtol=0)
    assert "features of 20 train images are taken from" in caplog.text
    resized = ViewedDataset(few.rows, {"pixel_values": evaluation_view(16, Resizing("bilinear"))}, "train")
    assert not torch.equal(features_of(model.deit, resized, args).tokens, first.tokens)
    assert not torch.equal(features_of(model.deit, others, args).tokens, first.tokens)
    with torch.no_grad():
        next(model.deit.parameters()).add_(1)
    assert not torch.equal(features_of(model.deit, others, args).tokens[:-1], first.tokens[1:])


def test_of_heads_alone_the_body_stays_as_it_was(runs, backbone, digits):
    learned, start = (model.state_dict() for model in (load_student(str(runs["head"])), _start(backbone, digits)))
    changed = {name for name in start if not torch.equal(learned[name], start[name])}
    assert changed == {f"{head}_classifier.{part}" for head in ("cls", "distillation") for part in ("weight", "bias")}


def _start(backbone: str, digits) -> DeiTLTForImageClassification:
    return load_start(StudentArguments(init_from=backbone), 16, digits.label_maps | _counts(digits))


@torch.no_grad()
def test_adapters_are_saved_and_merged(runs, digits):
    merged, loaded = load_student(str(runs["lora"])), load_adapted_student(runs["lora"] / "adapter")
    pixels = _pixels(digits)
    torch.testing.assert_close(loaded(pixels).logits, merged(pixels).logits, atol=1e-5, rtol=1e-5)
    assert loaded.config.id2label == merged.config.id2label
    whole, adapters = (runs["lora"] / name for name in ("model.safetensors", "adapter/adapter_model.safetensors"))
    assert adapters.stat().st_size < whole.stat().st_size / 2
    assert not list(runs["lora"].rglob("*.bin"))


def test_with_adapters_the_new_token_learns_too(runs, backbone, digits):
    learned, start = (
        model.deit.distillation_token.token for model in (load_student(runs["lora"]), _start(backbone, digits))
    )
    assert not torch.equal(learned, start)


def test_a_student_with_merged_adapters_is_exported(runs, tmp_path):
    assert export_model(runs["lora"], tmp_path / "exported", format="torch").largest_difference < 1e-4


@torch.no_grad()
def test_adapters_go_to_the_hub_and_come_back(runs, backbone, digits, monkeypatch, tmp_path):
    with HubServer(tmp_path) as hub:
        hub.connect(monkeypatch)
        push_model(runs["lora"] / "adapter", "me/digits-lora")
        assert {"adapter_config.json", "adapter_model.safetensors", "classes.json"} <= set(hub.files("me/digits-lora"))
        assert backbone.encode() not in b"".join(hub.files("me/digits-lora").values())
        loaded = load_adapted_student("me/digits-lora", base=backbone)
    pixels = _pixels(digits)
    torch.testing.assert_close(
        loaded(pixels).logits, load_student(str(runs["lora"]))(pixels).logits, atol=1e-5, rtol=1e-5
    )


def test_a_later_evaluation_says_why_it_has_no_row_for_such_a_teacher(runs, digits, caplog):
    analyze_saved_model(str(runs["head"]), digits, DATA)
    assert "no row for the teacher class_means: it is made in training alone; metrics.json has its row" in caplog.text


@pytest.mark.parametrize(
    ("names", "layers"),
    [
        (["deit.embeddings.cls_token", "deit.backbone.embeddings.position_embeddings"], 0),
        (["deit.backbone.timm_model.patch_embed.proj.weight", "deit.backbone.pre_layrnorm.weight"], 0),
        (["deit.layers.0.mlp.fc1.weight", "deit.backbone.encoder.layer.0.norm1.weight"], 1),
        (["deit.backbone.timm_model.blocks.11.norm2.bias", "deit.backbone.layer.11.attention.q_proj.weight"], 12),
        (["base_model.model.deit.backbone.layers.11.attention.q_proj.lora_A.default.weight"], 12),
        (["cls_classifier.weight", "deit.layernorm.bias", "deit.backbone.timm_model.norm.weight"], 13),
        (["deit.distillation_token.token", "deit.backbone.post_layernorm.weight"], 13),
    ],
)
def test_the_layer_of_a_weight(names, layers):
    assert [layer_of(name, 12) for name in names] == [layers] * len(names)


def test_learning_rates_fall_by_layer_and_a_resumed_run_is_the_uninterrupted_one(tiny_student, images, arguments):
    def train(checkpoint: str | None = None) -> DeiTLTTrainer:
        args = arguments(
            distillation_type="none", num_train_epochs=2, layer_decay=0.5, save_strategy="epoch", learning_rate=0.01
        )
        trainer = DeiTLTTrainer(tiny_student(), args, train_dataset=images())
        trainer.train(resume_from_checkpoint=checkpoint and f"{args.output_dir}/{checkpoint}")
        return trainer

    whole = train()
    groups = whole.optimizer.param_groups
    # One layer: the heads and the last norm, the layer, the embeddings; each with and without weight decay.
    assert sorted({group["initial_lr"] for group in groups}) == [0.0025, 0.005, 0.01]
    assert groups[0]["initial_lr"] == 0.01
    rates = {id(weight): group["initial_lr"] for group in groups for weight in group["params"]}
    assert rates[id(whole.model.cls_classifier.weight)] == 0.01
    assert rates[id(whole.model.deit.layers[0].mlp.fc1.weight)] == 0.005
    assert rates[id(whole.model.deit.embeddings.position_embeddings)] == 0.0025
    assert len(rates) == len([*whole.model.parameters()])
    resumed = train("checkpoint-4")
    assert [group["lr"] for group in resumed.optimizer.param_groups] == [group["lr"] for group in groups]
    torch.testing.assert_close(dict(resumed.model.state_dict()), dict(whole.model.state_dict()), atol=0, rtol=0)


@pytest.mark.parametrize(
    ("student", "args", "said"),
    [
        ({"adapt": "lora"}, {}, "adapt lora needs a pretrained model; pass init_from, or leave adapt out"),
        ({"head_start": "cosine"}, {}, "head_start cosine needs a pretrained model"),
        ({"token_start": "random"}, {}, "token_start random needs a pretrained model"),
        ({"teacher": "class_means"}, {}, "is made of a pretrained model's features; pass init_from too"),
        (
            {"init_from": "x", "teacher": "class_means"},
            {"teacher_pixels": "own"},
            "^teacher_pixels is own, but teacher class_means is made of init_from and takes the student's",
        ),
        ({"init_from": "x", "adapt": "head"}, {"mixup": 0.8}, "mixup is 0.8, but adapt head learns from features"),
        ({"init_from": "x", "adapt": "head"}, {"repeated_augmentation": 3}, "pass repeated_augmentation 1"),
        ({"init_from": "x", "adapt": "lora"}, {"ema_decay": 0.9}, "leave it out with adapt lora"),
        ({"init_from": "x", "adapt": "head"}, {"retrain_classifier": True}, "leave it out with adapt head"),
        (
            {"init_from": "x", "adapt": "head"},
            {"rewind_at_non_finite": 1},
            "to a checkpoint, and adapt head writes none",
        ),
        ({"init_from": "x", "adapt": "some"}, {}, "unknown adapt 'some'; pass one of full, lora, head"),
        ({"init_from": "x", "head_start": "some"}, {}, "unknown head_start 'some'"),
        ({"init_from": "x", "lora_rank": 0}, {}, "lora_rank is 0; pass 1 or more"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(student, args, said, tmp_path):
    with pytest.raises(DeiTLTError, match=said) as refused:
        check_adapting(StudentArguments(**student), DeiTLTTrainingArguments(str(tmp_path), **SHORT | args))
    assert "\n" not in str(refused.value)


def test_a_pretrained_start_is_spoken_of_with_what_is_in_the_cache(backbone, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("deitlt_hf.runs.pretrained.HF_HUB_CACHE", str(tmp_path))
    say_pretrained_start()
    assert "pass a pretrained Vision Transformer to --init_from (such as google/vit-base" in caplog.text
    for repository in ("models--me--vit-of-mine", "models--microsoft--resnet-50", "models--gpt2"):
        snapshot = tmp_path / repository / "snapshots" / "0123"
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text('{"model_type": "resnet"}')
    shutil.copy(Path(backbone, "config.json"), tmp_path / "models--me--vit-of-mine/snapshots/0123")
    say_pretrained_start()
    assert caplog.text.rstrip().endswith("to --init_from (in the cache: me/vit-of-mine)")


def test_adapters_without_their_classes_are_refused(tmp_path):
    with pytest.raises(DeiTLTError, match=r"has no adapter_model\.safetensors; pass what `deitlt train --adapt lora`"):
        load_adapted_student(tmp_path)


def test_adapters_alone_are_no_model_to_evaluate(runs):
    with pytest.raises(DeiTLTError, match="holds adapters and no whole model; pass the directory of their finished"):
        load_student(str(runs["lora"] / "adapter"))


def test_heads_alone_leave_no_checkpoint_without_a_body_at_a_signal(backbone, digits, tmp_path):
    class SendSignal(hf.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            signal.raise_signal(signal.SIGTERM)

    trainer = _trainer(backbone, digits, tmp_path, adapt="head")
    trainer.add_callback(SendSignal())
    with pytest.raises(Stopped), signals_end_runs():
        trainer.train()
    assert not [*tmp_path.glob("checkpoint-*")]
