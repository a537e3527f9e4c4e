"""Fine-tune a DeiT-LT student with the plain Trainer of transformers, on labels only: without a teacher.

    python examples/finetune_with_plain_trainer.py --epochs 20

It trains from scratch on the digits that come with scikit-learn. Pass `--student` to start from a trained student.
"""

from __future__ import annotations

import argparse

from transformers import Trainer, TrainingArguments

from deitlt_hf import (
    DeiTLTConfig,
    DeiTLTForImageClassification,
    ViewTransform,
    class_counts,
    class_groups,
    collate,
    evaluation_view,
    expert_metrics,
    format_table,
    image_processor,
    load_long_tailed_dataset,
    predict_experts,
    weak_view,
)

IMAGE_SIZE = 16

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--student", help="directory or hub id of a student to start from")
parser.add_argument("--epochs", type=float, default=20)
parser.add_argument("--output-dir", default="runs/finetuned")
options = parser.parse_args()

# Use any DatasetDict with `image` and `label` columns here, or pass a directory of Parquet files.
data = load_long_tailed_dataset("digits-lt")
names = data["train"].features["label"].names
counts = class_counts(data["train"])
train = data["train"].with_transform(ViewTransform({"pixel_values": weak_view(IMAGE_SIZE, horizontal_flip=False)}))
test = data["test"].with_transform(ViewTransform({"pixel_values": evaluation_view(IMAGE_SIZE)}))

labels = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
if options.student:
    model = DeiTLTForImageClassification.from_pretrained(options.student, **labels)
else:
    config = DeiTLTConfig(
        image_size=IMAGE_SIZE,
        patch_size=4,
        hidden_size=96,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=3,
        drop_path_rate=0.0,
        **labels,
    )
    model = DeiTLTForImageClassification(config)

args = TrainingArguments(
    output_dir=options.output_dir,
    num_train_epochs=options.epochs,
    per_device_train_batch_size=32,
    learning_rate=2e-3,
    lr_scheduler_type="cosine",
    warmup_steps=15,
    weight_decay=0.05,
    logging_steps=50,
    save_strategy="no",
    remove_unused_columns=False,  # the transform reads the image column
    dataloader_pin_memory=False,
    report_to="none",
)
processor = image_processor(IMAGE_SIZE)
trainer = Trainer(model, args, train_dataset=train, data_collator=collate, processing_class=processor)
trainer.train()
trainer.save_model()

predictions, true_labels = predict_experts(model, trainer.get_eval_dataloader(test))
groups = class_groups(counts, boundaries=(3, 7))
print(format_table(expert_metrics(predictions, true_labels, counts, groups, names)))
print(f"saved in {options.output_dir}")
