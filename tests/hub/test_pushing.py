"""What `push_model` puts on a hub, and what it says when it cannot."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import HfApi
from peft import LoraConfig, get_peft_model
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoModelForImageClassification

from deitlt_hf import (
    CifarResNetConfig,
    CifarResNetForImageClassification,
    DeiTLTConfig,
    DeiTLTError,
    DeiTLTForImageClassification,
)
from deitlt_hf.cards.model_card import is_generated, model_card, write_model_card
from deitlt_hf.data.record import DataRecord
from deitlt_hf.data.views import image_processor
from deitlt_hf.evaluation.measures import expert_metrics
from deitlt_hf.files import write_json
from deitlt_hf.foreign.adapters import save_classes
from deitlt_hf.hub.pushing import push_model
from hub_server import Fault, HubServer

COUNTS = [120, 30, 6]
IN_A_RUN = {
    "README.md",
    "config.json",
    "configuration_deit_lt.py",
    "metrics.json",
    "model.safetensors",
    "modeling_deit_lt.py",
    "preprocessor_config.json",
    "recipe.yaml",
    "report.png",
    "run.json",
}
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"


@pytest.fixture(scope="module")
def model() -> DeiTLTForImageClassification:
    torch.manual_seed(0)
    shape = {"image_size": 16, "patch_size": 8, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    groups = {"head": [0], "mid": [1], "tail": [2]}
    return DeiTLTForImageClassification(DeiTLTConfig(num_labels=3, class_counts=COUNTS, class_groups=groups, **shape))


@pytest.fixture
def run(tmp_path: Path, model: DeiTLTForImageClassification) -> Path:
    """A run's directory as training leaves it, with a checkpoint, averaged weights, and what nobody else should get."""
    run = tmp_path / "birds"
    for directory in (run, run / "ema", run / "checkpoint-7"):
        model.save_pretrained(directory)
    image_processor(16).save_pretrained(run)
    predictions = [[0] * 3, [1] * 3, [1] * 3, [2] * 3]
    metrics = expert_metrics(predictions, [0, 1, 2, 2], COUNTS, model.config.class_groups, list("abc"))
    write_json(run / "metrics.json", metrics)
    DataRecord(list("abc"), COUNTS, [1, 1, 2], {"birds": "/home/alice/birds"}).write(run)
    write_json(run / "run.json", {"versions": {}, "hub_ids": {}, "training": {"epochs": 3}})
    settings = {"data": "/home/alice/birds", "teacher": "/home/alice/teacher", "hub_token": "hf_secret"}
    (run / "recipe.yaml").write_text(yaml.safe_dump(settings | {"num_train_epochs": 3}))
    (run / "report.png").write_bytes(PNG)
    state = {"global_step": 7, "log_history": []}
    (run / "checkpoint-7" / "trainer_state.json").write_text(json.dumps(state))
    for name in ("training_args.bin", ".hidden.png", "model.safetensors.part", "events.out.tfevents.1", "notes.py"):
        (run / name).write_bytes(b"secret")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        (run / "checkpoint-7" / name).write_bytes(b"secret")
    save_file({"queue": torch.zeros(3)}, run / "checkpoint-7" / "paco.safetensors")
    (run / "saving").mkdir()
    (run / "saving" / "config.json").write_text("{}")
    return run


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer(tmp_path) as hub:
        hub.connect(monkeypatch)
        yield hub


def test_a_run_goes_whole_and_in_one_commit(hub: HubServer, run: Path) -> None:
    before = sorted(path for path in run.rglob("*"))
    assert push_model(run, "me/birds") == f"{hub.endpoint}/me/birds"
    pushed = hub.files("me/birds")
    assert set(pushed) == IN_A_RUN
    for name in ("model.safetensors", "config.json", "metrics.json", "report.png", "preprocessor_config.json"):
        assert pushed[name] == (run / name).read_bytes()
    assert hub.messages("me/birds") == ["initial commit", "Push the model"]
    assert not hub.repos["models", "me/birds"].private
    assert sorted(path for path in run.rglob("*")) == before


def test_the_card_loads_the_repository_and_nothing_tells_of_this_machine(hub: HubServer, run: Path) -> None:
    write_model_card(run)
    push_model(run, "birds")  # the token's owner is meant
    pushed = hub.files("me/birds")
    card = pushed["README.md"].decode()
    assert is_generated(card)
    assert 'from_pretrained("me/birds"' in card
    assert yaml.safe_load(pushed["recipe.yaml"]) == {"data": "birds", "teacher": "teacher", "num_train_epochs": 3}
    text = b"".join(content for name, content in pushed.items() if not name.endswith((".png", ".safetensors")))
    assert b"alice" not in text
    assert b"hf_secret" not in text
    assert str(run.parent).encode() not in text


