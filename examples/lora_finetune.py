"""Fine-tune a trained student on other long-tailed images with LoRA: only small adapters and the heads are trained.

Needs peft: pip install 'deitlt-hf[peft]'. Without --data, the new images are negatives (inverted colours) of the digits
that the demo's student knows, with fewer images of the rare ones.
"""

import argparse
import json
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import ImageOps
from transformers import AutoImageProcessor

from deitlt_hf import (
    DeiTLTForImageClassification,
    DeiTLTTrainer,
    DeiTLTTrainingArguments,
    Resizing,
    ViewTransform,
    class_counts,
    class_groups,
    evaluation_view,
    expert_metrics,
    format_table,
    load_long_tailed_dataset,
    predict_experts,
    weak_view,
)
from deitlt_hf.runs.resizing import load_resizing

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--student", default="demo-output/student", help="directory or hub id of a student")
parser.add_argument("--data", help="images with labels, as for `deitlt train`")
parser.add_argument("--epochs", type=int, default=30)
parser.add_argument("--output-dir", default="runs/lora", help="where the adapters go")
parser.add_argument("--merged", help="directory for a student with the adapters in its weights, which needs no peft")
options = parser.parse_args()
if options.student == parser.get_default("student") and not Path(options.student).is_dir():
    parser.error(f"{options.student} does not exist; run `make demo`, or pass another --student")

data = load_long_tailed_dataset(options.data or "digits-lt", imbalance_factor=None if options.data else 50)
if not options.data:
    data = data.map(lambda example: {"image": ImageOps.invert(example["image"])})
names, counts = data["train"].features["label"].names, class_counts(data["train"])
classes = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
classes |= {"class_counts": counts, "class_groups": class_groups(counts)}

# For another number of classes the heads are new and random; transformers prints a warning.
student = DeiTLTForImageClassification.from_pretrained(options.student, **classes)
size, resizing = student.config.image_size, load_resizing(options.student)  # None stands for the reference's resizing
weak = weak_view(size, horizontal_flip=False, interpolation=(resizing or Resizing()).interpolation)
train = data["train"].with_transform(ViewTransform({"pixel_values": weak}))
test = data["test"].with_transform(ViewTransform({"pixel_values": evaluation_view(size, resizing)}))

attention = ["q_proj", "k_proj", "v_proj", "o_proj"]
heads = ["cls_classifier", "distillation_classifier"]  # trained in full, and saved with the adapters
model = get_peft_model(student, LoraConfig(r=8, lora_alpha=16, target_modules=attention, modules_to_save=heads))
model.print_trainable_parameters()

args = DeiTLTTrainingArguments(
    output_dir=options.output_dir,
    distillation_type="none",  # both heads learn the labels; to distill, pass a teacher that knows these classes
    drw_start_epoch=options.epochs * 4 // 5,  # from here on the DIST expert's loss favours rare classes
    num_train_epochs=options.epochs,
    per_device_train_batch_size=32,
    **{"learning_rate": 5e-3, "scale_learning_rate": False, "warmup_epochs": 1},  # more than for a whole student
    **{"repeated_augmentation": 1, "mixup": 0, "cutmix": 0, "save_strategy": "no"},
)
processor = AutoImageProcessor.from_pretrained(options.student)
trainer = DeiTLTTrainer(model, args, train_dataset=train, processing_class=processor)
batches = trainer.get_eval_dataloader(test)
for moment in ("before", "after"):
    if moment == "after":
        trainer.train()
    metrics = expert_metrics(*predict_experts(model, batches), counts, student.config.class_groups, names)
    print(f"{moment}:\n{format_table(metrics)}")
trainer.save_model()
adapters = Path(options.output_dir, "adapter_model.safetensors")
print(f"adapters and heads: {adapters}, {adapters.stat().st_size / 1e6:.2f} MB")

# To use the adapters, the student and this directory are enough: it has its own heads and the names of the classes.
classes = json.loads(Path(options.output_dir, "classes.json").read_text())
fresh = DeiTLTForImageClassification.from_pretrained(options.student, **classes)
loaded = PeftModel.from_pretrained(fresh, options.output_dir).to(model.device)
pixel_values = next(iter(batches))["pixel_values"].to(model.device)
with torch.no_grad():
    torch.testing.assert_close(loaded.eval()(pixel_values).logits, model.eval()(pixel_values).logits)
if options.merged:
    loaded.merge_and_unload().save_pretrained(options.merged)
    processor.save_pretrained(options.merged)
    print(f"merged student: {options.merged}")
