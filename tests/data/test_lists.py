"""Lists of half a million lines: read in a moment, checked before an image is, and wrong ones named."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from deitlt_hf.data.benchmarks.imagenet_lt import PUBLISHED as IMAGENET_LT
from deitlt_hf.data.benchmarks.inaturalist_2018 import PUBLISHED as INATURALIST_2018
from deitlt_hf.data.benchmarks.lists import (
    ImageList,
    check_labels,
    check_published,
    directories_of,
    file_names_of,
    read_list,
    referenced_splits,
)
from deitlt_hf.data.long_tail import class_groups
from deitlt_hf.data.readable import check_files_exist
from deitlt_hf.errors import DeiTLTError
from published_layouts import write_images, write_list

# Linux counts a process's own peak in VmHWM; what getrusage says has that of the process which started it in it.
PRINT_PEAK_MEMORY = """
import pathlib, resource
status = pathlib.Path("/proc/self/status")
lines = status.read_text().splitlines() if status.exists() else []
own = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
print(own[0] if own else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def published_labels(classes: int, total: int, largest: int, smallest: int) -> np.ndarray:
    """Labels of a long-tailed list with just these facts, shuffled."""
    counts = np.full(classes, smallest)
    counts[0] = largest
    spare = total - counts.sum()
    for label in range(1, classes - 1):
        more = min(spare, largest - smallest, 1 + spare // 20)
        counts[label] += more
        spare -= more
    assert spare == 0
    return np.random.RandomState(0).permutation(np.repeat(np.arange(classes), counts))


def write_inaturalist_size(path: Path, labels: np.ndarray) -> None:
    line = "train_val2018/Plantae/{0}/{1:032x}.jpg {0}\n".format
    path.write_text("".join(line(label, number) for number, label in enumerate(labels.tolist())))


@pytest.fixture(scope="module")
def inaturalist_list(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """437,513 lines, 8,142 classes."""
    path = tmp_path_factory.mktemp("lists") / "iNaturalist18_train.txt"
    write_inaturalist_size(path, published_labels(8142, 437_513, 1000, 2))
    return path


@pytest.mark.parametrize(
    ("content", "paths", "labels"),
    [
        (
            "train/n01440764/n01440764_190.JPEG 0\nval/a.JPEG 12",
            ["train/n01440764/n01440764_190.JPEG", "val/a.JPEG"],
            [0, 12],
        ),
        ("a.jpg 1\r\n\r\n  b.jpg\t0  \r\n", ["a.jpg", "b.jpg"], [1, 0]),
        ("\ufeffmy photos/a b.jpg 3\n\n\n", ["my photos/a b.jpg"], [3]),
        ("'quoted\".jpg 0\nGrüße,1.jpg 1\n", ["'quoted\".jpg", "Grüße,1.jpg"], [0, 1]),
    ],
)
def test_a_line_is_a_path_and_a_label(tmp_path: Path, content: str, paths: list[str], labels: list[int]) -> None:
    file = tmp_path / "list.txt"
    file.write_bytes(content.encode())
    images = read_list(file)
    assert images.name == "list.txt"
    assert images.paths.to_pylist() == paths
    assert (images.labels.dtype, images.labels.tolist()) == (np.int64, labels)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n \n\n", "is empty"),
        (b"a.jpg 0\n\nb.jpg\n", r"line 3: 'b.jpg' is not a path and a label"),
        (b"a.jpg 0\nb.jpg -1\n", "line 2: 'b.jpg -1' is not"),
        (b"a.jpg 0\n\n\nb.jpg cat\n", "line 4: 'b.jpg cat' is not"),
        (b"a.jpg 0.5\n", "line 1: 'a.jpg 0.5' is not"),
        (b"a.jpg 99999999999999999999\n", "line 1"),
        # Counting the classes up to this label would take gigabytes.
        (b"a.jpg 0\nb.jpg 999999999\n", "line 2: 'b.jpg 999999999' is not a path and a label from 0 to 999999"),
        (b"a.jpg,0\n", "line 1: 'a.jpg,0' is not"),
        ("a.jpg 0\nGr\u00fc\u00dfe.jpg 1\n".encode("latin-1"), "is not a UTF-8 text"),
        ("a.jpg 0\n".encode("utf-16"), "is not"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x1f\x1f", "is not"),
        (None, "cannot read"),
    ],
)
def test_a_list_that_is_none_is_refused_in_one_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "list.txt"
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    with pytest.raises(DeiTLTError, match=message) as error:
        read_list(file)
    assert "\n" not in str(error.value)
    assert "list.txt" in str(error.value)


def _images(labels: np.ndarray) -> ImageList:
    return ImageList("train.txt", pa.repeat("a.jpg", len(labels)), labels)


@pytest.mark.parametrize(
    ("facts", "numbers"),
    [(IMAGENET_LT["train"], (115_846, 1000, 1280, 5)), (INATURALIST_2018["train"], (437_513, 8142, 1000, 2))],
)
def test_the_published_facts_pass_and_every_other_is_named(facts, numbers) -> None:
    total, classes, largest, smallest = numbers
    labels = published_labels(classes, total, largest, smallest)
    check_published({"train": _images(labels)}, {"train": facts})
    without_class_1 = labels[labels != 1]
    counts = np.bincount(without_class_1)
    found = f"train.txt has {len(without_class_1)} lines, {classes - 1} classes, largest class {counts.max()}, "
    published = f"published one {total} lines, {classes} classes, largest class {largest}, smallest class {smallest}"
    with pytest.raises(DeiTLTError, match=found) as error:
        check_published({"train": _images(without_class_1)}, {"train": facts})
    assert published in str(error.value)
    one_image_less = np.delete(labels, np.flatnonzero(labels == classes - 1)[0])
    with pytest.raises(DeiTLTError, match=f"has {total - 1} lines, .* smallest class {smallest - 1}, the published"):
        check_published({"train": _images(one_image_less)}, {"train": facts})


def test_a_list_of_inaturalists_size_takes_little_time_and_memory(inaturalist_list: Path) -> None:
    code = f"""
import time
from deitlt_hf.data.benchmarks.lists import check_labels, check_published, read_list
from deitlt_hf.data.benchmarks.inaturalist_2018 import PUBLISHED
start = time.process_time()
images = read_list({str(inaturalist_list)!r})
check_published({{"train": images}}, PUBLISHED)
check_labels({{"train": images}}, 8142)
print(time.process_time() - start)
{PRINT_PEAK_MEMORY}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, kilobytes = map(float, done.stdout.split())
    # The processor's seconds, which other work on the machine does not lengthen.
    assert seconds < 3
    assert kilobytes / 1024 < 500


def test_ten_times_the_lines_take_about_ten_times_the_time(inaturalist_list: Path, tmp_path: Path) -> None:
    from deitlt_hf.losses.class_balanced import class_balanced_weights

    lines = inaturalist_list.read_text().splitlines(keepends=True)
    tenth = tmp_path / "tenth.txt"
    tenth.write_text("".join(lines[::10]))

    def seconds(path: Path) -> float:
        start = time.process_time()
        images = read_list(path)
        counts = np.maximum(np.bincount(images.labels, minlength=8142), 1).tolist()
        class_groups(counts, boundaries=(842, 4543))
        class_balanced_weights(counts)
        return time.process_time() - start

    seconds(tenth)
    small, large = (min(seconds(path) for _ in range(3)) for path in (tenth, inaturalist_list))
    # A pass over the lines for each class would be a hundred times slower; the rest does not depend on the lines.
    assert large < 20 * small


def test_labels_have_to_be_of_the_classes_and_classes_have_to_have_images() -> None:
    train = _images(np.array([0, 1, 1]))
    check_labels({"train": train, "test": _images(np.array([1]))}, 2)
    with pytest.raises(DeiTLTError, match=r"gives a.jpg the label 2, but the 2 classes have labels from 0 to 1"):
        check_labels({"train": train, "test": _images(np.array([0, 2]))}, 2)
    with pytest.raises(DeiTLTError, match="class without training images: class 2 of 3"):
        check_labels({"train": train}, 3)


def test_folders_and_names_of_paths() -> None:
    paths = pa.array(["train/n1/a.JPEG", "b.jpg", "val/c d.jpg", "x/y/z/"])
    assert directories_of(paths).to_pylist() == ["train/n1", "", "val", "x/y/z"]
    assert file_names_of(paths).to_pylist() == ["a.JPEG", "b.jpg", "c d.jpg", ""]


def test_missing_files_are_counted_and_the_first_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [f"{folder}/{number}.jpg" for folder in ("b", "a", "gone") for number in range(3)]
    write_images(tmp_path, paths[:6])
    (tmp_path / "a" / "1.jpg").unlink()
    (tmp_path / "a" / "1.jpg").mkdir()
    (tmp_path / "b" / "2.jpg").unlink()
    listings = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: listings.append(folder) or scandir(folder))

    def check(**splits: list[str]) -> None:
        images = {
            name: ImageList(name, pa.array(of_split), np.zeros(len(of_split), int)) for name, of_split in splits.items()
        }
        check_files_exist(referenced_splits(tmp_path, images, ["cat"]))

    first = ("image 2 of train .*b/2.jpg.", "image 0 of test .*a/1.jpg.", "image 2 of test .*gone/0.jpg.")
    message = f"5 image files do not exist: {'; '.join(first)}"
    with pytest.raises(DeiTLTError, match=message):
        check(train=paths[:4], test=paths[4:])
    # One look into each folder, however many images it has.
    assert len(listings) == 3
    check(train=[paths[0], paths[3], paths[5]], test=["b/1.jpg"])


def test_files_without_a_folder(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.jpg"])
    write_list(tmp_path / "list.txt", [("a.jpg", 0)])
    check_files_exist(referenced_splits(tmp_path, {"train": read_list(tmp_path / "list.txt")}, ["cat"]))
