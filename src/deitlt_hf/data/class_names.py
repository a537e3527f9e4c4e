"""Names of classes that people can read, for data sets whose labels are synsets or numbers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from deitlt_hf.errors import DeiTLTError

# Each names the synsets of ILSVRC2012; the first found is taken.
SYNSET_FILES = (
    "LOC_synset_mapping.txt",
    "synset_words.txt",
    "classnames.txt",
    "imagenet_class_index.json",
)


def unique_names(names: Sequence[str], keys: Sequence[str]) -> list[str]:
    """The names, with the key appended where several classes share a name, and the key alone where there is none.

    Args:
        names: one for each class.
        keys: what tells the classes apart for sure, such as the synset.

    Example:
        >>> unique_names(["crane", "heron", "crane"], ["n02012849", "n02009229", "n03126707"])
        ['crane (n02012849)', 'heron', 'crane (n03126707)']
    """
    count = Counter(names)
    return [
        key if not name else name if count[name] == 1 else f"{name} ({key})"
        for name, key in zip(names, keys, strict=True)
    ]


def synset_names(synsets: Sequence[str], file: Path | None) -> list[str]:
    """Unique names of ImageNet's synsets, from a file of the data set's or, without one, from timm's own table.

    Args:
        synsets: such as `"n01440764"`, in label order.
        file: one of `SYNSET_FILES`, or None.

    Raises:
        DeiTLTError: the file cannot be read, or lacks one of the synsets.

    Example:
        >>> synset_names(["n01440764"], None)
        ['tench, Tinca tinca']
    """
    if file is None:
        from timm.data import ImageNetInfo  # loads torch, which reading lists does without

        table = ImageNetInfo().label_descriptions(as_dict=True)
    else:
        try:
            table = _READERS[file.suffix](file.read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise DeiTLTError(
                f"cannot read the names of synsets in {file}: mend it, or move it away for the usual names"
            ) from error
    unknown = [synset for synset in synsets if synset not in table]
    if unknown:
        where = "timm's table" if file is None else str(file)
        raise DeiTLTError(
            f"{where} has no name for {len(unknown)} of {len(synsets)} synsets, first {unknown[0]}: put a "
            f"{SYNSET_FILES[0]} that has beside the lists"
        )
    return unique_names([table[synset].strip() for synset in synsets], synsets)


def read_categories(file: Path) -> dict[int, str]:
    """Names by id of a `categories.json`: a list of categories with `id` and `name`, or a dict that holds it.

    Raises:
        DeiTLTError: the file cannot be read or holds something else.

    Example:
        >>> _ = Path("categories.json").write_text('[{"id": 0, "name": "Grus grus"}]')
        >>> read_categories(Path("categories.json"))
        {0: 'Grus grus'}
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        categories = content["categories"] if isinstance(content, dict) else content
        return {int(category["id"]): str(category["name"]) for category in categories}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DeiTLTError(
            f"cannot read {file}: pass categories as JSON, each with an `id` and a `name`, or move it away"
        ) from error


def are_numbers(names: Iterable[str]) -> bool:
    """Whether the names say nothing: the first release of iNaturalist-2018 has the ids for names.

    Example:
        >>> are_numbers(["0", "1"]), are_numbers(["Grus grus"])
        (True, False)
    """
    return all(name.isdecimal() for name in names)


def _from_lines(text: str) -> dict[str, str]:
    """`n01440764 tench, Tinca tinca` on each line."""
    return dict(line.split(maxsplit=1) for line in text.splitlines() if line.strip())


def _from_index(text: str) -> dict[str, str]:
    """`{"0": ["n01440764", "tench"], ...}`."""
    return {synset: name.replace("_", " ") for synset, name in json.loads(text).values()}


_READERS = {".txt": _from_lines, ".json": _from_index}
