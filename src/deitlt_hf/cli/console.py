"""What the commands show of the libraries beneath them."""

from __future__ import annotations

import warnings


def quiet_libraries() -> None:
    """Leave progress bars to training and prediction, and messages to warnings that ask for something."""
    import datasets
    import transformers

    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", category=FutureWarning)
