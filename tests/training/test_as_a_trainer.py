"""What people who know transformers' Trainer expect of ours: their measures, their models, and errors in one line."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainingArguments
from transformers.integrations.peft import MIN_PEFT_VERSION

from deitlt_hf import DeiTLTError, DeiTLTForImageClassification, DeiTLTTrainer, TeacherTrainer
from documentation import python_blocks

COUNTS = [9, 8, 7, 6, 5, 4, 3, 2, 1, 1]
GROUPS = {"head": [0, 1, 2], "mid": [3, 4, 5], "tail": [6, 7, 8, 9]}


def accuracy(prediction) -> dict[str, float]:
    """As in every example of transformers."""
    return {"accuracy": float((np.argmax(prediction.predictions, axis=-1) == prediction.label_ids).mean())}


@pytest.fixture
def make(tiny_student, tiny_teacher, arguments, teacher_arguments, images):
    """Makes a student's trainer without a teacher, or a teacher's; options are the trainer's, `args` its arguments."""

    def of_kind(kind: str, args: dict | None = None, **options):
        settings = {"per_device_eval_batch_size": 4, **(args or {})}
        options = {"train_dataset": images(8), "eval_dataset": images(10), "class_counts": COUNTS} | options
        if kind == "student":
            model = None if "model_init" in options else tiny_student()
            return DeiTLTTrainer(model, arguments(distillation_type="none", **settings), **options)
        model = None if "model_init" in options else tiny_teacher()
        return TeacherTrainer(model, teacher_arguments(**settings), **options)

    return of_kind


def logits_by_hand(model, dataset) -> np.ndarray:
    with torch.no_grad():
        return model.eval()(torch.stack([dataset[i]["pixel_values"] for i in range(len(dataset))])).logits.numpy()


KINDS = pytest.mark.parametrize("kind", ["student", "teacher"])


@KINDS
def test_own_measures_get_logits(kind, make, images):
    trainer = make(kind, compute_metrics=accuracy)
    measured = trainer.evaluate()
    by_hand = logits_by_hand(trainer.model, images(10)).argmax(-1) == np.arange(10)
    assert measured["eval_accuracy"] == pytest.approx(by_hand.mean())
    assert not [name for name in measured if "tail" in name]


def test_own_measures_can_have_the_experts(make, images):
    seen = {}
    trainer = make(
        "student",
        compute_metrics=lambda prediction: seen.update(experts=prediction.predictions) or {},
        preprocess_logits_for_metrics=lambda outputs, labels: outputs[1:3],
    )
    trainer.evaluate()
    with torch.no_grad():
        outputs = trainer.model(images(10).pixel_values)
    np.testing.assert_allclose(seen["experts"][0], outputs.cls_logits, rtol=1e-5)
    np.testing.assert_allclose(seen["experts"][1], outputs.distillation_logits, rtol=1e-5)


@KINDS
def test_predict_gives_logits_and_the_measures_of_evaluate(kind, make, images):
    trainer = make(kind, class_groups=GROUPS)
    predicted, evaluated = trainer.predict(images(10)), trainer.evaluate()
    np.testing.assert_allclose(predicted.predictions, logits_by_hand(trainer.model, images(10)), rtol=1e-5)
    assert predicted.label_ids.tolist() == list(range(10))
    measured = {name.removeprefix("eval_"): value for name, value in evaluated.items() if "tail" in name}
    assert measured
    for name, value in measured.items():
        assert predicted.metrics[f"test_{name}"] == value


@KINDS
@pytest.mark.parametrize("class_groups", [None, GROUPS])
def test_predict_needs_no_labels(kind, class_groups, make, images):
    trainer = make(kind, class_groups=class_groups)
    unlabelled = [{"pixel_values": example["pixel_values"]} for example in (images(10)[i] for i in range(10))]
    predicted = trainer.predict(unlabelled)
    np.testing.assert_allclose(predicted.predictions, logits_by_hand(trainer.model, images(10)), rtol=1e-5)
    assert predicted.label_ids is None


