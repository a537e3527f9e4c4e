"""How often the 95 % intervals of the measures hold what they are for, on test sets that are drawn from known models.

Run `python benchmarks/interval_coverage.py`; it takes about ten minutes on one core. 100 classes in three groups have
random logits, to which a class's own logit adds less the rarer the class is, and a prior that favours frequent classes.
A test set has as many images of each class; for overall and top-5, whose images are drawn whatever their class, the
classes are drawn too. An interval should hold the mean of its measure over such test sets, and that of a difference the
mean difference of the two models.
"""

from __future__ import annotations

import argparse

import numpy as np

from deitlt_hf.long_tail_accuracy.intervals import Bootstrap
from deitlt_hf.long_tail_accuracy.scores import MEASURES, TOP, Counter

CLASSES = 100
GROUPS = {"head": np.arange(33), "mid": np.arange(33, 67), "tail": np.arange(67, 100)}
OWN = np.linspace(4.2, 2.6, CLASSES)  # what an image adds to the logit of its class
PRIOR = np.linspace(0.7, -0.4, CLASSES)


def draw(generator: np.random.Generator, labels: np.ndarray) -> dict[str, Counter]:
    """Two models, of which the second sees nearly the same in each image and favours frequent classes less."""
    seen = generator.standard_normal((len(labels), CLASSES))
    seen[np.arange(len(labels)), labels] += OWN[labels]
    other = 0.8 * seen + 0.6 * generator.standard_normal(seen.shape)
    return {name: counter(of, labels) for name, of in {"first": seen + PRIOR, "second": other + 0.4 * PRIOR}.items()}


def counter(logits: np.ndarray, labels: np.ndarray) -> Counter:
    in_top = (logits > logits[np.arange(len(labels)), labels][:, None]).sum(1) < TOP
    return Counter(logits.argmax(1), labels, CLASSES, in_top)


def simulate(images: int, sets: int, resamples: int) -> dict[str, tuple[float, float, float]]:
    """For each measure its mean, and the percentages of intervals that hold it and the mean difference."""
    generator = np.random.default_rng(images)
    found: dict[str, list[tuple[float, ...]]] = {}
    for number in range(sets):
        for of_images in (False, True):
            labels = np.repeat(np.arange(CLASSES), images)
            labels = np.sort(generator.integers(0, CLASSES, len(labels))) if of_images else labels
            bootstrap = Bootstrap(draw(generator, labels), labels, GROUPS, resamples, seed=number)
            intervals, differences = bootstrap.intervals("first"), bootstrap.differences("first", "second")
            for measure in MEASURES:
                key = measure.key
                if measure.of_images == of_images and key in intervals:
                    of = differences[key]
                    row = (bootstrap.values["first"][key], *intervals[key], of["value"], *of["interval"])
                    found.setdefault(key, []).append(row)
    covered = {}
    for key, rows in found.items():
        value, low, high, change, least, most = np.array(rows).T
        holds = [(low <= value.mean()) & (value.mean() <= high), (least <= change.mean()) & (change.mean() <= most)]
        covered[key] = (value.mean(), *(100 * of.mean() for of in holds))
    return covered


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1, 5, 50], help="Test images per class.")
    parser.add_argument("--sets", type=int, default=500, help="Test sets.")
    parser.add_argument("--resamples", type=int, default=500, help="Resamples of each.")
    options = parser.parse_args()
    print(f"{'images per class':<16}  {'measure':<18}{'mean':>6}{'held':>8}{'difference held':>17}")
    for images in options.images:
        for key, (mean, held, difference) in simulate(images, options.sets, options.resamples).items():
            print(f"{images:<16}  {key:<18}{mean:>6.1f}{held:>8.1f}{difference:>17.1f}", flush=True)


if __name__ == "__main__":
    main()
