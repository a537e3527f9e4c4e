"""A card tells the settings in force at the end of a run, and those of before it was resumed with others."""

from __future__ import annotations

import json

import yaml

from deitlt_hf import CifarResNetConfig
from deitlt_hf.cards.model_card import model_card


def test_the_card_of_a_run_that_was_resumed_with_other_settings_says_which(tmp_path):
    CifarResNetConfig(depth=20, num_labels=3).save_pretrained(tmp_path)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"num_train_epochs": 6.0}))
    resumed = [{"step": 12, "changed": {"num_train_epochs": [2.0, 6.0], "drw_start_epoch": [None, 4]}}]
    (tmp_path / "run.json").write_text(json.dumps({"training": {"epochs": 6, "resumed": resumed}}))
    assert (
        "Resumed after step 12 with other settings than before: `num_train_epochs` 6 (before: 2), `drw_start_epoch` 4 "
        "(before: none)."
    ) in str(model_card(tmp_path))
    (tmp_path / "run.json").write_text(json.dumps({"training": {"epochs": 6, "resumed": []}}))
    assert "Resumed" not in str(model_card(tmp_path))
