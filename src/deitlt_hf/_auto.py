"""Registers the models with transformers' Auto classes without importing transformers.

`import deitlt_hf` must stay light, and yet `AutoModelForImageClassification` must know the package's models. So the
registration runs at once where transformers is loaded already, and right after its import otherwise.
"""

from __future__ import annotations

import importlib
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def register_auto_classes() -> None:
    """Make `AutoConfig`, `AutoModel`, `AutoModelForImageClassification` and `AutoImageProcessor` know `models/`."""
    import transformers
    from transformers.models.deit.image_processing_deit import DeiTImageProcessor
    from transformers.models.deit.image_processing_pil_deit import DeiTImageProcessorPil

    from deitlt_hf.models import MODEL_TYPES

    processors = {"torchvision": DeiTImageProcessor, "pil": DeiTImageProcessorPil}
    for model_type in MODEL_TYPES:
        module = importlib.import_module(f"deitlt_hf.models.{model_type}.modeling_{model_type}")
        for model in vars(module).values():
            # The name that the file passes to `register_for_auto_class`.
            auto_class = getattr(model, "_auto_class", None)
            if auto_class is None or model.__module__ != module.__name__:
                continue
            config = model.config_class
            transformers.AutoConfig.register(model_type, config, exist_ok=True)
            transformers.AutoImageProcessor.register(config, image_processor_classes=dict(processors), exist_ok=True)
            getattr(transformers, auto_class).register(config, model, exist_ok=True)


class _RegisterAfterImport(MetaPathFinder):
    """Finds transformers as the other finders do, and appends the registration to its execution."""

    def find_spec(self, name: str, path, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "transformers":
            return None
        others = (finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec"))
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            # Only now: accelerate and datasets look for transformers without importing it.
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            register_auto_classes()

        spec.loader.exec_module = execute_and_register
        return spec


def register_when_transformers_loads() -> None:
    """Register now if transformers is loaded, and otherwise when it is."""
    if "transformers" in sys.modules:
        register_auto_classes()
    else:
        sys.meta_path.insert(0, _RegisterAfterImport())
