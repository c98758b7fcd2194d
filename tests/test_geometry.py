"""The heatmap comes back to where the network looked: preprocessing equals the official one, and its inverse is exact."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage
from torchvision import models
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

from camcli.images.decode import decode_bytes
from camcli.images.geometry import input_window, prepare_input
from camcli.models.preprocess import preprocess_of_preset, preprocess_of_timm
from camcli.records import Preprocess

SIZES = [(500, 375), (375, 500), (640, 427), (300, 301), (224, 224), (1000, 40), (33, 900), (57, 61), (1600, 1200)]


def photo(width, height, seed=0):
    """Noise with structure at every scale, so that any shift by a pixel shows."""
    rng = np.random.default_rng(seed)
    coarse = PillowImage.fromarray(rng.integers(0, 256, (max(2, height // 9), max(2, width // 9), 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), PillowImage.Resampling.BICUBIC)).astype(int)
    return np.clip(smooth + rng.integers(-40, 40, (height, width, 3)), 0, 255).astype(np.uint8)


def tensor_of(pixels, preprocess, fit="crop"):
    """The same numbers as camcli's pipeline gives the network."""
    view = input_window((pixels.shape[1], pixels.shape[0]), preprocess, fit)
    raw = prepare_input(pixels, view, preprocess)
    assert raw.shape == (*preprocess.crop, 3)
    scaled = torch.from_numpy(raw.copy()).permute(2, 0, 1).float() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocess.mean, preprocess.std))
    return (scaled - mean) / std


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    "preset",
    [
        models.ResNet50_Weights.IMAGENET1K_V1.transforms(),
        models.ResNet50_Weights.IMAGENET1K_V2.transforms(),
        models.Inception_V3_Weights.DEFAULT.transforms(),
        models.ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1.transforms(),
        models.EfficientNet_B1_Weights.DEFAULT.transforms(),
        ImageClassification(crop_size=64, resize_size=71, interpolation=InterpolationMode.BICUBIC),
    ],
    ids=["v1", "v2", "inception", "vit", "efficientnet_b1", "odd"],
)
def test_input_equals_torchvision(preset, size):
    pixels = photo(*size)
    expected = preset(PillowImage.fromarray(pixels))
    torch.testing.assert_close(tensor_of(pixels, preprocess_of_preset(preset)), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    "config",
    [
        {"crop_mode": "center", "crop_pct": 0.875, "input_size": (3, 224, 224)},
        {"crop_mode": "center", "crop_pct": 0.95, "input_size": (3, 192, 256)},
        {"crop_mode": "squash", "crop_pct": 1.0, "input_size": (3, 224, 224)},
        {"crop_mode": "squash", "crop_pct": 0.9, "input_size": (3, 160, 160)},
        {"crop_mode": "border", "crop_pct": 1.0, "input_size": (3, 224, 224)},
        {"crop_mode": "border", "crop_pct": 0.9, "input_size": (3, 200, 240)},
    ],
    ids=["center", "oblong", "squash", "squash0.9", "border", "border0.9"],
)
def test_input_equals_timm(config, size):
    import timm

    module = torch.nn.Module()
    module.pretrained_cfg = {**config, "interpolation": "bicubic", "mean": (0.48, 0.46, 0.41), "std": (0.27, 0.26, 0.28)}
    official = timm.data.create_transform(**timm.data.resolve_model_data_config(module))
    pixels = photo(*size)
    found = tensor_of(pixels, preprocess_of_timm(module))
    torch.testing.assert_close(found, official(PillowImage.fromarray(pixels)), rtol=0, atol=1e-5)


