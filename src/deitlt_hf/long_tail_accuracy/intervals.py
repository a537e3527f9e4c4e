"""Bootstrap intervals of the measures.

`evaluate.load` copies this file out of the package with `scores.py`, so it imports numpy and that file alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .scores import MEASURES, Counter, Measure, measured

WEIGHTS_AT_ONCE = 1_000_000  # of resamples x images in memory: 8 MB for each of a handful of arrays
SAME = 1e-9  # percentages that differ by less are the same


class Resampler:
    """Draws test images anew, as weights of the images.

    From each class of `n` images, `n - 1` are drawn with replacement, and an image that is drawn `k` times weighs
    `k * n / (n - 1)` (McCarthy and Snowden, 1985; Rao and Wu, 1988): drawing `n` would give only `(n - 1) / n` of the
    variance of new images, noticeably too little for classes of few. A class with a single image would be the same in
    every resample. Such classes are drawn as wholes from those of their group (collapsed strata, Cochran 1977, section
    5A.12), and then the image's weight is its class's weight in means over classes too. One that is alone in its group
    is drawn with those of other groups.

    Args:
        labels: true class ids int64 `(N,)`.
        members: class ids of head, mid and tail by name.
        num_classes: number of classes.
        seed: at least 0. Another order of the images or another seed gives other resamples.
    """

    def __init__(self, labels: np.ndarray, members: Mapping[str, Sequence[int]], num_classes: int, seed: int) -> None:
        if seed < 0:
            raise ValueError(f"seed is {seed}: pass an int of at least 0")
        self._seed, self._labels, self._images = seed, labels, np.bincount(labels, minlength=num_classes)
        self._stratum = np.arange(num_classes)
        for place, pool in enumerate(_pools_of_single_images(self._images, members)):
            self._stratum[pool] = num_classes + place

    def by_class(self, num_resamples: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Weights of images `(resamples, N)` and of classes `(resamples, classes)`, in parts to save memory."""
        single = np.flatnonzero(self._images == 1)
        image_of = np.zeros(len(self._images), dtype=np.int64)
        image_of[self._labels] = np.arange(len(self._labels))
        for weights in _draw(self._stratum[self._labels], num_resamples, self._seed):
            of_classes = np.repeat((self._images > 0).astype(float)[None], len(weights), axis=0)
            of_classes[:, single] = weights[:, image_of[single]]
            yield weights, of_classes

    def of_all_images(self, num_resamples: int) -> Iterator[tuple[np.ndarray, None]]:
        """Weights of images `(resamples, N)` that are drawn from all images together."""
        return ((weights, None) for weights in _draw(np.zeros_like(self._labels), num_resamples, self._seed))


def _pools_of_single_images(images: np.ndarray, members: Mapping[str, Sequence[int]]) -> list[np.ndarray]:
    """The classes with a single test image that are drawn together; `images` are the numbers of all classes."""
    single = [np.asarray(ids, dtype=np.int64) for ids in members.values()]
    single = [ids[images[ids] == 1] for ids in single]
    pools, lone = [ids for ids in single if len(ids) > 1], [ids for ids in single if len(ids) == 1]
    if len(lone) == 1 and pools:
        return [*pools[:-1], np.concatenate([pools[-1], *lone])]
    return [*pools, *([np.concatenate(lone)] if lone else [])]


