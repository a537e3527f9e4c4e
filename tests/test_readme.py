"""The README's Python runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deitlt_hf.cli.main import main
from deitlt_hf.recipes import is_teacher_recipe, load_recipe, recipe_names, teacher_recipe

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


def suffix_of_baseline(name: str) -> str | None:
    """What a recipe of the paper's comparisons adds to the name of the one that it is compared with."""
    match = re.fullmatch(r"cifar10-lt-(?:small|if100)(-vit|-deit|-no-drw|-teacher(?:-ldam)?(?:-strong|-no-sam))", name)
    return match and match[1].replace("-ldam", "")


@pytest.mark.parametrize(
    "name", [name for name in recipe_names() if not is_teacher_recipe(name) and not suffix_of_baseline(name)]
)
def test_the_table_has_every_recipe_with_its_epochs(name):
    (row,) = [line for line in README.splitlines() if line.startswith(f"| `{name}` |")]
    recipe = load_recipe(name)
    epochs = [str(recipe[of]) for of in ("num_train_epochs", "drw_start_epoch") if of in recipe]
    assert f"| {', '.join(epochs)} |" in row
    assert f"`{teacher_recipe(name) or recipe['teacher']}`" in row


@pytest.mark.parametrize("name", [name for name in recipe_names() if is_teacher_recipe(name)])
def test_the_readme_names_every_teachers_recipe(name):
    if suffix_of_baseline(name) is None:
        assert f"`{name.removesuffix('-ldam')}`" in README


@pytest.mark.parametrize("suffix", sorted({*map(suffix_of_baseline, recipe_names())} - {None}))
def test_the_readme_tells_of_every_baseline(suffix):
    assert f"`{suffix}`" in README
