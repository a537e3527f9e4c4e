"""A hub that does not answer is asked once, and not at all for what is on this machine."""

from __future__ import annotations

import socket

import pytest
from huggingface_hub import constants

from deitlt_hf.cli import offline
from deitlt_hf.cli.offline import offline_where_the_hub_is_silent


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setattr(offline, "getproxies", dict)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.mark.parametrize("silent", [True, False])
def test_what_may_be_on_the_hub_is_sought_there_if_it_answers(monkeypatch, silent):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
        if silent:
            server.close()
        for argv in (["evaluate", "owner/name"], ["train", "--data=owner/name"]):
            with offline_where_the_hub_is_silent(argv):
                assert silent == constants.HF_HUB_OFFLINE
            assert not constants.HF_HUB_OFFLINE


@pytest.mark.parametrize(
    "argv",
    [
        ["evaluate", "./owner/name"],
        ["evaluate", "here/name"],
        ["train", "--data", "digits-lt"],
        ["push", "run", "owner/name"],
        ["train", "--hub_model_id", "owner/name"],
    ],
)
def test_for_other_arguments_it_is_not_tried(monkeypatch, tmp_path, argv):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    monkeypatch.setattr(socket, "create_connection", lambda *args, **kwargs: pytest.fail("tried"))
    with offline_where_the_hub_is_silent(argv):
        assert not constants.HF_HUB_OFFLINE
