"""Times a student's inference on the CPU against transformers' and timm's distilled DeiT-Ti, and prints the ratios.

All of them have the same random weights, 1000 classes and 224 pixels, and get the same pixel values; before anything is
timed, their logits have to agree. Ours runs in PyTorch, and in ONNX Runtime in float32 and in 8 bits, as
`ExpertClassifier` runs it.

    python benchmarks/inference.py                # about two minutes on two cores with nothing else running
    python benchmarks/inference.py --rounds 3
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import timm
import torch
from interleaved import machine, markdown_table, median_and_quartiles, now, time_in_turns
from torch import nn
from transformers import DeiTConfig, DeiTForImageClassificationWithTeacher

from deitlt_hf import DeiTLTForImageClassification, convert_reference_checkpoint, export_model, image_processor
from deitlt_hf.inference.runtimes import FileRuntime, TorchRuntime

PEERS = ("transformers", "timm")
TOLERANCE = 1e-4
CALLS = {1: 10, 16: 1}  # of one turn, by batch size

Run = Callable[[torch.Tensor], object]


def build_models(folder: Path) -> tuple[nn.Module, nn.Module, DeiTLTForImageClassification]:
    """timm's, transformers' and our model with the same weights."""
    torch.manual_seed(0)
    theirs = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=1000).eval()
    torch.save({"model": theirs.state_dict()}, folder / "timm.pth")
    ours = convert_reference_checkpoint(folder / "timm.pth", class_order=range(1000))
    names = ("image_size", "patch_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    settings = {name: getattr(ours.config, name) for name in (*names, "layer_norm_eps", "num_labels")}
    plain = DeiTForImageClassificationWithTeacher(DeiTConfig(**settings)).eval()
    plain.load_state_dict(ours.state_dict())
    return theirs, plain, ours


def build_contestants(folder: Path) -> dict[str, Run]:
    theirs, plain, ours = build_models(folder)
    ours.save_pretrained(folder / "student")
    image_processor(224).save_pretrained(folder / "student")
    contestants: dict[str, Run] = {"transformers": plain, "timm": theirs, "ours, PyTorch": TorchRuntime(ours)}
    for name, int8 in (("ours, ONNX", False), ("ours, ONNX in 8 bits", True)):
        file = export_model(folder / "student", folder / name, int8=int8).file
        contestants[name] = FileRuntime(file, ours.config)
    return contestants


@torch.inference_mode()
def check(contestants: Mapping[str, Run]) -> None:
    """Stop where the float32 logits differ; 8 bits may."""
    pixel_values = torch.randn(4, 3, 224, 224)
    outputs = contestants["transformers"](pixel_values)
    expected = (outputs.cls_logits + outputs.distillation_logits) / 2
    for name, run in contestants.items():
        outputs = run(pixel_values)
        if name == "timm":
            average = outputs  # in evaluation mode timm averages its heads
        else:
            average = (torch.as_tensor(outputs.cls_logits) + torch.as_tensor(outputs.distillation_logits)) / 2
        difference = (average - expected).abs().max().item()
        print(f"{name}: logits differ from transformers' by up to {difference:.1g}")
        if difference > TOLERANCE and "8 bits" not in name:
            raise SystemExit(f"{name} computes something else")


def time_batch(contestants: Mapping[str, Run], batch: int, rounds: int) -> dict[str, list[float]]:
    """Seconds per call of each contestant, for each round."""
    pixel_values = torch.randn(batch, 3, 224, 224)

    @torch.inference_mode()
    def seconds(run: Run) -> float:
        run(pixel_values)  # the threads of the one before come to rest
        started = now()
        for _ in range(CALLS[batch]):
            run(pixel_values)
        return (now() - started) / CALLS[batch]

    turns = {name: lambda run=run: seconds(run) for name, run in contestants.items()}
    time_in_turns(turns, rounds=1)
    return time_in_turns(turns, rounds)


def rows(times: Mapping[str, Sequence[float]], batch: int) -> list[list[str]]:
    """One row per contestant: its median, and how many times as fast as each peer it is."""
    table = []
    for name, seconds in times.items():
        cells = [f"{batch}", f"{1000 * median_and_quartiles(seconds)[0]:.1f}"]
        for peer in PEERS:
            ratios = [its / mine for its, mine in zip(times[peer], seconds, strict=True)]
            median, lower, upper = median_and_quartiles(ratios)
            cells.append("" if name in PEERS else f"{median:.2f} ({lower:.2f} to {upper:.2f})")
        table.append([name, *cells])
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25, help="turns of each contestant (default: %(default)s)")
    options = parser.parse_args()
    print(machine(torch.device("cpu")))
    with tempfile.TemporaryDirectory() as folder:
        contestants = build_contestants(Path(folder))
        check(contestants)
        table = [["", "batch", "ms", *(f"times as fast as {peer}" for peer in PEERS)]]
        for batch in CALLS:
            table += rows(time_batch(contestants, batch, options.rounds), batch)
    print(markdown_table(table))


if __name__ == "__main__":
    main()
