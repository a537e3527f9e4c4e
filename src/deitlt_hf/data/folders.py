"""Image folders: which files below a directory are looked at, and the classes and splits that its folders mean."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from datasets import DatasetDict

from deitlt_hf.data.columns import referenced_images, similar_form
from deitlt_hf.data.images import IMAGE_SUFFIXES
from deitlt_hf.data.splits import known_splits, split_named, take_splits
from deitlt_hf.errors import DeiTLTError, counted, notice, some

# Folders and files that file managers, archives and network storage leave behind, in lower case.
_SYSTEM_FOLDERS = {"@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "recycler", "recycled"}
_SYSTEM_FOLDERS |= {"__macosx", "__pycache__", "lost+found", "system volume information"}
_SYSTEM_FILES = {"thumbs.db", "desktop.ini"}

# A directory with all files of one of these sets was written by this package: a run or its checkpoint, an export, an
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
_FOLD = re.compile(r"(?i)(?:^|[^a-z])(?:k?-?folds?|cv)(?:[\W_]*\d+)?$")  # of cross-validation: fold_0, cv-3

LEVELS = ("class/group", "group/class")  # the folders of groups: in each class folder, or with class folders in them

Classes = dict[str, list[str]]


@dataclass
class PassedOver:
    """What was not taken as data, for one notice."""

    suffixes: Counter[str] = field(default_factory=Counter)  # of files of other kinds
    first: str = ""  # the first of these files
    hidden: int = 0  # files with names that start with a dot
    system: list[str] = field(default_factory=list)  # folders of the system, such as @eaDir
    outputs: list[str] = field(default_factory=list)  # directories that this package wrote
    loose: list[str] = field(default_factory=list)  # images beside class folders

    def add_file(self, path: str) -> None:
        """Count a file of another kind, unless it is one of the system."""
        if os.path.basename(path).lower() not in _SYSTEM_FILES:
            self.first = min(self.first or path, path)
            self.suffixes[os.path.splitext(path)[1].lower() or "without suffix"] += 1

    def say(self, directory: Path) -> None:
        """One notice of everything, or none where nothing but hidden files was passed over."""
        parts = []
        if self.suffixes:
            kinds = ", ".join(f"{count} {suffix}" for suffix, count in self.suffixes.most_common())
            first = os.path.relpath(self.first, directory)
            parts.append(f"{counted(self.suffixes.total(), 'file')} of other kinds ({kinds}; first {first!r})")
        for paths, what, where in (
            (self.loose, "image", "beside the class folders"),
            (self.system, "folder", "of the system"),
            (self.outputs, "directory", "of runs or outputs"),
        ):
            if paths:
                shown = some(os.path.relpath(path, directory) for path in sorted(paths))
                parts.append(f"{counted(len(paths), what)} {where} ({shown})")
        if parts and self.hidden:
            parts.append(counted(self.hidden, "hidden file"))
        if parts:
            notice(f"passed over in {str(directory)!r}: {', '.join(parts)}")


def files_in(
    folder: Path | str, suffixes: tuple[str, ...], passed: PassedOver | None = None, above: tuple[str, ...] = ()
) -> Iterator[str]:
    """Paths of the files with these suffixes (lower case) in a folder and the folders in it.

    Links to folders are followed, but not in circles. Hidden files and folders, those of the system, and directories
    that this package wrote are added to `passed`. `above` are the real paths of the folders that `folder` lies in; if
    it is empty, `folder` is searched even if this package wrote it.
    """
    # Not by os.walk, which would follow a circle of links for ever.
    passed = PassedOver() if passed is None else passed
    real = os.path.realpath(folder)
    if real in above:
        return
    with os.scandir(folder) as scanned:
        entries = list(scanned)
    names = {entry.name for entry in entries}
    if above and any(output <= names for output in _OUTPUTS):
        passed.outputs.append(os.fspath(folder))
        return
    for entry in entries:
        if _is_folder(entry):
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
    """The folders directly in a directory, sorted by name, without those whose names `files_in` passes over."""
    with os.scandir(directory) as entries:
        folders = sorted(Path(entry.path) for entry in entries if _is_folder(entry) and not entry.name.startswith("."))
    system = [folder for folder in folders if folder.name.lower() in _SYSTEM_FOLDERS]
    if passed is not None:
        passed.system += map(str, system)
    return [folder for folder in folders if folder not in system]


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself; reading it gives the reason
        return False


def full_folders(directory: Path) -> Iterator[Path]:
    """The folders directly in a directory that hold images, at any depth: classes, or splits with class folders."""
    above = (os.path.realpath(directory),)
    for folder in folders_in(directory):
        if next(files_in(folder, IMAGE_SUFFIXES, above=above), None) is not None:
            yield folder


def class_folders_certain(directory: Path) -> bool:
    """Whether the folders with images are certainly class folders, or folders of splits with class folders.

    A single folder, and folders of splits with images directly in them, may belong to a list beside them.
    """
    full = list(full_folders(directory))
    if full and all(split_named(folder.name) for folder in full):
        return any(any(full_folders(folder)) for folder in full)
    return len(full) > 1


def split_folders(directory: Path) -> list[Path]:
    """The folders of splits in a directory of class folders; empty where its folders are classes."""
    return [folder for folder in folders_in(directory) if split_named(folder.name) and any(full_folders(folder))]


def read_image_folder(directory: Path, needs_train: bool = True, levels: str | None = None) -> DatasetDict:
    """Refer to the images of class folders, alone or within the folders of splits such as `train` and `test`.

    Class folders may have any name and hold images at any depth, recognised by their suffix; none is opened. A notice
    counts what `files_in` passes over. Labels follow the sorted names, as in torchvision and `datasets`; their readers
    know no other names of splits, and do not report what lies beside the images. Without `needs_train` the images may
    also be of a single class. With `levels`, one of `LEVELS`, the folders of groups are the column `group`: the same
    name in several classes or splits is the same group.
    """
    folders = _folders_of_splits(directory)
    folders = known_splits(folders, needs_train) if folders else {"train": directory}
    passed = PassedOver()
    read = _class_folders_of_groups if levels == "group/class" else _class_folders
    found = {split: read(folder, passed) for split, folder in folders.items()}
    names = list(found["train"])
    if len(names) < (2 if needs_train else 1):
        what = f"one class folder, {names[0]!r}" if names else "no class folders"
        raise DeiTLTError(
            f"{str(folders['train'])!r} holds {what}: pass the directory whose folders are the classes, at least two"
        )
    if levels is None and not _check_same_folders(folders["train"], found["train"]):
        _say_inner_folders(folders["train"], found["train"])
    splits = DatasetDict()
    for split, classes in found.items():
        alone = [name for name in classes if name not in found["train"]]
        if alone:
            similar = [name for name in found["train"] if similar_form(name) == similar_form(alone[0])]
            raise DeiTLTError(
                f"the class folder {alone[0]!r} is in {str(folders[split])!r} but not in {str(folders['train'])!r}"
                f"{_and_more(alone)}: "
                + (
                    f"{similar[0]!r} there differs only by case, spaces, zeros or encoding; give both one name"
                    if similar
                    else "every class needs training images"
                )
            )
        paths = [path for images in classes.values() for path in images]
        labels = [label for label, name in enumerate(names) for _ in classes.get(name, ())]
        splits[split] = referenced_images(paths, labels, names, levels and _groups_of(paths, folders[split], levels))
    outer = {directory, *folders.values()}
    if levels == "group/class":
        outer.update(group for folder in folders.values() for group in folders_in(folder))
    for folder in outer:
        for path in folder.absolute().iterdir():
            if path.is_dir() or path.name.startswith("."):
                continue
            if path.name.lower().endswith(IMAGE_SUFFIXES):
                passed.loose.append(str(path))
            else:
                passed.add_file(str(path))
    passed.say(directory.absolute())
    return splits


def _folders_of_splits(directory: Path) -> dict[str, Path]:
    """The folder of each split; empty where the directory's folders are classes, which may be called train or test."""
    folders = {folder.name: folder for folder in folders_in(directory)}
    full = [folder.name for folder in full_folders(directory)]
    named = [name for name in full if split_named(name)]
    others = [name for name in full if name not in named]
    divided = [name for name in named if any(full_folders(folders[name]))]
    has_train = any(split_named(name) == "train" for name in divided)
    if not named:
        return {}
    if others and not (has_train and len(set(map(split_named, named))) > 1):
        _check_beside_classes(folders, divided, others)
        notice(
            f"in {str(directory)!r}, {some(named)} beside {some(others)} {'is' if len(named) == 1 else 'are'} taken as "
            f"{'a class' if len(named) == 1 else 'classes'} like these: if it is a split, move these into one too"
        )
        return {}
    if not divided and len(named) > 1:
        raise DeiTLTError(
            f"the folders {some(named)} in {str(directory)!r} hold images but no class folders: put the images of each "
            "class into a folder of its own, or pass a list of images with their classes"
        )
    if not divided:
        return {}
    rest = [name for name in folders if name not in divided and (name in full or split_named(name))]
    return {split: folders[name] for split, name in take_splits(divided, rest).items()}


