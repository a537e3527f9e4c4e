"""The paragraph of a card that says what the model is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deitlt_hf.cards.descriptions import describe_architecture, describe_teacher_training
from deitlt_hf.cards.facts import ModelFacts
from deitlt_hf.cards.markdown import escape

_VIEWS = {"strong": "strongly", "weak": "weakly"}
_LOGITS = {"average": "the average of both", "cls": "those of CLS", "distillation": "those of DIST"}


def about_section(facts: ModelFacts) -> str:
    """One paragraph: what the model is, on what data, and of a student what its experts are.

    Example:
        >>> about_section(facts)  # doctest: +SKIP
    """
    kind = "A DeiT-LT student" if facts.is_student else "An image classifier"
    weights = f", {facts.num_weights:,} weights" if facts.num_weights else ""
    sentences = [f"{kind}: {describe_architecture(facts.config)}{weights}.", _trained_on(facts)]
    if facts.averaged:
        sentences.append("These are the exponential moving average (EMA) of a run's weights.")
    if facts.step is not None:
        sentences.append(f"These are the weights after {facts.step:,} optimiser steps of a run.")
    if facts.runtime != "torch":
        sentences.append(_exported(facts))
    if facts.is_student:
        sentences.append(_experts(facts))
    elif facts.settings is not None:
        how = describe_teacher_training(facts.settings)
        sentences.append(f"It was trained with {how}, to label images for DeiT-LT students.")
    return " ".join(sentences)


def _exported(facts: ModelFacts) -> str:
    what = {"onnx": "an export for ONNX Runtime", "exported": "a program of torch.export"}[facts.runtime]
    if getattr(facts.config, "exported_precision", None) == "int8":
        return f"This is {what} in 8 bits, whose predictions differ from those of the weights it was made from."
    return f"This is {what}."


def _trained_on(facts: ModelFacts) -> str:
    classes = facts.classes
    what = f"{classes.number:,} classes"
    if classes.images is not None:
        what = (
            f"{classes.images:,} training images of {what}, {classes.largest:,} of the most common and "
            f"{classes.smallest:,} of the rarest"
        )
    return f"{_start(facts)} on {escape(facts.data.title) + ', ' if facts.data is not None else ''}{what}."


def _start(facts: ModelFacts) -> str:
    if facts.settings is None:
        return "Trained"
    if facts.settings.get("init_from") is None:
        return "Trained from scratch" if facts.recipe is None else "To be trained from scratch"
    origin = facts.hub_ids.get("init_from")
    return "Fine-tuned from " + (f"[{origin}](https://huggingface.co/{origin})," if origin else "other weights,")


def _experts(facts: ModelFacts) -> str:
    settings = facts.settings
    if settings is None:
        cls, dist = "in DeiT-LT the expert for head classes", "the expert for tail classes"
    else:
        cls = "which learns the labels and is for head classes"
        dist = f"which {_lesson(settings)}"
    return (
        f"It has two heads: one on the class token (CLS), {cls}, and one on the distillation token (DIST), {dist}. Its "
        f"`logits` are {_LOGITS[facts.config.expert]}."
    )


def _lesson(settings: Mapping[str, Any]) -> str:
    """What the distillation token learns."""
    lesson = f"learns what a teacher says about {_VIEWS[settings.get('distillation_view', 'strong')]} augmented images"
    start = settings.get("drw_start_epoch")
    if settings.get("distillation_type") == "none":
        lesson = "learns the labels too"
        if start is None:
            return lesson  # in the same way
    weighted = "" if start is None else f", with more weight on rare classes from epoch {start} on,"
    return f"{lesson}{weighted} and is for tail classes"