@KINDS
def test_a_model_may_be_made_by_the_trainer(kind, make, tiny_student, tiny_teacher):
    made = []

    def model_init():
        made.append(tiny_student() if kind == "student" else tiny_teacher())
        return made[-1]

    ema = {"ema_decay": 0.5} if kind == "student" else {}
    trainer = make(kind, {"num_train_epochs": 1, **ema}, model_init=model_init)
    usual = make(kind, {"num_train_epochs": 1})
    trainer.train()
    usual.train()
    assert len(made) == 2  # one for the constructor, a fresh one to train
    assert trainer.model is made[-1]
    for ours, theirs in zip(trainer.model.parameters(), usual.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    if kind == "student":  # the average is of the model that was trained
        start, end = tiny_student().state_dict(), trainer.model.state_dict()
        name = "cls_classifier.bias"
        # Two steps from average and weights alike: 1/4 of the start, 1/4 of the first step's, 1/2 of the end.
        assert not torch.equal(trainer.ema.weights[name], start[name])
        assert (trainer.ema.weights[name] - end[name]).norm() < (start[name] - end[name]).norm()


@KINDS
def test_hyper_parameters_are_searched(kind, make, tiny_student, tiny_teacher):
    pytest.importorskip("optuna")
    name = {"student": "distillation_alpha", "teacher": "class_balanced_beta"}[kind]
    seen = []

    def space(trial):
        value = trial.suggest_categorical(name, [0.25, 0.75])
        return {name: value, "ema_decay": value} if kind == "student" else {name: value}

    trainer = make(
        kind,
        {"num_train_epochs": 1, "eval_strategy": "epoch", **({"ema_decay": 0.5} if kind == "student" else {})},
        model_init=lambda: tiny_student() if kind == "student" else tiny_teacher(),
        class_groups=GROUPS,
    )
    follow = trainer._follow_arguments

    def watched():
        follow()
        of_student = (trainer.distillation_loss.alpha, trainer.ema.decay) if kind == "student" else ()
        seen.append((getattr(trainer.args, name), trainer.class_weights.tolist(), of_student))

    trainer._follow_arguments = watched
    best = trainer.hyperparameter_search(space, n_trials=3, direction="minimize")
    assert len(seen) == 3
    assert best.hyperparameters[name] in (0.25, 0.75)
    for value, weights, of_student in seen:
        if kind == "student":
            assert of_student == (value, value)
        else:  # effective numbers (1 - beta^n) / (1 - beta), Cui et al., equation 2
            inverse = (1 - value) / (1 - value ** np.array(COUNTS, float))
            np.testing.assert_allclose(weights, 10 * inverse / inverse.sum(), rtol=1e-5)


def test_a_search_over_drw_needs_class_counts_too(make, tiny_student):
    pytest.importorskip("optuna")
    trainer = make("student", model_init=lambda: tiny_student(class_counts=None), class_counts=None)
    with pytest.raises(DeiTLTError, match="needs class_counts"):
        trainer.hyperparameter_search(
            lambda trial: {"drw_start_epoch": trial.suggest_categorical("drw_start_epoch", [1])}, n_trials=1
        )


@KINDS
@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"compute_loss_func": lambda outputs, labels, num_items_in_batch=None: 0}, "compute_loss_func has no place"),
        ({"model_init": lambda: None, "model": True}, "pass either model or model_init"),
        ({"args": "plain"}, "the args are of type TrainingArguments; pass"),
        ({"args": None}, "the args are none; pass"),
        ({"model": None}, "pass either model or model_init"),
        ({"class_counts": [5, 3]}, "class_counts has 2 entries for 10 labels; pass one per label"),
    ],
)
def test_what_would_be_ignored_is_refused(kind, option, said, tiny_student, arguments, teacher_arguments, tmp_path):
    trainer_class = DeiTLTTrainer if kind == "student" else TeacherTrainer
    args = arguments(distillation_type="none") if kind == "student" else teacher_arguments()
    options = {"model": tiny_student(), "args": args} | option
    if options["args"] == "plain":
        options["args"] = TrainingArguments(str(tmp_path), use_cpu=True, report_to=[])
    if options["model"] is True:
        options["model"] = tiny_student()
    with pytest.raises(DeiTLTError, match=said) as refused:
        trainer_class(**options)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("args", "option", "said"),
    [
        ({}, {"optimizer_cls_and_kwargs": (torch.optim.AdamW, {"lr": 0.01})}, "does nothing: teachers learn by SGD"),
        ({"sam_rho": 0.1}, {}, "optimizers holds a SGD, but SAM needs the trainer's own"),
        ({"loss": "paco"}, {}, "optimizers holds a SGD, but PaCo needs the trainer's own"),
    ],
)
def test_an_optimizer_that_a_teacher_cannot_use_is_refused(args, option, said, make):
    own = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    with pytest.raises(DeiTLTError, match=said):
        make("teacher", args, **(option or {"optimizers": (own, None)}))


