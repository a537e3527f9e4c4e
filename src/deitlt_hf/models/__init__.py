"""The package's own models: each folder is a model type, with `configuration_TYPE.py` and `modeling_TYPE.py`."""

from pathlib import Path

# Found, not listed, so that a new model is one new folder.
MODEL_TYPES = sorted(
    folder.name for folder in Path(__file__).parent.iterdir() if (folder / f"modeling_{folder.name}.py").is_file()
)

# Importing transformers registers these models (see `_auto`), which would fail half-way through one of their modules.
import transformers  # noqa: E402, F401
