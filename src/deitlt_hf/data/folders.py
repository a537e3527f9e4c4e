"""Image folders: a folder per class, alone or within the folders `train` and `test`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from datasets import DatasetDict

from deitlt_hf.data.columns import referenced_images
from deitlt_hf.data.images import IMAGE_SUFFIXES
from deitlt_hf.data.splits import SPLITS, known_splits
from deitlt_hf.errors import DeiTLTError


def has_class_folders(directory: Path) -> bool:
    """Whether the directory holds images in folders of its own.

    Example:
        >>> Path("owl").mkdir()
        >>> has_class_folders(Path())
        False
    """
    return any(next(_images_in(folder, ()), None) is not None for folder in _subfolders(directory))


def read_image_folder(directory: Path, needs_train: bool = True) -> DatasetDict:
    """Refer to the images of class folders; none is opened.

    Class folders may have any name and hold images at any depth, known by their suffix. Hidden files and folders are
    passed over. Labels follow the sorted names, as with torchvision and `datasets`.

    Args:
        directory: holds class folders, or `train` and others of `SPLITS`, in any case, which hold them.
        needs_train: see `known_splits`; if not, the images may also be of a single class.

    Returns:
        `train`, and for other folders of splits what `known_splits` says, with columns `image` and `label`.

    Raises:
        DeiTLTError: for an empty class folder, a class in another split than train alone, and fewer than two classes.

    Example:
        >>> for name in ("lynx", "snowy owl"):
        ...     Path("animals", name).mkdir(parents=True)
        ...     _ = Path("animals", name, "1.jpg").write_bytes(b"read later")
        >>> read_image_folder(Path("animals"))["train"].features["label"].names
        ['lynx', 'snowy owl']
    """
    folders = known_splits(_split_folders(directory, needs_train) or {"train": directory}, needs_train)
    found = {split: _class_folders(folder) for split, folder in folders.items()}
    names = list(found["train"])
    if len(names) < (2 if needs_train else 1):
        what = f"one class folder, {names[0]!r}" if names else "no class folders"
        raise DeiTLTError(
            f"{str(folders['train'])!r} holds {what}: pass the directory whose folders are the classes, at least two"
        )
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
    return splits


def _split_folders(directory: Path, needs_train: bool = True) -> dict[str, Path]:
    """The folder of each split; empty where the directory's folders are classes, one of which may be called train."""
    folders = _subfolders(directory)
    by_split = {folder.name.lower(): folder for folder in folders if folder.name.lower() in SPLITS}
    first = by_split.get("train") or (None if needs_train else next(iter(by_split.values()), None))
    if first is None or any(_is_image(entry) for entry in os.scandir(first)) or not _subfolders(first):
        return {}
    return {split: by_split[split] for split in SPLITS if split in by_split}


def _class_folders(directory: Path) -> dict[str, list[str]]:
    """The images of each class, by the folders' names in sorted order."""
    classes = {folder.name: sorted(_images_in(folder, ())) for folder in _subfolders(directory.absolute())}
    empty = [name for name, images in classes.items() if not images]
    if empty:
        raise DeiTLTError(
            f"the class folder {empty[0]!r} in {str(directory)!r} holds no images{_and_more(empty)}: add images "
            f"({', '.join(IMAGE_SUFFIXES)}) or remove it"
        )
    return classes


def _subfolders(directory: Path) -> list[Path]:
    with os.scandir(directory) as entries:
        return sorted(Path(entry.path) for entry in entries if _is_folder(entry) and not entry.name.startswith("."))


def _images_in(folder: Path | str, above: tuple[str, ...]) -> Iterator[str]:
    """Paths of the images in a folder and the folders in it; links to folders are followed, but not in circles."""
    real = os.path.realpath(folder)
    if real in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_image(entry):
                yield entry.path
            elif _is_folder(entry) and not entry.name.startswith("."):
                yield from _images_in(entry.path, (*above, real))


def _is_image(entry: os.DirEntry) -> bool:
    return entry.name.lower().endswith(IMAGE_SUFFIXES) and not entry.name.startswith(".") and not _is_folder(entry)


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself; what reads it says so
        return False


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
