"""Image folders: a folder per class, alone or within the folders of splits, such as `train` and `test`."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

from datasets import DatasetDict

from deitlt_hf.data.columns import referenced_images
from deitlt_hf.data.files import PassedOver, files_in, folders_in, holds_outputs_alone
from deitlt_hf.data.images import IMAGE_SUFFIXES
from deitlt_hf.data.splits import known_splits, some, split_named, take_splits
from deitlt_hf.errors import DeiTLTError, notice

_FOLD = re.compile(r"(?i)(?:^|[^a-z])(?:k?-?folds?|cv)(?:[\W_]*\d+)?$")  # of cross-validation: fold_0, cv-3

Classes = dict[str, list[str]]


def has_class_folders(directory: Path) -> bool:
    """Whether the directory holds images in folders of its own.

    Example:
        >>> Path("pictures/owl").mkdir(parents=True)
        >>> has_class_folders(Path("pictures"))
        False
    """
    return any(map(_holds_images, folders_in(directory)))


def class_folders_certain(directory: Path) -> bool:
    """Whether the folders with images are the classes of a data set beyond doubt: several, in one split or in each.

    A single folder, and folders of splits whose images lie right in them, may belong to a list beside them.

    Example:
        >>> for name in ("birds/owl/1.jpg", "birds/kite/1.jpg"):
        ...     Path(name).parent.mkdir(parents=True)
        ...     _ = Path(name).write_text("")
        >>> class_folders_certain(Path("birds"))
        True
    """
    full = [folder for folder in folders_in(directory) if _holds_images(folder)]
    if full and all(split_named(folder.name) for folder in full):
        return any(has_class_folders(folder) for folder in full)
    return len(full) > 1


def read_image_folder(directory: Path, needs_train: bool = True) -> DatasetDict:
    """Refer to the images of class folders; none is opened.

    Class folders may have any name and hold images at any depth, known by their suffix. What `files_in` passes over is
    counted and said in a notice. Labels follow the sorted names, as with torchvision and `datasets`.

    Args:
        directory: holds class folders, or folders of splits (see `split_named`) which hold them.
        needs_train: see `known_splits`; if not, the images may also be of a single class.

    Returns:
        `train`, and for other folders of splits what `known_splits` says, with columns `image` and `label`.

    Raises:
        DeiTLTError: for an empty class folder, a class in another split than train alone, fewer than two classes, and
            folders that can be read in two ways.

    Example:
        >>> for name in ("lynx", "snowy owl"):
        ...     Path("animals", name).mkdir(parents=True)
        ...     _ = Path("animals", name, "1.jpg").write_bytes(b"read later")
        >>> read_image_folder(Path("animals"))["train"].features["label"].names
        ['lynx', 'snowy owl']
    """
    folders = _split_folders(directory)
    folders = known_splits(folders, needs_train) if folders else {"train": directory}
    passed = PassedOver()
    found = {split: _class_folders(folder, passed) for split, folder in folders.items()}
    names = list(found["train"])
    if len(names) < (2 if needs_train else 1):
        what = f"one class folder, {names[0]!r}" if names else "no class folders"
        raise DeiTLTError(
            f"{str(folders['train'])!r} holds {what}: pass the directory whose folders are the classes, at least two"
        )
    _check_same_folders(folders["train"], found["train"])
    splits = DatasetDict()
    for split, classes in found.items():
        alone = [name for name in classes if name not in found["train"]]
        if alone:
            raise DeiTLTError(
                f"the class folder {alone[0]!r} is in {str(folders[split])!r} but not in {str(folders['train'])!r}"
                f"{_and_more(alone)}: every class needs training images"
            )
        paths = [path for images in classes.values() for path in images]
        labels = [label for label, name in enumerate(names) for _ in classes.get(name, ())]
        splits[split] = referenced_images(paths, labels, names)
    for folder in {directory, *folders.values()}:
        _note_loose_files(folder, passed)
    passed.say(directory.absolute())
    return splits


def split_folders(directory: Path) -> list[Path]:
    """The folders of splits in a directory of class folders, without a word; empty where its folders are classes.

    Example:
        >>> for name in ("cars/train/red/1.jpg", "cars/train/blue/1.jpg"):
        ...     Path(name).parent.mkdir(parents=True)
        ...     _ = Path(name).write_text("")
        >>> split_folders(Path("cars"))
        [PosixPath('cars/train')]
    """
    return [folder for folder in folders_in(directory) if split_named(folder.name) and has_class_folders(folder)]


def _split_folders(directory: Path) -> dict[str, Path]:
    """The folder of each split; empty where the directory's folders are classes, which may be called train or test."""
    folders = {folder.name: folder for folder in folders_in(directory)}
    full = [name for name, folder in folders.items() if _holds_images(folder)]
    named = [name for name in full if split_named(name)]
    others = [name for name in full if name not in named]
    divided = [name for name in named if has_class_folders(folders[name])]
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


def _check_same_folders(directory: Path, classes: Classes) -> None:
    """Say so where the folders that are taken as classes hold the same folders, as splits, folds and masks do."""
    inner = {name: Counter(_first_part(path, directory / name) for path in images) for name, images in classes.items()}
    if any("" in parts for parts in inner.values()):
        return  # images lie right in a folder: this is a class
    counted = Counter(part for parts in inner.values() for part in parts)
    same = sorted(part for part, count in counted.items() if count > max(1, len(inner) / 2))
    if not same or max(map(len, inner.values())) < 2:
        return
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


def _first_part(path: str, folder: Path) -> str:
    """The folder within the class folder that an image lies in; empty for one right in the class folder."""
    inner, separator, _ = path[len(str(folder.absolute())) + 1 :].partition(os.sep)
    return inner if separator else ""


def _class_folders(directory: Path, passed: PassedOver) -> Classes:
    """The images of each class, by the folders' names in sorted order."""
    directory = directory.absolute()
    above = (os.path.realpath(directory),)
    found = {}
    for folder in folders_in(directory, passed):
        images = sorted(files_in(folder, IMAGE_SUFFIXES, passed, above))
        if images or not holds_outputs_alone(folder, passed.outputs):
            found[folder.name] = images
        elif str(folder) not in passed.outputs:  # the folder stands for the runs in it
            passed.outputs = [path for path in passed.outputs if not Path(path).is_relative_to(folder)] + [str(folder)]
    empty = [name for name, images in found.items() if not images]
    if empty:
        raise DeiTLTError(
            f"the class folder {empty[0]!r} in {str(directory)!r} holds no images{_and_more(empty)}: add images "
            f"({', '.join(IMAGE_SUFFIXES)}) or remove it"
        )
    return found


def _note_loose_files(directory: Path, passed: PassedOver) -> None:
    """Count the files right in a directory of class folders."""
    for path in directory.absolute().iterdir():
        if not path.is_dir() and not path.name.startswith("."):
            if path.name.lower().endswith(IMAGE_SUFFIXES):
                passed.loose.append(str(path))
            else:
                passed.add_file(str(path))


def _holds_images(folder: Path) -> bool:
    above = (os.path.realpath(folder.parent),)
    return next(files_in(folder, IMAGE_SUFFIXES, above=above), None) is not None


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
