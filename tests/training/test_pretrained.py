"""Students with the layers of other Vision Transformers, against transformers' and timm's own models.

The files are as each family publishes them: whole CLIP, ViT with a classifier, MAE with a decoder.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from accelerate.utils import FullyShardedDataParallelPlugin
from PIL import Image
from torch import nn

from deitlt_hf import (
    DeiTLTConfig,
    DeiTLTError,
    DeiTLTForImageClassification,
    DeiTLTTrainer,
    DeiTLTTrainingArguments,
    ExpertClassifier,
    TrainingDataArguments,
    export_model,
    load_images,
)
from deitlt_hf.data.views import Resizing, evaluation_view, image_processor
from deitlt_hf.durable.sharding import configure_fsdp
from deitlt_hf.evaluation.analysis.vit import eager_attention, has_tokens, run_vit
from deitlt_hf.inference.loading import load_image_processor, load_student
from deitlt_hf.runs.analyzing import _view_of
from deitlt_hf.runs.directory import save_model
from deitlt_hf.runs.resizing import load_resizing
from deitlt_hf.runs.student_models import StudentArguments, load_start
from deitlt_hf.runs.training import make_student_trainer

CLASSES = {"id2label": {0: "cat", 1: "lynx"}, "label2id": {"cat": 0, "lynx": 1}}
SHAPE = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3}
PIXELS = {"image_size": 32, "patch_size": 8}
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # ImageNet's
TIMM = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}


def _made(family: str) -> hf.PreTrainedModel:
    """A model of a family with random weights, as its repositories have it."""
    wide = {"intermediate_size": 96}
    if family == "vit":
        return hf.ViTForImageClassification(hf.ViTConfig(num_labels=7, **SHAPE, **PIXELS, **wide))
    if family == "mae":
        decoder = {"decoder_hidden_size": 48, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 3}
        return hf.ViTMAEForPreTraining(hf.ViTMAEConfig(**SHAPE, **PIXELS, **wide, **decoder))
    if family == "msn":
        return hf.ViTMSNModel(hf.ViTMSNConfig(**SHAPE, **PIXELS, **wide))
    if family == "dinov2":
        return hf.Dinov2Model(hf.Dinov2Config(**SHAPE, **PIXELS))
    if family == "dinov2 with registers":
        return hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(**SHAPE, **PIXELS))
    if family == "dinov3":
        return hf.DINOv3ViTModel(hf.DINOv3ViTConfig(num_register_tokens=4, **SHAPE, **PIXELS, **wide))
    if family == "clip":
        text = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 3, "vocab_size": 99} | wide
        return hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=SHAPE | PIXELS | wide))
    if family == "clip's vision tower":
        return hf.CLIPVisionModel(hf.CLIPVisionConfig(**SHAPE, **PIXELS, **wide))
    config = hf.TimmWrapperConfig(architecture="vit_tiny_patch16_224", model_args=TIMM, num_labels=7)
    return hf.TimmWrapperForImageClassification(config)


FAMILIES = ("vit", "mae", "msn", "dinov2", "dinov2 with registers", "dinov3", "clip", "clip's vision tower", "timm")


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    for family in FAMILIES:
        torch.manual_seed(0)
        model = _made(family)
        for name, weight in model.named_parameters():  # or positions, biases and registers would be zeros
            if not weight.any() and "norm" not in name:
                torch.nn.init.normal_(weight, std=0.02)
        model.save_pretrained(root / family)
    return {family: root / family for family in FAMILIES}


def _features(family: str, directory: Path, pixels: torch.Tensor) -> torch.Tensor:
    """The class token's features of the family's own model, after its last normalisation."""
    size = pixels.shape[-1]
    if family == "timm":
        config = hf.AutoConfig.from_pretrained(directory)
        config.model_args = config.model_args | {"dynamic_img_size": True}
        return hf.AutoModel.from_pretrained(directory, config=config).eval()(pixels, do_pooling=False)[0][:, 0]
    if family == "mae":  # without its masks
        loaded = hf.ViTModel.from_pretrained(directory, config=hf.ViTConfig(**SHAPE, **PIXELS, intermediate_size=96))
    elif family == "clip":
        loaded = hf.CLIPModel.from_pretrained(directory).vision_model
    else:
        loaded = hf.AutoModel.from_pretrained(directory)
    options = {} if family.startswith("dino") or size == 32 else {"interpolate_pos_encoding": True}
    outputs = loaded.eval()(pixels, **options)
    return outputs.pooler_output if family.startswith("clip") else outputs.last_hidden_state[:, 0]


def _start(directory: Path, size: int = 32) -> DeiTLTForImageClassification:
    return load_start(StudentArguments(init_from=str(directory)), size, CLASSES)


@pytest.mark.parametrize("size", [32, 48])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_without_the_new_token_the_features_are_the_backbone_s(family, size, directories, monkeypatch):
    student = _start(directories[family], size)
    assert student.config.image_size == size
    pixels = torch.randn(2, 3, size, size)
    monkeypatch.setattr(type(student.deit.distillation_token), "forward", lambda token, module, inputs, tokens: tokens)
    found = student.deit(pixels).last_hidden_state[:, 0]
    torch.testing.assert_close(found, _features(family, directories[family], pixels), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_its_normalisation_becomes_part_of_the_weights(family, directories, tmp_path, monkeypatch):
    mean, std = [0.5, 0.4, 0.3], [0.5, 0.25, 0.2]
    directory = shutil.copytree(directories[family], tmp_path / "backbone")
    if family == "timm":  # whose configuration has what its image processor does
        content = json.loads((directory / "config.json").read_text())
        content["pretrained_cfg"] = {"mean": mean, "std": std, "input_size": [3, 32, 32]}
        (directory / "config.json").write_text(json.dumps(content))
    else:
        hf.ViTImageProcessor(image_mean=mean, image_std=std).save_pretrained(directory)
    student = _start(directory)
    monkeypatch.setattr(type(student.deit.distillation_token), "forward", lambda token, module, inputs, tokens: tokens)
    image = torch.rand(2, 3, 32, 32)  # in 0 to 1
    own, of_student = (
        (image - torch.tensor(means).view(3, 1, 1)) / torch.tensor(deviations).view(3, 1, 1)
        for means, deviations in ((mean, std), (MEAN, STD))
    )
    found = student.deit(of_student).last_hidden_state[:, 0]
    torch.testing.assert_close(found, _features(family, directory, own), atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_normalisation_of_a_deit_becomes_part_of_the_weights_too(tmp_path):
    own = hf.DeiTModel(hf.DeiTConfig(**SHAPE, **PIXELS, intermediate_size=96)).eval()
    own.save_pretrained(tmp_path)
    hf.DeiTImageProcessor().save_pretrained(tmp_path)  # whose mean and deviation are 0.5
    image = torch.rand(2, 3, 32, 32)
    pixels = (image - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    found, expected = (
        model(of).last_hidden_state for model, of in ((_start(tmp_path).deit, pixels), (own, image * 2 - 1))
    )
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_weight_decay_is_for_linear_layers_alone(family, directories):
    student = _start(directories[family])
    linear = {f"{name}.weight" for name, part in student.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)}
    assert {*DeiTLTTrainer.get_decay_parameter_names(None, student)} == linear


@pytest.mark.parametrize(("family", "layer"), [("vit", "ViTLayer"), ("clip", "CLIPEncoderLayer")])
def test_its_own_layers_are_sharded(family, layer, directories):
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    configure_fsdp(plugin, _start(directories[family]))
    assert plugin.transformer_cls_names_to_wrap == [layer]  # accelerate refuses the name of one that is not there


def _with_processor(directory: Path, processor: hf.BaseImageProcessor | dict) -> str:
    """A directory with a configuration and an image processor; a dict is what a timm model's configuration has."""
    if isinstance(processor, dict):
        hf.TimmWrapperConfig(architecture="vit_tiny_patch16_224", pretrained_cfg=processor).save_pretrained(directory)
    else:
        hf.ViTConfig().save_pretrained(directory)
        processor.save_pretrained(directory)
    return str(directory)


