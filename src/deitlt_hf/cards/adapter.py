"""The card of a PEFT adapter: what it adapts and how to load it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedConfig

from deitlt_hf.cards.facts import MAIN
from deitlt_hf.cards.markdown import code_block, escape
from deitlt_hf.cards.record import find_hub_ids
from deitlt_hf.errors import DeiTLTError
from deitlt_hf.files import last_part, read_json, write_json

ADAPTER_FILE = "adapter_config.json"
CLASSES_FILE = "classes.json"

_LOADING = """{imports}from peft import PeftModel

from deitlt_hf import DeiTLTForImageClassification

{classes}base = DeiTLTForImageClassification.from_pretrained({base}{of_classes})
model = PeftModel.from_pretrained(base, {location}{revision}).eval()"""

_CLASSES = """with open({file}) as file:
    classes = json.load(file)
"""


def is_adapter(directory: str | os.PathLike[str]) -> bool:
    """Whether a directory holds an adapter and no whole model.

    Example:
        >>> is_adapter(".")
        False
    """
    return (Path(directory) / ADAPTER_FILE).is_file() and not (Path(directory) / "config.json").is_file()


def is_pefts_form(text: str) -> bool:
    """Whether a card is the form that PEFT saves with an adapter, and that nobody has filled in.

    Example:
        >>> is_pefts_form("library_name: transformers")
        False
    """
    return "library_name: peft" in text and "[More Information Needed]" in text


def save_classes(config: PreTrainedConfig, directory: str | os.PathLike[str]) -> None:
    """Write what an adapter's classes are beside it, for PEFT saves nothing of its base's configuration.

    Example:
        >>> save_classes(model.config, "runs/adapter")  # doctest: +SKIP
    """
    names = {"id2label": config.id2label, "label2id": config.label2id}
    known = {name: getattr(config, name, None) for name in ("class_counts", "class_groups")}
    write_json(Path(directory, CLASSES_FILE), names | {name: value for name, value in known.items() if value})


def adapter_card(
    directory: str | os.PathLike[str], repo_id: str | None = None, branch: str | None = None
) -> tuple[str, str]:
    """Header (YAML) and body of an adapter's card.

    Raises:
        DeiTLTError: its `adapter_config.json` cannot be read or names no base.

    Example:
        >>> adapter_card("runs/adapter")  # doctest: +SKIP
    """
    path = Path(directory)
    config: dict[str, Any] = read_json(path / ADAPTER_FILE) or {}
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise DeiTLTError(f"{path / ADAPTER_FILE} names no base_model_name_or_path; pass an adapter that PEFT saved")
    on_hub = find_hub_ids({"init_from": base}).get("init_from")
    is_elsewhere = on_hub is None and (repo_id is not None or Path(base).is_absolute())
    base = last_part(base) if is_elsewhere else base
    location = repo_id or (path.name if path.is_absolute() else str(directory))
    places = {
        name: json.dumps(value, ensure_ascii=False) for name, value in {"base": base, "location": location}.items()
    }
    places["revision"] = "" if branch in (None, MAIN) else f", revision={json.dumps(branch)}"
    places |= _of_classes(path, places["location"], places["revision"], on_hub=repo_id is not None)
    metadata = ModelCardData(
        library_name="peft",
        pipeline_tag="image-classification",
        base_model=on_hub,
        tags=["deit-lt", "long-tailed", "class-imbalance", "lora"],
    )
    shown = f"[{on_hub}](https://huggingface.co/{on_hub})" if on_hub else f"`{escape(base)}`"
    place = "" if on_hub else f"; `{escape(base)}` stands for the directory of that student"
    kind = escape(config.get("peft_type", "PEFT"))
    body = [
        f"# {escape((repo_id or path.absolute().name).split('/')[-1])}",
        f"A {kind} adapter for the DeiT-LT student {shown}, whose weights stay as they are; here is what is added to "
        "them.",
        "## How to use",
        f"With `pip install 'deitlt-hf[peft]'`{place}:",
        code_block("python", _LOADING.format(**places)),
    ]
    return metadata.to_yaml(), "\n\n".join(body)


def _of_classes(path: Path, location: str, revision: str, on_hub: bool) -> dict[str, str]:
    """How the snippet gives the base the adapter's classes."""
    if not (path / CLASSES_FILE).is_file():
        number = _count_classes(path)
        return {"imports": "", "classes": "", "of_classes": "" if number is None else f", num_labels={number}"}
    file, imports = json.dumps(f"{json.loads(location)}/{CLASSES_FILE}", ensure_ascii=False), "import json\n\n"
    if on_hub:
        file = f'hf_hub_download({location}, "{CLASSES_FILE}"{revision})'
        imports += "from huggingface_hub import hf_hub_download\n"
    return {"imports": imports, "classes": _CLASSES.format(file=file), "of_classes": ", **classes"}


def _count_classes(path: Path) -> int | None:
    """How many classes the heads have that are saved with the adapter; None where it has none."""
    for file in path.glob("adapter_model*.safetensors"):
        try:
            with safe_open(file, framework="numpy") as tensors:
                for name in tensors.keys():  # noqa: SIM118
                    if name.endswith("cls_classifier.weight"):
                        return tensors.get_slice(name).get_shape()[0]
        except (OSError, SafetensorError) as error:
            raise DeiTLTError(f"{file} cannot be read ({error}); pass an adapter with complete weights") from error
    return None
