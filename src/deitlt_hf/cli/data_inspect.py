"""`deitlt data inspect`: what a data set looks like, before a GPU is spent on it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from deitlt_hf.cli.flags import check_data_is_there, check_flags
from deitlt_hf.cli.next_steps import data_flags, say_next
from deitlt_hf.errors import DeiTLTError, notice
from deitlt_hf.files import check_is_writable, last_part

if TYPE_CHECKING:
    from datasets import DatasetDict

    from deitlt_hf.data.inspection import Inspection

NUMBERS_FILE, PICTURE_FILE, PAGE_FILE = "inspection.json", "inspection.png", "inspection.html"
_FILES = {NUMBERS_FILE, PICTURE_FILE, PAGE_FILE}


@dataclass
class InspectArguments:
    """What is printed and saved."""

    json: bool = field(default=False, metadata={"help": "Print JSON, with every class, in place of the table."})
    out: str | None = field(
        default=None,
        metadata={
            "help": f"Directory for {PAGE_FILE}, a page with the classes to sort and filter, {PICTURE_FILE} and "
            f"{NUMBERS_FILE}; it may hold older ones."
        },
    )


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="as for --data: a name, directory, file or hub id")


def run(argv: Sequence[str]) -> None:
    """Inspect the data set named in `argv` and print its inspection."""
    given = check_flags(
        "data inspect",
        "SOURCE [options]",
        "What a data set looks like: its tail, its images, its damage and its duplicates.",
        ["DataArguments", "InspectArguments"],
        argv,
        _add_source,
    )
    check_data_is_there(given.source)

    from deitlt_hf.cli.console import quiet_libraries
    from deitlt_hf.cli.parsing import DataclassParser
    from deitlt_hf.data.arguments import DataArguments, group_classes, load_splits
    from deitlt_hf.data.inspection import format_inspection, inspect_dataset
    from deitlt_hf.data.loading import class_counts

    parser = DataclassParser("data inspect", [DataArguments, InspectArguments])
    _add_source(parser)
    data, options, named = parser.parse_into(argv)
    data.data = named.source
    if data.on_bad_image == "error":
        data.on_bad_image = "keep"  # files that are missing are part of what is shown
    directory = None if options.out is None else Path(options.out)
    if directory is not None:  # refused before the images are read
        check_is_writable(directory, "--out")
        if directory.is_dir() and not {path.name for path in directory.iterdir()} <= _FILES:
            raise DeiTLTError(f"{directory} holds files that no inspection wrote; pass another --out")

    quiet_libraries()
    splits = load_splits(data).splits
    _say_paths_that_leave(named.source, splits)
    groups = group_classes(class_counts(splits["train"]), data.group_boundaries)
    inspection = inspect_dataset(splits, groups=groups)
    print(inspection.to_json() if options.json else format_inspection(inspection))
    if directory is not None:
        _write(directory, named.source, inspection, splits)
        if not options.json:
            files = {"page": PAGE_FILE, "picture": PICTURE_FILE, "numbers": NUMBERS_FILE}
            print("", *(f"{what:7}  {directory / file}" for what, file in files.items()), sep="\n")
    if not options.json:
        flags = data_flags(argv)
        say_next(["fit", named.source, *flags], ["teacher", "--data", named.source, *flags])


def _write(directory: Path, source: str, inspection: Inspection, splits: DatasetDict) -> None:
    """Write the page, the picture and the numbers."""
    from deitlt_hf.evaluation.figures.hover import strips_of
    from deitlt_hf.evaluation.figures.inspection import inspection_figure
    from deitlt_hf.evaluation.figures.style import save_figure
    from deitlt_hf.evaluation.inspection_page import inspection_page

    directory.mkdir(parents=True, exist_ok=True)  # not before: it may lie in the data's directory
    figure, picture = inspection_figure(inspection), directory / PICTURE_FILE
    save_figure(figure, picture)
    (directory / NUMBERS_FILE).write_text(inspection.to_json() + "\n")
    place = Path(source).expanduser()
    folder = str(place if place.is_dir() else place.parent) if place.exists() else None
    page = inspection_page(last_part(source), inspection, splits["train"], picture, strips_of(figure), folder)
    (directory / PAGE_FILE).write_text(page, encoding="utf-8")


def _say_paths_that_leave(source: str, splits: DatasetDict) -> None:
    """Name images outside the directory of the data: they are not moved or copied with it."""
    from deitlt_hf.data.readable import referenced_files

    place = Path(source).expanduser()
    if not place.exists():
        return
    inside = os.path.realpath(place if place.is_dir() else place.parent)
    outside = [
        path
        for split in splits.values()
        for _, path in referenced_files(split)
        if not os.path.realpath(path).startswith(inside + os.sep)
    ]
    if outside:
        lead = "image path leads" if len(outside) == 1 else "image paths lead"
        notice(f"{len(outside)} {lead} out of {inside}, the first to {outside[0]}")
