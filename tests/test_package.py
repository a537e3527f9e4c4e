"""The package as a whole: light to import, complete, documented, and known to transformers' Auto classes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import deitlt_hf
from deitlt_hf.data.views import image_processor
from deitlt_hf.models.cifar_resnet.configuration_cifar_resnet import CifarResNetConfig
from deitlt_hf.models.cifar_resnet.modeling_cifar_resnet import CifarResNetForImageClassification
from deitlt_hf.models.deit_lt.configuration_deit_lt import DeiTLTConfig
from deitlt_hf.models.deit_lt.modeling_deit_lt import DeiTLTForImageClassification

PUBLIC = [name for name in deitlt_hf.__all__ if not name.startswith("__")]

LOAD_WITH_AUTO_CLASSES = """
import transformers
for Auto in ("AutoConfig", "AutoModel", "AutoModelForImageClassification", "AutoImageProcessor"):
    print(type(getattr(transformers, Auto).from_pretrained("student")).__name__)
for Auto in ("AutoConfig", "AutoModelForImageClassification", "AutoImageProcessor"):
    print(type(getattr(transformers, Auto).from_pretrained("teacher")).__name__)
"""


def run_python(code: str, directory: Path) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], cwd=directory, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a student and a teacher, each with its image processor."""
    folder = tmp_path_factory.mktemp("checkpoints")
    student = DeiTLTConfig(
        image_size=16, patch_size=8, hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24
    )
    for name, model in (
        ("student", DeiTLTForImageClassification(student)),
        ("teacher", CifarResNetForImageClassification(CifarResNetConfig(depth=20))),
    ):
        model.save_pretrained(folder / name)
        image_processor(16).save_pretrained(folder / name)
    return folder


def test_import_is_light(tmp_path: Path) -> None:
    code = (
        "import sys, deitlt_hf; dir(deitlt_hf); deitlt_hf.DeiTLTError; print(deitlt_hf.__version__); "
        "print(*sys.modules.keys() & {'torch', 'transformers', 'datasets', 'numpy', 'timm', 'matplotlib'})"
    )
    assert run_python(code, tmp_path) == [deitlt_hf.__version__]


@pytest.mark.parametrize(
    "imports",
    [
        # accelerate and datasets look for transformers in this way, and import it later or not at all.
        pytest.param(
            "import deitlt_hf, importlib.util; importlib.util.find_spec('transformers'); deitlt_hf.DeiTLTConfig",
            id="before",
        ),
        pytest.param("import transformers, deitlt_hf", id="after"),
    ],
)
def test_auto_classes_know_the_models_in_any_order_of_imports(imports: str, checkpoints: Path) -> None:
    assert run_python(f"{imports}\n{LOAD_WITH_AUTO_CLASSES}", checkpoints) == [
        "DeiTLTConfig",
        "DeiTLTModel",
        "DeiTLTForImageClassification",
        "DeiTImageProcessor",
        "CifarResNetConfig",
        "CifarResNetForImageClassification",
        "DeiTImageProcessor",
    ]


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name_resolves_and_is_documented_with_an_example(name: str) -> None:
    value = getattr(deitlt_hf, name)
    assert value.__name__ == name
    assert name in dir(deitlt_hf)
    assert ">>>" in value.__doc__


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'deitlt_hf' has no attribute 'DeiTLTModle'"):
        _ = deitlt_hf.DeiTLTModle


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("data.transforms", "ViewTransform"),
        ("data.processing", "image_processor"),
        ("evaluation.accuracy", "format_table"),
        ("evaluation.predicting", "predict_experts"),
        ("hub.app", "build_app"),
        ("hub.cards.model_card", "write_model_card"),
        ("training.runs", "train_student"),
        ("training.run_data", "TrainingDataArguments"),
        ("training.trainer", "DeiTLTTrainer"),
    ],
)
def test_an_old_module_leads_to_the_public_name(module, name):
    with pytest.warns(DeprecationWarning, match=f"write `from deitlt_hf import {name}`"):
        exec(f"from deitlt_hf.{module} import {name}", found := {})
    assert found[name] is getattr(deitlt_hf, name)


def test_an_old_module_has_no_other_names():
    with pytest.raises(ImportError, match="no_such_name"):
        exec("from deitlt_hf.training.runs import no_such_name")
