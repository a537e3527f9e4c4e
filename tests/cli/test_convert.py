"""`deitlt convert`: what it prints and leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from deitlt_hf import CifarResNetForImageClassification, DeiTLTError, DeiTLTForImageClassification
from deitlt_hf.cli.convert import run


def test_student(golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"class {letter}" for letter in "abcdefghij") + "\n", encoding="utf-8")
    file, out = golden / "student.pth", tmp_path / "student"
    run([str(file), str(out), "--ema", "--num-attention-heads", "3", "--label-names", str(names)])
    assert capsys.readouterr().out.splitlines() == [
        f"{file}: DeiT-LT student, 3 layers, hidden size 48, 3 heads, image size 32, patch size 4, 10 classes, "
        "EMA weights",
        f"saved to {out}",
    ]
    assert DeiTLTForImageClassification.from_pretrained(out).config.id2label[9] == "class j"


def test_teacher(golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = golden / "teacher_paco_resnet32.pth.tar", tmp_path / "teacher"
    run([str(file), str(out)])
    assert capsys.readouterr().out.splitlines() == [
        f"{file}: ResNet-32 teacher, linear classifier, 10 classes",
        f"saved to {out}",
    ]
    assert CifarResNetForImageClassification.from_pretrained(out).config.depth == 32


def test_label_names_that_cannot_be_read(golden: Path, tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(b"\x89PNG\xff")
    for names in ("absent.txt", "image.png"):
        with pytest.raises(DeiTLTError, match=f"cannot read label names from .*{names}"):
            run([str(golden / "student.pth"), str(tmp_path / "out"), "--label-names", str(tmp_path / names)])
    assert not (tmp_path / "out").exists()
