"""Help and mistakes that are answered before torch is loaded, and the table of flags that this takes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import metadata

import pytest

from deitlt_hf import DeiTLTError
from deitlt_hf.cli import flags
from deitlt_hf.cli.flag_table import flag_table
from deitlt_hf.cli.main import main

# In a process of its own: torch is loaded here already.
_REPORT = """
import json, sys
from deitlt_hf.cli.main import main
for argv in json.load(sys.stdin):
    try:
        status = main(argv)
    except SystemExit as stop:
        status = stop.code
    heavy = {"torch", "transformers"} & {*sys.modules}
    print(json.dumps([status, sorted(heavy)]))
    print("---", file=sys.stderr, flush=True)
"""

MISTAKES = [
    ("train --epoch 3", "unknown option --epoch; did you mean --epochs?"),
    ("train --num-train-epoch 3", "unknown option --num-train-epoch; did you mean --num_train_epochs?"),
    ("train --lr abc", "invalid float value: 'abc'"),
    ("train --lr -1", "learning_rate is -1.0; pass a number above 0"),
    ("train --drw_start_epoch soon", "invalid int value: 'soon'"),
    ("train --resume perhaps", "Truthy value expected: got perhaps"),
    ("train --log_level loud", "invalid choice: 'loud'"),
    ("train --student_size huge", "unknown student size 'huge'; pass one of tiny, small, base"),
    ("train --distillation_type sfot", "unknown distillation type 'sfot'; pass one of hard, soft, ltkd, none"),
    ("teacher --loss cs", "unknown loss 'cs'; pass one of ce, focal,"),
    ("teacher --classifier cosin", "unknown classifier 'cosin'; pass one of linear, cosine"),
    (
        "train --metric_for_best_model average_tial",
        "unknown metric_for_best_model 'average_tial'; pass one of loss, ave",
    ),
    ("train --metric_for_best_model fused_tail", "'fused_tail', but the fusion is fitted after the training, by `dei"),
    (
        "teacher --metric_for_best_model average_tail",
        "unknown metric_for_best_model 'average_tail'; pass one of loss, o",
    ),
    ("train --validation_fraction 1", "validation_fraction is 1.0; pass a number in (0, 1)"),
    ("train --recipe cifar10-lt-smal", "unknown recipe 'cifar10-lt-smal'; did you mean cifar10-lt-small"),
    ("train --recipe digits-lt-teacher", "recipe digits-lt-teacher is for deitlt teacher"),
    ("teacher --recipe digits-lt", "recipe digits-lt is for deitlt train"),
    ("train --teacher no/such/teacher", "no/such/teacher: there is no such directory"),
    ("train --data digits-lt", "hard distillation needs a teacher; pass one, which `deitlt teacher --data digits-lt`"),
    (
        "train --data ./no/such --distillation_type none",
        "unknown data source 'no/such', which is neither a name, a file",
    ),
    ("train --lr 1e-3 --learning_rate 1e-4", "--lr 0.001 and --learning_rate 0.0001 are two values of one setting"),
    ("teacher --sam-roh 0.1", "unknown option --sam-roh; did you mean --sam_rho"),
    ("teacher --init_from ./no/such", "./no/such: there is no such directory"),
    ("teacher words", "unknown option words"),
    ("evaluate", "the following arguments are required: model"),
    ("evaluate ./no/such", "cannot load a model from ./no/such: there is no such directory; pass a directory with"),
    ("evaluate m --batch_size 0", "batch_size is 0; pass 1 or more"),
    ("evaluate m --outptu x", "unknown option --outptu; did you mean --output?"),
    ("analyze ./no/such --out x", "cannot load a model from ./no/such"),
    ("analyze m", "the following arguments are required: --out"),
    ("compare m", "there is only m to compare; pass at least two models"),
    ("compare a=./no/such b=./nor/this", "cannot load a model from ./no/such"),
    ("predict ./no/such picture.png", "cannot load a model from ./no/such"),
    ("export ./no/such", "cannot load a model from ./no/such"),
    ("app ./no/such", "cannot load a model from ./no/such"),
    ("push ./no/such me/model", "there is no directory ./no/such"),
    ("predict m", "the following arguments are required: images"),
    ("data inspect", "the following arguments are required: SOURCE"),
    ("data inspect ./no/such", "unknown data source 'no/such'"),
    ("data build cifar11-lt --out x", "invalid choice: 'cifar11-lt'"),
    ("data inspect x --jsno", "unknown option --jsno; did you mean --json?"),
    ("recipes nothing", "unknown recipe 'nothing'"),
    ("tran", "unknown command 'tran'; did you mean train"),
]


def answers(commands: list[str]) -> list[tuple[int, list[str], str]]:
    """Status, heavy modules and error of each command, all run in one process, which is light until one loads torch."""
    argvs = json.dumps([command.split() for command in commands])
    ran = subprocess.run([sys.executable, "-c", _REPORT], input=argvs, capture_output=True, text=True, check=True)
    reports = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("[")]
    errors = ran.stderr.split("---\n")
    return [(status, heavy, error.strip()) for (status, heavy), error in zip(reports, errors, strict=False)]


def test_mistakes_are_answered_in_one_line_before_torch_is_loaded():
    # What a flag of transformers takes is in the table for one version alone.
    is_tables = metadata.version("transformers") == json.loads(flags.FLAGS_FILE.read_text())["transformers"]
    mistakes = [mistake for mistake in MISTAKES if is_tables or "--log_level" not in mistake[0]]
    for (command, message), (status, heavy, error) in zip(
        mistakes, answers([each for each, _ in mistakes]), strict=True
    ):
        assert (command, status, heavy) == (command, 2, [])
        assert message in error
        assert len(error.splitlines()) == 1


@pytest.mark.parametrize("command", ["train", "teacher", "evaluate", "analyze", "compare", "data inspect"])
def test_help_loads_nothing_heavy(command):
    ((status, heavy, _),) = answers([f"{command} --help"])
    assert (status, heavy) == (0, [])


def shown(capsys, *argv: str) -> dict[str, list[str]]:
    """Title of each group of a command's help: the flags in it."""
    with pytest.raises(SystemExit) as stopped:
        main(list(argv))
    assert stopped.value.code == 0
    groups: dict[str, list[str]] = {}
    for line in capsys.readouterr().out.splitlines():
        if title := re.fullmatch("([a-z' ]+):", line):
            names = groups.setdefault(title[1], [])
        elif flag := re.match("  (-.*?)(  |$)", line):
            names.append(flag[1])
    return groups


