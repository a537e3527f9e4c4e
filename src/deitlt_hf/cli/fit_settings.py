"""The settings of both trainings of `deitlt fit`: flags, and what the data suggest for the rest."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deitlt_hf.cards.record import PRIVATE_SETTINGS
from deitlt_hf.cli.parsing import parse_with_recipe
from deitlt_hf.cli.suggesting import check_before_suggesting, inspect_to_train, student_suggestion
from deitlt_hf.data.arguments import Images, TrainingDataArguments
from deitlt_hf.data.inspection import Inspection
from deitlt_hf.data.suggestion import Suggestion, format_suggestion, suggest_teacher_recipe
from deitlt_hf.runs.fitting import STUDENT, TEACHER, StudentSettings, TeacherSettings, with_validation
from deitlt_hf.runs.settings import OF_THE_MACHINE
from deitlt_hf.runs.training import StudentArguments, TeacherArguments
from deitlt_hf.training.arguments import DeiTLTTrainingArguments, TeacherTrainingArguments

Suggest = Callable[[str, Sequence[Any], dict[str, Any]], dict[str, Any]]

# Of the flags that are not of the data, those that the teacher's training takes too.
_OF_BOTH = frozenset(
    "seed data_seed full_determinism use_cpu bf16 fp16 tf32 torch_compile augmentation_device disable_tqdm report_to "
    "per_device_eval_batch_size dataloader_num_workers dataloader_persistent_workers dataloader_pin_memory "
    "dataloader_prefetch_factor logging_strategy logging_steps save_strategy save_steps save_total_limit "
    "overwrite".split()
)


class FromData:
    """The settings that the data suggest; called for a training, it reads and inspects the images once for both."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = given  # the flags
        self.images: Images | None = None
        self._too_few: str | None = None
        self.inspection: Inspection | None = None
        self.suggestions: dict[str, Suggestion] = {}
        self.settings: dict[str, dict[str, Any]] = {}  # the suggested ones, and how validation images are held out

    def __call__(self, stage: str, instances: Sequence[Any], given: dict[str, Any]) -> dict[str, Any]:
        data = instances[0]
        if stage == STUDENT:  # a mistake is refused before the images are read
            student = dataclasses.replace(instances[1], teacher=self._given.get("teacher"))  # another is not there yet
            check_before_suggesting([data, student, instances[2]], given)
        if self.images is None:
            self.images, self._too_few = with_validation(data, may_hold_out="validation_fraction" not in given)
            self.inspection = inspect_to_train(self.images)
        suggest = student_suggestion(given.get("init_from")) if stage == STUDENT else suggest_teacher_recipe
        self.suggestions[stage] = suggest(self.inspection, given)
        draw = self.images.held_for_validation
        held_out = {} if draw is None else {"validation_fraction": draw.fraction}
        self.settings[stage] = self.suggestions[stage].settings | held_out
        return self.settings[stage]

    @property
    def no_calibration(self) -> str | None:
        """Why the student is not calibrated; None if it is."""
        alpha = self._given.get("distillation_alpha")
        if alpha in (0, 1):
            return f"distillation_alpha {alpha:g} trains one expert only"
        if "expert" in self._given:
            return f"the answers are to be those of expert {self._given['expert']}"
        return self._too_few


def parse_stages(
    given: Mapping[str, Any], directory: Path, suggest: Suggest
) -> tuple[TeacherSettings | None, StudentSettings]:
    """The settings of the teacher, where one is trained, and of the student.

    Args:
        given: the flags by name; each overrides what is suggested.
        directory: of the whole run.
        suggest: called for a training with its name, its settings without suggestions, and the flags that are given.
    """
    others = {name: value for name, value in given.items() if name != "teacher_epochs"}
    place = str(directory / TEACHER) if trains_teacher(given) else None
    student = _parse(
        [TrainingDataArguments, StudentArguments, DeiTLTTrainingArguments],
        others | {"output_dir": str(directory / STUDENT)} | ({"teacher": place} if place else {}),
        lambda instances, given: suggest(STUDENT, instances, given),
    )
    if place is None:
        return None, student
    of_data = {field.name for field in dataclasses.fields(TrainingDataArguments)}
    flags = {name: value for name, value in given.items() if name in of_data | _OF_BOTH} | {"output_dir": place}
    if "teacher_epochs" in given:
        flags["num_train_epochs"] = given["teacher_epochs"]
    teacher = _parse(
        [TrainingDataArguments, TeacherArguments, TeacherTrainingArguments],
        flags,
        lambda instances, given: suggest(TEACHER, instances, given),
    )
    return teacher, student


def trains_teacher(given: Mapping[str, Any]) -> bool:
    """Whether a CNN is trained first: not if a teacher is given or none is wanted; a pretrained model has its own."""
    wanted = given.get("distillation_type") != "none"
    return wanted and given.get("teacher") is None and given.get("init_from") is None


def _parse(types: Sequence[type], flags: Mapping[str, Any], suggest: Callable) -> tuple[Any, ...]:
    words: list[str] = []
    for name, value in flags.items():
        values = value if isinstance(value, list) else [value]
        words += [f"--{name}", *("none" if each is None else str(each) for each in values)]
    return tuple(parse_with_recipe("fit", types, words, suggest))


def flags_to_compare(given: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that must be the same when a run goes on; a path of data is the same from wherever it is given."""
    others = OF_THE_MACHINE | PRIVATE_SETTINGS | {"output_dir", "overwrite"}
    data = Path(given["data"]).expanduser()
    place = str(data.resolve()) if data.exists() else given["data"]
    return {name: value for name, value in given.items() if name not in others} | {"data": place}


def format_settings(suggestions: Mapping[str, Suggestion]) -> str:
    """The tables of both trainings; what is the same in both, for the same reason, stands in a table of its own."""
    suggestions = {stage: suggestions[stage] for stage in (TEACHER, STUDENT) if stage in suggestions}
    first, *others = suggestions.values()
    same = {name for name in first.settings if others and all(_row(each, name) == _row(first, name) for each in others)}
    parts = [("for both", first, same)] if same else []
    parts += [(f"for the {stage}", each, each.settings.keys() - same) for stage, each in suggestions.items()]
    tables = []
    for title, suggestion, names in parts:
        chosen = [name for name in suggestion.settings if name in names]
        settings, reasons = ({name: of[name] for name in chosen} for of in (suggestion.settings, suggestion.reasons))
        tables.append(f"{title}\n{format_suggestion(Suggestion(settings=settings, reasons=reasons))}")
    return "\n\n".join(tables)


def _row(suggestion: Suggestion, name: str) -> tuple[Any, Any]:
    return suggestion.settings.get(name), suggestion.reasons.get(name)
