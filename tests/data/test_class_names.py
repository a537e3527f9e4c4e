"""Names that people can read, each another."""

from __future__ import annotations

from pathlib import Path

import pytest

from deitlt_hf.data.benchmarks.imagenet_lt import synset_names
from deitlt_hf.data.benchmarks.inaturalist_2018 import read_categories
from deitlt_hf.data.benchmarks.lists import unique_names
from deitlt_hf.errors import DeiTLTError
from published_layouts import SYNSETS

NAMES = ["tench, Tinca tinca", "crane (n02012849)", "crane (n03126707)"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("LOC_synset_mapping.txt", "n01440764 tench, Tinca tinca\nn02012849 crane\nn03126707 crane\n"),
        ("synset_words.txt", "n03126707 crane\n\nn02012849 crane\nn01440764 tench, Tinca tinca"),
        (
            "imagenet_class_index.json",
            '{"0": ["n01440764", "tench,_Tinca tinca"], "134": ["n02012849", "crane"], "517": ["n03126707", "crane"]}',
        ),
    ],
)
def test_synsets_are_named_by_each_of_the_usual_files(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert synset_names(SYNSETS, tmp_path / name) == NAMES


def test_without_a_file_wordnets_names_are_taken_for_all_thousand() -> None:
    from timm.data import ImageNetInfo

    synsets = ImageNetInfo().label_names()
    names = synset_names(synsets, None)
    assert len(set(names)) == 1000
    assert [names[synsets.index(synset)] for synset in SYNSETS] == NAMES


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("LOC_synset_mapping.txt", "n01440764 tench\n", "no name for 2 of 3 synsets, first n02012849"),
        ("LOC_synset_mapping.txt", "n01440764\n", "cannot read the names"),
        ("imagenet_class_index.json", "[1, 2]", "cannot read the names"),
        ("imagenet_class_index.json", "{", "cannot read the names"),
        ("imagenet_class_index.json", '{"0": 3}', "cannot read the names"),
        ("imagenet_class_index.json", '{"0": ["n01440764", 3]}', "cannot read the names"),
    ],
)
def test_files_that_name_no_synsets_are_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DeiTLTError, match=message) as error:
        synset_names(SYNSETS, tmp_path / name)
    assert "\n" not in str(error.value)


def test_equal_names_are_told_apart_and_missing_ones_filled() -> None:
    assert unique_names(["a", "b", "a", ""], ["1", "2", "3", "4"]) == ["a (1)", "b", "a (3)", "4"]


@pytest.mark.parametrize(
    "content", ['[{"id": 1, "name": "b"}]', '{"categories": [{"id": 1, "name": "b", "order": "c"}]}']
)
def test_categories_come_as_a_list_or_in_a_dict(tmp_path: Path, content: str) -> None:
    (tmp_path / "categories.json").write_text(content)
    assert read_categories(tmp_path / "categories.json") == {1: "b"}


@pytest.mark.parametrize("content", ["", "[1]", '[{"id": 1}]', '{"images": []}', '[{"id": "x", "name": "b"}]', "null"])
def test_other_categories_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "categories.json").write_text(content)
    with pytest.raises(DeiTLTError, match="cannot read"):
        read_categories(tmp_path / "categories.json")