@pytest.mark.parametrize(
    ("command", "groups"),
    [
        ("train", ["options", "data", "student", "teacher", "time", "output"]),
        ("teacher", ["options", "data", "teacher", "time", "output"]),
    ],
)
def test_the_help_of_a_training_is_short_and_in_groups(capsys, command, groups):
    short = shown(capsys, command, "--help")
    assert list(short) == groups
    assert 25 <= sum(map(len, short.values())) <= 35
    assert "--epochs, --num_train_epochs EPOCHS" in short["time"]


@pytest.mark.parametrize("command", ["train", "teacher"])
def test_help_all_shows_every_flag_but_those_of_texts(capsys, command):
    everything = shown(capsys, command, "--help-all")
    assert list(everything)[-1] == "transformers' own"
    names = {name for group in everything.values() for line in group for name in re.findall("--(\\w+)", line)}
    trained = {"train": "DeiTLTTrainingArguments", "teacher": "TeacherTrainingArguments"}[command]
    known = {flag["name"] for flag in flags._flags_of(["TrainingDataArguments", trained])}
    assert known - names == {"neftune_noise_alpha", "use_liger_kernel", "liger_kernel_config", "length_column_name"}


def test_the_table_is_what_the_dataclasses_say():
    """If this fails: python -m deitlt_hf.cli.flag_table"""
    written, now = json.loads(flags.FLAGS_FILE.read_text()), flag_table()
    if written["transformers"] != now["transformers"]:  # then only what is ours is compared
        for table in (written, now):
            del table["transformers"], table["dataclasses"]["TrainingArguments"]
    assert written == now


def given(*argv: str) -> dict:
    return vars(flags.check_flags("train", "", "", ["DeiTLTTrainingArguments"], argv, lambda parser: None))


def test_an_alias_is_the_flag():
    assert given("--lr", "1", "--epochs", "2", "--batch-size", "4") == {
        "learning_rate": 1.0,
        "num_train_epochs": 2.0,
        "per_device_train_batch_size": 4,
    }
    assert given("--lr", "1e-3", "--learning-rate", "0.001") == {"learning_rate": 0.001}
    assert given("--lr", "1", "--lr", "2") == {"learning_rate": 2.0}  # the last counts, as for every flag


def test_flags_of_another_transformers_are_left_to_it(monkeypatch, capsys):
    """It may have other flags, and other values of those that it shares with the one of the table."""
    names = ["optim", "logging_steps", "logging_strategy", "full_determinism", "save_only_model", "label_names"]
    monkeypatch.setattr(flags.metadata, "version", lambda name: "5.99.0")
    monkeypatch.setattr(flags, "_installed_names", lambda: {*names, "brand_new"})
    assert given("--brand_new", "a", "b", "--no-brand-new", "--optim", "other") == {
        "brand_new": False,
        "optim": "other",
    }
    assert given("--brand_new", "a", "b") == {"brand_new": ["a", "b"]}
    # Of what both have, one value is what it was, so that it can be checked and compared.
    assert given("--logging_steps", "7", "--full_determinism", "--save_only_model", "no", "--label_names", "a") == {
        "logging_steps": 7.0,
        "full_determinism": True,
        "save_only_model": False,
        "label_names": ["a"],
    }
    assert given("--logging_strategy", "at 7") == {"logging_strategy": "at 7"}
    with pytest.raises(DeiTLTError, match=r"logging_steps is -1\.0; pass a number above 0"):
        given("--logging_steps", "-1")
    assert given("--drw_start_epoch", "none") == {"drw_start_epoch": None}
    for argv, message in (
        (["--use_cpu"], "unknown option --use_cpu"),  # that one no longer has it
        (["--brand_nw"], "did you mean --brand_new"),
        (["--drw_start_epoch", "soon"], "invalid int value"),
    ):
        with pytest.raises(SystemExit):
            given(*argv)
        assert message in capsys.readouterr().err


def test_installed_names_are_read_from_the_source():
    assert {"seed", "optim", "num_train_epochs", "neftune_noise_alpha"} <= flags._installed_names()
