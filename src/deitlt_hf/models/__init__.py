# Importing transformers registers these models (see `_auto`), which would fail half-way through one of their modules.
import transformers  # noqa: F401
