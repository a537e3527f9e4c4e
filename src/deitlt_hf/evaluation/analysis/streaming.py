"""Adds up, batch by batch, what the analysis measures."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from deitlt_hf.evaluation.analysis.tokens import (
    VARIANCE,
    FeatureSpectrum,
    attention_rollout,
    count_components,
    mean_attention_distance,
    token_similarity,
)
from deitlt_hf.evaluation.analysis.vit import ViTPass
from deitlt_hf.evaluation.analysis.wrong_images import MostConfidentErrors, WrongImage
from deitlt_hf.evaluation.attention import TOKENS, Patches, on_patches
from deitlt_hf.evaluation.evaluate import Predictions


@dataclass
class Example:
    """An image with what a model makes of it; maps are float32 `(rows, cols)` of patches, by token."""

    image: np.ndarray  # uint8 `(height, width, 3)`, as the model saw it
    label: int
    attention: dict[str, np.ndarray]  # in the last layer, means over the heads, which sum to at most 1
    rollout: dict[str, np.ndarray]  # through all layers, by `attention_rollout`
    predicted: dict[str, int]  # class id by expert


def spread_classes(class_counts: Sequence[int], number: int) -> list[int]:
    """At most `number` classes, evenly spaced from the most frequent to the rarest."""
    by_frequency = sorted(range(len(class_counts)), key=lambda label: -class_counts[label])
    places = np.linspace(0, len(by_frequency) - 1, min(number, len(by_frequency))).round().astype(int)
    return [by_frequency[place] for place in places]


class Stream:
    """Sums over the images, and the class ids and confidences of each image.

    The first image of each of `example_classes` is kept, and the most confident errors of `own`, the row of the model's
    own prediction where it has two heads. `normalisation` is the mean and the standard deviation of the pixels'
    channels; without `patches`, no tokens are measured.
    """

    def __init__(
        self,
        patches: Patches | None,
        example_classes: Sequence[int],
        normalisation: tuple[Sequence[float], Sequence[float]],
        own: str = "average",
    ) -> None:
        self._patches = patches
        self._normalisation = normalisation
        self._examples: dict[int, Example | None] = dict.fromkeys(example_classes if patches is not None else ())
        self._errors = MostConfidentErrors()
        self._own = own
        self.predictions = Predictions(keeps_probabilities=True)
        self._spectra: dict[str, FeatureSpectrum] = {}
        self._distances: dict[str, torch.Tensor] = {}
        self._similarity: torch.Tensor | None = None

    def add(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor,
        output: ViTPass,
        teachers_logits: torch.Tensor | None = None,
    ) -> None:
        """Add a batch: its pixels and true class ids, what the model makes of it, and the teacher's prediction."""
        self._errors.add(output.logits[self.own_of(output.logits)], labels, partial(self._picture, pixel_values))
        self.predictions.add(output.logits, labels, teachers_logits)
        if self._patches is None:
            return

        image_size, patch_size = self._patches
        num_special_tokens = output.attentions[0].shape[-1] - math.prod(self._patches.grid)
        for token in ("all", *output.tokens):
            distance = mean_attention_distance(output.attentions, patch_size, image_size, num_special_tokens, token)
            self._distances[token] = self._distances.get(token, 0.0) + distance.cpu().double() * len(labels)
        for token, states in output.tokens.items():
            self._spectra.setdefault(token, FeatureSpectrum()).add(states)
        if "distillation" in output.tokens:
            similarity = token_similarity(output.tokens["cls"], output.tokens["distillation"]).cpu().double().sum(-1)
            self._similarity = similarity if self._similarity is None else self._similarity + similarity

        wanted = {label for label, example in self._examples.items() if example is None}
        for index, label in enumerate(labels.tolist()) if wanted else ():
            if label in wanted:
                wanted.remove(label)
                self._examples[label] = self._example(index, pixel_values, label, output)

    def _example(self, index: int, pixel_values: torch.Tensor, label: int, output: ViTPass) -> Example:
        """The example of one image of a batch."""

        def maps(weights: torch.Tensor) -> dict[str, np.ndarray]:  # of (tokens, tokens), for tokens with a head
            of_tokens = on_patches(weights, self._patches).cpu().numpy()
            return {token: of_tokens[TOKENS.index(token)] for token in output.tokens}

        layers = [layer[index : index + 1] for layer in output.attentions]
        return Example(
            image=self._picture(pixel_values, index),
            label=label,
            attention=maps(layers[-1].float().mean(1)[0]),
            rollout=maps(attention_rollout(layers)[0]),
            predicted={expert: int(logits[index].argmax()) for expert, logits in output.logits.items()},
        )

    def _picture(self, pixel_values: torch.Tensor, index: int) -> np.ndarray:
        """An image of a batch as the model saw it, uint8 `(height, width, 3)`."""
        mean, std = map(np.asarray, self._normalisation)
        pixels = pixel_values[index].float().cpu().numpy().transpose(1, 2, 0) * std + mean
        return (pixels * 255).round().clip(0, 255).astype(np.uint8)

    def own_of(self, rows: Collection[str]) -> str:
        """Which of the rows the model's own prediction is."""
        return self._own if self._own in rows else next(iter(rows))

    def layer_measures(self) -> dict[str, Any]:
        """The record's `attention_distance`, `feature_rank`, `spectrum` and `token_similarity`; none without tokens."""
        if self._patches is None:
            return {}
        images = len(self.predictions)
        shares = {token: spectrum.shares() for token, spectrum in self._spectra.items()}
        ranks = {token: count_components(of_token, VARIANCE).tolist() for token, of_token in shares.items()}
        return {
            "attention_distance": {token: (total / images).tolist() for token, total in self._distances.items()},
            "feature_rank": {"variance": VARIANCE, **ranks},
            # Four digits, because a spectrum has a number for each hidden unit and layer.
            "spectrum": {
                token: [[float(f"{share:.4g}") for share in layer] for layer in of_token.tolist()]
                for token, of_token in shares.items()
            },
            "token_similarity": None if self._similarity is None else (self._similarity / images).tolist(),
        }

    def examples(self) -> list[Example]:
        """The examples, of those classes that had an image."""
        return [example for example in self._examples.values() if example is not None]

    def errors(self) -> list[WrongImage]:
        """The most confident errors, the most confident first."""
        return self._errors.kept