@pytest.mark.parametrize("base", ["birds", "me/birds"])
def test_of_an_adapters_base_on_this_machine_the_name_alone_goes(
    hub: HubServer, run: Path, base: str, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = run.parent / "adapter"
    adapter.mkdir()
    path = str(run) if base == "birds" else base
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": path, "peft_type": "LORA"}))
    save_file({"lora_A.weight": torch.zeros(3)}, adapter / "adapter_model.safetensors")
    push_model(adapter, "me/adapter")
    pushed = hub.files("me/adapter")
    assert set(pushed) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert json.loads(pushed["adapter_config.json"])["base_model_name_or_path"] == base
    assert f'from_pretrained("{base}"' in pushed["README.md"].decode()
    assert str(run.parent).encode() not in b"".join(pushed.values())
    assert ("which nobody else has" in caplog.text) == (base == "birds")
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == path


def test_a_readme_that_somebody_wrote_goes_as_it_is(
    hub: HubServer, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_model_card(run)
    (run / "README.md").write_text((run / "README.md").read_text() + "\nCall Alice before use.\n")
    push_model(run, "me/birds")
    edited = (run / "README.md").read_text()
    assert edited.count('"birds"') == 4
    assert hub.files("me/birds")["README.md"].decode() == edited.replace('"birds"', '"me/birds"')
    assert "README.md was written or edited by hand" in caplog.text
    push_model(run, "me/other", branch="late")
    on_branch = hub.files("me/other", "late")["README.md"].decode()
    assert on_branch.count('"me/other", revision="late"') == 4
    own = 'from_pretrained("google/birds")\nV\xf6gel'
    (run / "README.md").write_text(own, encoding="utf-8")
    push_model(run, "me/own")
    assert hub.files("me/own")["README.md"].decode() == own
    (run / "README.md").write_text(own, encoding="latin-1")
    with pytest.raises(DeiTLTError, match=r"^README.md is no UTF-8 text"):
        push_model(run, "me/own")


def test_a_wrong_header_in_a_readme_is_one_line_and_no_commit(hub: HubServer, run: Path) -> None:
    (run / "README.md").write_text("---\nlicense: my-own\n---\n# Birds\n")
    with pytest.raises(DeiTLTError, match=r'^cannot push to me/birds: Invalid metadata.*"license" must be one of'):
        push_model(run, "me/birds")
    assert hub.files("me/birds") == {}


def test_a_checkpoint_takes_its_runs_processor_and_recipe_but_not_its_results(hub: HubServer, run: Path) -> None:
    push_model(run, "me/birds")
    address = push_model(run / "checkpoint-7", "me/birds", branch="steps/7", message="Seven steps")
    assert address == f"{hub.endpoint}/me/birds/tree/steps/7"
    on_branch = hub.files("me/birds", "steps/7")
    assert set(on_branch) == IN_A_RUN - {"metrics.json", "report.png"}
    assert "metrics.json" in hub.files("me/birds")
    assert hub.messages("me/birds", "steps/7") == ["initial commit", "Push the model", "Seven steps"]
    assert "model-index" not in on_branch["README.md"].decode()
    push_model(run / "ema", "me/birds", branch="ema")
    assert set(hub.files("me/birds", "ema")) == IN_A_RUN - {"metrics.json", "report.png"}


def test_the_snippets_of_a_branch_load_what_is_on_it(
    hub: HubServer, run: Path, model: DeiTLTForImageClassification, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    other = DeiTLTForImageClassification(model.config)
    other.save_pretrained(run / "checkpoint-7")
    push_model(run, "me/birds")
    push_model(run / "checkpoint-7", "me/birds", branch="steps/7")
    on_main, on_branch = (hub.files("me/birds", branch)["README.md"].decode() for branch in ("main", "steps/7"))
    assert "revision" not in on_main
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (20, 16), "teal").save("photo.jpg")
    pipeline, auto_classes, this_package = re.findall(r"```python\n(.*?)```", on_branch, flags=re.DOTALL)
    for code, name in (
        (pipeline, "classifier.model"),
        (auto_classes, "model"),
        (this_package, "classifier._run.model"),
    ):
        loaded: dict = {}
        exec(code, loaded)
        weights = eval(name, loaded).state_dict()
        torch.testing.assert_close(weights, dict(other.state_dict()), rtol=0, atol=0)


def test_a_teachers_branch_is_downloaded_for_a_student(tmp_path: Path) -> None:
    config = CifarResNetConfig(depth=20, num_labels=3, image_size=16)
    CifarResNetForImageClassification(config).save_pretrained(tmp_path)
    card = str(model_card(tmp_path, "me/teacher", branch="late"))
    assert card.count(', revision="late"') == 3
    assert (
        "hf download me/teacher --revision late --local-dir teacher\n"
        "deitlt train --data pictures --teacher teacher\n" in card
    )


def test_a_student_over_an_adapter_is_what_loads(
    hub: HubServer, run: Path, model: DeiTLTForImageClassification
) -> None:
    adapter = run.parent / "adapter"
    student = DeiTLTForImageClassification.from_pretrained(run)
    get_peft_model(student, LoraConfig(target_modules=["q_proj"])).save_pretrained(adapter)
    save_classes(model.config, adapter)
    push_model(adapter, "me/mixed")
    assert set(hub.files("me/mixed")) == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "classes.json",
    }
    (adapter / "classes.json").unlink()
    push_model(adapter, "me/mixed")
    assert "classes.json" not in hub.files("me/mixed")
    HfApi().upload_file(path_or_fileobj=b"onnx", path_in_repo="model.onnx", repo_id="me/mixed")
    push_model(run, "me/mixed")
    assert set(hub.files("me/mixed")) == IN_A_RUN
    loaded = AutoModelForImageClassification.from_pretrained("me/mixed")
    torch.testing.assert_close(dict(loaded.state_dict()), dict(model.state_dict()), rtol=0, atol=0)


def test_an_older_directory_gets_the_code_that_it_lacks(
    hub: HubServer, run: Path, model: DeiTLTForImageClassification
) -> None:
    for file in run.glob("*_deit_lt.py"):
        file.unlink()
    saved = json.loads((run / "config.json").read_text())
    auto_map = saved.pop("auto_map")
    (run / "config.json").write_text(json.dumps(saved))
    push_model(run, "me/birds")
    pushed = hub.files("me/birds")
    assert set(pushed) == IN_A_RUN
    assert json.loads(pushed["config.json"]) == saved | {"auto_map": auto_map}
    assert "trust_remote_code=True" in pushed["README.md"].decode()
    assert json.loads((run / "config.json").read_text()) == saved


def test_what_contradicts_the_new_weights_goes_and_other_files_stay(
    hub: HubServer, run: Path, model: DeiTLTForImageClassification
) -> None:
    model.save_pretrained(run, max_shard_size="10KB")  # removes the single file that was there
    push_model(run, "me/birds")
    assert "model.safetensors.index.json" in hub.files("me/birds")
    HfApi().upload_file(path_or_fileobj=b"mine", path_in_repo="sounds/call.txt", repo_id="me/birds")
    for file in run.glob("model*.safetensors*"):
        file.unlink()
    model.save_pretrained(run)
    (run / "metrics.json").unlink()
    push_model(run, "me/birds")
    assert set(hub.files("me/birds")) == (IN_A_RUN - {"metrics.json"}) | {"sounds/call.txt"}


def test_a_repeated_push_sends_nothing_and_commits_nothing(hub: HubServer, run: Path) -> None:
    push_model(run, "me/birds")
    uploads, messages = list(hub.uploads), hub.messages("me/birds")
    push_model(run, "me/birds")
    assert (hub.uploads, hub.messages("me/birds")) == (uploads, messages)


def test_an_export_does_not_go_over_weights_that_load_elsewhere(hub: HubServer, run: Path, tmp_path: Path) -> None:
    export = tmp_path / "export"
    export.mkdir()
    (export / "config.json").write_bytes((run / "config.json").read_bytes())
    (export / "model.onnx").write_bytes(b"onnx")
    push_model(run, "me/birds")
    before = hub.files("me/birds")
    with pytest.raises(DeiTLTError, match="me/birds holds PyTorch weights; push an export or adapter to a repository"):
        push_model(export, "me/birds")
    assert hub.files("me/birds") == before
    push_model(export, "me/birds-onnx")
    assert set(hub.files("me/birds-onnx")) == {"README.md", "config.json", "model.onnx"}


def test_a_refused_upload_leaves_the_repository_as_it_was(
    hub: HubServer, run: Path, model: DeiTLTForImageClassification
) -> None:
    push_model(run, "me/birds")
    before = hub.files("me/birds")
    (run / "report.png").write_bytes(PNG + b"another")
    torch.nn.init.ones_(model.cls_classifier.weight)
    model.save_pretrained(run)
    hub.fault = Fault(after_bytes=2_000, how="refuse")
    with pytest.raises(DeiTLTError, match=r"^cannot push to me/birds: .*the hub answered 507.*nothing was committed"):
        push_model(run, "me/birds")
    assert hub.files("me/birds") == before
    arrived = list(hub.uploads)
    push_model(run, "me/birds")
    assert len(set(arrived)) == len(arrived)
    assert len(hub.uploads) == 4  # two files, twice, each sent once
    assert hub.files("me/birds")["model.safetensors"] == (run / "model.safetensors").read_bytes()


def test_a_dropped_connection_is_tried_again(hub: HubServer, run: Path) -> None:
    hub.fault = Fault(after_bytes=100, how="drop")
    push_model(run, "me/birds")
    assert hub.fault.reached.is_set()
    assert set(hub.files("me/birds")) == IN_A_RUN


def test_a_push_that_is_killed_and_repeated_leaves_a_complete_repository(hub: HubServer, run: Path) -> None:
    hub.fault = Fault(after_bytes=1_000, how="stall")
    command = [sys.executable, "-m", "deitlt_hf", "push", str(run), "me/birds"]
    push = subprocess.Popen(command, env=hub.environment(), stderr=subprocess.DEVNULL)
    try:
        assert hub.fault.reached.wait(60)
    finally:
        push.kill()
        push.wait()
    assert hub.files("me/birds") == {}
    push_model(run, "me/birds")
    assert set(hub.files("me/birds")) == IN_A_RUN
    assert hub.files("me/birds")["model.safetensors"] == (run / "model.safetensors").read_bytes()


def test_private_is_for_its_owner_alone_and_never_turns_public(
    hub: HubServer, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    push_model(run, "me/secret", private=True)
    assert hub.repos["models", "me/secret"].private
    push_model(run, "me/secret")
    assert hub.repos["models", "me/secret"].private
    assert "me/secret is private and stays so" in caplog.text
    push_model(run, "me/birds")
    with pytest.raises(DeiTLTError, match="me/birds is there already and public"):
        push_model(run, "me/birds", private=True)


@pytest.mark.parametrize(
    ("token", "repo_id", "says"),
    [
        ("hf_wrong", "me/birds", "the hub refused the token"),
        (None, "me/birds", "there is no token"),
        (HubServer.read_token, "me/birds", "the token may not write there"),
        (HubServer.token, "someone/birds", "the token may not write there"),
        (HubServer.token, "a/b/c", "pass owner/name"),
    ],
)
def test_what_the_hub_refuses_is_one_line(
    hub: HubServer, run: Path, monkeypatch: pytest.MonkeyPatch, token: str | None, repo_id: str, says: str
) -> None:
    hub.connect(monkeypatch, token)
    with pytest.raises(DeiTLTError, match=says) as error:
        push_model(run, repo_id)
    assert str(error.value).startswith(f"cannot push to {repo_id}: ")
    assert "\n" not in str(error.value)
    assert hub.repos == {}


def test_a_hub_that_is_not_there_is_one_line(run: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DeiTLTError, match=r"no answer from http://127.0.0.1:9 .*check the network"):
        push_model(run, "me/birds")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DeiTLTError, match="HF_HUB_OFFLINE is set; unset it"):
        push_model(run, "me/birds")


def test_a_directory_without_a_model_is_refused_before_the_hub_is_asked(hub: HubServer, run: Path) -> None:
    with pytest.raises(DeiTLTError, match="there is no directory no/such"):
        push_model("no/such", "me/birds")
    with pytest.raises(DeiTLTError, match=r"has no config\.json"):
        push_model(run.parent, "me/birds")
    os.remove(run / "model.safetensors")
    (run / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(DeiTLTError, match="has no weights"):
        push_model(run, "me/birds")
    assert hub.requests == []


def test_links_out_of_the_directory_stay_here(
    hub: HubServer, run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever unpacks somebody else's run and pushes it sends no file of this machine with it."""
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"private")
    (run / "leak.png").symlink_to(secret)
    (run / "again.png").symlink_to("report.png")
    push_model(run, "me/birds")
    pushed = hub.files("me/birds")
    assert set(pushed) == IN_A_RUN | {"again.png"}
    assert pushed["again.png"] == PNG
    assert f"not uploaded, for it is a link to another place of this machine: {run / 'leak.png'}" in caplog.text