def test_paco_and_model_init_are_refused(make, tiny_teacher):
    with pytest.raises(DeiTLTError, match="pass model in place of model_init"):
        make("teacher", {"loss": "paco", "per_device_train_batch_size": 4}, model_init=lambda: tiny_teacher())


@pytest.mark.parametrize("load_best", [False, True])
def test_adapters_in_the_model_are_loaded_again(load_best, make, tiny_student, images, tmp_path):
    """`model.add_adapter`, where peft's wrapper is not used."""
    # transformers 5.24 asks for a peft that came out after it.
    peft = pytest.importorskip("peft", minversion=MIN_PEFT_VERSION)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    settings = {"num_train_epochs": 2, "save_strategy": "epoch", "eval_strategy": "epoch", "save_total_limit": None}
    trainer = make("student", settings | {"load_best_model_at_end": load_best})
    trainer.model.add_adapter(config)
    trainer.train()
    trained = {name: weight.clone() for name, weight in trainer.model.state_dict().items() if "lora" in name}
    assert trained

    again = make("student", settings)
    torch.manual_seed(5)
    again.model.add_adapter(config)
    if load_best:
        again.state.best_model_checkpoint = trainer.state.best_model_checkpoint
        again._load_best_model()
    else:
        again.train(resume_from_checkpoint=str(tmp_path / "student" / "checkpoint-4"))
    for name, weight in trained.items():
        torch.testing.assert_close(again.model.state_dict()[name], weight)


@pytest.mark.parametrize("how", ["resumed", "best"])
def test_a_plain_trainer_keeps_every_weight(how, tiny_student, images, tmp_path):
    def trainer(**settings):
        args = TrainingArguments(
            str(tmp_path), num_train_epochs=2, save_strategy="epoch", eval_strategy="epoch", use_cpu=True, report_to=[],
            disable_tqdm=True, learning_rate=1e-2, **settings,
        )  # fmt: skip
        student = tiny_student()
        torch.manual_seed(3)
        for weight in student.parameters():  # what is not loaded is seen
            torch.nn.init.normal_(weight, std=0.1)
        return Trainer(student, args, train_dataset=images(8), eval_dataset=images(10))

    first = trainer(load_best_model_at_end=how == "best")
    first.train()
    if how == "resumed":
        last = trainer()
        last.train(resume_from_checkpoint=True)
        directory = tmp_path / "checkpoint-2"
    else:
        last, directory = first, first.state.best_model_checkpoint
    saved = DeiTLTForImageClassification.from_pretrained(directory).state_dict()
    loaded = last.model.state_dict()
    assert saved.keys() == loaded.keys()
    for name, weight in saved.items():
        torch.testing.assert_close(loaded[name], weight, rtol=0, atol=0)


def test_the_loss_for_a_plain_trainer_is_the_same_over_accumulated_batches(tiny_student, images, tmp_path):
    page, weights = {}, []
    exec(next(block for block in python_blocks("from-a-plain-trainer.md") if "num_items_in_batch" in block), page)
    data = [{"pixel_values": pixels, "labels": row % 3} for row, pixels in enumerate(images(8).pixel_values)]
    for batch, accumulated in ((8, 1), (2, 4)):
        args = TrainingArguments(
            str(tmp_path), max_steps=1, optim="sgd", learning_rate=0.1, max_grad_norm=0.0, use_cpu=True, report_to=[],
            disable_tqdm=True, save_strategy="no", per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulated,
        )  # fmt: skip
        student = tiny_student(id2label=dict(enumerate("abc")), class_counts=None)
        Trainer(student, args, train_dataset=data, compute_loss_func=page["long_tailed_loss"]).train()
        weights.append(dict(student.state_dict()))
    torch.testing.assert_close(*weights)
