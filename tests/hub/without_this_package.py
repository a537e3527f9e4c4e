"""A stranger's process: loads what was pushed, and what was saved, where deitlt_hf cannot be imported.

Run as `python without_this_package.py WISHES.json ANSWERS.pt`; see `test_hub_roundtrip.py`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


class NotInstalled:
    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.split(".")[0] == "deitlt_hf":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, NotInstalled())

import torch  # noqa: E402
from datasets import load_dataset  # noqa: E402
from PIL import Image  # noqa: E402
from transformers import (  # noqa: E402
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    pipeline,
)


def refusal(load, *args, **kwargs) -> str:
    """The name of the error that loading raises."""
    try:
        load(*args, **kwargs)
    except Exception as error:  # whatever the libraries raise
        return f"{type(error).__name__}: {error}"
    return "nothing was refused"


def main(wishes: dict, folder: Path) -> dict:
    pixels = torch.load(folder / "pixels.pt")
    answers: dict = {"logits": {}, "classes": {}, "modules": {}, "tokens": {}, "types": {}, "pipelines": {}}
    # First, while nothing is in the cache, which answers for a hub that refuses.
    answers["refused"] = {
        name: refusal(AutoConfig.from_pretrained, **source) for name, source in wishes["refused"].items()
    }
    answers["refused"]["data"] = refusal(load_dataset, wishes["secret_data"], token="hf_other")
    with torch.inference_mode():
        for name, source in wishes["classifiers"].items():
            source = source | {"trust_remote_code": True}
            model = AutoModelForImageClassification.from_pretrained(**source)
            answers["types"][name] = AutoConfig.from_pretrained(**source).model_type
            answers["logits"][name] = model(pixels).logits
            answers["classes"][name] = type(model).__name__
            answers["modules"][name] = type(model).__module__
        for name, source in wishes["bare"].items():
            model = AutoModel.from_pretrained(**source, trust_remote_code=True)
            answers["tokens"][name] = model(pixels).last_hidden_state
        model = AutoModelForImageClassification.from_pretrained(**wishes["saved_again"], trust_remote_code=True)
        model.save_pretrained(folder / "again")
        again = AutoModelForImageClassification.from_pretrained(folder / "again", trust_remote_code=True)
        answers["logits"]["again"] = again(pixels).logits
    answers["saved_again"] = sorted(path.name for path in (folder / "again").iterdir())
    image = Image.open(folder / "photo.png")
    for name, source in wishes["pipelines"].items():
        found = pipeline("image-classification", **source, trust_remote_code=True)(image)
        answers["pipelines"][name] = {answer["label"]: answer["score"] for answer in found}
    source = wishes["processor"]
    answers["pixels"] = AutoImageProcessor.from_pretrained(**source)(image, return_tensors="pt")["pixel_values"]
    data = load_dataset(wishes["data"])
    answers["class_names"] = data["train"].features["label"].names
    answers["data"] = {
        split: [(example["label"], example["image"].convert("RGB").tobytes()) for example in rows]
        for split, rows in data.items()
    }
    answers["imported"] = "deitlt_hf" in sys.modules
    return answers


if __name__ == "__main__":
    wishes_file, answers_file = map(Path, sys.argv[1:])
    torch.save(main(json.loads(wishes_file.read_text()), wishes_file.parent), answers_file)
