"""Which files below a directory are looked at, and which are passed over."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from deitlt_hf.data.splits import some
from deitlt_hf.errors import notice

# Folders and files that file managers, archives and network storage leave behind, in lower case.
_SYSTEM_FOLDERS = {"@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "recycler", "recycled"}
_SYSTEM_FOLDERS |= {"__macosx", "__pycache__", "lost+found", "system volume information"}
_SYSTEM_FILES = {"thumbs.db", "desktop.ini"}

# By which files, all of a set, a directory is known that this package wrote: a run or its checkpoint, an export, an
# analysis, an inspection, the demo.
_OUTPUTS: tuple[set[str], ...] = (
    {"recipe.yaml"},
    {"run.json"},
    {"trainer_state.json"},
    *({"config.json", f"model.{suffix}"} for suffix in ("safetensors", "safetensors.index.json", "onnx", "pt2")),
    {"analysis.json", "index.html"},
    {"inspection.json", "inspection.png"},
    {"metrics.json", "report.png"},
)
_RUNS = "runs"  # where runs are made unless told otherwise


@dataclass
class PassedOver:
    """What was not taken as data, to be said once.

    Args:
        suffixes: of files of other kinds, counted.
        first: the first of these files.
        hidden: how many files have names that start with a dot.
        system: folders of the system, such as `@eaDir`.
        outputs: directories that this package wrote.
        loose: images beside class folders.
    """

    suffixes: Counter[str] = field(default_factory=Counter)
    first: str = ""
    hidden: int = 0
    system: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    loose: list[str] = field(default_factory=list)

    def add_file(self, path: str) -> None:
        """Count a file of another kind, unless it is one of the system."""
        if os.path.basename(path).lower() in _SYSTEM_FILES:
            return
        self.first = min(self.first or path, path)
        self.suffixes[os.path.splitext(path)[1].lower() or "without suffix"] += 1

    def say(self, directory: Path) -> None:
        """One notice of everything, or none where nothing but hidden files was passed over.

        Example:
            >>> PassedOver(hidden=3).say(Path("pictures"))
        """
        parts = []
        if self.suffixes:
            kinds = ", ".join(f"{count} {suffix}" for suffix, count in self.suffixes.most_common())
            first = os.path.relpath(self.first, directory)
            parts.append(f"{_count(self.suffixes.total(), 'file')} of other kinds ({kinds}; first {first!r})")
        for paths, what, where in (
            (self.loose, "image", "beside the class folders"),
            (self.system, "folder", "of the system"),
            (self.outputs, "directory", "of runs or outputs"),
        ):
            if paths:
                shown = some(os.path.relpath(path, directory) for path in sorted(paths))
                parts.append(f"{_count(len(paths), what)} {where} ({shown})")
        if parts and self.hidden:
            parts.append(_count(self.hidden, "hidden file"))
        if parts:
            notice(f"passed over in {str(directory)!r}: {', '.join(parts)}")


def files_in(
    folder: Path | str, suffixes: tuple[str, ...], passed: PassedOver | None = None, above: tuple[str, ...] = ()
) -> Iterator[str]:
    """Paths of the files with these suffixes in a folder and the folders in it.

    Links to folders are followed, but not in circles. Hidden files and folders, those of the system, and directories
    that this package wrote are passed over.

    Args:
        folder: to look into.
        suffixes: of the files, in lower case.
        passed: takes up what is passed over.
        above: the real paths of the folders that `folder` lies in; without one, it is looked into in any case, also if
            this package wrote it.

    Example:
        >>> Path("owl/.thumbnails").mkdir(parents=True)
        >>> for name in ("1.JPG", "notes.txt", ".thumbnails/1.jpg"):
        ...     _ = Path("owl", name).write_text("")
        >>> list(files_in("owl", (".jpg",)))
        ['owl/1.JPG']
    """
    passed = PassedOver() if passed is None else passed
    real = os.path.realpath(folder)
    if real in above:
        return
    with os.scandir(folder) as scanned:
        entries = list(scanned)
    if above and is_output({entry.name for entry in entries}):
        passed.outputs.append(os.fspath(folder))
        return
    for entry in entries:
        if is_folder(entry):
            if entry.name.lower() in _SYSTEM_FOLDERS:
                passed.system.append(entry.path)
            elif not entry.name.startswith("."):
                yield from files_in(entry.path, suffixes, passed, (*above, real))
        elif entry.name.startswith("."):
            passed.hidden += 1
        elif entry.name.lower().endswith(suffixes):
            yield entry.path
        else:
            passed.add_file(entry.path)


def folders_in(directory: Path, passed: PassedOver | None = None) -> list[Path]:
    """The folders right in a directory, sorted by name, without those that `files_in` would pass over by their names.

    Example:
        >>> for name in ("owl", "lynx", "@eaDir", ".git"):
        ...     Path("pictures", name).mkdir(parents=True)
        >>> [folder.name for folder in folders_in(Path("pictures"))]
        ['lynx', 'owl']
    """
    with os.scandir(directory) as entries:
        folders = sorted(Path(entry.path) for entry in entries if is_folder(entry) and not entry.name.startswith("."))
    system = [folder for folder in folders if folder.name.lower() in _SYSTEM_FOLDERS]
    if passed is not None:
        passed.system += map(str, system)
    return [folder for folder in folders if folder not in system]


def is_output(names: set[str]) -> bool:
    """Whether a directory with files of these names is one that this package wrote.

    Example:
        >>> is_output({"config.json", "model.safetensors"}), is_output({"config.json", "1.jpg"})
        (True, False)
    """
    return any(output <= names for output in _OUTPUTS)


def holds_outputs_alone(folder: Path, outputs: list[str]) -> bool:
    """Whether a folder without images is no empty class but where runs or outputs lie.

    Args:
        folder: one in which `files_in` found nothing.
        outputs: `PassedOver.outputs` after it.

    Example:
        >>> holds_outputs_alone(Path("pictures/runs"), []), holds_outputs_alone(Path("pictures/owl"), [])
        (True, False)
    """
    return folder.name == _RUNS or any(Path(output).is_relative_to(folder) for output in outputs)


def is_folder(entry: os.DirEntry) -> bool:
    """Whether an entry is a folder or a link to one.

    Example:
        >>> Path("some/folder").mkdir(parents=True)
        >>> [is_folder(entry) for entry in os.scandir("some")]
        [True]
    """
    try:
        return entry.is_dir()
    except OSError:  # a link to itself; what reads it says so
        return False


def _count(number: int, what: str) -> str:
    many = what[:-1] + "ies" if what.endswith("y") else what + "s"
    return f"{number} {what if number == 1 else many}"
