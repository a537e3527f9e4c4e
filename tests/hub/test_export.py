"""Exported students against the model's own forward, at several batch sizes, and behind `ExpertClassifier`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from huggingface_hub import HfApi
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

import deitlt_hf
from deitlt_hf import DeiTLTConfig, DeiTLTError, DeiTLTForImageClassification, ExpertClassifier, export_model
from deitlt_hf.cards.model_card import model_card
from deitlt_hf.data.views import image_processor
from deitlt_hf.inference import export
from deitlt_hf.inference.export import quantise_onnx
from hub_server import HubServer

ACCURACY = {"overall": 40.0, "head": 60.0, "mid": 40.0, "tail": 20.0}
METRICS = {"num_images": 50, "experts": dict.fromkeys(("average", "cls", "distillation"), ACCURACY)}
OUTPUTS = ("logits", "cls_logits", "distillation_logits")


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("export") / "student"
    torch.manual_seed(0)
    config = DeiTLTConfig(
        image_size=32,
        patch_size=8,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=96,
        num_labels=6,
        expert="distillation",
        initializer_range=0.2,
        class_counts=[9, 8, 7, 6, 5, 4],
    )
    DeiTLTForImageClassification(config).save_pretrained(directory)
    image_processor(32).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def model(student) -> DeiTLTForImageClassification:
    return AutoModelForImageClassification.from_pretrained(student).eval()


@pytest.fixture(scope="module")
def exported(student) -> dict[str, Path]:
    """The student as ONNX, in 8 bits, and as a program."""
    directories = {name: student.parent / name for name in ("onnx", "int8", "torch")}
    report = export_model(student, directories["onnx"])
    assert report.file == directories["onnx"] / "model.onnx"
    assert 0 < report.largest_difference < 1e-4
    assert report.agreement is None
    shutil.copytree(directories["onnx"], directories["int8"])
    quantise_onnx(directories["int8"] / "model.onnx")
    directories["torch"].mkdir()  # an empty one will do
    assert export_model(student, directories["torch"], format="torch").largest_difference < 1e-4
    return directories


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (20, 4, 4, 3), dtype=np.uint8)
    return [Image.fromarray(pixels).resize((50, 40), Image.Resampling.BICUBIC) for pixels in coarse]


def own(model: DeiTLTForImageClassification, pixel_values: torch.Tensor) -> list[np.ndarray]:
    with torch.inference_mode():
        outputs = model(pixel_values)
    return [outputs[name].numpy() for name in OUTPUTS]


@pytest.mark.parametrize("batch", [1, 2, 3, 17])
def test_onnx_logits_are_pytorchs_at_any_batch_size(exported, model, batch):
    session = onnxruntime.InferenceSession(exported["onnx"] / "model.onnx", providers=["CPUExecutionProvider"])
    pixel_values = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(batch))
    outputs = session.run(None, {"pixel_values": pixel_values.numpy()})
    expected = own(model, pixel_values)
    assert np.abs(expected[0]).max() > 1
    for output, wanted in zip(outputs, expected, strict=True):
        assert output.dtype == np.float32
        np.testing.assert_allclose(output, wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("batch", [1, 2, 3, 17])
def test_the_programs_logits_are_pytorchs_at_any_batch_size(exported, model, batch):
    program = torch.export.load(exported["torch"] / "model.pt2").module()
    pixel_values = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(batch))
    for output, wanted in zip(program(pixel_values), own(model, pixel_values), strict=True):
        np.testing.assert_allclose(output.detach().numpy(), wanted, atol=1e-4, rtol=0)


def test_the_onnx_file_says_what_it_is(exported):
    content = onnx.load(exported["onnx"] / "model.onnx")
    onnx.checker.check_model(content, full_check=True)
    assert [(part.domain, part.version) for part in content.opset_import] == [("", 20)]
    (images,) = content.graph.input
    shape = [side.dim_param or side.dim_value for side in images.type.tensor_type.shape.dim]
    assert (images.name, shape) == ("pixel_values", ["batch", 3, 32, 32])
    logits = {
        output.name: [side.dim_param or side.dim_value for side in output.type.tensor_type.shape.dim]
        for output in content.graph.output
    }
    assert logits == {name: ["batch", 6] for name in OUTPUTS}
    metadata = {part.key: part.value for part in content.metadata_props}
    assert metadata == {
        "model_type": "deit_lt",
        "image_size": "32 x 32",
        "expert": "distillation",
        "opset": "20",
        "deitlt_hf_version": deitlt_hf.__version__,
    }


@pytest.mark.parametrize("name", ["onnx", "torch"])
def test_configuration_and_processor_lie_beside_the_model(exported, student, name):
    directory = exported[name]
    assert len(list(directory.iterdir())) == 3
    config = AutoConfig.from_pretrained(directory)
    assert (config.expert, config.class_counts) == ("distillation", [9, 8, 7, 6, 5, 4])
    assert "auto_map" not in json.loads((directory / "config.json").read_text())
    assert (
        AutoImageProcessor.from_pretrained(directory).to_dict() == AutoImageProcessor.from_pretrained(student).to_dict()
    )


@pytest.mark.parametrize("name", ["onnx", "int8", "torch"])
def test_files_do_not_tell_where_they_were_made(exported, name):
    (file,) = exported[name].glob("model.*")
    content = file.read_bytes()
    assert b"site-packages" not in content
    assert str(Path(deitlt_hf.__file__).parent).encode() not in content
    assert str(exported[name].parent).encode() not in content


def test_every_runtime_predicts_the_same(exported, student, pictures):
    expected = ExpertClassifier.from_pretrained(student)(pictures, top=6)
    for name, runtime in (("onnx", "onnx"), ("torch", "exported")):
        classifier = ExpertClassifier.from_pretrained(exported[name])
        assert classifier.runtime == runtime
        for result, wanted in zip(classifier(pictures, top=6), expected, strict=True):
            assert [row.name for row in result.rows] == [row.name for row in wanted.rows]
            for row, wanted_row in zip(result.rows, wanted.rows, strict=True):
                assert row.probability == pytest.approx(wanted_row.probability, abs=1e-5)
        with pytest.raises(DeiTLTError, match="need PyTorch weights"):
            classifier(pictures, attention=True)


def test_8_bits_mostly_agree_and_take_less_room(exported, model):
    session = onnxruntime.InferenceSession(exported["int8"] / "model.onnx", providers=["CPUExecutionProvider"])
    pixel_values = torch.randn(64, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    pixel_values = torch.nn.functional.interpolate(pixel_values, size=(32, 32), mode="bicubic")
    for output, wanted in zip(
        session.run(None, {"pixel_values": pixel_values.numpy()}), own(model, pixel_values), strict=True
    ):
        assert (output.argmax(-1) == wanted.argmax(-1)).mean() > 0.9
        assert 1e-4 < np.abs(output - wanted).max() < 0.1 * np.abs(wanted).max()
        assert len(np.unique(wanted.argmax(-1))) > 1  # else agreeing were easy
    sizes = {name: (exported[name] / "model.onnx").stat().st_size for name in ("onnx", "int8")}
    assert sizes["int8"] < 0.7 * sizes["onnx"]
    content = onnx.load(exported["int8"] / "model.onnx").graph
    assert sum(node.op_type == "MatMulInteger" for node in content.node) == 2 * 6
    kinds = {part.name: part.data_type for part in content.initializer}
    for name in (
        "embeddings.patch_embeddings.projection.weight",
        "cls_classifier.weight",
        "distillation_classifier.weight",
    ):
        (kind,) = (kind for key, kind in kinds.items() if name in key)
        assert kind == onnx.TensorProto.FLOAT


@pytest.mark.parametrize("on_hub", [False, True])
def test_what_its_card_is_written_from_goes_along(student, tmp_path, monkeypatch, on_hub):
    run = shutil.copytree(student, tmp_path / "run")
    told = {
        "recipe.yaml": "data_dir: /home/me/images\nnum_train_epochs: 3",
        "run.json": "{}",
        "metrics.json": json.dumps(METRICS),
    }
    for name, content in told.items():
        (run / name).write_text(content)
    with HubServer(tmp_path) as hub:
        hub.connect(monkeypatch)
        HfApi().create_repo("me/run")
        HfApi().upload_folder(repo_id="me/run", folder_path=run)
        source = "me/run" if on_hub else run
        export_model(source, tmp_path / "float")
        export_model(source, tmp_path / "int8", int8=True)
    plain = {"config.json", "preprocessor_config.json", "model.onnx"}
    assert {path.name for path in (tmp_path / "float").iterdir()} == plain | told.keys()
    assert {path.name for path in (tmp_path / "int8").iterdir()} == plain | {"recipe.yaml", "run.json"}
    assert (tmp_path / "int8" / "recipe.yaml").read_text() == "data_dir: images\nnum_train_epochs: 3\n"
    assert "| average | 40.0 |" in str(model_card(tmp_path / "float"))
    assert "40.0" not in str(model_card(tmp_path / "int8"))


def test_an_exported_student_on_the_hub_loads_by_its_id(exported, pictures, tmp_path, monkeypatch):
    with HubServer(tmp_path) as hub:
        hub.connect(monkeypatch)
        for name in ("onnx", "torch"):
            HfApi().create_repo(f"me/{name}")
            HfApi().upload_folder(repo_id=f"me/{name}", folder_path=exported[name])
        (result,) = ExpertClassifier.from_pretrained("me/onnx")(pictures[0])
        (expected,) = ExpertClassifier.from_pretrained(exported["onnx"])(pictures[0])
        assert result == expected
        with pytest.raises(DeiTLTError, match="can run any code"):
            ExpertClassifier.from_pretrained("me/torch")
        with pytest.raises(DeiTLTError, match="cannot load a model from me/nothing"):
            ExpertClassifier.from_pretrained("me/nothing")
        hub.connect(monkeypatch, token="no token of this hub")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
        with pytest.raises(DeiTLTError, match=r"cannot load a model from me/onnx: .*401"):
            ExpertClassifier.from_pretrained("me/onnx")


def test_weights_come_before_what_was_exported(exported, student, tmp_path):
    shutil.copytree(student, tmp_path / "both")
    shutil.copy(exported["onnx"] / "model.onnx", tmp_path / "both")
    assert ExpertClassifier.from_pretrained(tmp_path / "both").runtime == "torch"


@pytest.mark.parametrize(("name", "file"), [("onnx", "model.onnx"), ("torch", "model.pt2")])
def test_damaged_files_are_named_in_one_line(exported, tmp_path, capfd, name, file):
    shutil.copytree(exported[name], tmp_path / "damaged")
    path = tmp_path / "damaged" / file
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DeiTLTError, match=rf"{file} is no .*export it anew"):
        ExpertClassifier.from_pretrained(tmp_path / "damaged")
    assert capfd.readouterr() == ("", "")


def test_an_exported_teacher_is_refused(exported, tmp_path):
    shutil.copytree(exported["onnx"], tmp_path / "other")
    (tmp_path / "other" / "config.json").write_text('{"model_type": "resnet"}')
    with pytest.raises(DeiTLTError, match="resnet model, not a DeiT-LT student"):
        ExpertClassifier.from_pretrained(tmp_path / "other")


def test_logits_that_differ_leave_nothing(student, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "TOLERANCE", 0.0)
    with pytest.raises(DeiTLTError, match="differ from PyTorch's by up to"):
        export_model(student, tmp_path / "new" / "out", format="torch")
    assert not list((tmp_path / "new").iterdir())


def test_weights_that_are_not_numbers_are_refused(student, tmp_path):
    model = AutoModelForImageClassification.from_pretrained(student)
    with torch.no_grad():
        model.cls_classifier.weight[0, 0] = torch.nan
    model.save_pretrained(tmp_path / "nan")
    image_processor(32).save_pretrained(tmp_path / "nan")
    with pytest.raises(DeiTLTError, match=r"NaN or infinite numbers in 1 of 43 tensors, first cls_classifier\.weight"):
        export_model(tmp_path / "nan", tmp_path / "out", format="torch")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"format": "coreml"}, "'coreml'; pass onnx or torch"), ({"format": "torch", "int8": True}, "int8")],
)
def test_wrong_settings_are_refused(student, tmp_path, settings, message):
    with pytest.raises(DeiTLTError, match=message):
        export_model(student, tmp_path / "out", **settings)
    assert not list(tmp_path.iterdir())


def test_missing_libraries_are_named(student, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(DeiTLTError, match=r"onnxscript: pip install 'deitlt-hf\[onnx\]'"):
        export_model(student, tmp_path / "out")


def test_a_directory_in_use_is_not_touched(student, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DeiTLTError, match="is not empty"):
        export_model(student, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
