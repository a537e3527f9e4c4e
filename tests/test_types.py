"""A user's script under a type checker: right calls pass, wrong ones are named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import deitlt_hf

RIGHT = """
from deitlt_hf import DeiTLTConfig, DeiTLTForImageClassification, DeiTLTTrainer, DeiTLTTrainingArguments
from deitlt_hf import class_balanced_weights, class_groups, load_long_tailed_dataset

splits = load_long_tailed_dataset("digits-lt", imbalance_factor=20)
groups: dict[str, list[int]] = class_groups([90, 9, 3], boundaries=(1, 2))
student = DeiTLTForImageClassification(DeiTLTConfig(image_size=32, patch_size=4, num_labels=3))
args = DeiTLTTrainingArguments("runs/student", num_train_epochs=10, drw_start_epoch=8)
trainer = DeiTLTTrainer(student, args, teacher="runs/teacher", train_dataset=splits["train"], class_groups=groups)
trainer.train()
weights = class_balanced_weights([90, 9, 3], beta=0.999)
"""
WRONG = {
    "from deitlt_hf import DeiTLTTrainer\nDeiTLTTrainer(nonsense=5)": 'argument "nonsense"',
    "from deitlt_hf import TeacherTrainer\nTeacherTrainer(nonsense=5)": 'argument "nonsense"',
    "from deitlt_hf import class_groups\nclass_groups(3)": '"class_groups" has incompatible type "int"',
    "from deitlt_hf import load_long_tailed_dataset\nload_long_tailed_dataset('x', imbalance='9')": "imbalance",
    "from deitlt_hf import grouped_accuracy\ngrouped_accuracy([0], [0])": "groups",
    "from deitlt_hf import NoSuchName": "NoSuchName",
}
EVERY_NAME = "import deitlt_hf\n" + "".join(f"reveal_type(deitlt_hf.{name})\n" for name in deitlt_hf.__all__)
# Other packages are looked at as little as possible: transformers alone takes mypy over a minute.
SETTINGS = """
[mypy]
follow_imports = silent
[mypy-transformers.*,torch.*,torchvision.*,datasets.*,timm.*,matplotlib.*,accelerate.*,huggingface_hub.*,numpy.*,PIL.*]
follow_imports = skip
ignore_missing_imports = True
[mypy-pandas.*,sklearn.*,pyarrow.*,yaml.*,evaluate.*,peft.*,scipy.*,onnxruntime.*,onnx.*,tqdm.*,psutil.*,safetensors.*]
follow_imports = skip
ignore_missing_imports = True
"""


def test_a_type_checker_reads_the_public_names(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "mypy.ini").write_text(SETTINGS)
    (tmp_path / "right.py").write_text(RIGHT)
    (tmp_path / "every_name.py").write_text(EVERY_NAME)
    for index, script in enumerate(WRONG):
        (tmp_path / f"wrong_{index}.py").write_text(script + "\n")
    scripts = sorted(path.name for path in tmp_path.glob("*.py"))
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--cache-dir", "cache", *scripts]
    checked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    found = checked.stdout.splitlines()
    assert not [line for line in found if line.startswith("right.py")]
    revealed = [line.split("Revealed type is ")[1].strip('"') for line in found if line.startswith("every_name.py")]
    kinds = dict(zip(deitlt_hf.__all__, revealed, strict=True))
    # A decorator of torch, which is skipped here, hides the type of this one.
    assert [name for name, kind in kinds.items() if kind.startswith("Any")] == ["token_attention"]
    assert "class_counts: " in kinds["class_balanced_weights"]
    for index, said in enumerate(WRONG.values()):
        assert any(line.startswith(f"wrong_{index}.py:") and said in line for line in found), (said, found)


def test_names_for_type_checkers_are_those_that_load() -> None:
    text = Path(deitlt_hf.__file__).read_text()
    checked = text[text.index("if TYPE_CHECKING:") : text.index("__version__ =")]
    for name, module in deitlt_hf._MODULE_OF.items():
        assert f"from deitlt_hf.{module} import" in checked
        assert f"{name} as {name}" in checked
    assert checked.count(" as ") == len(deitlt_hf._MODULE_OF)
