"""Analyses with made-up numbers, for what draws and writes them."""

from __future__ import annotations

import numpy as np

from deitlt_hf.evaluation.analysis.analyze import Analysis
from deitlt_hf.evaluation.analysis.predictions import class_confusions
from deitlt_hf.evaluation.analysis.streaming import Example
from deitlt_hf.evaluation.measures import EXPERTS

COUNTS = [500, 299, 179, 107, 64, 38, 23, 13, 8, 5]
GROUPS = {"head": [0, 1, 2], "mid": [3, 4, 5, 6], "tail": [7, 8, 9]}
NAMES = ["airplane", "automobile", "<b>bird</b>", "$cat", "deer", "dog", "_frog", "horse", "ship", "truck"]
CROSSING = ("class_count", "slope", "at_most", "at_fewest")
FOUR = ("overall", "head", "mid", "tail")


def made_up_analysis(seed=0, two_tokens=True, teacher=False, layers=6, heads=3, num_images=400, accuracy=0.7):
    """An analysis with the keys of `analyze_model`'s, of a model with one token or with two."""
    generator = np.random.default_rng(seed)
    experts = EXPERTS if two_tokens else ("cls",)
    tokens = ("cls", "distillation") if two_tokens else ("cls",)
    labels = np.arange(num_images) % len(COUNTS)
    right = generator.random((num_images, len(experts))) < accuracy
    predictions = np.where(right, labels[:, None], generator.integers(0, len(COUNTS), (num_images, len(experts))))
    record = {
        "model": {
            "source": "runs/model",
            "model_type": "deit_lt" if two_tokens else "vit",
            "prediction": "average" if two_tokens else "cls",
            "image_size": 32,
            "patch_size": 4,
            "layers": layers,
            "heads": heads,
            "parameters": 1_234_567,
        },
        "num_images": num_images,
        "class_names": NAMES,
        "class_counts": COUNTS,
        "groups": GROUPS,
        "experts": {expert: scores(generator, expert) for expert in experts},
        "crossing": dict(zip(CROSSING, (70.0, -40.0, -34.2, 45.8) if two_tokens else [None] * 4, strict=True)),
        "attention_distance": {
            token: np.sort(generator.uniform(4, 16, (layers, heads)), axis=0).tolist() for token in ("all", *tokens)
        },
        "feature_rank": {"variance": 0.99} | {token: [8 + 2 * layer for layer in range(layers)] for token in tokens},
        "spectrum": {token: spectrum(layers, 0.6 if token == "cls" else 0.5) for token in tokens},
        "token_similarity": np.linspace(0.9, 0.2, layers).tolist() if two_tokens else None,
        "calibration": {expert: {group: bins(generator) for group in FOUR} for expert in experts},
        "agreement": agreement(two_tokens, teacher),
        "confusion": {
            expert: {
                "groups": [[90.0, 8.0, 2.0], [20.0, 70.0, 10.0], [35.0, 15.5, 49.5]],
                "pairs": [{"true": 9, "predicted": 0, "count": 12}, {"true": 2, "predicted": 9, "count": 3}],
            }
            for expert in experts
        },
        "class_confusion": class_confusions(predictions[:, 0], labels, COUNTS),
        "confident_errors": [],
    }
    examples = [example(generator, label, experts, tokens) for label in range(3)]
    return Analysis(record, experts, predictions, labels, examples)


def scores(generator, expert):
    start, slope = {"average": (95, 4), "cls": (98, 8), "distillation": (70, 1)}[expert]
    per_class = [start - slope * label + generator.uniform(-3, 3) for label in range(len(COUNTS))]
    means = {group: float(np.mean([per_class[label] for label in ids])) for group, ids in GROUPS.items()}
    return {"overall": float(np.mean(per_class)), **means, "balanced_accuracy": 81.0, "per_class": per_class}


def spectrum(layers, decay):
    shares = decay ** np.arange(24)
    return [(shares / shares.sum()).tolist()] * layers


def bins(generator):
    counts = [0, 0, *generator.integers(1, 60, 8).tolist()]
    middles = [10 * index + 5.0 for index in range(10)]
    return {
        "ece": 7.5,
        "bins": [
            {"confidence": middle if count else None, "accuracy": max(0, middle - 8) if count else None, "count": count}
            for middle, count in zip(middles, counts, strict=True)
        ],
    }


def agreement(two_tokens, teacher):
    pairs = (
        ["cls-distillation"] * two_tokens + ["teacher-cls"] * teacher + ["teacher-distillation"] * two_tokens * teacher
    )
    shares = {pair: dict(zip(FOUR, (71.0, 80.0, 70.0, None), strict=True)) for pair in pairs}
    return shares | ({"teacher": dict.fromkeys(FOUR, 70.0)} if teacher else {})


def example(generator, label, experts, tokens):
    maps = {token: generator.random((8, 8)) for token in tokens}
    return Example(
        image=generator.integers(0, 256, (32, 32, 3), dtype=np.uint8),
        label=label,
        attention=maps,
        rollout={token: values.T**0.5 for token, values in maps.items()},
        predicted={expert: label + (expert == "cls") for expert in experts},
    )
