"""The code of a model lies beside its weights, however these are saved; `test_hub_roundtrip.py` loads it elsewhere."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageClassification, ResNetConfig, ResNetForImageClassification

import deitlt_hf
from deitlt_hf import (
    CifarResNetConfig,
    CifarResNetForImageClassification,
    DeiTLTConfig,
    DeiTLTError,
    DeiTLTForImageClassification,
    TimmCosineConfig,
    TimmCosineForImageClassification,
)
from deitlt_hf.hub.remote_code import add_remote_code, code_files

MODELS = Path(deitlt_hf.__file__).parent / "models"
AUTO_MAPS = {
    "deit_lt": {
        "AutoConfig": "configuration_deit_lt.DeiTLTConfig",
        "AutoModel": "modeling_deit_lt.DeiTLTModel",
        "AutoModelForImageClassification": "modeling_deit_lt.DeiTLTForImageClassification",
    },
    "cifar_resnet": {
        "AutoConfig": "configuration_cifar_resnet.CifarResNetConfig",
        "AutoModelForImageClassification": "modeling_cifar_resnet.CifarResNetForImageClassification",
    },
    "timm_cosine": {
        "AutoConfig": "configuration_timm_cosine.TimmCosineConfig",
        "AutoModelForImageClassification": "modeling_timm_cosine.TimmCosineForImageClassification",
    },
}


def _model(model_type: str) -> torch.nn.Module:
    if model_type == "deit_lt":
        shape = {"image_size": 8, "patch_size": 4, "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1}
        return DeiTLTForImageClassification(DeiTLTConfig(num_hidden_layers=1, num_labels=3, **shape))
    if model_type == "cifar_resnet":
        return CifarResNetForImageClassification(CifarResNetConfig(depth=20, num_labels=3))
    return TimmCosineForImageClassification(TimmCosineConfig(architecture="test_resnet", num_labels=3))


def _config(directory: Path) -> dict:
    return json.loads((directory / "config.json").read_text())


@pytest.mark.parametrize("model_type", AUTO_MAPS)
def test_saving_puts_the_code_beside_the_weights(model_type: str, tmp_path: Path) -> None:
    _model(model_type).save_pretrained(tmp_path)
    assert _config(tmp_path)["auto_map"] == AUTO_MAPS[model_type]
    files = [tmp_path / f"{part}_{model_type}.py" for part in ("configuration", "modeling")]
    assert code_files(tmp_path) == files
    for file in files:
        assert file.read_text() == (MODELS / model_type / file.name).read_text()


@pytest.mark.parametrize("model_type", AUTO_MAPS)
def test_the_code_needs_nothing_of_this_package(model_type: str) -> None:
    for file in (MODELS / model_type).glob("*_*.py"):
        code = [line for line in file.read_text().splitlines() if "import" in line and ">>>" not in line]
        assert not [line for line in code if "deitlt_hf" in line or "from .." in line]


@pytest.mark.parametrize("model_type", AUTO_MAPS)
def test_an_older_directory_becomes_what_saving_writes_today(model_type: str, tmp_path: Path) -> None:
    _model(model_type).save_pretrained(tmp_path)
    today = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for file in tmp_path.glob("*.py"):
        file.unlink()
    config = _config(tmp_path)
    del config["auto_map"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert AutoConfig.from_pretrained(tmp_path).model_type == model_type  # which loads as it always did
    add_remote_code(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == today


def test_a_map_of_another_repository_is_not_kept(tmp_path: Path) -> None:
    model = _model("deit_lt")
    model.config.auto_map = {name: f"someone/student--{place}" for name, place in AUTO_MAPS["deit_lt"].items()}
    model.save_pretrained(tmp_path / "tuned")
    assert _config(tmp_path / "tuned")["auto_map"] == AUTO_MAPS["deit_lt"]


def test_the_package_s_own_classes_win_where_it_is_imported(tmp_path: Path) -> None:
    _model("deit_lt").save_pretrained(tmp_path)
    for trust in (None, True):
        model = AutoModelForImageClassification.from_pretrained(tmp_path, trust_remote_code=trust)
        assert type(model) is DeiTLTForImageClassification


@pytest.mark.parametrize("from_student", [False, True])
def test_a_subclass_in_a_file_of_its_own_brings_that_file(
    from_student: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_student.py").write_text(
        "from deitlt_hf import DeiTLTForImageClassification\n\n\n"
        "class MyStudent(DeiTLTForImageClassification):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import my_student

    student = _model("deit_lt")
    if from_student:
        student.save_pretrained(tmp_path / "student")
        mine = my_student.MyStudent.from_pretrained(tmp_path / "student")
    else:
        mine = my_student.MyStudent(student.config)
    mine.save_pretrained(tmp_path / "saved")
    auto_map = _config(tmp_path / "saved")["auto_map"]
    assert auto_map["AutoModelForImageClassification"] == "my_student.MyStudent"
    assert "AutoModel" not in auto_map
    assert [path.name for path in code_files(tmp_path / "saved")] == ["configuration_deit_lt.py", "my_student.py"]


@pytest.mark.parametrize("model_type", ["deit_lt", "cifar_resnet", "timm_cosine"])
def test_a_subclass_in_a_package_is_saved_without_its_file(
    model_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file imports others of its package, which cannot go along."""
    package = f"package_of_{model_type}"
    ours = type(_model(model_type)).__name__
    for name in ("", "models"):
        (tmp_path / package / name).mkdir()
        (tmp_path / package / name / "__init__.py").touch()
    (tmp_path / package / "util.py").write_text("NAME = 'mine'\n")
    (tmp_path / package / "models" / "mine.py").write_text(
        f"from deitlt_hf import {ours}\nfrom ..util import NAME\n\n\nclass Mine({ours}):\n    name = NAME\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    mine = importlib.import_module(f"{package}.models.mine").Mine
    model = mine(_model(model_type).config)
    model.save_pretrained(tmp_path / "saved")
    again = mine.from_pretrained(tmp_path / "saved")
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], weight)


def test_models_of_transformers_stay_as_they_are(tmp_path: Path) -> None:
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic", num_labels=3)
    ResNetForImageClassification(config).save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    add_remote_code(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert code_files(tmp_path) == []


def test_a_map_that_leads_out_of_the_directory_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.py").write_text("")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"auto_map": {"AutoModel": "../secret.Model", "Other": [null]}}')
    assert code_files(tmp_path / "model") == []


def test_a_damaged_configuration_is_one_line(tmp_path: Path) -> None:
    for content in (None, "{", '"text"', "[1]"):
        if content is not None:
            (tmp_path / "config.json").write_text(content)
        with pytest.raises(
            DeiTLTError, match=r"config\.json (cannot be read|holds no settings).*pass the directory of a model"
        ):
            add_remote_code(tmp_path)