def _draw(strata: np.ndarray, num_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Weights float64 `(resamples, N)` of images that are drawn within their strata, ids `(N,)`."""
    if num_resamples < 1:
        raise ValueError(f"num_resamples is {num_resamples}: pass at least 1, such as 1000")
    generator = np.random.default_rng(seed)
    order = np.argsort(strata, kind="stable")
    sizes = np.bincount(strata)
    starts = np.cumsum(sizes) - sizes
    drawn_from = np.repeat(np.arange(len(sizes)), np.maximum(sizes - 1, 0))  # the stratum of each draw
    scale = (sizes / np.maximum(sizes - 1, 1))[strata[order]]
    alone = sizes[strata[order]] == 1
    at_once = max(1, WEIGHTS_AT_ONCE // len(strata))
    for start in range(0, num_resamples, at_once):
        count = min(at_once, num_resamples - start)
        uniform = generator.random((count, len(drawn_from)))
        places = starts[drawn_from] + (uniform * sizes[drawn_from]).astype(np.int64)
        places += len(strata) * np.arange(count)[:, None]
        times = np.bincount(places.ravel(), minlength=count * len(strata)).reshape(count, len(strata))
        weights = np.empty((count, len(strata)))
        weights[:, order] = np.where(alone, 1.0, scale * times)
        yield weights


class Bootstrap:
    """The measures of several models on one test set, and of resamples that are the same for all of them.

    Args:
        counters: what counts each model's predictions, by name.
        labels: true class ids int64 `(N,)`.
        members: class ids of head, mid and tail by name.
        num_resamples: how often the images are drawn. Default 1000.
        seed: of the resamples, at least 0. Default 0.
    """

    def __init__(
        self,
        counters: Mapping[str, Counter],
        labels: np.ndarray,
        members: Mapping[str, np.ndarray],
        num_resamples: int = 1000,
        seed: int = 0,
    ) -> None:
        tallies = {name: counter.count() for name, counter in counters.items()}
        self.values = {name: measured(tally, members) for name, tally in tallies.items()}
        images = next(iter(tallies.values())).images
        tested = images[images > 0]
        self._measures = [measure for measure in MEASURES if measure.fewest_images <= tested.min()]
        self._images = {measure.key: _images_behind(measure, images, members) for measure in self._measures}
        self._resampled: dict[str, dict[str, np.ndarray]] = {name: {} for name in counters}
        resampler = Resampler(labels, members, len(images), seed)
        generator = np.random.default_rng([seed, 1])  # other numbers than the resamples have
        self._pairs = generator.choice([-1, 0, 1], size=num_resamples, p=[0.25, 0.5, 0.25])
        for of_images, draws in ((False, resampler.by_class), (True, resampler.of_all_images)):
            measures = [measure for measure in self._measures if measure.of_images == of_images]
            parts: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in counters}
            for weights, of_classes in draws(num_resamples):
                for name, counter in counters.items():
                    parts[name].append(measured(counter.count(weights, of_classes), members, measures))
            for name, found in parts.items():
                self._resampled[name] |= {key: np.concatenate([part[key] for part in found]) for key in found[0]}

    def intervals(self, name: str) -> dict[str, list[float]]:
        """95 % intervals of a model's measures, `[low, high]` by key; nan where there is no value.

        They are percentiles of the resamples. Where all of these agree, as where all images are right, it is Wilson's
        interval for as many images as are behind the measure.
        """
        found = {}
        for measure in self._measures:
            resampled = self._resampled[name].get(measure.key)
            if resampled is not None:
                value = self.values[name][measure.key]
                resampled = _centred(measure, value, resampled)
                ends = _percentiles(resampled)
                if ends[1] - ends[0] < SAME:
                    ends = _wilson(value, self._images[measure.key])
                found[measure.key] = _within(ends, 0)
        return found

    def differences(self, first: str, second: str) -> dict[str, dict[str, Any]]:
        """The second model's measures minus the first's: `value`, `interval` and `excludes_zero` by key, in points.

        An image that is hard for one model is mostly hard for the other, so their accuracies rise and fall together
        over resamples, and the difference is known better than either of them. Where few images differ, resamples of
        them vary too little: two images are added, one on which only the first model is right and one on which only the
        second is (Bonett and Price, 2012), and drawn with the others. Not where the two models do the same throughout.
        """
        found = {}
        values, others = self.values[first], self.values[second]
        resampled, of_second = self._resampled[first], self._resampled[second]
        differ = any(
            np.nanmax(np.abs(of_second[key] - resampled[key]), initial=0.0) > SAME
            for key in resampled.keys() & of_second
        )
        for measure in MEASURES:
            if measure.key not in values or measure.key not in others:
                continue
            value, ends = others[measure.key] - values[measure.key], None
            if measure in self._measures and not np.isnan(value):
                change = _centred(measure, value, of_second[measure.key] - resampled[measure.key])
                if differ:
                    images = self._images[measure.key]
                    change = (images * change + 200 * self._pairs[: len(change)]) / (images + 2)
                ends = _within(_percentiles(change), -100)
            found[measure.key] = {
                "value": None if np.isnan(value) else float(value),
                "interval": ends,
                "excludes_zero": ends is not None and (ends[0] > 0 or ends[1] < 0),
            }
        return found


def _images_behind(measure: Measure, images: np.ndarray, members: Mapping[str, np.ndarray]) -> float:
    """How many images, as many of each class, would say as much as a measure's images do."""
    of_classes = images if measure.group is None else images[np.asarray(members[measure.group], dtype=np.int64)]
    tested = of_classes[of_classes > 0]
    if measure.of_images or not tested.size:
        return float(tested.sum())
    return float(tested.size**2 / (1 / tested).sum())  # a mean over classes has the variance of each one's mean


def _centred(measure: Measure, value: float, resampled: np.ndarray) -> np.ndarray:
    """The resamples' values, without nan.

    A resample repeats images and leaves others out, which moves a measure that is not linear, such as F1, to one side:
    the mean is moved back onto the value of the test set.
    """
    kept = resampled[~np.isnan(resampled)]
    return kept if measure.is_linear or not kept.size else kept + (value - kept.mean())


def _percentiles(values: np.ndarray) -> np.ndarray:
    return np.percentile(values, [2.5, 97.5]) if values.size else np.full(2, np.nan)


def _wilson(value: float, images: float) -> np.ndarray:
    """Wilson's interval (1927) of a percentage."""
    share, squared = value / 100, 1.96**2
    centre = (share + squared / 2 / images) / (1 + squared / images)
    reach = 1.96 * np.sqrt(share * (1 - share) / images + squared / 4 / images**2) / (1 + squared / images)
    return 100 * np.array([centre - reach, centre + reach])


def _within(ends: np.ndarray, least: float) -> list[float]:
    """The ends as floats in `least` to 100, without what float arithmetic leaves of a weight such as 3 / 2."""
    return np.round(np.clip(ends, least, 100), 9).tolist()
