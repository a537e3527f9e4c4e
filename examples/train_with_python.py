"""Train a CNN teacher and a DeiT-LT student on long-tailed digits, as `deitlt teacher` and `deitlt train` do."""

import argparse

from deitlt_hf import (
    DeiTLTTrainingArguments,
    StudentArguments,
    TeacherArguments,
    TeacherTrainingArguments,
    TrainingDataArguments,
    format_table,
    train_student,
    train_teacher,
)

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--teacher-epochs", type=int, default=40)
parser.add_argument("--epochs", type=int, default=100)
parser.add_argument("--output-dir", default="runs/digits")
options = parser.parse_args()
teacher_dir, student_dir = f"{options.output_dir}/teacher", f"{options.output_dir}/student"

# For your own images, pass the directory as `data` and set your own group_boundaries.
data = TrainingDataArguments(data="digits-lt", image_size=16, horizontal_flip=False, group_boundaries=[3, 7])
common = {"per_device_train_batch_size": 32, "logging_steps": 10, "save_strategy": "no"}

teacher_args = TeacherTrainingArguments(
    output_dir=teacher_dir,
    num_train_epochs=options.teacher_epochs,
    drw_start_epoch=options.teacher_epochs * 4 // 5,
    schedule="cosine",
    sam_rho=[0.1],
    **common,
)
print("teacher:", train_teacher(data, TeacherArguments(depth=20), teacher_args))

student = StudentArguments(teacher_dir, hidden_size=96, num_hidden_layers=4, num_attention_heads=3, patch_size=4)
student_args = DeiTLTTrainingArguments(
    output_dir=student_dir,
    num_train_epochs=options.epochs,
    drw_start_epoch=options.epochs * 4 // 5,
    learning_rate=1e-3,
    scale_learning_rate=False,
    repeated_augmentation=1,
    **common,
)
print(format_table(train_student(data, student, student_args).metrics))
