"""Times class counts, head, mid and tail, and class-balanced weights of a list as long as iNaturalist-2018's.

Ours reads a file of `path label` lines into Arrow and counts once. The reference's way, timed in the same run, is a
pass over all labels for each class: `[np.sum(np.array(targets) == i) for i in range(classes)]`. Its passes are all
alike, so a few are timed and the rest reckoned, unless `--all-classes` asks for every one.

    python benchmarks/class_counts.py                 # about a minute on two cores
    python benchmarks/class_counts.py --all-classes   # the reference's way in full: half an hour

Both ways have to give the same counts for the classes that both count.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from interleaved import machine, markdown_table, median_and_quartiles, time_in_turns

from deitlt_hf import class_balanced_weights, class_groups
from deitlt_hf.data.benchmarks.lists import read_list

LINES, CLASSES = 437_513, 8_142
BOUNDARIES = (842, 4543)  # the paper's groups
PEAK_MEMORY = """
import sys
from pathlib import Path
from deitlt_hf.data.benchmarks.lists import read_list
read_list(sys.argv[1]).class_counts(8142)
print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line[:6] == "VmHWM:"))
"""


def long_tailed_labels(lines: int) -> np.ndarray:
    """Shuffled labels whose class counts fall off exponentially; every class has an image."""
    generator = np.random.default_rng(0)
    shares = np.exp(-np.linspace(0, 6, CLASSES))
    drawn = generator.choice(CLASSES, lines - CLASSES, p=shares / shares.sum())
    return generator.permutation(np.concatenate([np.arange(CLASSES), drawn]))


def write_list(path: Path, labels: np.ndarray) -> None:
    line = "train_val2018/Plantae/{0}/{1:032x}.jpg {0}\n".format
    with path.open("w") as file:
        file.writelines(line(label, number) for number, label in enumerate(labels.tolist()))


def seconds_to_read(path: Path) -> float:
    start = time.perf_counter()
    read_list(path)
    return time.perf_counter() - start


def seconds_of_ours(labels: np.ndarray) -> float:
    start = time.perf_counter()
    counts = np.bincount(labels, minlength=CLASSES).tolist()
    class_groups(counts, boundaries=BOUNDARIES)
    class_balanced_weights(counts)
    return time.perf_counter() - start


def seconds_of_reference(targets: list[int], counted: int, expected: list[int]) -> float:
    """Seconds for all classes, reckoned from those of the first `counted`."""
    start = time.perf_counter()
    counts = [np.sum(np.array(targets) == i) for i in range(counted)]
    seconds = (time.perf_counter() - start) * CLASSES / counted
    if counts != expected[:counted]:
        raise SystemExit("the two ways count differently: no times are worth anything")
    return seconds


def peak_memory(path: Path) -> str:
    """Of a fresh process that reads the list and counts, Python and libraries included."""
    if not Path("/proc/self/status").exists():
        return "-"
    done = subprocess.run([sys.executable, "-c", PEAK_MEMORY, path], capture_output=True, text=True, check=True)
    return f"{int(done.stdout) / 1024:.0f} MB"


def row(lines: int, options: argparse.Namespace, scratch: Path) -> tuple[dict[str, float], list[str]]:
    path = scratch / f"{lines}.txt"
    write_list(path, long_tailed_labels(lines))
    labels = read_list(path).labels
    counts = np.bincount(labels, minlength=CLASSES).tolist()
    counted = CLASSES if options.all_classes else options.reference_classes
    contestants = {
        "read": partial(seconds_to_read, path),
        "ours": partial(seconds_of_ours, labels),
        "reference": partial(seconds_of_reference, labels.tolist(), counted, counts),
    }
    times = time_in_turns(contestants, 1 if options.all_classes else options.rounds)
    median = {name: median_and_quartiles(seconds)[0] for name, seconds in times.items()}
    return median, [
        f"{lines:,}",
        f"{median['read']:.2f} s",
        f"{median['ours'] * 1e3:.1f} ms",
        f"{median['reference']:.0f} s",
        f"{median['reference'] / median['ours']:,.0f}",
        f"{median['reference'] / (median['read'] + median['ours']):,.0f}",
        peak_memory(path),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lines", type=int, default=LINES, help="of the shorter list (default: iNaturalist-2018's)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--reference-classes", type=int, default=10, help="passes of the reference's that are timed")
    parser.add_argument("--all-classes", action="store_true", help="time a pass for every class, once")
    options = parser.parse_args()
    head = ["lines", "read", "counts, groups, weights", "reference: counts", "ratio", "ratio with reading", "peak"]
    with tempfile.TemporaryDirectory() as scratch:
        short, long = (row(lines, options, Path(scratch)) for lines in (options.lines, 10 * options.lines))
    print(machine(torch.device("cpu")))
    print(f"{CLASSES} classes; medians; the reference's way " + ("in full" if options.all_classes else "reckoned"))
    print(markdown_table([head, short[1], long[1]]))
    growth = {name: long[0][name] / short[0][name] for name in short[0]}
    print(
        "10 times the lines take "
        + ", ".join(f"{name} {factor:.1f}" for name, factor in growth.items())
        + " times as long"
    )


if __name__ == "__main__":
    main()
