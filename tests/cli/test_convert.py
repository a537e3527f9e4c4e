"""`deitlt convert`: what it prints and leaves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from deitlt_hf import CifarResNetForImageClassification, DeiTLTError, DeiTLTForImageClassification
from deitlt_hf.cli.convert import run
from deitlt_hf.cli.main import main


def test_student(golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"class {letter}" for letter in "abcdefghij") + "\n", encoding="utf-8")
    file, out = golden / "student.pth", tmp_path / "student"
    run([str(file), str(out), "--ema", "--num-attention-heads", "3", "--label-names", str(names)])
    assert capsys.readouterr().out.splitlines() == [
        f"{file}: DeiT-LT student, 3 layers, hidden size 48, 3 heads, image size 32, patch size 4, 10 classes, "
        "EMA weights, pixels normalised as ImageNet's",
        f"saved to {out}",
        f"next: deitlt evaluate {out} --data DATA",
    ]
    assert DeiTLTForImageClassification.from_pretrained(out).config.id2label[9] == "class j"


def test_teacher(golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = golden / "teacher_paco_resnet32.pth.tar", tmp_path / "teacher"
    run([str(file), str(out)])
    assert capsys.readouterr().out.splitlines() == [
        f"{file}: PaCo teacher, ResNet-32 for 32 pixels, 10 classes, pixels normalised as CIFAR's",
        f"saved to {out}",
        f"next: deitlt evaluate {out} --data DATA",
    ]
    assert CifarResNetForImageClassification.from_pretrained(out).config.depth == 32


def test_label_names_that_cannot_be_read(golden: Path, tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(b"\x89PNG\xff")
    for names in ("absent.txt", "image.png"):
        with pytest.raises(DeiTLTError, match=f"cannot read label names from .*{names}"):
            run([str(golden / "student.pth"), str(tmp_path / "out"), "--label-names", str(tmp_path / names)])
    assert not (tmp_path / "out").exists()


def test_order_by_frequency_from_a_training_list(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = torch.load(golden / "student.pth", weights_only=False)
    checkpoint["args"].data_set = "INAT18"
    checkpoint["args"].cls_num_list = list(range(20, 0, -2))
    torch.save(checkpoint, tmp_path / "student.pth")
    counts = [2, 4, 6, 8, 10, 12, 14, 16, 20, 18]
    lines = [f"train/{label}/{image}.jpg {label}" for label, count in enumerate(counts) for image in range(count)]
    (tmp_path / "train.txt").write_text("\n".join(lines))
    (tmp_path / "order.txt").write_text("8 9 7 6 5 4 3 2 1 0".replace(" ", "\n"))
    assert main(["convert", str(tmp_path / "student.pth"), str(tmp_path / "unknown")]) == 2
    assert "--class-list" in capsys.readouterr().err
    for out, option, list_file in (("list", "--class-list", "train.txt"), ("order", "--class-order", "order.txt")):
        run([str(tmp_path / "student.pth"), str(tmp_path / out), option, str(tmp_path / list_file)])
        config = DeiTLTForImageClassification.from_pretrained(tmp_path / out).config
        assert [config.id2label[position] for position in (0, 1, 9)] == ["LABEL_8", "LABEL_9", "LABEL_0"]
        assert config.class_counts == list(range(20, 0, -2))


class WritesAFile:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return os.system, (f"touch '{self.target}'",)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("malicious", "nothing of it was run"),
        ("truncated", "is not a readable checkpoint"),
        ("no checkpoint", "is not a readable checkpoint"),
        ("other weights", "holds neither a DeiT-LT student nor a ResNet teacher"),
    ],
)
def test_refused_files_leave_nothing(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, message: str
) -> None:
    file, out, trap = tmp_path / "file.pth", tmp_path / "models" / "out", tmp_path / "trap"
    whole = (golden / "student.pth").read_bytes()
    if kind == "malicious":
        checkpoint = torch.load(golden / "student.pth", weights_only=False)
        torch.save({**checkpoint, "scaler": WritesAFile(trap)}, file)
    elif kind == "other weights":
        torch.save({"model": {"weight": torch.zeros(2)}}, file)
    else:
        file.write_bytes(whole[: len(whole) * 2 // 3] if kind == "truncated" else b"hello")
    assert main(["convert", str(file), str(out)]) == 2
    printed = capsys.readouterr()
    assert (printed.out, len(printed.err.splitlines())) == ("", 1)
    assert printed.err.startswith(f"deitlt convert: {file} ")
    assert message in printed.err
    assert [path.name for path in tmp_path.iterdir()] == ["file.pth"]
