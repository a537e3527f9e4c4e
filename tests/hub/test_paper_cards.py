"""The cards in model_cards/ are what the code makes, and have the paper's numbers marked as the paper's."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from deitlt_hf.cards.paper_settings import PAPER_SETTINGS, paper_card
from deitlt_hf.recipes import load_recipe
from hub_metadata import metadata_problems

CARDS = Path(__file__).parents[2] / "model_cards"

# Rangwani et al., CVPR 2024: overall, head, mid, tail.
PUBLISHED = {
    "cifar10-lt-if100": [87.5, 94.5, 84.1, 85.0],
    "cifar10-lt-if50": [89.8, 94.9, 87.0, 88.6],
    "cifar100-lt-if100": [55.6, 72.8, 55.4, 31.4],
    "cifar100-lt-if50": [60.5, 74.8, 60.3, 43.1],
    "imagenet-lt": [59.1, 66.6, 58.3, 40.0],
    "inaturalist-2018": [75.1, 70.3, 75.2, 76.2],
}
# Training images of all, the largest and the smallest class.
IMAGES = {
    "cifar10-lt-if100": ("12,406", "5,000", "50"),
    "cifar100-lt-if100": ("10,847", "500", "5"),
    "imagenet-lt": ("115,846", "1,280", "5"),
    "inaturalist-2018": ("437,513", "1,000", "2"),
}


def test_there_is_a_card_for_each_setting() -> None:
    assert set(PAPER_SETTINGS) == set(PUBLISHED)
    assert {path.stem for path in CARDS.glob("*.md")} == {*PUBLISHED, "README"}


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_files_are_what_the_code_makes(name: str) -> None:
    assert (CARDS / f"{name}.md").read_text(encoding="utf-8") == str(paper_card(name)), (
        "run `python model_cards/make_cards.py`"
    )


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_numbers_are_the_papers_and_say_so(name: str) -> None:
    text = (CARDS / f"{name}.md").read_text(encoding="utf-8")
    assert metadata_problems(text, "model") == ([], [])
    card = ModelCard(text)
    assert [result.metric_value for result in card.data.eval_results] == PUBLISHED[name]
    assert {result.source_url for result in card.data.eval_results} == {"https://arxiv.org/abs/2404.02900"}
    assert "| average | " + " | ".join(f"{value:.1f}" for value in PUBLISHED[name]) + " |" in text
    assert "These are the paper's numbers, not this package's." in text
    assert "No weights trained with this package exist yet" in text
    assert "CLS expert" not in text  # the paper's table has the average alone


@pytest.mark.parametrize("name", list(IMAGES))
def test_counts_are_the_published_ones(name: str) -> None:
    text = (CARDS / f"{name}.md").read_text(encoding="utf-8")
    images, largest, smallest = IMAGES[name]
    assert f"| training images | {images} |" in text
    assert f"| training images of the largest class | {largest} |" in text
    assert f"| training images of the smallest class | {smallest} |" in text


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_commands_and_settings_are_the_recipes(name: str) -> None:
    text = (CARDS / f"{name}.md").read_text(encoding="utf-8")
    recipe = load_recipe(name)
    assert f"num_train_epochs: {recipe['num_train_epochs']}\ndrw_start_epoch: {recipe['drw_start_epoch']}\n" in text
    assert f"--recipe {name}-teacher" in text
    assert f"--teacher runs/{name}-teacher" in text
    devices = 2 if name.startswith("cifar") else 4  # the paper's
    assert f"accelerate launch --num_processes {devices} -m deitlt_hf train --recipe {name}" in text


def test_the_overview_has_the_same_numbers() -> None:
    overview = (CARDS / "README.md").read_text(encoding="utf-8")
    for name, values in PUBLISHED.items():
        assert f"[{name}]({name}.md) | " + " | ".join(f"{value:.1f}" for value in values) in overview
