"""Classes that can occur at a place, and how often: by hand arithmetic, and each wrong file in one line."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from deitlt_hf import CifarResNetConfig, DeiTLTConfig, DeiTLTError
from deitlt_hf.evaluation.class_prior import class_prior

NAMES = ["deer", "hare, brown", "lynx", "# 1"]
LABEL_MAPS = {"id2label": dict(enumerate(NAMES)), "label2id": {name: index for index, name in enumerate(NAMES)}}
CONFIG = DeiTLTConfig(**LABEL_MAPS, class_counts=[70, 20, 8, 2])
LOGITS = torch.tensor([[0.5, 0.25, 0.125, 0.125], [0.1, 0.2, 0.3, 0.4]]).log()


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(name: str, text: str) -> str:
    Path(name).write_text(text, encoding="utf-8")
    return name


def test_listed_classes_share_the_probability(place):
    listed = written("list.txt", "\ufeffdeer\n\n# seen in 2020: lynx\n  hare, brown  \r\n# 1\ndeer\n")
    prior = class_prior(CONFIG, listed)
    first, second = prior(LOGITS).softmax(-1).tolist()
    assert first == pytest.approx([4 / 7, 2 / 7, 0, 1 / 7])
    assert second == pytest.approx([1 / 7, 2 / 7, 0, 4 / 7])
    # What can occur keeps its logits up to a number that is the same for all of them.
    moved = prior(LOGITS) - LOGITS
    assert moved[:, [0, 1, 3]] == pytest.approx(torch.full((2, 3), 4 / 3).log())
    assert prior.can_occur == [True, True, False, True]
    assert prior.description == "only 3 of 4 classes can occur (list.txt)"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("site.csv", 'class,count\ndeer,6\n"hare, brown",3\n# 1,1\nlynx,0\n'),
        ("site.csv", '\n"hare, brown" ,0.3\ndeer, 0.6\n\nlynx,0e0\n# 1,.1\n'),
        ("site.tsv", "species\tseen\r\ndeer\t60\r\nhare, brown\t30\r\nlynx\t0\r\n# 1\t10\r\n"),
    ],
)
def test_probabilities_are_those_of_the_prior(name, text, place):
    prior = class_prior(CONFIG, prior=written(name, text))
    # 0.5 * 0.6, 0.25 * 0.3, 0, 0.125 * 0.1 = 0.3, 0.075, 0, 0.0125, of 0.3875; 0.06, 0.06, 0, 0.04 of 0.16.
    assert prior(LOGITS)[0].softmax(-1).tolist() == pytest.approx([24 / 31, 6 / 31, 0, 1 / 31])
    assert prior(LOGITS)[1].softmax(-1).tolist() == pytest.approx([3 / 8, 3 / 8, 0, 1 / 4])
    assert prior.shares.tolist() == pytest.approx([0.6, 0.3, 0, 0.1], abs=1e-15)
    assert prior.description == f"only 3 of 4 classes can occur and class frequencies ({name})"


def test_equally_frequent_classes_leave_the_logits_as_they_are():
    assert torch.equal(class_prior(CONFIG, prior=dict.fromkeys(NAMES, 7))(LOGITS), LOGITS)


def test_of_listed_classes_only_their_numbers_count():
    prior = class_prior(CONFIG, only=["lynx", "deer"], prior={"deer": 3, "lynx": 1, "# 1": 900})
    assert prior.shares.tolist() == [0.75, 0, 0.25, 0]  # no number is needed for a class that cannot occur
    assert prior.description == "only 2 of 4 classes can occur and class frequencies as given"


def test_the_training_images_may_be_the_prior():
    assert class_prior(CONFIG, prior="training").shares.tolist() == pytest.approx([0.7, 0.2, 0.08, 0.02])
    with pytest.raises(DeiTLTError, match="does not say how many training images a class had; pass a CSV file"):
        class_prior(CifarResNetConfig(**LABEL_MAPS), prior="training")


def test_without_a_list_and_a_prior_there_is_none():
    assert class_prior(CONFIG) is None


def test_one_notice_where_the_model_is_not_calibrated(caplog):
    with caplog.at_level(logging.WARNING, "deitlt_hf"):
        class_prior(CONFIG, only=["deer"])
    assert not caplog.records  # which is exact for any model
    class_prior(CONFIG, prior="training")
    (record,) = caplog.records
    assert "is not calibrated to be so: the result is an approximation (`deitlt calibrate` fits it)" in record.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("deer\nLynx\n", "list.txt: the model has no class 'Lynx'; did you mean 'lynx'?"),
        ("wolf\nbear\n", "list.txt: the model has no class 'wolf', 'bear'; its classes are 'deer', 'hare, brown', "
         "'lynx', '# 1'"),
        ("# none\n\n", "list.txt names no class; write one of the model's in each line, such as deer"),
    ],
)  # fmt: skip
def test_wrong_lists_are_one_line(text, message, place):
    with pytest.raises(DeiTLTError) as error:
        class_prior(CONFIG, written("list.txt", text))
    assert str(error.value) == message


REST = '"hare, brown",1\nlynx,1\n# 1,1\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("deer,5\nlynx,1\n", " lacks 2 classes of 4: 'hare, brown', '# 1'; give each a number, 0 if it cannot occur"),
        ("", " lacks 4 classes of 4: 'deer', 'hare, brown', 'lynx', '# 1'; give each a number, 0 if it cannot occur"),
        ("class,count\n", " lacks 4 classes of 4: 'deer', 'hare, brown', 'lynx', '# 1'; give each a number, 0 if it "
         "cannot occur"),
        (f"deer,5\nwolf,2\n{REST}", ": the model has no class 'wolf'; its classes are 'deer', 'hare, brown', 'lynx', "
         "'# 1'"),
        (f"deer,-1\n{REST}", ": 'deer' has -1; pass a count or a share of 0 or more"),
        (f"deer,nan\n{REST}", ": 'deer' has nan; pass a count or a share of 0 or more"),
        (f"deer,inf\n{REST}", ": 'deer' has inf; pass a count or a share of 0 or more"),
        (f"deer,5\n{REST}deer,5\n", " has 'deer' twice; keep one line of each class"),
        ("deer,0\nlynx,0\n# 1,0\n\"hare, brown\",0", " has 0 for every class that can occur; give at least one a "
         "number above 0"),
        ("deer,many\n", ", line 1: 'deer, many' is no class with its number; write deer,12 (a name with a comma in "
         "quotes)"),
        ("class,count\ndeer,5\nhare, brown,2\n", ", line 3: 'hare, brown, 2' is no class with its number; write "
         "deer,12 (a name with a comma in quotes)"),
        ("class;count\ndeer;5\n", ", line 1: 'class;count' is no class with its number; write deer,12 (a name with a "
         "comma in quotes)"),
    ],
)  # fmt: skip
def test_wrong_priors_are_one_line(text, message, place):
    with pytest.raises(DeiTLTError) as error:
        class_prior(CONFIG, prior=written("site.csv", text))
    assert str(error.value) == f"site.csv{message}"


@pytest.mark.parametrize("argument", ["only", "prior"])
def test_files_that_cannot_be_read_are_one_line(argument, place):
    Path("latin").write_bytes(b"caf\xe9,1\n")
    for name, message in (
        ("gone", r"^cannot read gone: No such file or directory; pass a text file with the (name|columns) .*$"),
        (".", r"^cannot read \.: Is a directory; "),
        ("latin", r"^latin is not UTF-8 text; save it with that encoding$"),
    ):
        with pytest.raises(DeiTLTError, match=message):
            class_prior(CONFIG, **{argument: name})
