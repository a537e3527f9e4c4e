"""A student whose teacher cannot be used: `deitlt evaluate`, `analyze` and `compare` measure it all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from deitlt_hf import DeiTLTConfig, DeiTLTForImageClassification
from deitlt_hf.cli.main import main
from deitlt_hf.evaluation import page


@pytest.mark.parametrize(
    ("command", "row"),
    [
        ("evaluate student", "DIST expert"),
        ("analyze student --out analysis", "no teacher was found to compare with; --teacher DIR names one"),
        ("compare student again=student", "again - student"),
    ],
)
@pytest.mark.parametrize(
    ("broken", "said"),
    [(False, "no row for the teacher gone: it was not found"), (True, "no row for the teacher cnn: ")],
)
def test_the_student_is_measured_without_its_teacher(command, row, broken, said, tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.chdir(tmp_path)
    names = [str(digit) for digit in range(10)]
    DeiTLTForImageClassification(
        DeiTLTConfig(
            image_size=16, patch_size=8, hidden_size=12, num_hidden_layers=1, num_attention_heads=2,
            class_counts=list(range(100, 0, -10)), id2label=dict(enumerate(names)),
            label2id={name: index for index, name in enumerate(names)},
        )
    ).save_pretrained("student")  # fmt: skip
    if broken:
        (tmp_path / "cnn").mkdir()
        (tmp_path / "cnn" / "config.json").write_text("{")
    (tmp_path / "student" / "recipe.yaml").write_text(f"data: digits-lt\nteacher: {'cnn' if broken else 'gone'}\n")
    monkeypatch.setattr(page, "save_figure", lambda figure, path: _touch(path))  # takes seconds
    assert main(command.split()) in (0, None)
    printed = capsys.readouterr()
    assert row in printed.out
    assert "teacher" not in printed.out.replace(row, "")
    assert said in printed.err + caplog.text


def _touch(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"")
