"""Pushes a saved model: which files of its directory go to the hub, and with which card."""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path

import yaml
from huggingface_hub import ModelCard

from deitlt_hf.cards.eval_results import RESULTS_FILE, write_eval_results
from deitlt_hf.cards.model_card import CARD_FILE, has_own_card, model_card
from deitlt_hf.cards.record import public_settings
from deitlt_hf.errors import DeiTLTError
from deitlt_hf.files import (
    CALIBRATION_FILE,
    METRICS_FILE,
    RECIPE_FILE,
    REPORT_FILE,
    RUN_FILE,
    check_is_directory,
    last_part,
    read_json,
    read_settings,
    write_json,
)
from deitlt_hf.foreign.adapters import ADAPTER_FILE, CLASSES_FILE, is_adapter
from deitlt_hf.hub.remote_code import add_remote_code, code_files
from deitlt_hf.hub.repository import (
    address_of,
    check_hub,
    commit_folder,
    is_inside,
    list_files,
    make_repository,
    say_left_out,
)

logger = logging.getLogger(__name__)

MODEL = ("model*.safetensors", "model.safetensors.index.json")
OF_OTHER_KINDS = ("adapter_model.safetensors", "model.onnx", "model.onnx[._]data", "model.pt2")
WEIGHTS = (*MODEL, *OF_OTHER_KINDS)
OF_ADAPTERS = (ADAPTER_FILE, CLASSES_FILE)
CONFIGURATIONS = ("config.json", "preprocessor_config.json", *OF_ADAPTERS)
OF_THE_RUN = (RECIPE_FILE, RUN_FILE)
OF_THE_RESULT = (METRICS_FILE, CALIBRATION_FILE, REPORT_FILE)
UPLOADED = (*WEIGHTS, *CONFIGURATIONS, *OF_THE_RUN, *OF_THE_RESULT, CARD_FILE, "*.png")

_PART_OF_A_RUN = re.compile(r"checkpoint-\d+|ema")


def push_model(
    directory: str | os.PathLike[str],
    repo_id: str,
    private: bool = False,
    branch: str | None = None,
    message: str | None = None,
) -> str:
    """Upload a saved model with its card, metrics, pictures and recipe, in one commit.

    The repository is complete afterwards, or as it was before; after an interruption, another push sends only what is
    missing. Pickles, checkpoints, the state of an optimiser, and links that lead out of the directory are not uploaded;
    a message names the links.

    Args:
        directory: of a run, a `checkpoint-N` in one, averaged weights (`ema`), a converted or exported model, or an
            adapter of PEFT.
        repo_id: on the hub, `owner/name`, or only a name, for the token's owner; made if it does not exist.
        private: if the repository is made, only its owner sees it.
        branch: by default the main one; made if it does not exist.
        message: of the commit.

    Returns:
        The address of the model.

    Raises:
        DeiTLTError: no model in the directory, no token or a wrong one, or whatever the hub answers.

    Example:
        >>> push_model("runs/cifar10-lt-small", "me/cifar10-lt-small")  # doctest: +SKIP
        'https://huggingface.co/me/cifar10-lt-small'
    """
    model_files(directory)  # refuse a wrong directory before the hub is asked
    repo_id = check_hub(repo_id, private=private)
    with tempfile.TemporaryDirectory() as folder:
        stage_model(directory, folder, repo_id, branch)
        make_repository(repo_id, private=private, branch=branch)
        # An export's configuration does not name the modeling files that PyTorch weights need.
        if not _has_model(os.listdir(folder)) and _has_model(list_files(repo_id, branch=branch)):
            raise DeiTLTError(
                f"{repo_id} holds PyTorch weights{f' on {branch}' if branch else ''}; push an export or adapter to a "
                "repository of its own"
            )
        commit_folder(folder, repo_id, message or "Push the model", branch=branch, stale=stale_files(folder))
    return address_of(repo_id, branch)


def model_files(directory: str | os.PathLike[str]) -> list[Path]:
    """The files that are pushed from a directory: the model, its code, and files of the run.

    A `checkpoint-N` and averaged weights get the image processor and the recipe of their run, but not its results,
    which belong to other weights.

    Raises:
        DeiTLTError: no such directory, or no model in it.

    Example:
        >>> from deitlt_hf import model_files
        >>> [file.name for file in model_files("demo-output/student")][:2]  # doctest: +SKIP
        ['README.md', 'config.json']
    """
    check_is_directory(directory)
    path = Path(directory)
    files = {file.name: file for file in _uploaded_files(path) if is_inside(file, path)}
    if not any(name in files for name in ("config.json", "adapter_config.json")):
        raise DeiTLTError(f"{directory} has no config.json; pass the output of `deitlt train`, or a saved model")
    if not any(_is_one_of(WEIGHTS, name) for name in files):
        raise DeiTLTError(
            f"{directory} has no weights (model.safetensors, model.onnx or model.pt2); pass a run that has saved its "
            "model, or a checkpoint in it"
        )
    run = path.absolute()
    while _PART_OF_A_RUN.fullmatch(run.name):
        run = run.parent
        for name in ("preprocessor_config.json", *OF_THE_RUN):
            if (run / name).is_file() and is_inside(run / name, run):
                files.setdefault(name, run / name)
    code = [file for file in code_files(path) if is_inside(file, path)] if "config.json" in files else []
    return sorted([*files.values(), *code], key=lambda file: file.name)