def test_logits_equal_those_of_the_official_transforms():
    """On a real photograph, bundled and torchvision model: the numbers a user would get by hand."""
    import timm

    from camcli.models.request import ModelRequest
    from camcli.models.sources import load_model
    from tests.conftest import SAMPLES

    data = (SAMPLES / "chelsea.png").read_bytes()
    picture, pixels = PillowImage.open(io.BytesIO(data)).convert("RGB"), decode_bytes(data, 10**9)
    config = timm.data.resolve_data_config({}, model=timm.create_model("tf_efficientnet_lite0"))
    for name, official in (
        ("efficientnet_lite0", timm.data.create_transform(**config)),
        ("resnet18", models.ResNet18_Weights.DEFAULT.transforms()),
    ):
        model = load_model(ModelRequest(name, "DEFAULT" if name == "efficientnet_lite0" else "none"))
        with torch.no_grad():
            expected = model.module(official(picture)[None])
            found = model.module(tensor_of(pixels, model.preprocess)[None])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_strip_does_not_cost_its_resized_area():
    """10 x 30,000 would become 256 x 768,000; only the window is resampled, and it is the same picture."""
    pixels = photo(10, 30_000)
    preprocess = Preprocess()
    view = input_window((10, 30_000), preprocess, "crop")
    assert view.resized == (256, 768_000)
    middle = pixels[15_000 - 40 : 15_000 + 40]
    # far from the cut's ends the resampling of a piece of the strip is the same
    whole = PillowImage.fromarray(middle).resize((256, 2048), PillowImage.Resampling.BILINEAR)
    expected = np.asarray(whole.crop((16, 1024 - 112, 240, 1024 + 112))).astype(int)
    assert np.abs(prepare_input(pixels, view, preprocess).astype(int) - expected).max() <= 1


@settings(max_examples=300, deadline=None)
@given(
    width=st.integers(1, 4000),
    height=st.integers(1, 4000),
    fit=st.sampled_from(["crop", "squash", "pad"]),
    preprocess=st.sampled_from(
        [
            Preprocess(),
            Preprocess("short", (224, 224), (224, 224)),
            Preprocess("cover", (220, 300), (192, 256)),
            Preprocess("contain", (224, 224), (224, 224)),
            Preprocess("squash", (250, 250), (224, 224)),
        ]
    ),
)
def test_the_box_inverts_the_transform(width, height, fit, preprocess):
    """The corners of the window, carried through the resize, are the corners of the crop: a law of every view."""
    view = input_window((width, height), preprocess, fit)
    x, y, w, h = view.box
    to_x, to_y = view.resized[0] / width, view.resized[1] / height
    assert x * to_x == pytest.approx(view.left, abs=1e-6)
    assert y * to_y == pytest.approx(view.top, abs=1e-6)
    assert (x + w) * to_x == pytest.approx(view.left + preprocess.crop[1], rel=1e-9)
    assert (y + h) * to_y == pytest.approx(view.top + preprocess.crop[0], rel=1e-9)
    box = view.pixels
    assert box.x >= 0
    assert box.y >= 0
    assert 1 <= box.w <= width - box.x
    assert 1 <= box.h <= height - box.y
    # the painted pixels are those with their centre inside, up to the one pixel that is always painted
    if box.w > 1:
        assert x - 1e-9 <= box.x + 0.5
        assert box.x + box.w - 0.5 <= x + w + 1e-9
    if fit in ("squash", "pad"):
        assert (box.x, box.y, box.w, box.h) == (0, 0, width, height)
    # centred: what is cut off (or padded) on both sides differs by less than two pixels of the resized image
    assert abs((x * 2 + w) - width) * to_x <= 2 + 1e-6


def test_squash_and_pad_show_the_whole_image():
    preprocess = Preprocess(crop=(100, 100), mean=(0.2, 0.4, 0.6))
    pixels = np.full((50, 200, 3), 255, np.uint8)
    padded = prepare_input(pixels, input_window((200, 50), preprocess, "pad"), preprocess)
    assert (padded[:37] == [51, 102, 153]).all()
    assert (padded[63:] == [51, 102, 153]).all()
    assert (padded[38:62] == 255).all()
    assert (prepare_input(pixels, input_window((200, 50), preprocess, "squash"), preprocess) == 255).all()
