"""Models that strangers wrote, or that a training left broken: one line says what is wrong, before memory is taken."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedConfig

from deitlt_hf import DeiTLTConfig, DeiTLTError, DeiTLTForImageClassification, convert_reference_checkpoint
from deitlt_hf.cards.model_card import model_card
from deitlt_hf.cli.main import main
from deitlt_hf.data.views import image_processor
from deitlt_hf.durable.weights import load_weights
from deitlt_hf.inference.classifier import ExpertClassifier
from deitlt_hf.inference.loading import load_any_classifier, load_any_config, load_student
from deitlt_hf.runs.student_models import StudentArguments, load_start
from deitlt_hf.teachers.build import load_classifier
from deitlt_hf.teachers.frozen import FrozenTeacher

CLASSES = {"id2label": {0: "lynx", 1: "owl"}, "label2id": {"lynx": 0, "owl": 1}}
SHAPE = {"image_size": 16, "patch_size": 8, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
DEEP: list = []
for _ in range(100):
    DEEP = [DEEP]

# What each field never is; a number, text or list that some model has there is not among them.
ODD = ["x" * 2000, {"a": 1}, {}, [], [None], [{}], DEEP]
NO_NUMBER = [*ODD, "224", "", True, -1, float("nan"), float("inf"), 1e9, 10**40]
NO_COUNT = [*NO_NUMBER, 0, 16.5, 10**9, [16, -1], [16, 10**9], ["16"]]
NO_SHARE = [*NO_NUMBER, 1.5, "0.1"]
NO_TEXT = [*ODD, 3, True, ["a", 3], "\ud800"]
COUNTS = ("image_size", "patch_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
FIELDS = {
    **dict.fromkeys((*COUNTS, "num_channels"), NO_COUNT),
    **dict.fromkeys(("drop_path_rate", "layer_norm_eps", "hidden_dropout_prob"), NO_SHARE),
    **{name: [*NO_TEXT, "quantum"] for name in ("hidden_act", "expert", "dtype", "model_type", "problem_type")},
    "architectures": [3, "x", {"a": 1}, [3], [None], DEEP],
    "auto_map": [3, "x", [1], {"AutoConfig": 3}, {"AutoConfig": {"a": "b"}}, DEEP],
    "num_labels": [*NO_COUNT, [2]],
    "id2label": [
        3, "lynx", ["lynx", "owl"], {"0": 3, "1": "owl"}, {"0": None, "1": "owl"}, {"0": ["lynx"], "1": "owl"},
        {"a": "lynx", "b": "owl"}, {"0": "lynx", "2": "owl"}, {"-1": "lynx", "0": "owl"}, {"0.5": "lynx", "1": "owl"},
        {"1": "lynx", "2": "owl"}, {"0": "lynx", "1": "\ud800"}, {"0": "x" * 2000, "1": "owl"}, DEEP,
        dict.fromkeys(map(str, range(100_001)), "x"),
    ],
    "label2id": [
        3, "lynx", ["lynx"], {"lynx": "a"}, {"lynx": -1}, {"lynx": 1e9}, {"lynx": None}, {"lynx": [0]},
        {"lynx": "9" * 5000}, DEEP,
    ],
    "class_counts": [
        3, "9 3", {"lynx": 9}, [9], [9, 3, 1], [9, -3], [9, "3"], [9, None], [9, 1.5], [9, float("nan")], [[9], [3]],
        [9, 10**40], [True, False], DEEP,
    ],
    "class_groups": [
        3, "head", [0, 1], {"head": [0, 1]}, {"head": [0], "mid": [], "tail": [2]},
        {"head": [0], "mid": [], "tail": [0]},
        {"head": [0, 1], "mid": [1], "tail": []}, {"head": [0], "mid": [], "tail": []}, {"a": [0, 1]},
        {"head": [0], "mid": [], "tail": [-1]}, {"head": "0", "mid": [], "tail": [1]},
        {"head": ["0"], "mid": [], "tail": [1]}, {"head": 0, "mid": [], "tail": 1},
        {"head": [0], "mid": None, "tail": [1]},
        {"head": [0, 10**9], "mid": [], "tail": [1]}, {"head": [[0]], "mid": [], "tail": [1]}, DEEP,
    ],
}  # fmt: skip
NO_SIDES = [{"height": "16", "width": 16}, {"shortest_edge": 10**9}, {"height": -1, "width": 16}]
NO_SIZE = ["x", -1, 0, 10**9, 16.5, True, [], [16, "16"], {}, *NO_SIDES, DEEP]
NO_MEAN = ["0.5", True, [], [0.5, 0.5], [0.5] * 4, ["0.5"] * 3, [None] * 3, [float("nan")] * 3, {"r": 0.5}, 1e9, DEEP]
PROCESSOR_FIELDS = {
    "size": NO_SIZE,
    "crop_size": NO_SIZE,
    "image_mean": NO_MEAN,
    "image_std": [*NO_MEAN, 0, [0, 0, 0], [0.5, 0.5, -1]],
    "resample": [-1, 99, "bicubic", 1.5, True, [3], {}, 10**40],
    "rescale_factor": [0, -1, "1/255", True, float("nan"), float("inf"), [], {}, 10**40],
    **{
        name: [3, "yes", 0.5, [], {}, [True], DEEP]
        for name in ("do_resize", "do_rescale", "do_normalize", "do_center_crop")
    },
    "image_processor_type": [3, "NoSuchProcessor", "", True, ["a"], {"a": 1}, "os.system"],
    "auto_map": [3, "x", [1], {"AutoImageProcessor": 3}],
}  # fmt: skip
TEXTS = [
    b"", b"null", b"[]", b"[1, 2]", b"3", b'"vit"', b"{", b"\xff\xfe\x00", b"\x00" * 100, b"not json",
    b"[" * 100_000, b'{"a":' * 100_000, b'{"size": 1' + b"0" * 5000 + b"}",
]  # fmt: skip


def _cases(fields: dict[str, list]) -> list:
    return [
        pytest.param(field, value, id=f"{field}-{index}")
        for field, values in fields.items()
        for index, value in enumerate(values)
    ]


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """A student of two classes with its image processor."""
    directory = tmp_path_factory.mktemp("foreign") / "student"
    torch.manual_seed(0)
    config = DeiTLTConfig(**SHAPE, **CLASSES, intermediate_size=48, class_counts=[9, 3])
    DeiTLTForImageClassification(config).save_pretrained(directory)
    image_processor(16).save_pretrained(directory)
    return directory


@pytest.fixture
def student(sound, tmp_path) -> Path:
    """A copy of it, for a test to break."""
    return Path(shutil.copytree(sound, tmp_path / "student"))


def change(file: Path, **fields: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def refused(load: Callable, *arguments: object) -> str:
    with pytest.raises(DeiTLTError) as caught:
        load(*arguments)
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    assert len(line) < 900
    return line


@pytest.mark.parametrize(("field", "value"), _cases(FIELDS))
def test_a_field_of_a_configuration_that_no_model_has_is_named(student, field, value):
    change(student / "config.json", **{field: value})
    line = refused(load_student, str(student))
    assert field in line or value == "quantum"
    assert refused(load_any_config, str(student)) == line or value == "quantum"


@pytest.mark.parametrize(("field", "value"), _cases(PROCESSOR_FIELDS))
def test_a_field_of_an_image_processor_that_none_has_is_named(student, field, value):
    change(student / "preprocessor_config.json", **{field: value})
    line = refused(ExpertClassifier.from_pretrained, str(student))
    assert "preprocessor_config.json" in line


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_a_file_that_is_no_configuration_is_refused(student, name, text):
    (student / name).write_bytes(text)
    refused(ExpertClassifier.from_pretrained, str(student))


@pytest.mark.parametrize(
    "shard", ["../../secret.safetensors", "/etc/passwd", "a/b.safetensors", "", "..", 3, None, ["a"]]
)
def test_a_list_of_shards_names_files_of_its_directory_alone(student, shard):
    (student / "model.safetensors").rename(student / "model-1.safetensors")
    index = {"metadata": {"total_size": 1}, "weight_map": {"deit.layernorm.bias": shard}}
    (student / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "the file of deit.layernorm.bias is" in refused(load_student, str(student))
    assert "model.safetensors.index.json" in refused(load_any_classifier, str(student))


@pytest.mark.parametrize("text", [*TEXTS, b'{"weight_map": []}', b'{"weight_map": {}}', b'{"weight_map": 3}'])
def test_a_list_of_shards_that_is_none_is_refused(student, text):
    (student / "model.safetensors").unlink()
    (student / "model.safetensors.index.json").write_bytes(text)
    refused(load_student, str(student))


@pytest.mark.parametrize(
    "change_file",
    [
        lambda content: b"",
        lambda content: content[:4],
        lambda content: content[:100],
        lambda content: content[:-10],
        lambda content: b"\xff" * 8 + content[8:],
        lambda content: (10**9).to_bytes(8, "little") + content[8:],
        lambda content: content[:8] + b"[" * (len(content) - 8),
        lambda content: b"not safetensors at all" * 10,
    ],
)
def test_a_broken_file_of_weights_is_refused(student, change_file):
    file = student / "model.safetensors"
    file.write_bytes(change_file(file.read_bytes()))
    for load in (load_student, load_any_classifier):
        assert str(student) in refused(load, str(student))


def test_a_pickle_that_runs_something_is_refused_without_advice_to_run_it(student):
    (student / "model.safetensors").unlink()
    torch.save({"weights": Path.cwd}, student / "pytorch_model.bin")
    with pytest.raises(DeiTLTError, match="or one of more than tensors, of which nothing was run; pass a directory"):
        load_any_classifier(str(student))


@pytest.mark.parametrize(
    "fields",
    [
        {"num_hidden_layers": 200, "hidden_size": 48_000},
        {"intermediate_size": 65_536, "num_hidden_layers": 190},
        {"hidden_size": 65_536},
        {"image_size": 2048, "patch_size": 1, "hidden_size": 65_536},
        {"id2label": {str(label): f"{label}" for label in range(100_000)}, "hidden_size": 2400, "class_counts": None},
    ],
)
def test_a_configuration_of_far_more_weights_than_the_files_have_takes_no_memory(student, fields):
    change(student / "config.json", **fields)
    for load in (load_student, load_any_classifier):
        assert "million weights, and its files have" in refused(load, str(student))


def not_finite(directory: Path, *names: str, value: float = float("nan")) -> None:
    """Give the weights of these names a number that is none."""
    weights = load_file(directory / "model.safetensors")
    for name in names:
        weights[name].view(-1)[0] = value
    save_file(weights, directory / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("load", [load_student, load_any_classifier])
def test_weights_that_are_not_finite_are_named(student, load, value):
    not_finite(student, "deit.layernorm.bias", "cls_classifier.bias", value=value)
    tensors = len(load_file(student / "model.safetensors"))
    line = refused(load, str(student))
    assert f"has NaN or infinite numbers in 2 of {tensors} tensors, first deit.layernorm.bias" in line


def test_no_teacher_with_weights_that_are_not_finite_teaches(student, sound):
    pupil = load_student(str(sound))
    not_finite(student, "cls_classifier.weight")
    assert "first cls_classifier.weight" in refused(FrozenTeacher, str(student), pupil, "cpu")
    teacher = load_student(str(sound))
    teacher.cls_classifier.weight.data[0, 0] = float("inf")
    assert "the teacher has NaN or infinite numbers in 1 of" in refused(FrozenTeacher, teacher, pupil, "cpu")


def test_no_training_starts_or_goes_on_from_weights_that_are_not_finite(student, sound):
    not_finite(student, "deit.embeddings.cls_token")
    start = StudentArguments(init_from=str(student))
    assert "first deit.embeddings.cls_token" in refused(load_start, start, 16, CLASSES)
    assert "first deit.embeddings.cls_token" in refused(load_classifier, str(student), 16, CLASSES)
    assert "first deit.embeddings.cls_token" in refused(load_weights, load_student(str(sound)), student)


def test_no_adapter_goes_on_from_weights_that_are_not_finite(sound, tmp_path):
    model = get_peft_model(load_student(str(sound)), LoraConfig(target_modules=["q_proj"], r=2))
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    next(iter(weights.values()))[0, 0] = float("nan")
    save_file(weights, tmp_path / "adapter_model.safetensors", {"format": "pt"})
    assert "has NaN or infinite numbers in 1 of" in refused(load_weights, model, tmp_path)


def test_no_checkpoint_with_weights_that_are_not_finite_is_converted(golden, tmp_path):
    checkpoint = torch.load(golden / "student.pth", weights_only=False)
    checkpoint["model"]["head_dist.bias"][0] = float("nan")
    torch.save(checkpoint, tmp_path / "nan.pth")
    line = refused(convert_reference_checkpoint, tmp_path / "nan.pth")
    assert "has NaN or infinite numbers in 1 of" in line


RUN_FILES = {
    "recipe.yaml": [
        "data: 3", "data: [1]", "teacher: 3", "teacher: {a: 1}", "- 1", "a: &a [x]\nb: *a", "[" * 50_000, "a: [",
        "imbalance_factor: x", "imbalance_factor: [1]", "teacher_pixels: 3", "seed: !!python/object/new:os.system [x]",
    ],
    "run.json": [
        "[]", "{", "[" * 50_000, '{"data": [1]}', '{"data": "x"}', '{"data": {"test_counts": 3}}', '{"hub_ids": [1]}',
        '{"versions": 3}', '{"teacher": 3}', '{"teacher": {"settings": 3}}', '{"data": {"name": 3, "kind": 3}}',
    ],
    "metrics.json": [
        "[]", '{"experts": 3}', '{"experts": {"average": 3}}', '{"experts": {"average": {"overall": "x"}}}',
        '{"accuracy": 3}', '{"groups": 3}', '{"class_counts": 3}', '{"averaged_weights": 3}',
    ],
}  # fmt: skip


@pytest.mark.parametrize(("name", "text"), _cases(RUN_FILES))
def test_a_file_of_the_run_that_no_run_writes_is_refused(student, name, text):
    (student / name).write_text(text)
    assert name in refused(model_card, str(student))


@pytest.mark.parametrize(
    "of_command",
    [
        ["predict", "{model}", "{model}/a.png"],
        ["app", "{model}"],
        ["export", "{model}", "{out}"],
        ["evaluate", "{model}"],
        ["analyze", "{model}", "--out", "{out}"],
        ["compare", "{model}", "again={model}", "--out", "{out}"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_command_ends_in_one_line(student, tmp_path, capsys, of_command):
    Image.new("RGB", (16, 16)).save(student / "a.png")
    change(student / "config.json", num_hidden_layers=10**9)
    assert main([part.format(model=student, out=tmp_path / "out") for part in of_command]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "num_hidden_layers is 1000000000, which has to be a whole number from 1 to 200" in lines[0]
    assert not (tmp_path / "out").exists()


def small(model_type: str, **fields: object) -> PreTrainedConfig:
    return AutoConfig.for_model(model_type, **fields)


@pytest.mark.parametrize(
    "config",
    [
        small("vit", **SHAPE, intermediate_size=48, num_labels=21_841),
        small("deit", **SHAPE, intermediate_size=48, architectures=["DeiTForImageClassification"]),
        small("resnet", hidden_sizes=[8, 8], depths=[1, 1], embedding_size=8, layer_type="basic"),
        small("convnext", hidden_sizes=[8, 8], depths=[1, 1], num_stages=2),
        small("swin", image_size=32, patch_size=4, embed_dim=12, depths=[1, 1], num_heads=[1, 1], window_size=4),
        small("timm_wrapper", architecture="test_resnet", num_labels=5),
        small("cifar_resnet", depth=20, num_labels=5),
    ],
    ids=lambda config: config.model_type,
)
def test_models_of_transformers_pass(config, tmp_path):
    model = AutoModelForImageClassification.from_config(config)
    model.save_pretrained(tmp_path)
    assert load_any_classifier(str(tmp_path)).config.id2label == model.config.id2label
