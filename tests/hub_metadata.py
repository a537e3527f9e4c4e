"""What the hub checks in the header of a `README.md` before it takes a commit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

HEADER = re.compile(r"\A---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
REPO_ID = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
# Those of the hub's list that a card of this package could name.
LICENSES = set(
    "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause "
    "bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 "
    "cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 "
    "cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 gpl gpl-2.0 gpl-3.0 agpl-3.0 lgpl lgpl-3.0 isc mpl-2.0 "
    "odc-by odbl pddl unlicense wtfpl zlib unknown other".split()
)
PIPELINE_TAGS = {"image-classification", "image-feature-extraction", "zero-shot-image-classification"}
SIZE_CATEGORIES = {"n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M"}


def metadata_problems(content: str, repo_type: str) -> tuple[list[str], list[str]]:
    """Errors and warnings about a card's metadata.

    Args:
        content: the whole `README.md`.
        repo_type: `"model"` or `"dataset"`.
    """
    found = HEADER.match(content)
    if found is None:
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        metadata = yaml.safe_load(found[1])
    except yaml.YAMLError as error:
        return [f"Invalid YAML: {str(error).splitlines()[0]}"], []
    if not isinstance(metadata, dict):
        return ["the metadata must be a mapping"], []
    errors = list(_errors(metadata))
    if repo_type == "model":
        errors += _model_errors(metadata)
    else:
        errors += _dataset_errors(metadata)
    return errors, []


def _errors(metadata: dict[str, Any]) -> Iterator[str]:
    for license_name in _listed(metadata.get("license")):
        if license_name not in LICENSES:
            yield f'"license" must be one of the known licenses, not {license_name!r}'
    for key in ("tags", "metrics", "datasets", "task_categories", "size_categories", "source_datasets"):
        value = metadata.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            yield f'"{key}" must be an array of strings'
    for key in ("pretty_name", "license_name", "license_link", "library_name"):
        if not isinstance(metadata.get(key, ""), str):
            yield f'"{key}" must be a string'


def _model_errors(metadata: dict[str, Any]) -> Iterator[str]:
    if metadata.get("pipeline_tag", "image-classification") not in PIPELINE_TAGS:
        yield f'"pipeline_tag" must be one of the known tasks, not {metadata["pipeline_tag"]!r}'
    for key in ("base_model", "datasets"):
        for repo_id in _listed(metadata.get(key)):
            if not isinstance(repo_id, str) or not REPO_ID.fullmatch(repo_id):
                yield f'"{key}" must be a valid repo id, not {repo_id!r}'
    index = metadata.get("model-index", [])
    if not isinstance(index, list):
        yield '"model-index" must be an array'
        return
    for number, model in enumerate(index):
        if not isinstance(model, dict) or not isinstance(model.get("name"), str) or not model["name"]:
            yield f'"model-index[{number}].name" is required'
        elif not isinstance(model.get("results"), list):
            yield f'"model-index[{number}].results" is required'
        else:
            for place, result in enumerate(model["results"]):
                yield from _result_errors(result, f"model-index[{number}].results[{place}]")


def _result_errors(result: Any, where: str) -> Iterator[str]:
    for path in (("task", "type"), ("dataset", "name"), ("dataset", "type")):
        value = result.get(path[0])
        value = value.get(path[1]) if isinstance(value, dict) else None
        if not isinstance(value, str) or not value:
            yield f'"{where}.{".".join(path)}" is required'
    if not isinstance(result.get("metrics"), list) or not result["metrics"]:
        yield f'"{where}.metrics" is required'
        return
    for place, metric in enumerate(result["metrics"]):
        if not isinstance(metric.get("type"), str) or not metric["type"]:
            yield f'"{where}.metrics[{place}].type" is required'
        value = metric.get("value")
        if value is None or (isinstance(value, float) and value != value):
            yield f'"{where}.metrics[{place}].value" is required'
    source = result.get("source")
    if source is not None and not str(source.get("url", "")).startswith(("http://", "https://")):
        yield f'"{where}.source.url" must be a valid uri'


def _dataset_errors(metadata: dict[str, Any]) -> Iterator[str]:
    for size in _listed(metadata.get("size_categories")):
        if size not in SIZE_CATEGORIES:
            yield f'"size_categories" must be one of the known sizes, not {size!r}'
    for config in metadata.get("configs", []):
        if not isinstance(config, dict) or not isinstance(config.get("config_name"), str):
            yield '"configs[].config_name" is required'


def _listed(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]
