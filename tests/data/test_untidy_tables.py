"""Lists as people have them: commas in labels, no header, other systems' paths, images as text; and hostile ones."""

from __future__ import annotations

import base64
import http.server
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict
from datasets import Image as ImageFeature
from PIL import Image

from deitlt_hf import DeiTLTError, load_long_tailed_dataset
from deitlt_hf.data import tables


def picture(seed: int) -> bytes:
    stored = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)).save(stored, "PNG")
    return stored.getvalue()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Ten pictures in `img/`."""
    (tmp_path / "img").mkdir()
    for index in range(10):
        (tmp_path / "img" / f"{index}.png").write_bytes(picture(index))
    return tmp_path


def read(path: Path, **options) -> DatasetDict:
    return load_long_tailed_dataset(path, test_fraction=0.5, **options)


def names_of(splits: DatasetDict) -> list[str]:
    return splits["train"].features["label"].names


def number_of(splits: DatasetDict) -> int:
    return sum(split.num_rows for split in splits.values())


def test_labels_with_commas_in_quotes_stay_whole(images: Path) -> None:
    labels = ['"owl, barn"', '"owl, snowy"']
    lines = [f"img/{index}.png,{labels[index % 2]}" for index in range(10)]
    (images / "list.csv").write_text("\n".join(["file_name,label", *lines]))
    assert names_of(read(images / "list.csv")) == ["owl, barn", "owl, snowy"]


@pytest.mark.parametrize(
    ("name", "lines", "said"),
    [
        (
            "a.csv",
            ["file_name,label", "img/0.png,owl, barn"],
            "line 2: 3 fields where the header has 2: put texts with",
        ),
        (
            "a.csv",
            ["file_name,label", "img/0.png,owl", "img/1.png"],
            "line 3: 1 fields where the header has 2: fill in",
        ),
        ("a.tsv", ["file_name\tlabel", "img/0.png\towl\tbarn"], "line 2: 3 fields where the header has 2"),
        ("a.csv", ["file_name;label", "img/0.png;owl"], "separates its columns by semicolons"),
        ("a.csv", ["file_name\tlabel", "img/0.png\towl"], "separates its columns by tabs: save it as .csv"),
        ("a.tsv", ["file_name,label", "img/0.png,owl"], "by commas: save it as .csv with commas, or as .tsv with tabs"),
        (
            "a.csv",
            ["file_name,label", 'img/0.png,"owl', "img/1.png,lynx"],
            "line 2: unexpected end of data: close each",
        ),
        (
            "a.csv",
            ["file_name,label", 'img/0.png,"owl', 'img/1.png,"lynx"'],
            r"line 2: .* expected after .*: close each",
        ),
        ("a.csv", ["img/0.png,owl", "img/1.png,lynx"], "has no header, for its first line holds 'img/0.png'"),
        ("a.csv", ["label,file_name,label", "a,img/0.png,b"], "two columns called 'label'"),
        ("a.csv", [",".join(f"c{index}" for index in range(100_000))], "has 100000 columns, more than 1000"),
        ("a.csv", [""], "no rows"),
        ("a.json", ['{"images": [], "annotations": [], "categories": []}'], "is a COCO file"),
        (
            "a.csv",
            ["file_name,label", "img/0.png,  ", "img/1.png,owl"],
            "1 of 2 rows have no 'label', the first is row 1",
        ),
        ("a.jsonl", ['{"file_name": "img/0.png", "label": NaN}'], "1 of 1 rows have no 'label'"),
        ("a.json", ["[" * 5000], "cannot read the data"),
        ("a.jsonl", ['{"file_name": "img/0.png", "label": "a"}', "{"], "line 2"),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused_in_one_line(
    name: str, lines: list[str], said: str, images: Path
) -> None:
    (images / name).write_text("\n".join(lines))
    with pytest.raises(DeiTLTError, match=said) as error:
        read(images / name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("end", ["", ",", ",,"])
def test_commas_at_the_end_of_each_line_hold_nothing(end: str, images: Path) -> None:
    lines = [f"img/{index}.png,{'ab'[index % 2]},," for index in range(10)]
    (images / "list.csv").write_text("\n".join([f"file_name,label{end}", *lines]))
    assert number_of(read(images / "list.csv")) == 10


def test_true_and_false_are_names_of_classes(images: Path) -> None:
    rows = [json.dumps({"file_name": f"img/{index}.png", "label": index % 2 == 0}) for index in range(10)]
    (images / "list.jsonl").write_text("\n".join(rows))
    assert names_of(read(images / "list.jsonl")) == ["false", "true"]


def test_paths_of_windows(images: Path) -> None:
    lines = [f"img\\{index}.png,{'ab'[index % 2]}" for index in range(10)]
    (images / "list.csv").write_text("\n".join(["file_name,label", *lines]))
    assert read(images / "list.csv")["train"][0]["image"].size == (6, 6)


def test_images_named_without_a_suffix(images: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As HAM10000 lists them."""
    lines = [f"{index},{'ab'[index % 2]}" for index in range(10)]
    (images / "list.csv").write_text("\n".join(["image_id,label", *lines]))
    assert read(images / "list.csv")["train"][0]["image"].size == (6, 6)
    assert "named without a suffix: 10 of 10 are found beside the list" in caplog.text
    (images / "other").mkdir()
    (images / "other" / "3.jpg").write_bytes(picture(3))
    with pytest.raises(DeiTLTError, match=r"'3' could be .*: write the file's path"):
        read(images / "list.csv")


