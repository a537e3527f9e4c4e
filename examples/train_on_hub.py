# /// script
# requires-python = ">=3.11"
# dependencies = ["deitlt-hf>=0.1,<0.2"]
# ///
"""Train a teacher and a DeiT-LT student on a data set of the hub, and push both with their cards.

On this machine:
    uv run examples/train_on_hub.py owner/pictures owner/student
On a GPU of the hub:
    hf jobs uv run --flavor a10g-small --timeout 12h --secrets HF_TOKEN \\
        examples/train_on_hub.py owner/pictures owner/student

The settings follow from the data and are printed. The teacher goes to the student's name with "-teacher" at its end.
"""

import argparse
import sys

from deitlt_hf.cli.main import main


def epochs(text: str) -> str:
    """What is wrong ends the script before the teacher is trained, for the student's epochs too."""
    if not 0 < float(text) <= 1e6:
        raise ValueError(text)
    return text


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data", help="an image data set of the hub, owner/name")
parser.add_argument("model", help="where the student is pushed, owner/name")
parser.add_argument("--epochs", type=epochs, help="of the student; left out, as many as suit the data")
parser.add_argument("--teacher-epochs", type=epochs, help="of the teacher")
parser.add_argument("--private", action="store_true", help="only you see the models")
parser.add_argument("--output-dir", default="runs", help="directory of both runs on the machine that trains")
options = parser.parse_args()


def train(command: str, epochs: str | None, name: str, *flags: str) -> str:
    """Run `deitlt COMMAND` and push what it trained; returns the directory of the run."""
    directory = f"{options.output_dir}/{command}"
    flags += ("--data", options.data, "--output_dir", directory, "--push_to_hub", "true", "--hub_model_id", name)
    flags += ("--hub_private_repo", str(options.private).lower()) + (("--epochs", epochs) if epochs else ())
    if status := main([command, *flags]):  # it has said why in one line
        sys.exit(status)
    return directory


teacher = train("teacher", options.teacher_epochs, f"{options.model}-teacher")
train("train", options.epochs, options.model, "--teacher", teacher)
