"""The README's Python runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deitlt_hf.cli.main import main
from deitlt_hf.recipes import is_teacher_recipe, load_recipe, recipe_names

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_quick_start_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny = "--hidden_size 24 --num_hidden_layers 1 --num_attention_heads 2 --dataloader_num_workers 0".split()
    tiny += "--dataloader_persistent_workers false --num_train_epochs 1 --use_cpu true --disable_tqdm true".split()
    argv = ["train", "--recipe", "digits-lt", "--output_dir", "demo-output/student", "--distillation_type", "none"]
    assert main([*argv, *tiny, "--drw_start_epoch", "0"]) == 0
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    capsys.readouterr()
    exec(code, {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["logits", "cls_logits", "distillation_logits"]


@pytest.mark.parametrize("name", [name for name in recipe_names() if not is_teacher_recipe(name)])
def test_the_table_has_every_recipe_with_its_epochs(name):
    (row,) = [line for line in README.splitlines() if line.startswith(f"| `{name}` |")]
    recipe = load_recipe(name)
    assert f"| {recipe['num_train_epochs']}, {recipe['drw_start_epoch']} |" in row
    assert f"`{name}-teacher`" in row


@pytest.mark.parametrize("name", [name for name in recipe_names() if is_teacher_recipe(name)])
def test_the_readme_names_every_teachers_recipe(name):
    assert f"`{name.removesuffix('-ldam')}`" in README