@pytest.mark.parametrize("head", ["", "data:image/png;base64,"])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_images_as_text(head: str, suffix: str, tmp_path: Path) -> None:
    rows = [(head + base64.b64encode(picture(index)).decode(), "ab"[index % 2]) for index in range(10)]
    path = tmp_path / f"list{suffix}"
    if suffix == ".csv":
        path.write_text("\n".join(["image,label", *(f'"{image}",{label}' for image, label in rows)]))
    elif suffix == ".jsonl":
        path.write_text("\n".join(json.dumps({"image": image, "label": label}) for image, label in rows))
    else:
        pq.write_table(pa.table({"image": [image for image, _ in rows], "label": [label for _, label in rows]}), path)
    splits = read(path)
    assert number_of(splits) == 10
    decoded = {np.asarray(row["image"]).tobytes() for split in splits.values() for row in split}
    assert decoded == {np.asarray(Image.open(io.BytesIO(picture(index)))).tobytes() for index in range(10)}


@pytest.mark.parametrize(
    ("labels", "names"), [([1, 2] * 5, ["1", "2"]), ([0, 1] * 5, ["0", "1"]), (["001", "1"] * 5, ["001", "1"])]
)
def test_numbers_as_labels_of_a_list(labels: list, names: list[str], images: Path) -> None:
    lines = [f"img/{index}.png,{label}" for index, label in enumerate(labels)]
    (images / "list.csv").write_text("\n".join(["file_name,label", *lines]))
    splits = read(images / "list.csv")
    assert names_of(splits) == names
    labelled = [
        (split.features["label"].int2str(row["label"]), row["image"]) for split in splits.values() for row in split
    ]
    for name, image in labelled:  # each image has kept its own
        index = next(
            i for i in range(10) if np.array_equal(np.asarray(image), np.asarray(Image.open(images / f"img/{i}.png")))
        )
        assert name == str(labels[index])


class _Counting(http.server.BaseHTTPRequestHandler):
    asked: list[str] = []

    def do_GET(self):
        self.asked.append(self.path)
        name = self.path.strip("/").split(".")[0]
        if not name.isdigit():
            self.send_error(404)
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(picture(int(name)))

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *args):
        pass


@pytest.fixture
def address() -> Iterator[str]:
    """A server on this machine that gives pictures and counts who asks."""
    _Counting.asked = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Counting)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def remote_source(kind: str, address: str, directory: Path):
    rows = {"image": [f"{address}/{index}.png" for index in range(10)], "label": [index % 2 for index in range(10)]}
    if kind == "csv":
        lines = [f"{image},{label}" for image, label in zip(*rows.values(), strict=True)]
        (directory / "list.csv").write_text("\n".join(["image,label", *lines]))
        return directory / "list.csv"
    if kind == "parquet":  # as `datasets` stores references
        structs = [{"bytes": None, "path": image} for image in rows["image"]]
        type_of_image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        table = pa.table({"image": pa.array(structs, type_of_image), "label": rows["label"]})
        pq.write_table(table, directory / "data.parquet")
        return directory / "data.parquet"
    dataset = Dataset.from_dict(rows).cast_column("image", ImageFeature())
    return DatasetDict(train=dataset) if kind == "loaded" else dataset.to_iterable_dataset()