def _check_beside_classes(folders: dict[str, Path], divided: list[str], others: list[str]) -> None:
    """Refuse a split beside what looks like its own classes: `test/owl` beside `owl`."""
    for name in divided:
        same = {folder.name for folder in folders_in(folders[name])} & set(others)
        if same:
            raise DeiTLTError(
                f"the folder {name!r} holds class folders that are beside it too, {some(sorted(same))}: move those "
                "beside it into a folder 'train', or the other way round"
            )


def _check_same_folders(directory: Path, classes: Classes) -> bool:
    """Refuse, or mention in a notice, classes that hold the same folders: they may be splits, or images and masks.

    It returns whether there was a notice.
    """
    inner = {name: Counter(_first_part(path, directory / name) for path in images) for name, images in classes.items()}
    if any("" in parts for parts in inner.values()):
        return False  # a folder with images directly in it is a class
    counts = Counter(part for parts in inner.values() for part in parts)
    same = sorted(part for part, count in counts.items() if count > max(1, len(inner) / 2))
    if not same or max(map(len, inner.values())) < 2:
        return False
    what = f"the folders {some(inner)} in {str(directory)!r} hold the same folders ({some(same)})"
    if len({split_named(part) for part in same} - {None}) > 1:
        raise DeiTLTError(f"{what}: put the splits outside and the classes inside, as {same[0]}/{next(iter(inner))}")
    if all(map(_FOLD.search, inner)):
        raise DeiTLTError(
            f"{what}, so these are no classes: call one of them 'test' and put the class folders of the others into "
            "one that is called 'train'"
        )
    notice(
        f"{what}, but are taken as the classes themselves: if they are splits, call them train and test; if only one "
        "of them holds the data, pass that one"
    )
    return True


