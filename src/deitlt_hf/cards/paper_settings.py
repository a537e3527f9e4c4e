"""The paper's six settings: its published numbers, and cards that say how to train them with this package.

Rangwani et al.: DeiT-LT: Distillation Strikes Back for Vision Transformer Training on Long-Tailed Datasets, CVPR 2024.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from huggingface_hub import ModelCard

from deitlt_hf.cards.descriptions import describe_architecture, describe_data
from deitlt_hf.cards.model_card import card_of
from deitlt_hf.cards.record import RunRecord
from deitlt_hf.data.benchmarks import BENCHMARKS
from deitlt_hf.data.long_tail import class_counts_for_imbalance
from deitlt_hf.evaluation.measures import GROUPS
from deitlt_hf.models.cifar_resnet.configuration_cifar_resnet import CifarResNetConfig
from deitlt_hf.models.deit_lt.configuration_deit_lt import DeiTLTConfig
from deitlt_hf.recipes import load_recipe


@dataclass(frozen=True)
class PaperSetting:
    """A row of the paper's main results; `recipe` is the package's, and `<recipe>-teacher` that of its teacher."""

    recipe: str
    title: str
    devices: int  # that the paper trains the student on
    accuracy: tuple[float, float, float, float]  # percentages: overall, head, mid, tail
    source: str = "DeiT-LT, CVPR 2024"
    url: str = "https://arxiv.org/abs/2404.02900"


# Accuracies: tables of the paper's section 5. Devices: its appendix on experimental details.
PAPER_SETTINGS = {
    setting.recipe: setting
    for setting in (
        PaperSetting("cifar10-lt-if100", "CIFAR-10-LT, imbalance factor 100", 2, (87.5, 94.5, 84.1, 85.0)),
        PaperSetting("cifar10-lt-if50", "CIFAR-10-LT, imbalance factor 50", 2, (89.8, 94.9, 87.0, 88.6)),
        PaperSetting("cifar100-lt-if100", "CIFAR-100-LT, imbalance factor 100", 2, (55.6, 72.8, 55.4, 31.4)),
        PaperSetting("cifar100-lt-if50", "CIFAR-100-LT, imbalance factor 50", 2, (60.5, 74.8, 60.3, 43.1)),
        PaperSetting("imagenet-lt", "ImageNet-LT", 4, (59.1, 66.6, 58.3, 40.0)),
        PaperSetting("inaturalist-2018", "iNaturalist-2018", 4, (75.1, 70.3, 75.2, 76.2)),
    )
}


def paper_card(name: str) -> ModelCard:
    """The card of one of the paper's settings, by the name of its recipe; it says that the numbers are the paper's."""
    setting = PAPER_SETTINGS[name]
    recipe, teacher = load_recipe(name), load_recipe(f"{name}-teacher")
    if "architecture" in teacher:
        architecture = f"timm's {teacher['architecture']}, for images of {teacher['image_size']} pixels"
    else:
        shape = {key: teacher[key] for key in ("depth", "classifier", "image_size")}
        architecture = describe_architecture(CifarResNetConfig(**shape))
    return card_of(
        RunRecord(
            title=f"DeiT-LT on {setting.title}",
            location=f"runs/{name}",
            has_code=True,
            data=describe_data(recipe["data"], "named"),
            settings=recipe,
            run={"teacher": {"name": f"{name}-teacher", "architecture": architecture, "settings": teacher}},
            results={"average": dict(zip(("overall", *GROUPS), setting.accuracy, strict=True))},
            paper=setting,
            **_counts(recipe),
        )
    )


def _counts(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """CIFAR's classes one by one; of the other data sets the totals of their published lists."""
    benchmark = BENCHMARKS[recipe["data"]]
    shape = {name: recipe[name] for name in ("image_size", "patch_size", "drop_path_rate")}
    if benchmark.published:
        train, test = benchmark.published["train"], benchmark.published["test"]
        return {
            "config": DeiTLTConfig(num_labels=train.classes, **shape),
            "totals": (train.lines, train.largest, train.smallest),
            "groups": benchmark.groups(range(train.classes, 0, -1)),  # in any order: the card shows sizes alone
            "test_counts": [test.largest] * test.classes,
        }
    names = benchmark.class_names
    counts = class_counts_for_imbalance(len(names), 50_000 // len(names), recipe["imbalance_factor"])
    return {
        "config": DeiTLTConfig(id2label=dict(enumerate(names)), **shape),
        "class_counts": counts,
        "totals": (sum(counts), max(counts), min(counts)),
        "groups": benchmark.groups(counts),
        "test_counts": [10_000 // len(names)] * len(names),
    }
