"""The factories in docs/models.md for models of other packages, as they stand there, with small random networks."""

from __future__ import annotations

import importlib
import json
import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage

import camcli
from camcli.images.geometry import prepare_pixels
from camcli.network.inputs import input_tensor
from tests.conftest import ROOT, SAMPLES

BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "models.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
PHOTOS = [SAMPLES / name for name in ("chelsea.png", "coffee.png", "camera.png")]


def recipe(word, name, folder, **replacements):
    """The module of the page that contains ``word``, written as ``name`` into ``folder``, with names of weights exchanged."""
    (text,) = [block for block in BLOCKS if word in block]
    for before, after in replacements.items():
        assert before in text
        text = text.replace(before, after)
    (folder / f"{name}.py").write_text(text)
    sys.modules.pop(name, None)
    importlib.invalidate_caches()


def same_input(model, transform):
    """The model's input is what ``transform`` makes of a photo, bit by bit."""
    for path in PHOTOS:
        picture = PillowImage.open(path).convert("RGB")
        pixels = prepare_pixels(np.asarray(picture), model.preprocess, "crop")[1]
        torch.testing.assert_close(input_tensor([pixels], model.preprocess, torch.device("cpu"))[0], transform(picture))


def test_a_classifier_of_ultralytics(on_path, monkeypatch):
    monkeypatch.setenv("YOLO_OFFLINE", "true")
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(on_path))
    pytest.importorskip("ultralytics", reason="ultralytics is not installed")
    from ultralytics.data.augment import classify_transforms

    recipe("ultralytics", "yolo", on_path, **{'"yolov8n-cls.pt"': '"yolov8n-cls.yaml"'})
    model = camcli.load("yolo:Classifier")
    assert len(model.model.classes) == 1000
    same_input(model.model, classify_transforms(224))
    images = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        probabilities = model.model.module.net(images)[0]
        torch.testing.assert_close(model.model.module(images).softmax(1), probabilities)
    values = camcli.explain(model, PHOTOS[1])[0].heatmaps[0].values
    assert np.isfinite(values).all()


def test_clip_with_prompts_as_classes(on_path):
    open_clip = pytest.importorskip("open_clip", reason="open_clip_torch is not installed")
    small = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 64, "layers": 3, "width": 64, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    (on_path / "small-clip.json").write_text(json.dumps(small))
    open_clip.add_model_config(on_path / "small-clip.json")
    recipe("open_clip", "zero_shot", on_path, **{'"ViT-B-32"': '"small-clip"', '"laion2b_s34b_b79k"': "None"})
    model = camcli.load("zero_shot:ZeroShot")
    assert model.model.classes == ("cat", "coffee", "tripod")
    assert model.layers[0].name == "visual.transformer.resblocks.2.ln_1"
    same_input(model.model, open_clip.transform.image_transform(64, is_train=False))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        clip = open_clip.create_model("small-clip").eval()
    tokens = open_clip.get_tokenizer("small-clip")(
        ["a photo of a cat", "a photo of a cup of coffee", "a photo of a camera on a tripod"]
    )
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        theirs, _ = clip.get_logits(images, tokens)
        torch.testing.assert_close(model.model.module(images), theirs)
    for method in ("gradcam", "legrad", "rollout"):
        values = camcli.explain(model, PHOTOS[1], methods=method)[0].heatmaps[0].values
        assert values.max() > values.min()
