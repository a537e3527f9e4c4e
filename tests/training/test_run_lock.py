"""Two trainings in one directory: the second is refused, unless the first was killed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time

import psutil
import pytest

from deitlt_hf import DeiTLTError
from deitlt_hf.runs.lock import LOCK_FILE, check_lock, release_lock, take_lock


def write(directory, **changes):
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}
    (directory / LOCK_FILE).write_text(json.dumps(holder | changes))


def notices(caplog) -> list[str]:
    return [record.message for record in caplog.records if record.name == "deitlt_hf"]


def test_a_lock_is_taken_and_released(tmp_path, caplog):
    take_lock(tmp_path)
    assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()
    check_lock(tmp_path)
    take_lock(tmp_path)  # its own
    release_lock(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert notices(caplog) == []


def test_a_living_process_keeps_its_directory(tmp_path):
    parent = psutil.Process(os.getppid())
    write(tmp_path, pid=parent.pid, started=parent.create_time())
    for act in (check_lock, take_lock):
        with pytest.raises(DeiTLTError, match=rf"is in use by process {parent.pid} on host .*; wait .* --output_dir$"):
            act(tmp_path)
    release_lock(tmp_path)
    assert (tmp_path / LOCK_FILE).is_file()


@pytest.mark.parametrize("changes", [{"pid": 2**22 + 1}, {"started": 1.0}, {"pid": "x"}])
def test_a_killed_process_leaves_a_directory_to_take_over(tmp_path, caplog, changes):
    write(tmp_path, **changes)
    check_lock(tmp_path)
    assert notices(caplog) == []
    take_lock(tmp_path)
    assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()
    assert len(notices(caplog)) == 1
    assert "taken over from process" in notices(caplog)[0]


@pytest.mark.parametrize("content", ['{"host": "elsewhere", "pid": 1}', "", "[]"])
def test_what_cannot_be_asked_is_refused_with_the_file_to_remove(tmp_path, content):
    (tmp_path / LOCK_FILE).write_text(content)
    message = r"this host cannot tell whether it still runs; if it has ended, remove .*run.lock and start"
    with pytest.raises(DeiTLTError, match=message):
        check_lock(tmp_path)


def test_of_two_that_start_together_one_is_refused(tmp_path):
    script = (
        "import sys, time; from pathlib import Path; from deitlt_hf.runs.lock import take_lock;"
        "time.sleep(max(0, float(sys.argv[2]) - time.time()));"
        "take_lock(Path(sys.argv[1])); print('taken', flush=True); time.sleep(3)"
    )
    argv = [sys.executable, "-c", script, str(tmp_path), str(time.time() + 2)]
    both = [subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate() for process in both]
    assert sorted(out for out, _ in said) == ["", "taken\n"]
    assert sum("is in use by process" in error for _, error in said) == 1
