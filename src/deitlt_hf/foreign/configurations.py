"""Checks configurations, image processors and lists of shards that others wrote.

The checks come before a model is built: there a wrong number would cost memory or hours instead of raising an error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers.activations import ACT2FN
from transformers.utils import cached_file

from deitlt_hf.errors import DeiTLTError
from deitlt_hf.files import read_json
from deitlt_hf.long_tail_accuracy.scores import GROUPS

INDEX_FILE = "model.safetensors.index.json"

_MOST_CLASSES = 100_000  # five times ImageNet-21k's
_MOST_PIXELS = 2048  # of a side
_MOST_LEVELS = 20  # of values within values

_Rule = tuple[str, Callable[[Any], bool]]  # a description of valid values, and a test for them


def _is_int(value: object, least: float, most: float) -> bool:
    return type(value) is int and least <= value <= most  # not a bool, which is an int too


def _is_number(value: object, least: float, most: float) -> bool:
    return type(value) in (int, float) and least <= value <= most


def _all(value: object, is_valid: Callable[[Any, float, float], bool], least: float, most: float) -> bool:
    """Whether a value, or everything in a list, is valid: models in stages have a number or a list for each stage."""
    if isinstance(value, list):
        return len(value) > 0 and all(_all(part, is_valid, least, most) for part in value)
    return is_valid(value, least, most)


def _counts(most: int) -> _Rule:
    return f"a whole number from 1 to {most}, or a list of them", lambda value: _all(value, _is_int, 1, most)


def _numbers(least: float, most: float) -> _Rule:
    return f"a number from {least:g} to {most:g}", lambda value: _all(value, _is_number, least, most)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= 1000 and not re.search("[\ud800-\udfff]", value)


_TEXT: _Rule = ("text", _is_text)
_TEXTS: _Rule = ("a list of texts", lambda value: isinstance(value, list) and all(map(_is_text, value)))
_TRUTH: _Rule = ("true or false", lambda value: isinstance(value, bool))
_SIDE = _counts(_MOST_PIXELS)
_WIDTH = _counts(65_536)
_LAYERS = _counts(200)  # the largest have about 60, in a stage or in all
_SHARE = _numbers(0, 1)


def _are_names(value: object) -> bool:
    """Names of classes, with the keys "0", "1", ..."""
    return (
        isinstance(value, dict)
        and 0 < len(value) <= _MOST_CLASSES
        and value.keys() == {str(label) for label in range(len(value))}
        and all(map(_is_text, value.values()))
    )


def _are_labels(value: object) -> bool:
    """The class id of each name; in old files the ids are text."""
    if not isinstance(value, dict) or len(value) > _MOST_CLASSES:
        return False
    # int() refuses text of thousands of digits.
    labels = [
        int(label) if isinstance(label, str) and label.isdecimal() and len(label) < 10 else label
        for label in value.values()
    ]
    return all(map(_is_text, value)) and all(_is_int(label, 0, _MOST_CLASSES) for label in labels)


def _is_list(value: object, is_valid: Callable[[Any], bool]) -> bool:
    """A list with an entry per class."""
    return isinstance(value, list) and len(value) <= _MOST_CLASSES and all(map(is_valid, value))


def _is_dtype(value: object) -> bool:
    name = value.removeprefix("torch.") if isinstance(value, str) else ""
    return name == "auto" or isinstance(getattr(torch, name, None), torch.dtype)


def _are_groups(value: object) -> bool:
    """Head, mid and tail, with each class in one of them."""
    if (
        not isinstance(value, dict)
        or value.keys() != set(GROUPS)
        or not all(isinstance(of, list) for of in value.values())
    ):
        return False
    labels = [label for group in value.values() for label in group]
    return all(_is_int(label, 0, _MOST_CLASSES) for label in labels) and sorted(labels) == list(range(len(labels)))


def _is_code(value: object) -> bool:
    """Names of modules, or lists of them; this package runs none of them."""
    if not isinstance(value, dict):
        return False
    texts = [text for part in value.values() for text in (part if isinstance(part, list) else [part])]
    return all(text is None or _is_text(text) for text in texts)


_DTYPE: _Rule = ("a torch type's name, such as float32", _is_dtype)
_CODE: _Rule = ("names of modules", _is_code)
_CONFIG: dict[str, _Rule] = {
    "model_type": _TEXT,
    "architectures": _TEXTS,
    "architecture": _TEXT,
    "auto_map": _CODE,
    "dtype": _DTYPE,
    "torch_dtype": _DTYPE,
    "hidden_act": ("an activation's name, such as gelu", lambda value: isinstance(value, str) and value in ACT2FN),
    "problem_type": _TEXT,
    "expert": _TEXT,
    "classifier": _TEXT,
    "id2label": (f"a name for each class 0, 1, ..., at most {_MOST_CLASSES}", _are_names),
    "label2id": ("the class id of each name", _are_labels),
    "label_names": (
        f"a list of at most {_MOST_CLASSES} names",
        lambda value: _is_list(value, lambda name: isinstance(name, str)),
    ),
    "num_labels": (f"a whole number from 1 to {_MOST_CLASSES}", lambda value: _is_int(value, 1, _MOST_CLASSES)),
    "num_classes": (f"a whole number from 0 to {_MOST_CLASSES}", lambda value: _is_int(value, 0, _MOST_CLASSES)),
    "class_counts": (
        "a list of a whole number per class",
        lambda value: value != [] and _is_list(value, lambda count: _is_int(count, 0, 10**12)),
    ),
    "class_groups": (f"lists of class ids for {', '.join(GROUPS)}, with each class in one of them", _are_groups),
    "image_size": _SIDE,
    "patch_size": _SIDE,
    "num_channels": _counts(64),
    "drop_path_rate": _SHARE,
    "hidden_dropout_prob": _SHARE,
    "attention_probs_dropout_prob": _SHARE,
    "layer_norm_eps": _SHARE,
    "initializer_range": _numbers(0, 100),
    "pretrained_cfg": ("settings of timm", lambda value: isinstance(value, dict)),
    **dict.fromkeys(("hidden_size", "hidden_sizes", "intermediate_size", "embed_dim", "embedding_size"), _WIDTH),
    **dict.fromkeys(("num_hidden_layers", "num_attention_heads", "depth", "depths"), _LAYERS),
}


def _is_size(value: object) -> bool:
    sides = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else [value]
    return 0 < len(sides) <= 4 and all(side is None or _is_int(side, 1, _MOST_PIXELS) for side in sides)


def _per_channel(least: float) -> _Rule:
    def is_valid(value: object) -> bool:
        values = value if isinstance(value, list) else [value]
        return len(values) in (1, 3) and all(_is_number(part, least, 1000) for part in values)

    return f"a number from {least:g} to 1000, or one for each of three channels", is_valid


_SIZE: _Rule = (f"sides of 1 to {_MOST_PIXELS} pixels", _is_size)
_PROCESSOR: dict[str, _Rule] = {
    "image_processor_type": _TEXT,
    "feature_extractor_type": _TEXT,
    "processor_class": _TEXT,
    "auto_map": _CODE,
    "size": _SIZE,
    "crop_size": _SIZE,
    "image_mean": _per_channel(-1000),
    "image_std": _per_channel(1e-6),
    "resample": ("a number of PIL's from 0 to 5", lambda value: _is_int(value, 0, 5)),
    "rescale_factor": _numbers(1e-9, 1000),
    "crop_pct": _numbers(0.01, 10),
    **dict.fromkeys(("do_resize", "do_rescale", "do_normalize", "do_center_crop", "do_convert_rgb", "do_pad"), _TRUTH),
}
_TIMM: dict[str, _Rule] = {
    **dict.fromkeys(
        ("input_size", "test_input_size"),
        ("channels, height and width", lambda value: _is_size(value) and isinstance(value, list)),
    ),
    "mean": _per_channel(-1000),
    "std": _per_channel(1e-6),
    "crop_pct": _numbers(0.01, 10),
    "interpolation": _TEXT,
    "crop_mode": _TEXT,
}


def check_config(source: str, revision: str | None = None) -> None:
    """Refuse a `config.json` with values that no image classifier has, and shards that lie in other directories."""
    file = find_file(source, "config.json", revision)
    if file is not None:
        config = _read(file)
        _check(config, _CONFIG, file)
        _check(config.get("pretrained_cfg") or {}, _TIMM, file, "pretrained_cfg.")
        _check_classes(config, file)
    index = find_file(source, INDEX_FILE, revision)
    if index is not None:
        _check_index(_read(index), index)


def check_processor(source: str, revision: str | None = None) -> None:
    """Refuse a `preprocessor_config.json` with values that no image can be processed with."""
    # In newer files the image processor's settings are below a key.
    for name in ("preprocessor_config.json", "processor_config.json"):
        file = find_file(source, name, revision)
        if file is not None:
            content = _read(file)
            _check(content, _PROCESSOR, file)
            _check(content.get("image_processor") or {}, _PROCESSOR, file, "image_processor.")


def find_file(source: str, name: str, revision: str | None = None) -> Path | None:
    """The path of a file in a directory or hub repository; None if there is none, or the hub cannot be reached."""
    if Path(source).is_dir():
        file = Path(source) / name
        return file if file.is_file() else None
    try:
        file = cached_file(source, name, revision=revision, _raise_exceptions_for_missing_entries=False)
    except (OSError, ValueError):
        return None
    return file and Path(file)


def _read(file: Path) -> dict[str, Any]:
    content = read_json(file) or {}
    for path, value in _values(content):
        if path.count(".") > _MOST_LEVELS:
            raise DeiTLTError(f"{file} has values within values at {path.split('.')[0]}, more than {_MOST_LEVELS} deep")
        if isinstance(value, float) and not math.isfinite(value):
            raise DeiTLTError(f"{file}: {path} is {value}; it has to be a finite number")
    return content


def _values(content: object, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each value in a file with its path, down to the first level that is too deep."""
    if path.count(".") > _MOST_LEVELS or not isinstance(content, dict | list):
        yield path, content
        return
    for name, value in content.items() if isinstance(content, dict) else enumerate(content):
        yield from _values(value, f"{path}.{name}" if path else str(name))