def _say_inner_folders(directory: Path, classes: Classes) -> None:
    """Give a notice of class folders with several folders within, which may be the classes themselves."""
    inner = []
    for name, images in classes.items():
        parts = [_first_part(path, directory / name) for path in images]
        if len(set(parts)) > 1:
            inner += [path for path, part in zip(images, parts, strict=True) if part]
    if inner:
        first = Path(inner[0]).relative_to(directory.absolute())
        notice(
            f"in {str(directory)!r}, {counted(len(inner), 'image')} in folders within the class folders, such as "
            f"{str(first.parent)!r}, {'belongs' if len(inner) == 1 else 'belong'} to the outer one, {first.parts[0]!r} "
            "here: if the inner ones are the classes, move them up"
        )


def _first_part(path: str, folder: Path) -> str:
    """The folder within the class folder that an image lies in; empty for an image directly in the class folder."""
    inner, separator, _ = path[len(str(folder.absolute())) + 1 :].partition(os.sep)
    return inner if separator else ""


def _groups_of(paths: list[str], directory: Path, levels: str) -> list[str]:
    """The group of each image, the name of its folder at the level of groups."""
    level, start = levels.split("/").index("group"), len(str(directory.absolute())) + 1
    parts = [path[start:].split(os.sep) for path in paths]
    loose = [path for path, of in zip(paths, parts, strict=True) if len(of) < 3]
    if loose:
        lie = "lies" if len(loose) == 1 else "lie"
        raise DeiTLTError(
            f"group_column is {levels!r}, but {counted(len(loose), 'image')} {lie} directly in a class folder, such as "
            f"{loose[0]}: move each into the folder of its group"
        )
    return [of[level] for of in parts]


def _class_folders_of_groups(directory: Path, passed: PassedOver) -> Classes:
    """The images of each class in all groups' folders; a group may lack a class."""
    found: Classes = {}
    for folder in folders_in(directory.absolute(), passed):
        for name, images in _class_folders(folder, passed, may_be_empty=True).items():
            found.setdefault(name, []).extend(images)
    return {name: found[name] for name in sorted(found) if found[name]}


def _class_folders(directory: Path, passed: PassedOver, may_be_empty: bool = False) -> Classes:
    """The images of each class, by the folders' names in sorted order."""
    directory = directory.absolute()
    found = {}
    for folder in folders_in(directory, passed):
        images = sorted(files_in(folder, IMAGE_SUFFIXES, passed, (os.path.realpath(directory),)))
        inside = [path for path in passed.outputs if Path(path).is_relative_to(folder)]
        if images or not (folder.name == _RUNS or inside):
            found[folder.name] = images
        else:  # not an empty class: the notice names the folder in place of the runs and outputs in it
            passed.outputs = [path for path in passed.outputs if path not in inside] + [str(folder)]
    empty = [name for name, images in found.items() if not images]
    if empty and not may_be_empty:
        raise DeiTLTError(
            f"the class folder {empty[0]!r} in {str(directory)!r} holds no images{_and_more(empty)}: add images "
            f"({', '.join(IMAGE_SUFFIXES)}) or remove it"
        )
    return found


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