def _uploaded_files(directory: Path) -> list[Path]:
    return [path for path in sorted(directory.iterdir()) if path.is_file() and _is_one_of(UPLOADED, path.name)]


def stage_model(
    directory: str | os.PathLike[str], folder: str | os.PathLike[str], repo_id: str, branch: str | None = None
) -> None:
    """Put what is pushed of a model into an empty folder: its files, the code that it needs, and its card.

    A card written or edited by hand is kept; only its unedited snippets change, to load the model from the hub.
    """
    directory, folder = Path(directory), Path(folder)
    say_left_out(file for file in _uploaded_files(directory) if not is_inside(file, directory))
    for file in model_files(directory):
        if _is_one_of(WEIGHTS, file.name):
            link_or_copy(file, folder / file.name)
        elif file.name == RECIPE_FILE:
            (folder / RECIPE_FILE).write_text(public_recipe(file))
        else:
            shutil.copyfile(file, folder / file.name)
    if _has_model(os.listdir(folder)):
        add_remote_code(folder)
    if is_adapter(directory):
        _hide_a_local_base(folder)
    config = read_json(folder / "config.json") or {}  # an adapter has none
    has_code = "AutoModelForImageClassification" in (config.get("auto_map") or {})
    card = model_card(directory, repo_id, branch, has_code)
    if not is_adapter(directory):
        write_eval_results(directory, folder)
    if has_own_card(directory):
        logger.warning(f"{directory / CARD_FILE} was written or edited by hand: it is uploaded instead of a new one")
        _load_from_hub(folder / CARD_FILE, model_card(directory), card)
    else:
        card.save(folder / CARD_FILE)


def _load_from_hub(card: Path, local: ModelCard, on_hub: ModelCard) -> None:
    """Let the unedited snippets of an edited card load the model from the hub."""
    try:
        text = card.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DeiTLTError(f"{card.name} is no UTF-8 text, and the hub takes nothing else; save it as UTF-8") from error
    old, new = (re.findall(r"^```.*?^```$", str(one), flags=re.DOTALL | re.MULTILINE) for one in (local, on_hub))
    if len(old) == len(new):
        for block, replacement in zip(old, new, strict=True):
            text = text.replace(block, replacement)
        card.write_text(text, encoding="utf-8", newline="\n")


def _hide_a_local_base(folder: Path) -> None:
    """Replace the path of an adapter's base by its name."""
    config = read_json(folder / ADAPTER_FILE) or {}
    base = config.get("base_model_name_or_path") or ""
    if Path(base).exists():
        logger.warning(f"the adapter's base is {base}, which nobody else has; push it, and train on its hub id")
        write_json(folder / ADAPTER_FILE, config | {"base_model_name_or_path": last_part(base)})


def public_recipe(file: Path) -> str:
    """A run's recipe without paths of this machine and without account names and tokens."""
    run = read_json(file.with_name(RUN_FILE)) or {}
    settings = public_settings(read_settings(file) or {}, run.get("hub_ids") or {})
    return yaml.safe_dump(settings, sort_keys=False)


def stale_files(folder: str | os.PathLike[str]) -> tuple[str, ...]:
    """Patterns of files from an earlier push that would contradict the weights in a folder."""
    names = os.listdir(folder)
    if not any(_is_one_of(WEIGHTS, name) for name in names):
        return ()
    of_the_run = (*OF_THE_RUN, *OF_THE_RESULT, RESULTS_FILE)
    if _has_model(names):
        # peft would load an adapter's base instead of the weights beside it.
        return (*MODEL, *OF_OTHER_KINDS, *OF_ADAPTERS, *of_the_run)
    return (CLASSES_FILE, *of_the_run) if ADAPTER_FILE in names else of_the_run


def _has_model(names: Iterable[str]) -> bool:
    """Whether PyTorch weights of a whole model are among the files."""
    return any(_is_one_of(MODEL, name) for name in names)


def link_or_copy(source: Path, target: Path) -> None:
    """Make a hard link, which lasts when the source is deleted, or a copy on another file system."""
    try:
        os.link(Path(source).resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def _is_one_of(patterns: Sequence[str], name: str) -> bool:
    # Not huggingface_hub's `filter_repo_objects`, which takes hidden files such as `.page.png` for `*.png`.
    return not name.startswith(".") and any(fnmatch(name, pattern) for pattern in patterns)
