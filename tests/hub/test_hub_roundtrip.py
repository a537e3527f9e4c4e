"""Models and data sets go to a hub from a process with this package, and come back in one without it.

The clients are the real ones of huggingface_hub, transformers and datasets; the hub is `tests/hub_server.py`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

from deitlt_hf import (
    CifarResNetConfig,
    CifarResNetForImageClassification,
    DeiTLTConfig,
    DeiTLTError,
    DeiTLTForImageClassification,
    TimmCosineConfig,
    TimmCosineForImageClassification,
)
from deitlt_hf.cli.main import main
from deitlt_hf.data.views import image_processor
from deitlt_hf.hub.pushing import push_model
from deitlt_hf.inference.loading import load_image_processor, load_student
from hub_server import HubServer
from published_layouts import write_imagenet_lt

CLASSES = {"id2label": {0: "crane", 1: "tench", 2: "lynx"}, "label2id": {"crane": 0, "tench": 1, "lynx": 2}}
MODELS = ("student", "linear", "cosine", "timm")


def _models() -> dict[str, torch.nn.Module]:
    torch.manual_seed(0)
    timm = TimmCosineConfig(architecture="test_resnet", image_size=16, **CLASSES)
    sizes = {"image_size": 16, "patch_size": 8, "hidden_size": 24, "intermediate_size": 48, "num_attention_heads": 2}
    return {
        "student": DeiTLTForImageClassification(DeiTLTConfig(num_hidden_layers=2, **sizes, **CLASSES)),
        "linear": CifarResNetForImageClassification(CifarResNetConfig(depth=20, **CLASSES)),
        "cosine": CifarResNetForImageClassification(CifarResNetConfig(depth=20, classifier="cosine", **CLASSES)),
        "timm": TimmCosineForImageClassification(timm),
    }


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Saved models by name, with their image processors."""
    root = tmp_path_factory.mktemp("models")
    models = _models()
    for name, model in models.items():
        model.save_pretrained(root / name)
        image_processor(16).save_pretrained(root / name)
    torch.nn.init.ones_(models["student"].cls_classifier.bias)
    models["student"].save_pretrained(root / "later")
    image_processor(16).save_pretrained(root / "later")
    models["student"].deit.save_pretrained(root / "bare")
    return {path.name: path for path in root.iterdir()}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    with HubServer(tmp_path_factory.mktemp("hub")) as hub, pytest.MonkeyPatch.context() as monkeypatch:
        hub.connect(monkeypatch)
        yield hub


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ilsvrc2012")


@pytest.fixture(scope="module")
def listed(tree: Path) -> dict[str, list[tuple[str, int]]]:
    return write_imagenet_lt(tree, tree)


@pytest.fixture(scope="module")
def answers(
    hub: HubServer, directories: dict[str, Path], tree: Path, listed: dict, tmp_path_factory: pytest.TempPathFactory
) -> dict:
    """What a process without this package found, after everything was pushed."""
    push_model(directories["student"], "me/student")
    push_model(directories["later"], "me/student", branch="later")
    push_model(directories["cosine"], "me/cosine", private=True)
    # As a user of transformers alone would.
    linear = CifarResNetForImageClassification.from_pretrained(directories["linear"])
    linear.push_to_hub("me/linear")
    for repo_id, private in (("me/cranes", False), ("me/secret-cranes", True)):
        command = ["data", "build", "imagenet-lt", "--data_dir", str(tree), "--no_check", "--push_to_hub", repo_id]
        assert main(command + ["--private"] * private) == 0
    folder = tmp_path_factory.mktemp("stranger")
    torch.save(_pixels(), folder / "pixels.pt")
    _photo().save(folder / "photo.png")
    later = hub.repos["models", "me/student"].at("later").oid
    sources = {name: {"pretrained_model_name_or_path": str(directories[name])} for name in (*MODELS, "bare")}
    pushed = {name: {"pretrained_model_name_or_path": f"me/{name}"} for name in ("student", "linear", "cosine")}
    wishes = {
        "classifiers": {name: sources[name] for name in MODELS}
        | {f"me/{name}": source for name, source in pushed.items()}
        | {"branch": pushed["student"] | {"revision": "later"}, "commit": pushed["student"] | {"revision": later}},
        "bare": {"bare": sources["bare"], "student": sources["student"], "me/student": pushed["student"]},
        "saved_again": pushed["student"],
        "pipelines": {"student": {"model": "me/student"}, "cosine": {"model": str(directories["cosine"])}},
        "processor": pushed["student"],
        "refused": {
            "no token": pushed["cosine"] | {"token": False},
            "another's token": pushed["cosine"] | {"token": HubServer.other_token},
            "no trust": pushed["student"] | {"trust_remote_code": False},
            "no such branch": pushed["student"] | {"revision": "nowhere"},
        },
        "data": "me/cranes",
        "secret_data": "me/secret-cranes",
    }
    (folder / "wishes.json").write_text(json.dumps(wishes))
    script = Path(__file__).with_name("without_this_package.py")
    command = [sys.executable, str(script), str(folder / "wishes.json"), str(folder / "answers.pt")]
    done = subprocess.run(command, env=hub.environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "answers.pt")


def _pixels() -> torch.Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def _photo() -> Image.Image:
    return Image.fromarray(np.random.RandomState(2).randint(0, 256, (40, 30, 3), dtype=np.uint8))


