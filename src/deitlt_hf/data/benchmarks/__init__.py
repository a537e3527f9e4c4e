"""The data sets that the package knows by name; each module of this folder that has some lists them in `BENCHMARKS`."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from deitlt_hf.data.benchmarks.benchmark import Benchmark

# Found, not listed, so that a new data set is one new file.
BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for module in pkgutil.iter_modules(__path__)
    for benchmark in getattr(import_module(f"{__name__}.{module.name}"), "BENCHMARKS", ())
}