def _check(content: object, rules: Mapping[str, _Rule], file: Path, path: str = "") -> None:
    """Compare fields with their rules, also in the configurations of parts, such as `vision_config`."""
    if not isinstance(content, dict):
        raise DeiTLTError(f"{file}: {path.rstrip('.')} is {_shown(content)}, which has to be an object")
    for name, value in content.items():
        if name.endswith("_config") and isinstance(value, dict):
            _check(value, rules, file, f"{path}{name}.")
        if name not in rules or value is None:
            continue
        what, is_valid = rules[name]
        if not is_valid(value):
            raise DeiTLTError(f"{file}: {path}{name} is {_shown(value)}, which has to be {what}")


def _check_classes(config: Mapping[str, Any], file: Path) -> None:
    """Compare the lengths of all fields that have an entry per class."""
    # timm's wrapper has other names for these fields; transformers does not write them for two classes.
    named = config.get("id2label") or config.get("label_names") or ()
    number = len(named) or config.get("num_labels") or config.get("num_classes") or 2
    groups = config.get("class_groups") or {}
    entries = {
        "label2id": len(config.get("label2id") or ()),
        "class_counts": len(config.get("class_counts") or ()),
        "class_groups": sum(map(len, groups.values())),
    }
    for name, given in entries.items():
        if given > number or (name != "label2id" and 0 < given < number):
            raise DeiTLTError(f"{file}: {name} is of {given} classes, where the model has {number}")


def _check_index(index: Mapping[str, Any], file: Path) -> None:
    shards = index.get("weight_map")
    if not isinstance(shards, dict) or not shards or not isinstance(index.get("metadata", {}), dict):
        raise DeiTLTError(f"{file} is no list of shards: it has to have a weight_map with the file of each weight")
    for name, shard in shards.items():
        if not isinstance(shard, str) or not re.fullmatch(r"[\w-][\w.-]*", shard):
            raise DeiTLTError(
                f"{file}: the file of {name} is {_shown(shard)}, which has to be the name of one in the same directory"
            )


def _shown(value: object) -> str:
    """A value, shortened."""
    text = repr(value) if not isinstance(value, dict | list) else f"{value!r:.200}"
    return text if len(text) <= 60 else f"{text[:57]}..."
