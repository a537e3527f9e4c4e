"""A card tells the settings in force at the end of a run, and those of before it was resumed with others."""

from __future__ import annotations

from types import SimpleNamespace

from deitlt_hf.cards.training import training_section


def test_the_card_of_a_run_that_was_resumed_with_other_settings_says_which():
    resumed = [{"step": 12, "changed": {"num_train_epochs": [2.0, 6.0], "drw_start_epoch": [None, 4]}}]
    facts = SimpleNamespace(
        settings={"num_train_epochs": 6.0},
        run={"training": {"epochs": 6, "resumed": resumed}},
        recipe="digits-lt",
        data=SimpleNamespace(hub_id="me/data"),
        processes=1,
        hub_ids={},
        step=None,
        is_student=True,
    )
    assert (
        "Resumed after step 12 with other settings than before: `num_train_epochs` 6 (before: 2), `drw_start_epoch` 4 "
        "(before: none)."
    ) in training_section(facts)
    facts.run["training"]["resumed"] = []
    assert "Resumed" not in training_section(facts)
