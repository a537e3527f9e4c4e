"""The part of a card that says how to use the model: three pieces of Python that run as they stand."""

from __future__ import annotations

import json
import shlex

from deitlt_hf.cards.facts import WITH_CODE, ModelFacts
from deitlt_hf.cards.markdown import code_block

INSTALL = "pip install deitlt-hf"

_PIPELINE = """{imports}from transformers import pipeline

image = "photo.jpg"  # your picture
classifier = pipeline("image-classification", model={location}{revision}{trust})
for answer in classifier(image):
    print(f"{{answer['score']:.3f}}  {{answer['label']}}")"""

_AUTO_CLASSES = """{imports}import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

image = Image.open("photo.jpg").convert("RGB")  # your picture
processor = AutoImageProcessor.from_pretrained({location}{revision}{trust})
model = AutoModelForImageClassification.from_pretrained({location}{revision}{trust})
with torch.inference_mode():
    outputs = model(**processor(image, return_tensors="pt"))
{answer}"""

_EXPERTS_ANSWER = """average = (outputs.cls_logits + outputs.distillation_logits) / 2
experts = {"average": average, "CLS": outputs.cls_logits, "DIST": outputs.distillation_logits}
for name, logits in experts.items():
    print(f"{name:<8}{model.config.id2label[logits.argmax(-1).item()]}")"""

_ANSWER = "print(model.config.id2label[outputs.logits.argmax(-1).item()])"

_THIS_PACKAGE = """from PIL import Image

from deitlt_hf import ExpertClassifier
from deitlt_hf.evaluation.attention import draw_attention

image = Image.open("photo.jpg").convert("RGB")  # your picture
classifier = ExpertClassifier.from_pretrained({location}{revision})
(result,) = classifier(image, top=3, attention=True)
for row in result.rows:
    cls, dist = row.probability["cls"], row.probability["distillation"]
    print(f"CLS {{cls:.3f}}  DIST {{dist:.3f}}  {{row.name}}")
for expert, weights in result.attention.items():
    draw_attention(image, weights, result.region).save(f"attention-{{expert}}.png")"""

_EXPORTED = """{imports}from deitlt_hf import ExpertClassifier

image = "photo.jpg"  # your picture
classifier = ExpertClassifier.from_pretrained({place})
(result,) = classifier(image, top=3)
for row in result.rows:
    cls, dist = row.probability["cls"], row.probability["distillation"]
    print(f"CLS {{cls:.3f}}  DIST {{dist:.3f}}  {{row.name}}")"""


def usage_section(facts: ModelFacts) -> str:
    """`## How to use`, with snippets that fit the model; the last needs this package.

    Example:
        >>> usage_section(facts)  # doctest: +SKIP
    """
    location = json.dumps(facts.location, ensure_ascii=False)
    revision = "" if facts.revision is None else f", revision={json.dumps(facts.revision)}"
    if facts.runtime != "torch":
        extra = "onnx" if facts.runtime == "onnx" else None
        install = f"pip install 'deitlt-hf[{extra}]'" if extra else INSTALL
        kind = "an ONNX file, which ONNX Runtime runs" if extra else "a program of torch.export"
        text = f"The model is {kind}. With `{install}`:"
        place, imports = f"{location}{revision}", ""
        if facts.runtime == "exported" and facts.on_hub:  # it can run any code, so that nobody is to load it unasked
            place, imports = f"snapshot_download({place})", "from huggingface_hub import snapshot_download\n\n"
        code = code_block("python", _EXPORTED.format(place=place, imports=imports))
        return "\n\n".join(["## How to use", text, code])
    needs_code = facts.config.model_type in WITH_CODE
    trusts = needs_code and facts.has_code
    places = {
        "location": location,
        "revision": revision,
        "trust": ", trust_remote_code=True" if trusts else "",
        "imports": "" if trusts or not needs_code else "import deitlt_hf  # makes the model known to transformers\n",
    }
    return "\n\n".join(
        [
            "## How to use",
            _about_code(facts, needs_code),
            "With a pipeline of transformers:",
            code_block("python", _PIPELINE.format(**places)),
            "With the Auto classes"
            + (", the top class of both experts and of their average:" if facts.is_student else ":"),
            code_block(
                "python", _AUTO_CLASSES.format(answer=_EXPERTS_ANSWER if facts.is_student else _ANSWER, **places)
            ),
            *_with_this_package(facts, location, revision),
        ]
    )


def _about_code(facts: ModelFacts, needs_code: bool) -> str:
    if not needs_code:
        return "It is a model of transformers and needs no other package. The snippets read a picture `photo.jpg`."
    if facts.has_code:
        return (
            "`trust_remote_code=True` lets transformers run the modeling files that lie beside the weights; where "
            f"`deitlt_hf` is imported (`{INSTALL}`) it is not needed. The snippets read a picture `photo.jpg`."
        )
    return f"transformers knows the model once `deitlt_hf` is imported (`{INSTALL}`). The snippets read `photo.jpg`."


def _with_this_package(facts: ModelFacts, location: str, revision: str) -> list[str]:
    if facts.is_student:
        return [
            "With this package, the probabilities of both experts side by side, and where in the picture each of the "
            "two tokens looks (`attention-cls.png`, `attention-distillation.png`):",
            code_block("python", _THIS_PACKAGE.format(location=location, revision=revision)),
        ]
    teacher = shlex.quote(facts.location)
    command = f"deitlt train --data pictures --teacher {teacher}"
    if facts.revision is not None:
        download = f"hf download {teacher} --revision {shlex.quote(facts.revision)} --local-dir teacher"
        command = f"{download}\ndeitlt train --data pictures --teacher teacher"
    return [
        "With this package, as the teacher of a student on images of the same classes, in a folder `pictures`:",
        code_block("sh", command),
    ]
