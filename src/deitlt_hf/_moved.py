"""Old modules of public names, kept for one release: they lead to the names of `deitlt_hf` itself."""

from __future__ import annotations

import sys
import warnings
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_PACKAGES = {"evaluation.long_tail_accuracy", "hub.cards"}
_MOVED = _PACKAGES | {
    *("data.processing", "data.transforms"),
    *("evaluation.accuracy", "evaluation.predicting", "evaluation.comparing", "evaluation.analysis_page"),
    *("evaluation.analysis.attention_distance", "evaluation.analysis.calibration", "evaluation.analysis.feature_rank"),
    *("evaluation.analysis.rollout", "evaluation.analysis.token_similarity"),
    "evaluation.long_tail_accuracy.long_tail_accuracy",
    *("hub.app", "hub.app_examples", "hub.cards.model_card", "hub.conversion", "hub.expert_classifier", "hub.export"),
    *("training.analyzing", "training.run_data", "training.runs", "training.trainer"),
}


class _MovedModules(MetaPathFinder, Loader):
    """Finds the old modules after all other finders."""

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        old = name.removeprefix("deitlt_hf.")
        return ModuleSpec(name, self, is_package=old in _PACKAGES) if name != old and old in _MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        def moved(name: str) -> Any:
            import deitlt_hf

            if name not in deitlt_hf.__all__:
                raise AttributeError(f"module {module.__name__!r} has moved, and has no public name {name!r}")
            message = f"{module.__name__} has moved: write `from deitlt_hf import {name}`"
            warnings.warn(message, DeprecationWarning, stacklevel=2)
            return getattr(deitlt_hf, name)

        module.__getattr__ = moved


def find_moved_modules() -> None:
    """Let imports find the old modules."""
    sys.meta_path.append(_MovedModules())
