"""`deitlt evaluate` with a teacher that cannot be used: the student is measured all the same."""

from __future__ import annotations

import pytest

from deitlt_hf import DeiTLTConfig, DeiTLTForImageClassification
from deitlt_hf.cli.main import main


@pytest.mark.parametrize(
    ("broken", "said"),
    [(False, "no row for the teacher gone: it was not found"), (True, "no row for the teacher cnn: ")],
)
def test_the_student_is_measured_without_its_teacher(broken, said, tmp_path, monkeypatch, capsys, caplog):
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
    assert main(["evaluate", "student"]) in (0, None)
    printed = capsys.readouterr()
    assert "DIST expert" in printed.out
    assert "teacher" not in printed.out
    assert said in printed.err + caplog.text
