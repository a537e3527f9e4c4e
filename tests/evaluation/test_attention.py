"""Attention maps against arithmetic done by hand and transformers' own weights, and drawings against their pixels."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import DeiTImageProcessor

from deitlt_hf import DeiTLTConfig, DeiTLTError, DeiTLTForImageClassification, token_attention
from deitlt_hf.data.views import image_processor
from deitlt_hf.evaluation.attention import draw_attention, seen_region
from deitlt_hf.inference.classifier import ClassRow, ImageResult
from deitlt_hf.inference.panels import attention_panel, check_panels_are_free, panel_names

WIDTH = 20  # hidden size of the model made by hand, one head
STRENGTH = 1.5
CLS_PATCH, DIST_PATCH = (1, 2), (3, 0)  # where the tokens are made to look, (row, column) of 4 x 4


@pytest.fixture
def model_by_hand() -> DeiTLTForImageClassification:
    """Token i is the i-th unit vector; the queries of the two tokens each ask for another patch."""
    config = DeiTLTConfig(
        image_size=32, patch_size=8, hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=1, num_labels=2
    )
    model = DeiTLTForImageClassification(config)
    embeddings, attention = model.deit.embeddings, model.deit.layers[0].attention
    with torch.no_grad():
        for parameter in (*embeddings.parameters(), *attention.parameters()):
            parameter.zero_()
        embeddings.position_embeddings[0] = torch.eye(18, WIDTH)
        attention.k_proj.weight.copy_(torch.eye(WIDTH))
        for token, (row, column) in enumerate((CLS_PATCH, DIST_PATCH)):
            attention.q_proj.weight[2 + 4 * row + column, token] = STRENGTH
    return model


def test_maps_of_a_model_made_by_hand(model_by_hand):
    maps = token_attention(model_by_hand, torch.zeros(2, 3, 32, 32))
    # Layer norm makes of a unit vector the value `one` at its place and `rest` elsewhere (epsilon 1e-6).
    deviation = math.sqrt(1 / WIDTH * (1 - 1 / WIDTH) + 1e-6)
    one, rest = (1 - 1 / WIDTH) / deviation, -1 / WIDTH / deviation
    # So the query of a token has `one * STRENGTH` at the patch it asks for and `rest * STRENGTH` at the other's.
    asked = STRENGTH * (one * one + rest * rest) / math.sqrt(WIDTH)
    others = STRENGTH * (one * rest + rest * one) / math.sqrt(WIDTH)
    neither = STRENGTH * (one * rest + rest * rest) / math.sqrt(WIDTH)
    total = math.exp(asked) + math.exp(others) + 16 * math.exp(neither)
    for token, mine, its in (("cls", CLS_PATCH, DIST_PATCH), ("distillation", DIST_PATCH, CLS_PATCH)):
        expected = torch.full((2, 4, 4), math.exp(neither) / total)
        expected[:, mine[0], mine[1]] = math.exp(asked) / total
        expected[:, its[0], its[1]] = math.exp(others) / total
        torch.testing.assert_close(maps[token], expected, atol=1e-6, rtol=1e-5)
        assert maps[token].flatten(1).argmax(1).tolist() == [4 * mine[0] + mine[1]] * 2
        assert maps[token].dtype == torch.float32


def test_maps_are_the_mean_over_heads_of_transformers_weights_and_change_nothing():
    torch.manual_seed(0)
    config = DeiTLTConfig(
        image_size=(16, 32),
        patch_size=8,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_labels=2,
        initializer_range=0.3,
        attention_probs_dropout_prob=0.5,  # which evaluation mode has to switch off
    )
    model = DeiTLTForImageClassification(config).train()
    model.deit.layers[1].eval()
    assert model.config._attn_implementation == "sdpa"
    pixel_values = torch.randn(3, 3, 16, 32)
    maps = token_attention(model, pixel_values)
    assert model.config._attn_implementation == "sdpa"
    assert model.training
    assert not model.deit.layers[1].training

    model.eval().set_attn_implementation("eager")
    with torch.inference_mode():
        weights = model(pixel_values, output_attentions=True).attentions[-1].mean(1)
    for index, token in enumerate(("cls", "distillation")):
        assert maps[token].shape == (3, 2, 4)
        torch.testing.assert_close(maps[token].flatten(1), weights[:, index, 2:], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(maps[token].sum((1, 2)) + weights[:, index, :2].sum(-1), torch.ones(3))


@pytest.mark.parametrize("size", [(500, 300), (300, 500), (64, 64), (1000, 40)])
@pytest.mark.parametrize(
    "processor",
    [
        image_processor(224),
        image_processor(32),
        DeiTImageProcessor(size={"height": 100, "width": 200}, crop_size={"height": 50, "width": 60}),
    ],
    ids=["crop", "square", "stretched"],
)
def test_seen_region_is_what_the_processor_keeps(processor, size):
    width, height = size
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    picture = Image.fromarray(np.stack([x, y, 0 * x], axis=-1).round().astype(np.uint8))
    seen = processor(picture, do_normalize=False, return_tensors="np").pixel_values[0]
    left, top, right, bottom = seen_region(processor, width, height)
    tolerance = 0.02 + 2 / min(size)
    for part, expected in (
        (seen[0].min(), left),
        (seen[0].max(), right),
        (seen[1].min(), top),
        (seen[1].max(), bottom),
    ):
        assert abs(part - expected) < tolerance


def test_a_padding_processor_sees_beyond_the_picture():
    processor = DeiTImageProcessor(do_resize=False, crop_size={"height": 40, "width": 20})
    assert seen_region(processor, 40, 20) == (0.25, -0.5, 0.75, 1.5)


def yellow(pixel) -> bool:
    red, green, blue = (int(part) for part in pixel)
    return red > blue + 60 and green > blue + 60


def violet(pixel) -> bool:
    _, green, blue = (int(part) for part in pixel)
    return blue > green + 20


def test_drawing_colours_the_patches():
    weights = np.zeros((2, 4), dtype=np.float32)
    weights[1, 2] = 0.3
    drawn = draw_attention(Image.new("RGB", (80, 60), "gray"), weights)
    assert (drawn.size, drawn.mode) == ((80, 60), "RGB")
    pixels = np.asarray(drawn)
    assert all(yellow(pixels[y, x]) for y, x in ((30, 40), (59, 59), (45, 50)))
    assert all(violet(pixels[y, x]) for y, x in ((29, 50), (45, 39), (45, 60), (0, 0)))


def test_drawing_leaves_what_was_not_seen_grey():
    drawn = np.asarray(draw_attention(Image.new("RGB", (100, 50), "red"), np.eye(2), region=(0.25, 0.0, 0.75, 1.0)))
    grey = drawn[:, :25].reshape(-1, 3)
    assert (grey == grey[0, 0]).all()
    assert yellow(drawn[10, 35])
    assert violet(drawn[10, 65])
    assert (drawn[10, 25] == 255).all()  # the frame


def test_drawing_is_upright_and_of_limited_size():
    image = Image.new("L", (3000, 600), 128)
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", exif=exif)
    drawn = draw_attention(Image.open(buffer), np.array([[1.0], [0.0]]))
    assert drawn.size == (205, 1024)
    assert yellow(drawn.getpixel((100, 10)))
    assert violet(drawn.getpixel((100, 1000)))


@pytest.mark.parametrize("weights", [np.ones(4), np.full((2, 2), np.nan), -np.eye(2), np.zeros((0, 3))])
def test_weights_that_are_no_map_are_refused(weights):
    with pytest.raises(DeiTLTError, match="attention map"):
        draw_attention(Image.new("RGB", (8, 8)), weights)


def result_with(region=None) -> ImageResult:
    rows = [
        ClassRow(
            "a very long name of a class that no panel has the room for",
            {"average": 0.5, "cls": 0.1, "distillation": 0.9},
        ),
        ClassRow("рысь", {"average": 0.3, "cls": 0.8, "distillation": 0.05}),
    ]
    maps = {"cls": np.eye(4, dtype=np.float32), "distillation": np.eye(4, dtype=np.float32)[::-1]}
    return ImageResult(None, rows, maps, region)


@pytest.mark.parametrize("size", [(16, 16), (1, 1), (4000, 10), (10, 4000), (500, 375)])
@pytest.mark.parametrize("region", [(0.0, 0.0, 1.0, 1.0), (0.4, 0.1, 0.6, 0.9), (-0.5, 0.0, 1.5, 1.0)])
def test_panels_of_any_shape_are_legible(size, region):
    panel = np.asarray(attention_panel(Image.new("RGB", size, "gray"), result_with(region)))
    assert panel.shape[1] == 1056
    cls_map, dist_map = panel[56:376, 368:688], panel[56:376, 712:1032]
    for tile in (cls_map, dist_map):
        coloured = (tile != 255).any(-1)
        assert min(coloured.any(0).sum(), coloured.any(1).sum()) >= 320 // 3
    ys, xs = np.nonzero((cls_map != 255).any(-1))
    corners = [(ys.min() + 4, xs.min() + 4), (ys.min() + 4, xs.max() - 4)]
    assert [yellow(cls_map[corner]) for corner in corners] == [True, False]
    assert [yellow(dist_map[corner]) for corner in corners] == [False, True]


def test_a_result_is_sorted_by_any_expert():
    assert [row.name for row in result_with().top("cls", 1)] == ["рысь"]
    assert result_with().top("distillation", 5)[0].name.startswith("a very")


def test_panels_have_names_of_their_own(tmp_path):
    files = [Path(name) for name in ("x.jpg", "b/x.jpg", "b/X.PNG", "b/x-2.gif", "c.jpg", "c.png/x.jpg")]
    names = panel_names(files)
    assert names == ["x.png", "b/x.png", "b/X-2.png", "b/x-2-2.png", "c-2.png", "c.png/x.png"]
    check_panels_are_free(tmp_path, names)
    (tmp_path / "b").touch()
    with pytest.raises(DeiTLTError, match="b is a file"):
        check_panels_are_free(tmp_path, names)
    (tmp_path / "x.png").touch()
    with pytest.raises(DeiTLTError, match=r"x\.png exists"):
        check_panels_are_free(tmp_path, names[:1])
    with pytest.raises(DeiTLTError, match="is a file"):
        check_panels_are_free(tmp_path / "x.png", [])
