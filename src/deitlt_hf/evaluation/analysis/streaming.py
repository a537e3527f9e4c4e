"""Adds up, batch by batch, what the analysis measures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
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
from deitlt_hf.evaluation.attention import TOKENS, Patches, on_patches
from deitlt_hf.evaluation.evaluate import Rows
from deitlt_hf.evaluation.measures import EXPERTS


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

    The first image of each of `example_classes` is kept; `normalisation` is the mean and the standard deviation of the
    pixels' channels.
    """

    def __init__(
        self,
        patches: Patches,
        example_classes: Sequence[int],
        normalisation: tuple[Sequence[float], Sequence[float]],
    ) -> None:
        self._patches = patches
        self._normalisation = normalisation
        self._examples: dict[int, Example | None] = dict.fromkeys(example_classes)
        self._ids, self._confidences = Rows(), Rows()
        self._spectra: dict[str, FeatureSpectrum] = {}
        self._distances: dict[str, torch.Tensor] = {}
        self._similarity: torch.Tensor | None = None
        self.experts: tuple[str, ...] = ()

    def add(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor,
        output: ViTPass,
        teachers_logits: torch.Tensor | None = None,
    ) -> None:
        """Add a batch: its pixels and true class ids, what the model makes of it, and the teacher's prediction."""
        self.experts = tuple(expert for expert in EXPERTS if expert in output.logits)
        logits = torch.stack([output.logits[expert] for expert in self.experts], dim=1)
        ids = [logits.argmax(-1), labels.long()[:, None]]
        if teachers_logits is not None:
            ids.append(teachers_logits.argmax(-1, keepdim=True))
        self._ids.add(torch.cat(ids, dim=1))
        self._confidences.add(logits.softmax(-1).amax(-1))

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
        mean, std = map(np.asarray, self._normalisation)
        pixels = pixel_values[index].float().cpu().numpy().transpose(1, 2, 0) * std + mean
        return Example(
            image=(pixels * 255).round().clip(0, 255).astype(np.uint8),
            label=label,
            attention=maps(layers[-1].float().mean(1)[0]),
            rollout=maps(attention_rollout(layers)[0]),
            predicted={expert: int(logits[index].argmax()) for expert, logits in output.logits.items()},
        )

    def class_ids(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Predictions `(N, experts)`, labels `(N,)`, and the teacher's predictions `(N,)` or None; int64."""
        table = self._ids.table().cpu().numpy()
        experts = len(self.experts)
        teachers = table[:, experts + 1] if table.shape[1] > experts + 1 else None
        return table[:, :experts], table[:, experts], teachers

    def confidences(self) -> np.ndarray:
        """Largest probability of each expert, float32 `(N, experts)`."""
        return self._confidences.table().cpu().numpy()

    def layer_measures(self) -> dict[str, Any]:
        """The record's `attention_distance`, `feature_rank`, `spectrum` and `token_similarity`."""
        images = len(self._ids)
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
