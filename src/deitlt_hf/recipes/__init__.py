"""The settings that come with the package: one YAML file each, whose keys are the flags of its command."""

from __future__ import annotations

import difflib
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from deitlt_hf.errors import DeiTLTError


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package, sorted."""
    return sorted(Path(path.name).stem for path in files(__name__).iterdir() if path.name.endswith(".yaml"))


def is_teacher_recipe(name: str) -> bool:
    """Whether a recipe is for `deitlt teacher`, which its name says, such as `cifar10-lt-small-teacher-no-sam`."""
    return re.search("-teacher(-|$)", name) is not None


def recipe_text(name_or_file: str) -> str:
    """The YAML of a recipe that comes with the package, or of a file."""
    if name_or_file in recipe_names():
        return files(__name__).joinpath(f"{name_or_file}.yaml").read_text()
    if Path(name_or_file).is_file():
        return Path(name_or_file).read_text()
    near = difflib.get_close_matches(name_or_file, recipe_names(), n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"pass a file, or one of {', '.join(recipe_names())}"
    raise DeiTLTError(f"unknown recipe {name_or_file!r}; {hint}")


def load_recipe(name_or_file: str) -> dict[str, Any]:
    """The settings of a recipe."""
    import yaml

    try:
        settings = yaml.safe_load(recipe_text(name_or_file))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DeiTLTError(f"recipe {name_or_file} is not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(settings, dict):
        raise DeiTLTError(f"recipe {name_or_file} holds no settings; write lines such as `num_train_epochs: 100`")
    return settings


def recipe_description(name: str) -> str:
    """The first comment line of a recipe, which says what it is."""
    return recipe_text(name).splitlines()[0].removeprefix("#").strip()


def teacher_recipe(name_or_file: str) -> str | None:
    """The recipe of a student's teacher: `OTHER` of a line `# Teacher: OTHER`, else `NAME-teacher` if it exists."""
    comment = re.search("^# Teacher: (.*)$", recipe_text(name_or_file), flags=re.MULTILINE)
    name = comment[1].strip() if comment else f"{name_or_file}-teacher"
    return name if name in recipe_names() else None
