"""A Space that shows what both experts of a DeiT-LT student predict for a picture, and where they look.

Set the variable MODEL_ID of the Space to a student on the hub. If it cannot be loaded, the page shows the student that
`make demo` trains.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from deitlt_hf import DeiTLTError, ExpertClassifier, build_app, examples_of_run, serve

MODEL_ID = os.environ.get("MODEL_ID", "deitlt-hf/digits-lt")
DEMO_MODEL = (Path(__file__).parent / "../../demo-output/student").resolve()


def load() -> tuple[ExpertClassifier, str, str | None]:
    """The student, its source, and a note for the page if another one had to be loaded."""
    try:
        return ExpertClassifier.from_pretrained(MODEL_ID), MODEL_ID, None
    except DeiTLTError as error:
        if not DEMO_MODEL.is_dir():
            raise DeiTLTError(f"{error}. There is no demo's model either: set MODEL_ID, or run `make demo`") from error
    note = f"{MODEL_ID} could not be loaded from the hub, so this is the model that `make demo` trained on digits."
    return ExpertClassifier.from_pretrained(DEMO_MODEL), str(DEMO_MODEL), note


def build():
    """The page."""
    classifier, source, note = load()
    if note is not None:
        print(note)
    name = MODEL_ID if note is None else "digits-lt, the demo's model"
    return build_app(classifier, name, examples_of_run(source, classifier.config), note)


if __name__ == "__main__":
    try:
        serve(build())
    except DeiTLTError as error:
        sys.exit(f"cannot start: {error}")
    except KeyboardInterrupt:
        pass
