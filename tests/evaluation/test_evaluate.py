from __future__ import annotations

import subprocess
import sys
import textwrap
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from torch import nn

from deitlt_hf import CifarResNetConfig
from deitlt_hf.data.arguments import Images
from deitlt_hf.errors import DeiTLTError
from deitlt_hf.evaluation.evaluate import evaluate_images, logits_by_row, predict_classes, predict_experts


class TwoHeads(nn.Module):
    """Its images, of shape `(2, 1, classes)`, are the two heads' logits; `logits` are the CLS expert's alone."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(1, 1)
        self.frozen = nn.Dropout(0.5)
        self.calls = []

    def forward(self, pixel_values):
        self.calls.append((self.training, self.frozen.training, torch.is_inference_mode_enabled()))
        cls_logits, distillation_logits = pixel_values[:, 0, 0], pixel_values[:, 1, 0]
        return SimpleNamespace(logits=cls_logits, cls_logits=cls_logits, distillation_logits=distillation_logits)


def batches(pixel_values, labels, size):
    return [
        {"pixel_values": pixel_values[i : i + size], "labels": labels[i : i + size]}
        for i in range(0, len(labels), size)
    ]


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(7, 2, 1, 5, generator=generator), torch.arange(7) % 5


def expected_ids(pixel_values: torch.Tensor) -> np.ndarray:
    cls_logits, distillation_logits = pixel_values[:, :, 0].double().numpy().transpose(1, 0, 2)
    return np.stack([x.argmax(1) for x in (cls_logits + distillation_logits, cls_logits, distillation_logits)], axis=1)


@pytest.mark.parametrize("with_accelerator", [False, True])
def test_three_predictions_per_image_in_the_datas_order(images, with_accelerator):
    pixel_values, labels = images
    if with_accelerator:
        data = [{"pixel_values": image, "labels": label} for image, label in zip(pixel_values, labels, strict=True)]
        loader, accelerator = torch.utils.data.DataLoader(data, batch_size=3), Accelerator()
    else:
        loader, accelerator = batches(pixel_values, labels, size=3), None
    predictions, true_ids = predict_experts(TwoHeads(), loader, accelerator=accelerator)
    expected = expected_ids(pixel_values)
    assert len({tuple(column) for column in expected.T}) == 3  # the average differs from either expert here
    np.testing.assert_array_equal(predictions, expected)
    np.testing.assert_array_equal(true_ids, labels.numpy())
    assert (predictions.dtype, true_ids.dtype) == (np.int64, np.int64)


def test_averages_in_float32():
    # In bfloat16 the second mean, 1.00390625, would round to 1 and lose to the first.
    logits = torch.tensor([[[[1.0, 1.0078125]], [[1.0, 1.0]]]], dtype=torch.bfloat16)
    predictions, _ = predict_experts(TwoHeads(), batches(logits, torch.tensor([1]), 1), device="cpu")
    assert predictions.tolist() == [[1, 1, 0]]


def test_runs_in_evaluation_mode_and_restores_each_modules_mode(images):
    model = TwoHeads().train()
    model.frozen.eval()
    predict_experts(model, batches(*images, size=4))
    assert model.calls == [(False, False, True)] * 2
    assert (model.training, model.body.training, model.frozen.training) == (True, True, False)


def test_restores_the_mode_after_an_error(images):
    class OneHead(TwoHeads):
        def forward(self, pixel_values):
            return SimpleNamespace(logits=pixel_values[:, 0, 0])

    model = OneHead().train()
    with pytest.raises(DeiTLTError, match="pass a DeiT-LT student"):
        predict_experts(model, batches(*images, size=4))
    assert model.training


def test_no_batch_is_an_error():
    with pytest.raises(DeiTLTError, match="no batch"):
        predict_experts(TwoHeads(), [])


TWO_PROCESSES = """
    from types import SimpleNamespace

    import numpy as np
    import torch
    from accelerate import Accelerator, debug_launcher

    from deitlt_hf.evaluation.evaluate import predict_experts


    class Model(torch.nn.Linear):
        def forward(self, pixel_values):
            logits = pixel_values[:, 0, 0]
            return SimpleNamespace(cls_logits=logits, distillation_logits=-logits)


    def work(folder):
        accelerator = Accelerator(cpu=True)
        data = [{"pixel_values": torch.eye(7)[i].view(1, 1, 7), "labels": i} for i in range(7)]
        loader = torch.utils.data.DataLoader(data, batch_size=2)
        predictions, labels = predict_experts(Model(1, 1), loader, accelerator=accelerator)
        np.save(f"{folder}/{accelerator.process_index}_of_{accelerator.num_processes}.npy", [*predictions.T, labels])


    if __name__ == "__main__":
        import sys

        debug_launcher(work, (sys.argv[1],), num_processes=2)
"""


def test_two_processes_count_each_image_once(tmp_path):
    """Seven images in batches of two do not divide by two processes: the loader repeats one, the result must not."""
    script = tmp_path / "two_processes.py"
    script.write_text(textwrap.dedent(TWO_PROCESSES))
    run = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    for process in (0, 1):
        _, cls_ids, distillation_ids, labels = np.load(tmp_path / f"{process}_of_2.npy")
        assert labels.tolist() == cls_ids.tolist() == list(range(7))
        assert not (distillation_ids == labels).any()


class OneHead(nn.Linear):
    """Its images, of shape `(1, 1, classes)`, are its logits."""

    def forward(self, pixel_values):
        return SimpleNamespace(logits=pixel_values[:, 0, 0])


def test_a_model_with_one_head_has_one_row_and_its_probability():
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5], [0.1, 0.6, 0.3]])
    loader = batches(probabilities.log()[:, None, None], torch.tensor([0, 1, 1]), size=2)

    def teacher(pixel_values):
        return -pixel_values[:, 0, 0]

    found = predict_classes(OneHead(1, 1), loader, logits_by_row, teacher=teacher)
    assert (found.rows, len(found)) == (("model",), 3)
    assert found.class_ids.tolist() == [[0], [2], [1]]
    np.testing.assert_allclose(found.confidences[:, 0], [0.7, 0.5, 0.6], rtol=1e-6)
    np.testing.assert_allclose(found.label_probabilities[:, 0], [0.7, 0.25, 0.6], rtol=1e-6)
    assert (found.labels.tolist(), found.teacher.tolist()) == ([0, 1, 1], [2, 0, 0])
    assert predict_classes(OneHead(1, 1), loader, logits_by_row).teacher is None


def test_an_evaluation_scales_cosines_to_logits():
    """Cosines of 0.1 and 0 are LDAM's logits 3 and 0, and so a probability of 1 / (1 + exp(-3))."""
    images = Images(
        train=None,
        test=Dataset.from_dict({"image": [PIL.Image.new("RGB", (2, 1))] * 2, "label": [0, 1]}),
        class_names=["cat", "lynx"],
        class_counts=[9, 3],
        class_groups={"head": [0], "mid": [], "tail": [1]},
    )

    def view(image):
        return torch.tensor([0.1, 0.0]).view(1, 1, 2)

    model = OneHead(1, 1)
    model.config = CifarResNetConfig(classifier="cosine")
    metrics, found = evaluate_images(model, images, view, Accelerator(cpu=True))
    assert found.confidences == pytest.approx(1 / (1 + np.exp(-3)))
    row = metrics["experts"]["model"]
    assert (row["per_class"], row["taken_for"], row["tail"]) == ([100, 0], [None, 0], 0)
    assert metrics["test_counts"] == [1, 1]
