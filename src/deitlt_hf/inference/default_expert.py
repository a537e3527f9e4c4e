"""Changes which expert a saved student answers with by default."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deitlt_hf.cards.eval_results import RESULTS_FILE, write_eval_results
from deitlt_hf.cards.model_card import CARD_FILE, has_own_card, model_card, write_model_card
from deitlt_hf.errors import DeiTLTError, check_is_there
from deitlt_hf.evaluation.measures import EXPERT_LABELS, EXPERTS, FUSED, expert_named, experts_of
from deitlt_hf.files import RECIPE_FILE, RUN_FILE, is_hub_id, read_json, read_settings, whole_file
from deitlt_hf.inference.loading import load_student_config
from deitlt_hf.inference.runtimes import ONNX_FILE, PROGRAM_FILE
from deitlt_hf.models.deit_lt.configuration_deit_lt import DeiTLTConfig

_CONFIG_FILE = "config.json"


def set_expert(directory: str | os.PathLike[str], expert: str) -> list[str]:
    """Change which expert a saved student answers with: `expert` in `config.json`, and the card made from it.

    Args:
        directory: of a student: a run's, or one that was saved or downloaded.
        expert: `"average"`, `"cls"` (or `"head"`), `"distillation"` (or `"dist"`, `"tail"`), or `"fused"` after
            `deitlt calibrate`.

    Returns:
        The names of the files that were changed; none if the student answers so already. A `README.md` that a person
        wrote or edited stays as it is, and none is made where there was none.

    Raises:
        DeiTLTError: an unknown expert, a hub id, no student, an exported model, or an expert that was not trained.

    Example:
        >>> from deitlt_hf.inference.default_expert import set_expert
        >>> set_expert("demo-output/student", "distillation")  # doctest: +SKIP
        ['config.json', 'README.md']
    """
    expert, path = expert_named(expert), Path(directory)
    config = student_to_change(directory, expert)
    if expert not in experts_of(config):
        raise DeiTLTError(
            f"{os.fspath(directory)} has no fusion; run `deitlt calibrate`, or pass one of {', '.join(EXPERTS)}"
        )
    if config.expert == expert:
        return []
    return change_files(path, {"expert": expert})


def student_to_change(directory: str | os.PathLike[str], expert: str) -> DeiTLTConfig:
    """The configuration of the student in a directory whose files can be changed so that it answers with an expert."""
    source = os.fspath(directory)
    _check_is_here(source)
    config = load_student_config(source)
    _check_is_not_exported(Path(directory))
    _check_was_trained(Path(directory), expert)
    return config


def change_files(
    path: Path, of_config: Mapping[str, Any], write_others: Callable[[], Sequence[str]] = lambda: ()
) -> list[str]:
    """Change fields of `config.json`, what `write_others` writes, the results for the hub, and the card.

    Returns the names of the files that it wrote or removed.
    """
    has_card = (path / CARD_FILE).is_file() and not has_own_card(path)
    of_a_run, had_results = (path / RUN_FILE).is_file(), (path / RESULTS_FILE).is_file()
    if has_card or of_a_run:
        model_card(path)  # an error in the run's files shows before anything is changed
    with whole_file(path / _CONFIG_FILE) as unfinished:
        content = {**(read_json(path / _CONFIG_FILE) or {}), **of_config}
        unfinished.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")  # as transformers writes it
    others = list(write_others())
    if of_a_run and (write_eval_results(path) or had_results):
        others.append(RESULTS_FILE)
    if has_card:
        write_model_card(path)
    return [_CONFIG_FILE, *others, CARD_FILE] if has_card else [_CONFIG_FILE, *others]


def _check_is_here(source: str) -> None:
    if is_hub_id(source):
        raise DeiTLTError(
            f"{source} is on the hub, where this command changes nothing; download it with `hf download {source} "
            f"--local-dir {source.split('/')[-1]}` and pass that directory"
        )
    check_is_there(source)
    if not Path(source).is_dir():
        raise DeiTLTError(f"{source} is no directory; pass that of a student, such as the output of `deitlt train`")


def _check_is_not_exported(path: Path) -> None:
    has_weights = any(path.glob("model*.safetensors"))
    file = next((name for name in (ONNX_FILE, PROGRAM_FILE) if (path / name).is_file()), None)
    if file is not None and not has_weights:
        raise DeiTLTError(
            f"{path} is an exported model, and the expert is part of its {file}; change the student that it was "
            "exported from, and export that anew"
        )


def _check_was_trained(path: Path, expert: str) -> None:
    """Refuse an expert whose loss had no weight in the run: `distillation_alpha` 0 leaves DIST random, 1 leaves CLS."""
    directory = path.parent if path.name == "ema" and not (path / RECIPE_FILE).is_file() else path
    alpha = (read_settings(directory / RECIPE_FILE) or {}).get("distillation_alpha")
    untrained = {0: "distillation", 1: "cls"}.get(alpha)
    if untrained is not None and expert in (untrained, "average", FUSED):
        part = "" if expert == untrained else f", which is part of the {expert} prediction,"
        trained = "cls" if untrained == "distillation" else "distillation"
        raise DeiTLTError(
            f"the {EXPERT_LABELS[untrained]} of {path}{part} was not trained (distillation_alpha {alpha:g}); "
            f"pass {trained}"
        )
