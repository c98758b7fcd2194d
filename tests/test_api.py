"""The Python interface gives what the command line gives."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage

import camcli as package
from camcli.errors import ClassError, ImageError, LayerError
from camcli.images.decode import decode_bytes
from camcli.records import Preprocess
from tests.conftest import SAMPLES, Cam
from tests.folders import rows_of
from tests.networks import brightness


def test_three_lines_equal_a_run(camcli, tmp_path):
    files = [SAMPLES / "chelsea.png", SAMPLES / "space" / "rocket.jpg"]
    model = package.load()
    found = package.explain(model, files, topk=2, methods=["gradcam", "layercam"])
    assert camcli("run", *files, "-o", tmp_path / "out", "--topk", 2, "--method", "gradcam", "--method", "layercam",
                  "--save-maps", "--no-outline").code == 0  # fmt: skip
    rows = rows_of(tmp_path / "out")
    flat = [(one, heatmap) for one in found for heatmap in one.heatmaps]
    assert len(rows) == len(flat) == 8
    for row, (one, heatmap) in zip(rows, flat, strict=True):
        assert row["class_name"] == heatmap.prediction.class_name
        assert row["method"] == heatmap.method
        assert float(row["logit"]) == pytest.approx(heatmap.prediction.logit, abs=1e-4)
        assert (one.pixels.x, one.pixels.y, one.pixels.w, one.pixels.h) == tuple(int(row[f"box_{key}"]) for key in "xywh")
        stem = row["overlay"].removeprefix("overlays/").removesuffix(".jpg")
        np.testing.assert_allclose(np.load(tmp_path / "out" / "maps" / f"{stem}.npy"), heatmap.values, atol=1e-4 * heatmap.peak)
    written = np.asarray(PillowImage.open(tmp_path / "out" / rows[0]["overlay"])).astype(int)
    assert np.abs(found[0].overlay(0, outline=False) - written).mean() < 3, "up to what JPEG loses"


def test_tensors_and_files_agree():
    model = package.load(brightness(), layers=["cells"], preprocess=brightness().preprocess)
    path = SAMPLES / "retina.jpg"
    pixels = decode_bytes(path.read_bytes(), 10**9)
    (from_file,) = package.explain(model, [path])
    x, y, w, h = (round(value) for value in from_file.box)
    assert pixels.shape == from_file.image.shape
    window = PillowImage.fromarray(pixels).resize((256, 256), PillowImage.Resampling.BILINEAR).crop((16, 16, 240, 240))
    tensor = torch.from_numpy(np.asarray(window).copy()).permute(2, 0, 1)[None].float() / 255
    (from_tensor,) = package.explain(model, tensor)
    np.testing.assert_allclose(from_tensor.heatmaps[0].values, from_file.heatmaps[0].values, atol=1e-6)
    assert (from_tensor.box, from_tensor.image) == (None, None)
    with pytest.raises(ValueError, match="files instead of tensors"):
        from_tensor.overlay()
    assert (x, y, w, h) == (88, 88, 1235, 1235)


def test_your_own_module_stays_as_it_is():
    torch.manual_seed(0)
    network = Cam().train()
    model = package.load(network, layers=["features"], preprocess=Preprocess(crop=(32, 32)))
    found = package.explain(model, torch.randn(5, 3, 32, 32), topk=1, classes=[2, "class 4"], batch_size=2)
    assert len(found) == 5
    assert {heatmap.prediction.class_index for one in found for heatmap in one.heatmaps} >= {2, 4}
    assert network.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    assert not any(child._forward_hooks for child in network.modules())


def test_what_does_not_exist_is_said(tmp_path):
    network = Cam()
    preprocess = Preprocess(crop=(32, 32))
    with pytest.raises(LayerError, match="'features'"):
        package.load(network, layers=["featurs"], preprocess=preprocess)
    model = package.load(network, layers=["features"], preprocess=preprocess)
    with pytest.raises(ClassError, match="0 to 4"):
        package.explain(model, torch.zeros(1, 3, 32, 32), classes=[9])
    (tmp_path / "text.jpg").write_text("text")
    with pytest.raises(ImageError, match=r"text\.jpg: not an image"):
        package.explain(model, [tmp_path / "text.jpg"])
    with pytest.raises(AttributeError, match="no attribute 'explode'"):
        package.explode()


def test_importing_the_package_imports_no_torch():
    check = "import sys, camcli; heavy = {'torch', 'numpy', 'cv2'}; assert not heavy & set(sys.modules)"
    check += "; camcli.load; assert heavy <= set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)
