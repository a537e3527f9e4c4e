"""`deitlt app`: a page in the browser that shows what both experts say of a picture and where they look."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from deitlt_hf.cli.console import OneLineParser, add_answer_rules, add_class_prior, quiet_libraries
from deitlt_hf.errors import check_model_is_there
from deitlt_hf.files import is_hub_id, last_part

_SAYS_NOTHING = ("student", "ema", "model")


def run(argv: Sequence[str]) -> None:
    parser = OneLineParser(
        prog="deitlt app",
        description="A page in the browser: choose a picture, see what both experts say and where their tokens look.",
    )
    parser.add_argument("model", help="directory or hub id of a student")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860 on")
    parser.add_argument("--examples", type=Path, metavar="DIR", help="pictures to try, or a folder of them per class")
    add_answer_rules(parser)
    add_class_prior(parser)
    parser.add_argument("--revision", help="branch, tag or commit of a model of the hub")
    options = parser.parse_args(argv)
    check_model_is_there(options.model)

    from deitlt_hf.inference.app import build_app, check_address, import_gradio, serve
    from deitlt_hf.inference.app_examples import examples_in_folder, examples_of_run
    from deitlt_hf.inference.classifier import ExpertClassifier

    # Before the model is loaded, which may have to be downloaded.
    import_gradio()
    check_address(options.host, options.port)
    quiet_libraries()
    classifier = ExpertClassifier.from_pretrained(
        options.model, options.revision, options.only, options.prior, options.precision, options.coverage
    )
    if options.examples is not None:
        examples = examples_in_folder(options.examples, classifier.config, classifier.prior)
    else:
        examples = examples_of_run(options.model, classifier.config, options.revision, classifier.prior)
    serve(build_app(classifier, _name_of(options.model), examples), options.host, options.port)


def _name_of(model: str) -> str:
    """A hub id, or the last folder of a path, with the one above where it says nothing, as in `owls/student`."""
    if is_hub_id(model):
        return model
    name = last_part(model)
    return f"{last_part(os.path.dirname(os.path.abspath(model)))}/{name}" if name in _SAYS_NOTHING else name
