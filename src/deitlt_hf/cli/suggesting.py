"""Settings for `--data` without `--recipe`: the data are inspected, and what follows is shown before it is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from deitlt_hf.cli.console import quiet_libraries
from deitlt_hf.data.arguments import DataArguments, load_images
from deitlt_hf.data.inspection import Inspection, inspect_dataset
from deitlt_hf.data.readable import SKIP_HINT
from deitlt_hf.data.suggestion import Suggestion, format_suggestion
from deitlt_hf.errors import DeiTLTError

Suggest = Callable[[Inspection, Mapping[str, Any]], Suggestion]


def settings_for_data(suggest: Suggest, data: DataArguments, given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that `suggest` makes of a data set, the same ones in every process of a launch; the main one shows them.

    Args:
        suggest: `suggest_recipe` or `suggest_teacher_recipe`.
        data: which images.
        given: settings that the user passed as flags.

    Raises:
        DeiTLTError: whatever loading raises, and images that cannot be read unless `on_bad_image` is `"skip"`.
    """
    outcome: list[Any] = [None]
    if PartialState().is_main_process:
        try:
            outcome = [_inspect_and_show(suggest, data, given)]
        except DeiTLTError as error:
            outcome = [error]
    broadcast_object_list(outcome)
    if isinstance(outcome[0], DeiTLTError):
        raise outcome[0]
    return outcome[0]


def _inspect_and_show(suggest: Suggest, data: DataArguments, given: Mapping[str, Any]) -> dict[str, Any]:
    quiet_libraries()
    images = load_images(data)
    inspection = inspect_dataset({"train": images.train, "test": images.test}, groups=images.class_groups)
    if inspection.unreadable:
        raise DeiTLTError(_unreadable(inspection))
    suggestion = suggest(inspection, given)
    print(f"Settings for {data.data}: a flag changes one of them, a recipe takes the place of all.\n")
    print(format_suggestion(suggestion) + "\n", flush=True)
    return suggestion.settings


def _unreadable(inspection: Inspection) -> str:
    number = inspection.unreadable
    what = "1 image" if number == 1 else f"{number} images"
    more = ["..."] if number > len(inspection.first_unreadable) else []
    return f"{what} cannot be read: {'; '.join(inspection.first_unreadable + more)}; {SKIP_HINT}"