def _levels(pixels: torch.Tensor, mean: list[float], std: list[float]) -> torch.Tensor:
    return (pixels * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)) * 255


HALF = {"mean": [0.5] * 3, "std": [0.5] * 3}
TRANSFORMERS = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
TIMM_224 = {"input_size": [3, 224, 224]} | HALF


@pytest.mark.parametrize(
    ("processor", "kept"),
    [
        (hf.ViTImageProcessor(**TRANSFORMERS), Resizing("bilinear", 1.0, keeps_shape=False)),
        (hf.ViTImageProcessor(resample=3, **TRANSFORMERS), Resizing("bicubic", 1.0, keeps_shape=False)),
        (hf.CLIPImageProcessor(**TRANSFORMERS), Resizing("bicubic", 1.0)),
        (hf.BitImageProcessor(size={"shortest_edge": 248}, **TRANSFORMERS), Resizing("bicubic", 224 / 248)),
        (hf.BitImageProcessor(size={"shortest_edge": 256}, **TRANSFORMERS), None),  # DINOv2's is the reference's
        (hf.DeiTImageProcessor(**TRANSFORMERS), Resizing("bicubic", 0.875, keeps_shape=False)),
        (TIMM_224 | {"crop_pct": 0.9, "interpolation": "bicubic"}, Resizing("bicubic", 0.9)),
        (
            TIMM_224 | {"crop_pct": 0.9, "interpolation": "bilinear", "crop_mode": "squash"},
            Resizing("bilinear", 0.9, keeps_shape=False),
        ),
        (TIMM_224 | {"crop_pct": 0.875, "interpolation": "bicubic"}, None),
    ],
)
def test_a_student_resizes_as_its_backbone_s_image_processor(processor, kept, tmp_path):
    source = _with_processor(tmp_path / "backbone", processor)
    resizing = load_resizing(source)
    assert resizing == kept
    image_processor(224, resizing).save_pretrained(tmp_path / "student")
    DeiTLTConfig().save_pretrained(tmp_path / "student")
    noise = np.random.RandomState(0).randint(0, 256, (20, 30, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((500, 300))  # margins that both libraries crop alike
    own = load_image_processor(source)(picture, return_tensors="pt")["pixel_values"][0]
    expected = _levels(own, **HALF)
    saved = load_image_processor(str(tmp_path / "student"))(picture, return_tensors="pt")["pixel_values"][0]
    # Pillow and torch round differently, by up to 2 levels.
    torch.testing.assert_close(_levels(saved, MEAN, STD), expected, atol=2.01, rtol=0)
    again = load_resizing(str(tmp_path / "student"))
    viewed = _levels(evaluation_view(224, again)(picture), MEAN, STD)
    torch.testing.assert_close(viewed, expected, atol=2.01, rtol=0)
    if isinstance(processor, dict):  # the same library
        torch.testing.assert_close(viewed, expected, atol=0.01, rtol=0)


@pytest.mark.parametrize(
    "processor",
    [
        hf.ViTImageProcessor(do_resize=False),
        hf.ViTImageProcessor(resample=1),  # Lanczos
        hf.ViTImageProcessor(size={"height": 224, "width": 448}),
        hf.ViTImageProcessor(do_pad=True),
        hf.BitImageProcessor(do_center_crop=False),
        hf.BitImageProcessor(size={"shortest_edge": 100}),  # the crop would be padded
        hf.BitImageProcessor(size={"shortest_edge": 256, "longest_edge": 300}),
        hf.ConvNextImageProcessor(size={"shortest_edge": 224}),
        TIMM_224 | {"crop_mode": "border"},
        TIMM_224 | {"interpolation": "random"},
    ],
)
def test_an_image_processor_that_is_not_followed_is_named_in_one_line(processor, tmp_path, caplog):
    source = _with_processor(tmp_path, processor)
    assert load_resizing(source) is None
    assert f"the image processor of {source} is not followed" in caplog.text
    assert "pictures are resized as for a student from scratch" in caplog.text
    assert len(caplog.records) == 1


def test_without_an_image_processor_pictures_are_resized_as_ever(tmp_path, caplog):
    DeiTLTConfig().save_pretrained(tmp_path)
    assert load_resizing(str(tmp_path)) is None
    assert not caplog.records
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(DeiTLTError, match="has an image processor that cannot be read"):
        load_resizing(str(tmp_path))


def test_training_and_evaluation_of_a_run_resize_as_the_backbone(directories, tmp_path):
    source = shutil.copytree(directories["vit"], tmp_path / "backbone")
    hf.ViTImageProcessor(size={"height": 32, "width": 32}, **TRANSFORMERS).save_pretrained(source)
    data = TrainingDataArguments(data="digits-lt", image_size=32, horizontal_flip=False)
    settings = {"distillation_type": "none", "report_to": "none", "use_cpu": True}
    args = DeiTLTTrainingArguments(str(tmp_path / "run"), **settings)
    images = load_images(data)
    student = StudentArguments(init_from=str(source), head_start="random")
    trainer = make_student_trainer(data, student, args, images)
    digit = images.train[0]["image"].convert("RGB")  # of 8 pixels
    expected = torch.from_numpy(np.array(digit.resize((32, 32), Image.Resampling.BILINEAR))).permute(2, 0, 1)
    torch.testing.assert_close(trainer.train_dataset[0]["pixel_values"], expected)
    own = hf.ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=MEAN, image_std=STD)
    tested = images.test[0]["image"].convert("RGB")
    expected = own(tested, return_tensors="pt")["pixel_values"][0]
    close = {"atol": 2.01 / 255 / min(STD), "rtol": 0}
    torch.testing.assert_close(trainer.eval_dataset[0]["pixel_values"], expected, **close)
    save_model(trainer)
    view, _ = _view_of(trainer.model, {}, str(tmp_path / "run"), None)
    torch.testing.assert_close(view(tested), trainer.eval_dataset[0]["pixel_values"])
    # A student that starts from this one has its image processor's resizing.
    later = make_student_trainer(data, StudentArguments(init_from=str(tmp_path / "run")), args, images)
    torch.testing.assert_close(later.eval_dataset[0]["pixel_values"], trainer.eval_dataset[0]["pixel_values"])
    assert later.processing_class.to_dict() == trainer.processing_class.to_dict()


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_new_token_is_beside_the_class_token_and_begins_as_its_copy(family, directories):
    student = _start(directories[family])
    tokens = student.deit(torch.randn(2, 3, 32, 32)).last_hidden_state
    registers = 4 if "registers" in family or family == "dinov3" else 0
    assert tokens.shape == (2, 2 + registers + 16, 48)
    # They read the same tokens in the same way, so they stay the same until something is trained.
    torch.testing.assert_close(tokens[:, 0], tokens[:, 1], atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_new_token_begins_at_random_where_asked(directories):
    asked = StudentArguments(init_from=str(directories["vit"]), token_start="random")
    student = load_start(asked, 32, CLASSES)
    token = student.deit.distillation_token.token
    assert 0.01 < token.std() < 0.03  # the configuration's 0.02, cut at two deviations
    assert abs(token.mean()) < 0.01
    tokens = student.deit(torch.randn(1, 3, 32, 32)).last_hidden_state
    assert not torch.allclose(tokens[:, 0], tokens[:, 1], atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_gets_a_gradient(family, directories):
    student = _start(directories[family]).train()
    student(torch.randn(2, 3, 32, 32), labels=torch.tensor([0, 1])).loss.backward()
    without = [name for name, weight in student.named_parameters() if weight.grad is None]
    assert without in ([], ["deit.backbone.embeddings.mask_token"])


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_it_saves_and_loads(family, directories, tmp_path):
    student = _start(directories[family])
    torch.nn.init.normal_(student.deit.distillation_token.token)
    student.save_pretrained(tmp_path / "student")
    pixels = torch.randn(2, 3, 32, 32)
    assert str(directories[family]) not in (tmp_path / "student" / "config.json").read_text()
    again = hf.AutoModelForImageClassification.from_pretrained(tmp_path / "student").eval()
    torch.testing.assert_close(again(pixels).logits, student(pixels).logits)
    bare = hf.AutoModel.from_pretrained(tmp_path / "student").eval()
    torch.testing.assert_close(bare(pixels).last_hidden_state, student.deit(pixels).last_hidden_state)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_where_its_tokens_look(family, directories):
    student, pixels = _start(directories[family]), torch.randn(2, 3, 32, 32)
    assert has_tokens(student.config) == (family != "timm")
    if family == "timm":
        return
    with eager_attention(student):
        found = run_vit(student, pixels)
    assert [weights.shape[-1] for weights in found.attentions] == [student.deit(pixels).last_hidden_state.shape[1]] * 2
    assert found.tokens["distillation"].shape == (2, 2, 48)
    torch.testing.assert_close(found.logits["average"], student(pixels).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("family", "format"), [("dinov3", "torch"), ("clip", "torch"), ("timm", "onnx")])
def test_an_export_and_a_classifier(family, format, directories, tmp_path):
    _start(directories[family]).save_pretrained(tmp_path / "student")
    image_processor(32).save_pretrained(tmp_path / "student")
    assert export_model(tmp_path / "student", tmp_path / "out", format=format).largest_difference < 1e-4
    picture = Image.new("RGB", (40, 30), "orange")
    classifiers = [ExpertClassifier.from_pretrained(tmp_path / name) for name in ("student", "out")]
    here, exported = ({row.name: row.probability["cls"] for row in of(picture)[0].rows} for of in classifiers)
    assert exported == pytest.approx(here, abs=1e-4)
    if family == "timm":
        with pytest.raises(
            DeiTLTError, match="attention maps cannot be had from this student, whose layers are timm's"
        ):
            classifiers[0](picture, attention=True)
    else:
        assert classifiers[0](picture, attention=True)[0].attention["cls"].shape == (4, 4)


def test_where_this_package_is_not_installed(directories, tmp_path):
    student = _start(directories["dinov2"])
    student.save_pretrained(tmp_path / "student")
    code = (
        "import sys; sys.modules['deitlt_hf'] = None\n"
        "import json, torch; from transformers import AutoModelForImageClassification\n"
        f"model = AutoModelForImageClassification.from_pretrained({str(tmp_path / 'student')!r}, "
        "trust_remote_code=True)\n"
        "print(json.dumps(model.eval()(torch.ones(1, 3, 32, 32)).logits.tolist()))"
    )
    elsewhere = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    with torch.no_grad():
        expected = student(torch.ones(1, 3, 32, 32)).logits.tolist()
    assert json.loads(elsewhere.splitlines()[-1]) == [pytest.approx(expected[0], abs=1e-5)]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lambda: hf.ResNetModel(hf.ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1])), "is a resnet model"),
        (lambda: hf.SiglipVisionModel(hf.SiglipVisionConfig(**SHAPE, **PIXELS, intermediate_size=96)), "siglip_vision"),
        (lambda: hf.ViTModel(hf.ViTConfig(num_channels=1, **SHAPE, **PIXELS)), "takes images of 1 channels"),
        (
            lambda: hf.TimmWrapperModel(hf.TimmWrapperConfig(architecture="resnet10t")),
            "is resnet10t of timm, which has no class token",
        ),
        (
            lambda: hf.TimmWrapperModel(hf.TimmWrapperConfig(architecture="vit_small_patch16_dinov3", model_args=TIMM)),
            "is vit_small_patch16_dinov3 of timm, which is no VisionTransformer there",
        ),
        (lambda: hf.DeiTModel(hf.DeiTConfig(num_channels=1, **SHAPE, **PIXELS)), "takes images of 1 channels"),
    ],
)
def test_what_cannot_be_a_student_is_refused_in_one_line(model, said, tmp_path):
    model().save_pretrained(tmp_path)
    with pytest.raises(DeiTLTError, match=said) as refused:
        _start(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_size_that_its_patches_do_not_divide_is_refused(directories):
    with pytest.raises(DeiTLTError, match=r"image_size 20 is not divisible by the patch_size 8 .* such as 16 or 24"):
        _start(directories["vit"], 20)


def test_a_model_that_is_not_whole_is_refused(directories, tmp_path):
    model = hf.ViTForImageClassification.from_pretrained(directories["vit"])
    state = {name: value for name, value in model.state_dict().items() if "layernorm_after" not in name}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(DeiTLTError, match="lacks 4 weights of a vit model, first"):
        _start(tmp_path)


def test_a_size_of_the_layers_that_no_model_has_is_refused(directories, tmp_path):
    _start(directories["vit"]).save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    content["backbone_config"]["num_hidden_layers"] = 10**9
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(DeiTLTError, match=r"backbone_config\.num_hidden_layers is 1000000000, which has to be"):
        load_student(str(tmp_path))


def test_a_configuration_with_another_backbone_is_refused():
    with pytest.raises(Exception, match="backbone_config is of a 'resnet' model"):
        DeiTLTConfig(backbone_config={"model_type": "resnet"})