@torch.inference_mode()
def _logits(directory: Path) -> torch.Tensor:
    """By this package's own class, and without `trust_remote_code`, which it does not need."""
    model = AutoModelForImageClassification.from_pretrained(directory)
    assert type(model).__module__.startswith("deitlt_hf.models.")
    return model(_pixels()).logits


def test_the_stranger_had_no_package(answers: dict) -> None:
    assert not answers["imported"]
    assert all(module.startswith("transformers_modules.") for module in answers["modules"].values())
    assert answers["classes"]["me/student"] == "DeiTLTForImageClassification"
    assert answers["types"] | {"branch": "", "commit": ""} == {
        "student": "deit_lt",
        "linear": "cifar_resnet",
        "cosine": "cifar_resnet",
        "timm": "timm_cosine",
        "me/student": "deit_lt",
        "me/linear": "cifar_resnet",
        "me/cosine": "cifar_resnet",
        "branch": "",
        "commit": "",
    }


@pytest.mark.parametrize("name", MODELS)
def test_a_saved_model_gives_the_same_logits_elsewhere(name: str, answers: dict, directories: dict) -> None:
    assert torch.equal(answers["logits"][name], _logits(directories[name]))


@pytest.mark.parametrize("name", ["student", "linear", "cosine"])
def test_a_pushed_model_gives_the_same_logits_elsewhere(name: str, answers: dict, directories: dict) -> None:
    assert torch.equal(answers["logits"][f"me/{name}"], _logits(directories[name]))


def test_a_branch_and_a_commit_hold_their_own_weights(answers: dict, directories: dict) -> None:
    later = _logits(directories["later"])
    assert not torch.equal(later, _logits(directories["student"]))
    assert torch.equal(answers["logits"]["branch"], later)
    assert torch.equal(answers["logits"]["commit"], later)


def test_auto_model_loads_a_student_and_its_bare_transformer(answers: dict, directories: dict) -> None:
    model = DeiTLTForImageClassification.from_pretrained(directories["student"]).eval()
    with torch.inference_mode():
        tokens = model.deit(_pixels()).last_hidden_state
    for name in ("bare", "student", "me/student"):
        assert torch.equal(answers["tokens"][name], tokens)


def test_what_the_stranger_saves_is_as_complete(answers: dict, directories: dict) -> None:
    assert torch.equal(answers["logits"]["again"], _logits(directories["student"]))
    names = {path.name for path in directories["student"].iterdir()}
    assert set(answers["saved_again"]) == names - {"preprocessor_config.json"}


def test_pipelines_and_the_processor_see_the_same_picture(answers: dict, directories: dict) -> None:
    processor = AutoImageProcessor.from_pretrained(directories["student"])
    assert torch.equal(answers["pixels"], processor(_photo(), return_tensors="pt")["pixel_values"])
    for name in ("student", "cosine"):
        found = pipeline("image-classification", model=str(directories[name]))(_photo())
        assert answers["pipelines"][name] == {answer["label"]: answer["score"] for answer in found}
        assert set(answers["pipelines"][name]) == {"crane", "tench", "lynx"}


def test_strangers_see_nothing_private_and_run_no_code_unasked(answers: dict) -> None:
    assert "OSError" in answers["refused"]["no token"]
    assert "OSError" in answers["refused"]["another's token"]
    assert "trust_remote_code" in answers["refused"]["no trust"]
    assert "nowhere is not a valid git identifier" in answers["refused"]["no such branch"]
    assert "DatasetNotFoundError" in answers["refused"]["data"]


def test_a_data_set_comes_back_with_its_images_and_labels(answers: dict, tree: Path, listed: dict) -> None:
    assert answers["class_names"] == ["tench, Tinca tinca", "crane (n02012849)", "crane (n03126707)"]
    assert set(answers["data"]) == {"train", "validation", "test"}
    for split, rows in listed.items():
        expected = [(label, Image.open(tree / path).convert("RGB").tobytes()) for path, label in rows]
        assert answers["data"][split] == expected


def test_this_package_loads_a_branch_by_name(answers: dict, directories: dict) -> None:
    with torch.inference_mode():
        logits = load_student("me/student", revision="later")(_pixels()).logits
    assert torch.equal(logits, _logits(directories["later"]))
    assert load_image_processor("me/student", revision="later").size["height"] == 16


@pytest.mark.parametrize(
    ("repo_id", "revision", "says"),
    [
        ("me/nothing", None, "me/nothing is not a local folder and is not a valid model identifier"),
        ("me/student", "nowhere", "nowhere is not a valid git identifier"),
        ("me/linear", None, "me/linear is a cifar_resnet model, not a DeiT-LT student"),
    ],
)
def test_what_cannot_be_loaded_from_a_hub_is_one_line(
    answers: dict, repo_id: str, revision: str | None, says: str
) -> None:
    with pytest.raises(DeiTLTError, match=says) as error:
        load_student(repo_id, revision=revision)
    assert "\n" not in str(error.value)


def test_the_data_sets_card_and_picture_came_along(hub: HubServer, answers: dict) -> None:
    files = hub.files("me/cranes", kind="datasets")
    assert {path.split("-")[0] for path in files} == {
        "README.md",
        "class_counts.png",
        "eval.yaml",
        *(f"data/{split}" for split in ("train", "validation", "test")),
    }
    assert b"load_dataset('me/cranes')" in files["README.md"]
    assert Image.open(BytesIO(files["class_counts.png"])).width > 100
    assert hub.repos["datasets", "me/secret-cranes"].private
    assert hub.messages("me/cranes", kind="datasets") == ["initial commit", "Add the data set", "Add eval.yaml"]
