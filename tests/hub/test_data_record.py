"""What a run notes about its data: written whole, read with care, and what of it has changed."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from deitlt_hf.data.record import (
    DataRecord,
    at_recorded_places,
    differing_classes,
    differing_counts,
    moved_classes,
    places_of,
    read_data_record,
)
from deitlt_hf.errors import DeiTLTError

RECORD = DataRecord(["owl", "lynx"], [9, 3], [2, 1], {"pets": "/far/pets"}, 0.2, 0, ["00ff"])


@pytest.mark.parametrize("part", ["", "checkpoint-3", "ema"])
def test_a_record_is_read_back_from_the_run_and_its_parts(tmp_path: Path, part: str) -> None:
    RECORD.write(tmp_path)
    assert read_data_record(tmp_path / part) == RECORD


def test_where_there_is_none() -> None:
    assert read_data_record("owner/model") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "data.json does not hold a JSON object"),
        ("{", "data.json cannot be read"),
        ("{}", "data.json holds no class_names as"),
        ({"class_names": "owl"}, "holds no class_names"),
        ({"train_counts": [1, "2"]}, "holds no train_counts"),
        ({"places": {"pets": 3}}, "holds no places"),
        ({"kept": None}, "holds no kept"),
        ({"test_fraction": "0.2"}, "holds no test_fraction"),
        ({"split_seed": [1]}, "holds no split_seed"),
    ],
)
def test_a_record_that_is_none_is_refused(tmp_path: Path, content: str | dict, message: str) -> None:
    RECORD.write(tmp_path)
    file = tmp_path / "data.json"
    file.write_text(content if isinstance(content, str) else json.dumps(json.loads(file.read_text()) | content))
    with pytest.raises(DeiTLTError, match=message):
        read_data_record(tmp_path)


def test_relative_paths_are_those_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for directory in (here / "pets", there / "pets", there / "run"):
        directory.mkdir(parents=True)
    settings = {"data": "pets", "teacher": "owner/teacher", "seed": 3, "data_dir": str(here)}
    monkeypatch.chdir(there)
    places = places_of(settings)
    assert places == {"pets": str(there / "pets"), str(here): str(here)}
    DataRecord(["owl"], [1], [1], places).write(there / "run")
    monkeypatch.chdir(here)
    assert at_recorded_places(settings, "../there/run") == settings | {"data": str(there / "pets")}
    assert not caplog.messages


@pytest.mark.parametrize("is_recorded", [True, False])
def test_a_path_of_this_directory_is_taken_with_a_notice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, is_recorded: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("pets", "run"):
        Path(name).mkdir()
    if is_recorded:
        RECORD.write("run")
    with caplog.at_level(logging.WARNING, "deitlt_hf"):
        assert at_recorded_places({"data": "pets"}, "run") == {"data": "pets"}
    why = "had /far/pets, which is gone" if is_recorded else "recorded no path of it"
    assert caplog.messages == [f"data pets: the run run {why}; {tmp_path / 'pets'} is taken"]


def test_of_a_path_that_is_nowhere_the_recorded_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    RECORD.write(tmp_path)
    assert at_recorded_places({"data": "pets"}, tmp_path) == {"data": "/far/pets"}


def test_a_folder_called_like_a_named_source_is_not_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("digits-lt").mkdir()
    assert places_of({"data": "digits-lt"}) == {}
    assert at_recorded_places({"data": "digits-lt"}, tmp_path) == {"data": "digits-lt"}


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (["a", "b"], None),
        (["a", "bb"], "'b' is missing, 'bb' is new"),
        (["a", "b", "c"], "'c' is new"),
        (["b"], "'a' is missing"),
        (["b", "a"], "class 0 is 'b' in place of 'a'"),
        (["a", "b", "c", "d", "e", "f"], "'c', 'd', 'e' and 1 more are new"),
    ],
)
def test_what_is_different_between_classes_is_named(now: list[str], said: str | None) -> None:
    assert differing_classes(["a", "b"], now) == said


@pytest.mark.parametrize(
    ("train", "test", "said"),
    [
        ([9, 3], [2, 1], None),
        ([9, 4], [2, 1], "13 training images in place of 12 ('lynx' 4 in place of 3)"),
        ([9, 3], [3, 1], "4 test images in place of 3 ('owl' 3 in place of 2)"),
        ([8, 4], [2, 1], "12 training images in place of 12 ('owl' 8 in place of 9, 'lynx' 4 in place of 3)"),
        (
            [9, 2],
            [1, 2],
            "11 training images in place of 12 ('lynx' 2 in place of 3) and 3 test images in place of 3 "
            "('owl' 1 in place of 2, 'lynx' 2 in place of 1)",
        ),
    ],
)
def test_what_is_different_between_counts_is_named(train: list[int], test: list[int], said: str | None) -> None:
    assert differing_counts(["owl", "lynx"], {"training": ([9, 3], train), "test": ([2, 1], test)}) == said


@pytest.mark.parametrize(
    ("then", "now", "said"),
    [
        (["0", "1", "2"], ["0", "1", "2"], None),
        (["0", "1", "2"], ["3", "1", "4"], None),  # others came
        (["0", "1", "2"], ["1", "0", "2"], "images of 'a' are in 'b', images of 'b' are in 'a'"),
        (["0", "1", "2"], ["3", "0", "2"], "images of 'a' are in 'b'"),
        (["0", "0", "2"], ["0", "0", "2"], None),  # a copy in two classes
        ([], ["0", "1", "2"], None),
    ],
)
def test_classes_that_moved_are_named(then: list[str], now: list[str], said: str | None) -> None:
    assert moved_classes(["a", "b", "c"], then, now) == said