@pytest.mark.parametrize("kind", ["csv", "parquet", "loaded", "stream"])
@pytest.mark.parametrize("on_bad_image", ["error", "skip", "keep"])
def test_nothing_is_fetched_unasked(kind: str, on_bad_image: str, address: str, tmp_path: Path) -> None:
    with pytest.raises(DeiTLTError, match=r"lies? at .* not fetched.*allow_remote_images") as error:
        read(remote_source(kind, address, tmp_path), on_bad_image=on_bad_image)
    assert "\n" not in str(error.value)
    assert _Counting.asked == []


@pytest.mark.parametrize("kind", ["csv", "parquet", "loaded"])
def test_images_that_are_asked_for_are_fetched_once(kind: str, address: str, tmp_path: Path) -> None:
    splits = read(remote_source(kind, address, tmp_path), allow_remote_images=True)
    asked = len(_Counting.asked)
    assert asked >= 10
    for _ in range(2):  # two epochs
        assert {row["image"].size for split in splits.values() for row in split} == {(6, 6)}
    assert len(_Counting.asked) == asked


def test_an_image_that_cannot_be_fetched_is_one_line_and_asked_for_again(address: str, tmp_path: Path) -> None:
    lines = [f"{address}/{index}.png,{index % 2}" for index in range(10)]
    (tmp_path / "list.csv").write_text("\n".join(["image,label", *lines, f"{address}/no-number.png,1"]))
    for _ in range(2):  # the failure is not kept
        asked = len(_Counting.asked)
        with pytest.raises(DeiTLTError, match=r"cannot fetch http://127\.0\.0\.1:.*/no-number\.png: ") as error:
            read(tmp_path / "list.csv", allow_remote_images=True)
        assert "\n" not in str(error.value)
        assert len(_Counting.asked) > asked
    splits = read(tmp_path / "list.csv", allow_remote_images=True, on_bad_image="skip")
    assert number_of(splits) == 10


@pytest.mark.parametrize("address", ["file:///etc/hostname", "s3://bucket/key.png", "ftp://host/a.png"])
def test_other_addresses_are_refused_too(address: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("\n".join(["image,label", f"{address},a", f"{address},b"]))
    with pytest.raises(DeiTLTError, match="2 images lie at addresses"):
        read(tmp_path / "list.csv")


def test_files_that_unpack_to_gigabytes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_UNPACKED", 1_000_000)
    zeros = pa.array([b"\0" * 1000] * 5000, pa.binary())
    path = tmp_path / "bomb.parquet"
    pq.write_table(pa.table({"image": zeros, "label": [0, 1] * 2500}), path, use_dictionary=False, compression="zstd")
    assert path.stat().st_size < 100_000
    with pytest.raises(DeiTLTError, match=r"bomb\.parquet of 0\.0 MB unpacks to 0\.0 GB in 2 columns and") as error:
        read(path)
    assert "\n" not in str(error.value)


def test_texts_that_are_repeated_into_gigabytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.parquet"
    letters = pa.DictionaryArray.from_arrays(pa.array(np.zeros(200_000, np.int32)), pa.array(["x" * 100_000]))
    pq.write_table(pa.table({"image": letters, "label": pa.array(np.arange(200_000) % 2)}), path)
    assert path.stat().st_size < 10_000_000
    with pytest.raises(DeiTLTError, match="texts of 100,000 letters in 200,000 rows"):
        read(path)


def test_a_parquet_file_of_many_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "wide.parquet"
    pq.write_table(pa.table({f"c{index}": [0] for index in range(1001)}), path)
    with pytest.raises(DeiTLTError, match="in 1001 columns"):
        read(path)
