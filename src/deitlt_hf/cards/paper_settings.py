"""The paper's six settings: its published numbers, and cards that say how to train them with this package.

Rangwani et al.: DeiT-LT: Distillation Strikes Back for Vision Transformer Training on Long-Tailed Datasets, CVPR 2024.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from huggingface_hub import ModelCard

from deitlt_hf.cards.descriptions import describe_architecture, describe_data
from deitlt_hf.cards.facts import Classes, ModelFacts, Results
from deitlt_hf.cards.model_card import card_of
from deitlt_hf.data.benchmarks import BENCHMARKS
from deitlt_hf.data.long_tail import class_counts_for_imbalance
from deitlt_hf.evaluation.measures import GROUPS
from deitlt_hf.models.cifar_resnet.configuration_cifar_resnet import CifarResNetConfig
from deitlt_hf.models.deit_lt.configuration_deit_lt import DeiTLTConfig
from deitlt_hf.recipes import load_recipe

PAPER = "DeiT-LT, CVPR 2024"
PAPER_URL = "https://arxiv.org/abs/2404.02900"


@dataclass(frozen=True)
class PaperSetting:
    """A row of the paper's main results.

    Args:
        recipe: the package's recipe for it; `<recipe>-teacher` is its teacher's.
        title: as the paper writes it.
        devices: that the paper trains the student on.
        accuracy: published percentages, `(overall, head, mid, tail)`.
    """

    recipe: str
    title: str
    devices: int
    accuracy: tuple[float, float, float, float]


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
    """The card of one of the paper's settings, with the paper's numbers marked as such.

    Args:
        name: of `PAPER_SETTINGS`, as the recipe is called.

    Raises:
        KeyError: an unknown name.

    Example:
        >>> paper_card("imagenet-lt").data.eval_results[0].metric_value
        59.1
    """
    setting = PAPER_SETTINGS[name]
    notice = (
        "**No weights trained with this package exist yet for this setting.** This card says what the paper published "
        f"for {setting.title} and how to train it with `deitlt_hf`. The snippets load what the commands under Training "
        f"leave in `runs/{name}`. Where the paper leaves a setting open, the comments of the recipes say what was "
        f"chosen: `deitlt recipes {name}` and `deitlt recipes {name}-teacher`."
    )
    return card_of(_facts(setting), notice)


def _facts(setting: PaperSetting) -> ModelFacts:
    recipe = load_recipe(setting.recipe)
    teacher = load_recipe(f"{setting.recipe}-teacher")
    classes = _classes(recipe)
    config = DeiTLTConfig(
        num_labels=classes.number,
        image_size=recipe["image_size"],
        patch_size=recipe["patch_size"],
        drop_path_rate=recipe["drop_path_rate"],
    )
    config.auto_map = {"AutoModelForImageClassification": "modeling_deit_lt.DeiTLTForImageClassification"}
    overall, *of_groups = setting.accuracy
    return ModelFacts(
        title=f"DeiT-LT on {setting.title}",
        location=f"runs/{setting.recipe}",
        config=config,
        classes=classes,
        data=describe_data(recipe["data"], "named"),
        settings=recipe,
        run={"teacher": _teacher(setting, teacher)},
        results=Results(
            {"average": {"overall": overall, **dict(zip(GROUPS, of_groups, strict=True))}},
            published_in=PAPER,
            published_at=PAPER_URL,
        ),
        recipe=setting.recipe,
        processes=setting.devices,
    )


def _classes(recipe: Mapping) -> Classes:
    """CIFAR's class by class; of the others what their published lists are known to have."""
    benchmark = BENCHMARKS[recipe["data"]]
    if benchmark.published:
        train, test = benchmark.published["train"], benchmark.published["test"]
        some_order = benchmark.groups(range(train.classes, 0, -1))  # only sizes are told of
        return Classes(
            number=train.classes,
            groups=some_order,
            test_counts=[test.largest] * test.classes,
            images=train.lines,
            largest=train.largest,
            smallest=train.smallest,
        )
    names = benchmark.class_names
    counts = class_counts_for_imbalance(len(names), 50_000 // len(names), recipe["imbalance_factor"])
    groups = benchmark.groups(counts)
    return Classes.counted(counts, names=names, groups=groups, test_counts=[10_000 // len(names)] * len(names))


def _teacher(setting: PaperSetting, recipe: Mapping) -> dict:
    if "architecture" in recipe:
        architecture = f"timm's {recipe['architecture']}, for images of {recipe['image_size']} pixels"
    else:
        architecture = describe_architecture(
            CifarResNetConfig(depth=recipe["depth"], classifier=recipe["classifier"], image_size=recipe["image_size"])
        )
    return {"name": f"{setting.recipe}-teacher", "architecture": architecture, "settings": recipe}
