"""`deitlt push` says where the model is, or in one line why it is not there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deitlt_hf import CifarResNetConfig, CifarResNetForImageClassification
from deitlt_hf.cli.main import main
from hub_server import HubServer


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer(tmp_path) as hub:
        hub.connect(monkeypatch)
        yield hub


@pytest.fixture
def directory(tmp_path: Path) -> str:
    model = CifarResNetForImageClassification(CifarResNetConfig(depth=20, num_labels=2))
    model.save_pretrained(tmp_path / "teacher")
    return str(tmp_path / "teacher")


def test_the_address_is_printed_and_the_flags_arrive(
    hub: HubServer, directory: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", directory, "me/teacher", "--private"]) == 0
    following = "next: deitlt predict me/teacher photo.jpg\n"
    assert capsys.readouterr().out == f"pushed to {hub.endpoint}/me/teacher\n{following}"
    assert hub.repos["models", "me/teacher"].private
    assert main(["push", directory, "me/teacher", "--private", "--branch", "early", "--message", "Two words"]) == 0
    assert (
        capsys.readouterr().out
        == f"pushed to {hub.endpoint}/me/teacher/tree/early\n{following[:-1]} --revision early\n"
    )
    # The same files, but for the card, which says where it is.
    assert hub.messages("me/teacher", "early") == ["initial commit", "Push the model", "Two words"]
    assert main(["push", directory, "other", "--message", "Two words"]) == 0  # the token's owner is added
    assert capsys.readouterr().out.endswith("next: deitlt predict me/other photo.jpg\n")
    Path(directory, "model.safetensors").rename(Path(directory, "model.pt2"))  # a program, never loaded from the hub
    assert main(["push", directory, "me/program"]) == 0
    assert capsys.readouterr().out == f"pushed to {hub.endpoint}/me/program\n"
    assert hub.messages("me/other") == ["initial commit", "Two words"]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["push", "no/such", "me/x"], "deitlt push: there is no directory no/such; pass the output of `deitlt train`"),
        (["push", "{directory}", "a b"], "deitlt push: cannot push to a b: Repo id must use alphanumeric chars"),
        (["push", "{directory}", "someone/x"], "deitlt push: cannot push to someone/x: the token may not write there"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    hub: HubServer, directory: str, argv: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([part.format(directory=directory) for part in argv]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(says)
    assert printed.err.count("\n") == 1


def test_both_arguments_are_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["push", "runs/x"])
    assert "the following arguments are required: REPO" in capsys.readouterr().err
