"""Registers the models with transformers' Auto classes without importing transformers.

`import deitlt_hf` must stay light, and yet `AutoModelForImageClassification` must know the package's models. So the
registration runs at once where transformers is loaded already, and right after its import otherwise.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def register_auto_classes() -> None:
    """Make `AutoConfig`, `AutoModel`, `AutoModelForImageClassification` and `AutoImageProcessor` know the models."""
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification
    from transformers.models.deit.image_processing_deit import DeiTImageProcessor
    from transformers.models.deit.image_processing_pil_deit import DeiTImageProcessorPil

    from deitlt_hf.models.cifar_resnet.configuration_cifar_resnet import CifarResNetConfig
    from deitlt_hf.models.cifar_resnet.modeling_cifar_resnet import CifarResNetForImageClassification
    from deitlt_hf.models.deit_lt.configuration_deit_lt import DeiTLTConfig
    from deitlt_hf.models.deit_lt.modeling_deit_lt import DeiTLTForImageClassification, DeiTLTModel
    from deitlt_hf.models.timm_cosine.configuration_timm_cosine import TimmCosineConfig
    from deitlt_hf.models.timm_cosine.modeling_timm_cosine import TimmCosineForImageClassification

    processors = {"torchvision": DeiTImageProcessor, "pil": DeiTImageProcessorPil}
    for config in (DeiTLTConfig, CifarResNetConfig, TimmCosineConfig):
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoImageProcessor.register(config, image_processor_classes=dict(processors), exist_ok=True)
    AutoModel.register(DeiTLTConfig, DeiTLTModel, exist_ok=True)
    AutoModelForImageClassification.register(DeiTLTConfig, DeiTLTForImageClassification, exist_ok=True)
    AutoModelForImageClassification.register(CifarResNetConfig, CifarResNetForImageClassification, exist_ok=True)
    AutoModelForImageClassification.register(TimmCosineConfig, TimmCosineForImageClassification, exist_ok=True)


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
