"""``camcli fit``: the best linear layer there is, told by what it has not seen; a model like any other, with exact maps."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import threading
from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from safetensors.numpy import save
from scipy.optimize import minimize
from torch.nn import functional

from camcli.errors import InputError, LayerError, ModelError, RunError
from camcli.fit.backbone import load_backbone
from camcli.fit.config import FitConfig
from camcli.fit.data import find_duplicates, stratified_split
from camcli.fit.features import cache_key
from camcli.fit.finetune import blocks_of
from camcli.fit.linear_probe import balanced_accuracy, class_weights, train_probe
from camcli.fit.metrics import measure
from camcli.fit.study import fit_model
from camcli.listener import SilentListener
from camcli.models.request import ModelRequest
from camcli.models.sources import load_model
from camcli.models.sources.fitted import read_fitted
from camcli.network.hooks import capture_outputs
from camcli.records import Preprocess
from tests.commands import command
from tests.conftest import ROOT, SAMPLES
from tests.folders import rows_of, state_of
from tests.forks import forked, wait_for
from tests.pictures import encoded
from tests.walks import pictures_of, run_walk

SMALL = ("--backbone", "tests.networks:colours", "--weights", "tests.networks:colours", "--layer", "4")
FIT = SMALL[:2] + SMALL[4:]
RUN = ("--weights", "tests.networks:colours")


def paint(path, colour, seed):
    """A square of one colour somewhere on grey, with noise."""
    draw = np.random.default_rng(seed)
    pixels = draw.integers(90, 130, (64, 64, 3)).astype(np.uint8)
    y, x = draw.integers(0, 40, 2)
    pixels[y : y + 24, x : x + 24] = colour
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(pixels, "PNG"))


@pytest.fixture
def data(tmp_path):
    """Ten red and ten blue squares."""
    for k in range(10):
        paint(tmp_path / "data" / "red" / f"{k}.png", (200, 20, 20), k)
        paint(tmp_path / "data" / "blue" / f"{k}.png", (20, 20, 200), 100 + k)
    return tmp_path / "data"


def split_of(model):
    with open(model / "split.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def map_of(out, row):
    """The raw map of a row; None where it was not painted."""
    if not row["overlay"]:
        return None
    return np.load(out / "maps" / f"{os.path.splitext(os.path.relpath(row['overlay'], 'overlays'))[0]}.npy")


def loaded(model):
    return load_model(ModelRequest(str(model), "tests.networks:colours"))


def test_a_fitted_model_is_a_model_like_any_other(camcli, data, tmp_path):
    model = tmp_path / "model"
    done = camcli("fit", data, "-o", model, *FIT)
    assert done.code == 0, done.err
    assert "Accuracy 100.0% on 4 validation images" in done.err
    assert done.out.splitlines()[0] == "class\timages\tprecision\trecall\ttaken for blue\ttaken for red"
    assert camcli("classes", model).out.splitlines()[1:] == ["0\tblue", "1\tred"]
    assert any(
        line.startswith("features\t") and line.endswith("default") for line in camcli("layers", model, *RUN).out.splitlines()
    )
    ran = camcli("run", data, "-o", tmp_path / "out", "--model", model, *RUN, "--method", "cam", "--class-from", "folder")
    assert ran.code == 0, ran.err
    rows = rows_of(tmp_path / "out")
    assert [row["predicted_class"] for row in rows] == [row["image"].split("/")[0] for row in rows]
    refused = camcli("run", data, "-o", tmp_path / "other", "--model", model)
    assert (refused.code, "If you trust it, add --weights tests.networks:colours" in refused.err) == (2, True)


def test_cam_equals_grad_cam_and_captum(camcli, data, tmp_path):
    """In closed form too: the class's weights times the channels. Grad-CAM is that over h w, its negative cells cut off."""
    from captum.attr import LayerGradCam

    assert camcli("fit", data, "-o", tmp_path / "model", *FIT).code == 0
    fitted = loaded(tmp_path / "model")
    flags = ("--model", tmp_path / "model", *RUN, "--method", "cam", "--method", "gradcam", "--topk", 2, "--save-maps")
    assert camcli("run", data, "-o", tmp_path / "out", *flags, "--precision", "fp32").code == 0
    maps = {(row["image"], row["class_index"], row["method"]): map_of(tmp_path / "out", row) for row in rows_of(tmp_path / "out")}
    mean, std = (np.array(values) for values in (fitted.preprocess.mean, fitted.preprocess.std))
    compared = 0
    for (name, index, method), cam in maps.items():
        if method != "cam" or cam is None:
            continue
        pixels = np.asarray(PillowImage.open(data / name).convert("RGB"))
        image = torch.from_numpy(((pixels / 255 - mean) / std).transpose(2, 0, 1)).float()[None]
        with torch.no_grad():
            features = fitted.module.features(image)[0]
        exact = torch.einsum("c,chw->hw", fitted.module.head.weight[int(index)].detach(), features).numpy()
        theirs = LayerGradCam(fitted.module, fitted.module.features).attribute(image, target=int(index))[0, 0].detach().numpy()
        scale = float(np.abs(exact).max())
        assert cam == pytest.approx(exact, abs=1e-5 * scale)
        assert cam / cam.size == pytest.approx(theirs, abs=1e-5 * scale / cam.size)
        grad_cam = maps[name, index, "gradcam"]
        if grad_cam is not None:
            assert grad_cam == pytest.approx(np.maximum(exact, 0) / cam.size, abs=1e-5 * scale / cam.size)
            compared += 1
    assert compared > 15


def test_the_same_seed_gives_the_same_bytes_and_they_load_bit_equal(camcli, data, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert camcli("fit", data, "-o", tmp_path / name, *FIT, "--seed", seed).code == 0
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "abc"]
    assert weights[0] == weights[1] != weights[2]
    assert split_of(tmp_path / "a") == split_of(tmp_path / "b")
    from safetensors.torch import load

    state = loaded(tmp_path / "a").module.state_dict()
    stored = load(weights[0])
    assert set(state) == set(stored)
    assert all(torch.equal(state[name], stored[name]) for name in stored)
    probabilities = {row["image"]: float(row["predicted_probability"]) for row in split_of(tmp_path / "a")}
    assert camcli("run", data, "-o", tmp_path / "out", "--model", tmp_path / "a", *RUN).code == 0
    for row in rows_of(tmp_path / "out"):
        assert float(row["predicted_probability"]) == pytest.approx(probabilities[row["image"]], abs=1e-5)


@pytest.mark.parametrize(("count", "channels"), [(40, 6), (12, 30)], ids=["more images than features", "fewer"])
def test_the_head_is_the_minimum_that_scipy_finds(count, channels):
    """Of cross-entropy with balanced classes and weight decay on standardized features, where validation is training."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn((count, channels), generator=generator, dtype=torch.float64) * 3 + 5
    labels = torch.tensor([0, 0, 0, 1, 1, 2] * (count // 6 + 1))[:count]
    features[:, 0] += labels
    decay = 0.3
    head = train_probe((features, labels), (features, labels), 3, (decay,))
    scaled = (features - features.mean(0)) / features.std(0, correction=0)
    weights = torch.tensor([count / (3 * (labels == k).sum()) for k in range(3)], dtype=torch.float64)

    def objective(values):
        packed = torch.tensor(values, requires_grad=True)
        weight, bias = packed[:-3].reshape(3, channels), packed[-3:]
        loss = functional.cross_entropy(scaled @ weight.T + bias, labels, weights) + decay / 2 * weight.square().sum()
        loss.backward()
        return float(loss.detach()), packed.grad.numpy()

    best = minimize(objective, np.zeros(3 * channels + 3), jac=True, method="BFGS", options={"gtol": 1e-9})
    weight = torch.tensor(best.x[:-3]).reshape(3, channels)
    theirs = (scaled @ weight.T + torch.tensor(best.x[-3:])).softmax(1)
    ours = (features @ head.weight.double().T + head.bias.double()).softmax(1)
    assert ours.numpy() == pytest.approx(theirs.numpy(), abs=2e-3)


def test_a_channel_that_is_all_but_dead_gets_no_say():
    """In the training images it varies by a millionth, and there it follows the class; later it fires."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(40) % 2
    features = torch.randn((40, 8), generator=generator)
    features[:, 0] += 2.0 * labels
    features[:, 7] = 1e-6 * (labels == 0)
    head = train_probe((features[:30], labels[:30]), (features[30:], labels[30:]), 2)
    assert head.weight[:, 7].abs().max() < head.weight[:, 0].abs().max() / 100
    fired = features.clone()
    fired[:, 7] = 1.0
    assert torch.equal((features @ head.weight.T + head.bias).argmax(1), (fired @ head.weight.T + head.bias).argmax(1))


def test_every_class_counts_the_same():
    labels = torch.tensor([0] * 9 + [1])
    weights = class_weights(labels, 2)
    assert (weights[labels][labels == 0].sum(), weights[labels][labels == 1].sum()) == (5, 5)


def test_of_equally_good_heads_the_simplest_is_taken():
    """One feature parts the classes: every decay is right everywhere, so the strongest wins; noise does not make it weaker."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 2
    features = torch.randn((60, 4), generator=generator)
    features[:, 0] = 8.0 * labels
    both = features, labels
    assert train_probe(both, both, 2).weight_decay == 3.0


def test_a_feature_that_varies_by_rounding_only_is_none():
    """Scaled, one of 100 give or take a rounding of float32 would get weights of 60, and the bias their thousandfold."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 2
    features = torch.randn((60, 4), generator=generator)
    features[:, 0] += 2 * labels
    features[:, 3] = 100 + 1e-5 * torch.randn(60, generator=generator)
    assert features[:, 3].unique().numel() > 1
    head, without = train_probe((features, labels), (features, labels), 2), train_probe(*[(features[:, :3], labels)] * 2, 2)
    assert head.weight[:, :3].numpy() == pytest.approx(without.weight.numpy(), abs=1e-3)
    assert head.weight[:, 3].abs().max() < 1e-3


def test_the_standard_error_is_what_the_mean_of_the_recalls_scatters_by():
    labels, draw = torch.tensor([0] * 10 + [1] * 90), np.random.default_rng(0)
    right = torch.tensor(([True] * 8 + [False] * 2) + ([True] * 45 + [False] * 45))
    accuracy, error = balanced_accuracy(right, labels, 2)
    assert accuracy == pytest.approx((0.8 + 0.5) / 2)
    scattered = np.std((draw.binomial(10, 0.8, 100_000) / 10 + draw.binomial(90, 0.5, 100_000) / 90) / 2)
    assert error == pytest.approx(scattered, rel=0.02)


def test_what_is_measured():
    metrics = measure([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 0, 1], ("a", "b", "c"))
    assert metrics.accuracy == 3 / 6
    assert metrics.recall == [2 / 3, 1 / 2, 0]
    assert metrics.precision == [2 / 3, 1 / 3, None]
    assert metrics.confusion.tolist() == [[2, 1, 0], [1, 1, 0], [0, 1, 0]]


@pytest.mark.parametrize(
    ("name", "layer"),
    [("efficientnet_lite0", None), ("efficientnet_lite0", "blocks.4"), ("resnet18", "layer3"), ("mobilenet_v2", None),
     ("densenet121", None), ("swin_t", "features.3"), ("timm/convnext_atto", None)],
)  # fmt: skip
def test_a_cut_network_gives_what_its_layer_gives(name, layer, tmp_path):
    weights = "DEFAULT" if name == "efficientnet_lite0" else "none"
    backbone = load_backbone(FitConfig(".", str(tmp_path), backbone=name, weights=weights, layer=layer, device="cpu"), 3)
    module, place = backbone.model.module, backbone.layer
    images = torch.randn((2, 3, *backbone.model.preprocess.crop), generator=torch.Generator().manual_seed(2))
    with capture_outputs(module, [place.name]) as outputs, torch.no_grad():
        module(images)
    with torch.no_grad():
        features = backbone.classifier.features(images)
        pooled = backbone.classifier.pooled(images)
    assert torch.equal(features, outputs[place.name])
    axes = (1, 2) if place.grid.kind == "nhwc" else (2, 3)
    assert torch.equal(pooled, features.mean(axes))
    own = {parameter.data_ptr() for parameter in module.parameters()}
    cut = {parameter.data_ptr() for parameter in backbone.classifier.features.parameters()}
    assert cut <= own, "a copy was trained instead of the network"
    assert len(cut) < len(own), "the head is still there"


@pytest.mark.parametrize(("name", "layer", "words"), [
    ("vit_b_32", "encoder.layers.encoder_layer_5", "sequence of tokens"),
    ("tests.networks:reads_values", "cells", "cannot be truncated"),
])  # fmt: skip
def test_what_cannot_be_cut_is_refused(name, layer, words, tmp_path):
    weights = "none" if name == "vit_b_32" else "DEFAULT"
    with pytest.raises(LayerError, match=words):
        load_backbone(FitConfig(".", str(tmp_path), backbone=name, weights=weights, layer=layer, device="cpu"), 2)


def test_every_class_is_divided_alike_and_copies_stay_together():
    draw = np.random.default_rng(0)
    labels = [0] * 50 + [1] * 10 + [2] * 2
    digests = [str(number) for number in range(62)]
    digests[10:20] = ["copy"] * 10
    order = draw.permutation(62)
    labels, digests = [labels[k] for k in order], [digests[k] for k in order]
    parts = stratified_split(labels, digests, ("a", "b", "c"), 0.2, 3)
    different = {(label, digest): part for label, digest, part in zip(labels, digests, parts, strict=True)}
    assert Counter(label for (label, _), part in different.items() if part == "val") == {0: 8, 1: 2, 2: 1}
    assert len({part for digest, part in zip(digests, parts, strict=True) if digest == "copy"}) == 1
    assert parts == stratified_split(labels, digests, ("a", "b", "c"), 0.2, 3)
    assert parts != stratified_split(labels, digests, ("a", "b", "c"), 0.2, 4)
    assert find_duplicates(digests, labels, parts, digests).across == 0
    with pytest.raises(InputError, match="it needs 2"):
        stratified_split([0, 0, 1], ["x", "y", "z"], ("a", "b"), 0.2, 0)


def test_a_given_division_is_kept_and_what_is_in_both_parts_is_told(camcli, data, tmp_path):
    divided = tmp_path / "divided"
    for name in ("red", "blue"):
        for k in range(10):
            part = divided / ("val" if k > 6 else "train") / name
            part.mkdir(parents=True, exist_ok=True)
            (part / f"{k}.png").write_bytes((data / name / f"{k}.png").read_bytes())
    (divided / "val" / "red" / "copy.png").write_bytes((data / "red" / "0.png").read_bytes())
    done = camcli("fit", divided, "-o", tmp_path / "model", *FIT)
    assert done.code == 0
    assert "2 images are in both train and val (identical files)" in done.err
    assert {(row["image"].split("/")[0], row["part"]) for row in split_of(tmp_path / "model")} == {("train",) * 2, ("val",) * 2}
    for path in (divided / "val" / "red").iterdir():
        path.write_text("text")
    assert "no image of class 'red' in val can be read" in camcli("fit", divided, "-o", tmp_path / "other", *FIT).err
    shutil.rmtree(tmp_path / "other")
    os.rename(divided / "val" / "red", divided / "val" / "green")
    refused = camcli("fit", divided, "-o", tmp_path / "other", *FIT)
    assert (refused.code, "'green', 'red' only in one of them" in refused.err) == (2, True)
    os.rename(divided / "val", divided / "more")
    assert "holds train beside other folders" in camcli("fit", divided, "-o", tmp_path / "other", *FIT).err
    assert not (tmp_path / "other").exists()


def test_bad_data_gets_a_clear_word(camcli, data, tmp_path):
    def fit():
        done = camcli("fit", data, "-o", tmp_path / "model", *FIT)
        return done.code, done.err

    (data / "empty").mkdir()
    code, said = fit()
    assert (code, "no images in 'empty'" in said) == (2, True)
    (data / "empty").rmdir()
    assert "is not a folder" in camcli("fit", data / "red" / "0.png", "-o", tmp_path / "model", *FIT).err
    assert "holds no folder" in camcli("fit", data / "red", "-o", tmp_path / "model", *FIT).err
    assert "--val 1" in camcli("fit", data, "-o", tmp_path / "model", *FIT, "--val", 1).err
    assert "no layer 'nowhere'" in camcli("fit", data, "-o", tmp_path / "model", *FIT[:2], "--layer", "nowhere").err
    assert "there is no model 'resnet19'" in camcli("fit", data, "-o", tmp_path / "model", "--backbone", "resnet19").err
    assert "is not one of crop, squash, pad" in camcli("fit", data, "-o", tmp_path / "model", *FIT, "--fit", "crap").err
    assert not (tmp_path / "model").exists(), "a folder was left behind"
    for k in range(10):
        (data / "same").mkdir(exist_ok=True)
        (data / "same" / f"other-name-{k}.png").write_bytes((data / "red" / f"{k}.png").read_bytes())
    code, said = fit()
    assert (code, "classes 'red' and 'same' have the same files" in said) == (2, True)
    (data / "same" / "more.png").write_bytes((data / "blue" / "0.png").read_bytes())
    code, said = fit()
    assert code == 0
    assert "images have an identical file in another class" in said
    for path in (data / "same").iterdir():
        path.write_text("text")
    code, said = fit()
    assert code == 2
    assert "no image of class 'same' can be read" in said


def test_broken_images_are_left_out_and_named(camcli, data, tmp_path):
    (data / "red" / "broken.png").write_text("text")
    paint(data / "beside.png", (200, 20, 20), 5)
    done = camcli("fit", data, "-o", tmp_path / "model", *FIT)
    assert done.code == 1
    assert "red/broken.png: " in done.err
    assert "1 image could not be read" in done.err
    assert "images outside of the class folders are not used: 1." in done.err
    assert len(split_of(tmp_path / "model")) == 20
    assert "red/broken.png" in (tmp_path / "model" / "failures.csv").read_text()
    assert camcli("run", data / "blue", "-o", tmp_path / "out", "--model", tmp_path / "model", *RUN).code == 0
    again = camcli("fit", data, "-o", tmp_path / "model", *FIT)
    assert (again.code, "Nothing to do" in again.err, "1 image could not be read" in again.err) == (1, True, True)
    (data / "red" / "broken.png").unlink()
    assert camcli("fit", data, "-o", tmp_path / "model", *FIT).code == 0
    assert not (tmp_path / "model" / "failures.csv").exists(), "the failures of the model before"


def test_an_image_that_is_too_large_now_is_left_out_though_its_features_are_known(camcli, data, tmp_path):
    PillowImage.new("RGB", (100, 100), (200, 20, 20)).save(data / "red" / "large.png")
    assert camcli("fit", data, "-o", tmp_path / "model", *FIT).code == 0
    done = camcli("fit", data, "-o", tmp_path / "model", *FIT, "--max-pixels", 9_000, "--overwrite")
    assert done.code == 1
    assert "red/large.png: " in done.err
    assert len(split_of(tmp_path / "model")) == 20


def test_features_are_those_of_the_same_network_only():
    """Not of one with other weights, another activation, which has no weights, or another buffer, even one that is not saved."""

    def network(activation, bias=0.5, buffer=1.0):
        module = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), activation)
        torch.nn.init.constant_(module[0].weight, 0.25)
        torch.nn.init.constant_(module[0].bias, bias)
        module.register_buffer("shift", torch.tensor([buffer]), persistent=False)
        return torch.fx.symbolic_trace(module)

    one = network(torch.nn.ReLU())
    one.register_buffer("shift", torch.tensor([1.0]), persistent=False)
    moved = network(torch.nn.ReLU())
    moved.register_buffer("shift", torch.tensor([2.0]), persistent=False)
    key = cache_key(one, {"layer": "1"})
    same = network(torch.nn.ReLU()).to(memory_format=torch.channels_last)
    same.register_buffer("shift", torch.tensor([1.0]), persistent=False)
    assert cache_key(same, {"layer": "1"}) == key
    others = [network(torch.nn.SiLU()), network(torch.nn.ReLU(), bias=0.25), moved]
    assert len({key, cache_key(one, {"layer": "0"}), *(cache_key(other, {"layer": "1"}) for other in others)}) == 5


def test_a_new_class_asks_for_its_own_features_only(camcli, data, tmp_path):
    assert camcli("fit", data, "-o", tmp_path / "model", *FIT).code == 0
    for k in range(4):
        paint(data / "green" / f"{k}.png", (20, 200, 20), 200 + k)
    done = camcli("fit", data, "-o", tmp_path / "model", *FIT)
    assert (done.code, "Features of 20 images were computed before" in done.err) == (0, True)
    assert loaded(tmp_path / "model").classes == ("blue", "green", "red")


def test_the_same_again_does_nothing_and_other_settings_are_refused(camcli, data, tmp_path):
    model = tmp_path / "model"
    assert camcli("fit", data, "-o", model, *FIT).code == 0
    before = state_of(model)
    again = camcli("fit", data, "-o", model, *FIT)
    assert (again.code, "Nothing to do" in again.err, "Accuracy 100.0%" in again.err) == (0, True, True)
    refused = camcli("fit", data, "-o", model, *FIT, "--seed", 1)
    assert (refused.code, "seed 0 there, 1 now" in refused.err) == (2, True)
    assert state_of(model) == before
    assert camcli("fit", data, "-o", model, *FIT, "--seed", 1, "--overwrite").code == 0
    paint(data / "red" / "new.png", (180, 0, 0), 77)
    grown = camcli("fit", data, "-o", model, *FIT, "--seed", 1)
    assert grown.code == 0
    assert "Features of 20 images were computed before" in grown.err
    assert len(split_of(model)) == 21
    elsewhere = data.rename(tmp_path / "elsewhere")
    moved = camcli("fit", elsewhere, "-o", model, *FIT, "--seed", 1)
    assert (moved.code, f"data {str(data)!r} there" in moved.err) == (2, True)
    assert camcli("fit", elsewhere, "-o", model, *FIT, "--seed", 1, "--overwrite").code == 0
    assert len(os.listdir(model / ".camcli" / "features")) == 1, "features of other data were kept"
    elsewhere.rename(data)
    ran = camcli("run", data, "-o", model, "--overwrite")
    assert (ran.code, "is a model of camcli fit" in ran.err) == (3, True)
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    assert camcli("fit", data, "-o", other, *FIT).code == 3
    assert os.listdir(other) == ["notes.txt"]


def test_a_run_is_bound_to_the_weights_of_its_model(camcli, data, tmp_path):
    model = tmp_path / "model"
    assert camcli("fit", data, "-o", model, *FIT).code == 0
    assert camcli("run", data, "-o", tmp_path / "out", "--model", model, *RUN).code == 0
    assert camcli("fit", data, "-o", model, *FIT, "--seed", 1, "--overwrite").code == 0
    refused = camcli("run", data, "-o", tmp_path / "out", "--model", model, *RUN)
    assert (refused.code, "model-sha256" in refused.err) == (2, True)
    text = json.loads((model / "model.json").read_text())
    (model / "model.json").write_text(json.dumps(text | {"classes": ["only one"]}))
    assert "does not fit the model beside it" in camcli("layers", model, *RUN).err
    (model / "model.json").write_text("[" * 100_000)
    assert "does not describe a model" in camcli("classes", model).err
    (model / "model.json").write_text("{}")
    assert "does not describe a model of this version of camcli fit" in camcli("classes", model).err


@pytest.mark.parametrize(
    ("key", "value"),
    [("crop", [1_000_000, 1_000_000]), ("crop", [224]), ("crop", "x"), ("crop", [-3, 4]), ("crop", [6.5, 6.5]), ("resize", "x"),
     ("interpolation", "x"), ("std", [0, 1, 1]), ("std", [float("nan")] * 3), ("mean", ["a", "b", "c"]), ("mean", [0.5])],
)  # fmt: skip
def test_a_description_that_fits_no_image_is_refused(key, value, tmp_path):
    good = {"camcli-fit": 1, "backbone": "resnet18", "layer": "layer4", "grid": "nchw", "classes": ["a", "b"]}
    preprocess = asdict(Preprocess())
    (tmp_path / "model.json").write_text(json.dumps({**good, "preprocess": preprocess}))
    assert read_fitted(str(tmp_path)).preprocess == Preprocess()
    (tmp_path / "model.json").write_text(json.dumps({**good, "preprocess": {**preprocess, key: value}}))
    with pytest.raises(ModelError, match="does not describe a model of camcli fit"):
        read_fitted(str(tmp_path))


def test_a_fitted_model_is_no_backbone(camcli, data, tmp_path):
    """Its folder's name says nothing to those who get the second model."""
    assert camcli("fit", data, "-o", tmp_path / "model", *FIT).code == 0
    refused = camcli("fit", data, "-o", tmp_path / "second", "--backbone", tmp_path / "model", *RUN)
    assert (refused.code, "name its own, tests.networks:colours" in refused.err) == (2, True)
    assert not (tmp_path / "second").exists()


def test_what_a_stopped_fitting_has_computed_is_kept(data, tmp_path):
    config = FitConfig(str(data), str(tmp_path / "model"), backbone="tests.networks:colours", layer="4", batch_size=4, device="cpu")

    class Stops(SilentListener):
        def progress(self, done, of, note=""):
            if done >= 4:
                stop.set()

    stop = threading.Event()
    assert fit_model(config, Stops(), stop).metrics is None
    assert not (tmp_path / "model" / "model.json").exists()

    class Counts(SilentListener):
        asked = 0

        def progress(self, done, of, note=""):
            Counts.asked = of

    assert fit_model(config, Counts(), threading.Event()).metrics.accuracy == 1
    assert 0 < Counts.asked < 20
    whole = FitConfig(str(data), str(tmp_path / "whole"), backbone="tests.networks:colours", layer="4", batch_size=4, device="cpu")
    assert fit_model(whole, SilentListener(), threading.Event()).metrics.accuracy == 1
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()


def test_an_interrupted_command_ends_with_its_code(data, tmp_path):
    for k in range(300):
        paint(data / "red" / f"more-{k}.png", (200, 20, 20), 1000 + k)
    child = forked("fit", data, "-o", tmp_path / "model", *FIT, "--batch-size", 1)
    assert wait_for((tmp_path / "model" / ".camcli" / "lock").exists)
    child.send_signal(signal.SIGINT)
    said = child.communicate(timeout=120)[1]
    assert child.returncode == 130, said
    assert not (tmp_path / "model" / "model.json").exists()


@pytest.mark.gpu
def test_a_gpu_fits_the_same_model(camcli, data, tmp_path):
    tuning = ("--unfreeze", 1, "--epochs", 1, "--learning-rate", 1e-6)
    for name in ("cpu", "cuda"):
        done = camcli("fit", data, "-o", tmp_path / name, *FIT, "--device", name, *tuning)
        assert done.code == 0, done.err
    one, other = (loaded(tmp_path / name).module.state_dict() for name in ("cpu", "cuda"))
    assert all(torch.allclose(one[name], other[name], atol=1e-3) for name in one)


def test_only_the_last_blocks_are_unfrozen(data, tmp_path):
    common = {"backbone": "tests.networks:colours", "layer": "4", "device": "cpu", "seed": 2}
    frozen = FitConfig(str(data), str(tmp_path / "frozen"), **common)
    tuned = FitConfig(str(data), str(tmp_path / "tuned"), unfreeze=1, epochs=3, learning_rate=0.01, **common)
    assert fit_model(frozen, SilentListener(), threading.Event()).metrics
    result = fit_model(tuned, SilentListener(), threading.Event())
    losses = [epoch.val_loss for epoch in result.epochs]
    one, other = loaded(tmp_path / "frozen").module, loaded(tmp_path / "tuned").module
    assert [name for name, _ in blocks_of(one.features)] == ["0", "3"]
    changed = {name for name, tensor in one.state_dict().items() if not torch.equal(tensor, other.state_dict()[name])}
    assert min(losses) < losses[0], "nothing was learned, so nothing is asked here"
    assert changed == {"features.3.weight", "features.3.bias", "head.weight", "head.bias"}
    with_status = json.loads((tmp_path / "tuned" / "metrics.json").read_text())["validation"]["accuracy"]
    assert with_status == min(result.epochs, key=lambda epoch: epoch.val_loss).accuracy
    labels = {row["image"]: row["class"] for row in split_of(tmp_path / "tuned") if row["part"] == "val"}
    images = [PillowImage.open(data / name).convert("RGB") for name in labels]
    mean, std = (
        np.array(values) for values in (loaded(tmp_path / "tuned").preprocess.mean, loaded(tmp_path / "tuned").preprocess.std)
    )
    inputs = torch.from_numpy(np.stack([((np.asarray(image) / 255 - mean) / std).transpose(2, 0, 1) for image in images])).float()
    with torch.no_grad():
        loss = functional.cross_entropy(other(inputs), torch.tensor([("blue", "red").index(name) for name in labels.values()]))
    assert float(loss) == pytest.approx(min(losses), rel=1e-4), "the weights that are written are not those of the best epoch"
    again = FitConfig(str(data), str(tmp_path / "again"), unfreeze=1, epochs=3, learning_rate=0.01, **common)
    assert [epoch.val_loss for epoch in fit_model(again, SilentListener(), threading.Event()).epochs] == losses
    too_many = FitConfig(str(data), str(tmp_path / "many"), unfreeze=9, **common)
    with pytest.raises(Exception, match="has 2 blocks before the cut"):
        fit_model(too_many, SilentListener(), threading.Event())


def test_a_class_counts_the_same_in_small_batches_too(data, tmp_path, monkeypatch):
    """With a rate of 0 an epoch's loss is that of the images, however they are put together; ten red ones, four blue ones."""
    for k in range(6):
        (data / "blue" / f"{k}.png").unlink()
    monkeypatch.setattr("camcli.fit.finetune.LEARNING_RATE", 0.0)
    common = {"backbone": "tests.networks:colours", "layer": "4", "device": "cpu", "unfreeze": 1, "epochs": 1, "learning_rate": 0.0}
    found = []
    for size in (1, 3, 16):
        config = FitConfig(str(data), str(tmp_path / f"{size}"), batch_size=size, **common)
        found.append(fit_model(config, SilentListener(), threading.Event()).epochs[1].train_loss)
    assert found == pytest.approx([found[0]] * 3, rel=1e-4)


def test_training_that_fails_leaves_the_network_frozen_and_says_why(data, tmp_path, monkeypatch):
    kept = []

    def keeping(*given):
        kept.append(load_backbone(*given))
        return kept[0]

    class Removes(SilentListener):
        def info(self, text):
            if text.startswith("Epoch 0"):
                (data / "red" / "3.png").unlink()

    monkeypatch.setattr("camcli.fit.study.load_backbone", keeping)
    common = {"backbone": "tests.networks:colours", "layer": "4", "device": "cpu", "unfreeze": 1}
    with pytest.raises(RunError, match=r"'red/3.png' can no longer be read .*run the same command again"):
        fit_model(FitConfig(str(data), str(tmp_path / "model"), **common), Removes(), threading.Event())
    assert not any(parameter.requires_grad for parameter in kept[0].classifier.parameters())
    assert not any(module.training for module in kept[0].classifier.modules())
    assert not (tmp_path / "model" / "model.json").exists()


def test_hostile_class_names_stay_text(camcli, tmp_path):
    for k, name in enumerate(("<img src=x onerror=alert(1)>", "=a|b`c*[d](e)")):
        for n in range(4):
            paint(tmp_path / "data" / name / f"{n}.png", (200 * k, 20, 200 - 200 * k), 10 * k + n)
    done = camcli("fit", tmp_path / "data", "-o", tmp_path / "model", *FIT)
    assert done.code == 0
    card = (tmp_path / "model" / "README.md").read_text()
    assert "<img" not in card.replace("\\<img", "")
    rows = [line for line in card.splitlines() if line.startswith("| =a")]
    assert len(rows) == 1
    assert rows[0].replace("\\|", "").count("|") == 6
    assert loaded(tmp_path / "model").classes == ("<img src=x onerror=alert(1)>", "=a|b`c*[d](e)")
    cells = [cell for row in split_of(tmp_path / "model") for cell in row.values()]
    assert not any(cell.startswith("=") for cell in cells), "a spreadsheet would take it for a formula"


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """A hundred faces and a hundred pictures of something else, 25 x 25 pixels each, out of scikit-image's package."""
    from skimage import data

    top = tmp_path_factory.mktemp("faces")
    for number, pixels in enumerate(data.lfw_subset()):
        path = top / "data" / ("face" if number < 100 else "other") / f"{number % 100:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(np.round(255 * pixels).astype(np.uint8), "PNG"))
    return top


def test_faces_are_told_from_the_rest_and_found_in_larger_pictures(faces):
    """Of faces that it was not taught, put into photos at known places, the peak of the map lies inside nine in ten."""
    from skimage import data

    flags = ["--layer", "blocks.5", "--fit", "squash", "--quiet"]
    model = faces / "model"
    assert command("fit", faces / "data", "-o", model, *flags, patience=600) == (0, "")
    assert json.loads((model / "metrics.json").read_text())["validation"]["accuracy"] >= 0.95
    held_out = [row["image"] for row in split_of(model) if (row["class"], row["part"]) == ("face", "val")]
    assert len(held_out) == 20
    photos = [data.coffee(), data.rocket(), data.chelsea(), data.camera(), data.brick(), data.grass(), data.gravel()]
    draw, places = np.random.default_rng(0), {}
    (faces / "larger").mkdir()
    for number, image in enumerate(held_out):
        photo = PillowImage.fromarray(photos[number % len(photos)]).convert("RGB")
        side = min(photo.size)
        photo = photo.crop((0, 0, side, side)).resize((448, 448))
        x, y = (int(value) for value in draw.integers(0, 448 - 224, 2))
        photo.paste(PillowImage.open(faces / "data" / image).convert("RGB").resize((224, 224)), (x, y))
        photo.save(faces / "larger" / f"{number:02}.png")
        places[f"{number:02}.png"] = x, y
    flags = ["--method", "cam", "--class", "face", "--save-maps", "--quiet"]
    assert command("run", faces / "larger", "-o", faces / "out", "--model", model, *flags, patience=600) == (0, "")
    inside = 0
    for row in rows_of(faces / "out"):
        if row["class_name"] != "face":
            continue
        values = map_of(faces / "out", row)
        down, across = np.unravel_index(values.argmax(), values.shape)
        x, y = places[row["image"]]
        inside += 0 <= (across + 0.5) / values.shape[1] * 448 - x < 224 and 0 <= (down + 0.5) / values.shape[0] * 448 - y < 224
    assert inside >= 18, f"{inside} of 20 peaks lie inside the face"


PAGE = ROOT / "docs" / "fit.md"


def test_every_command_of_the_page_runs(camcli, tmp_path, monkeypatch):
    """With a small network of random weights instead of the page's; what the page says of the folder is in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sample_images").symlink_to(SAMPLES)
    changes = {"fit": {"--backbone": "squeezenet1_1", "--weights": "none", "--layer": "features.5", "--epochs": "1"}}
    done = run_walk(PAGE, camcli, changes)
    assert sum(command.startswith("camcli fit") for command, _ in done) == 2
    assert len(pictures_of(PAGE)) == 2
    files = {path.name for path in (tmp_path / "face-or-not").glob("[!.]*")}
    text = PAGE.read_text(encoding="utf-8")
    assert files == {"model.safetensors", "model.json", "labels.txt", "split.csv", "metrics.json", "README.md"}
    assert all(f"| `{name}` |" in text for name in files)
    assert [len(os.listdir(tmp_path / "faces" / name)) for name in ("face", "other")] == [100, 100]


@pytest.mark.parametrize(
    "change",
    [
        {"preprocess": {"crop": [0, 0]}},
        {"preprocess": {"crop": [10**9, 10**9]}},
        {"preprocess": {"crop": "abc"}},
        {"preprocess": {"interpolation": "cubic"}},
        {"preprocess": {"std": [0, 0, 0]}},
        {"preprocess": {"mean": [1]}},
        {"preprocess": {"resize": "big"}},
        {"classes": []},
        {"classes": "ab"},
        {"grid": "round"},
    ],
)
def test_a_description_that_no_fitting_wrote_is_refused(change, tmp_path):
    preprocess = asdict(Preprocess())
    described = {"camcli-fit": 1, "backbone": "a", "layer": "b", "grid": "nchw", "preprocess": preprocess, "classes": ["a", "b"]}
    (tmp_path / "model.json").write_text(json.dumps(described))
    assert read_fitted(str(tmp_path)).classes == ("a", "b")
    changed = change | {"preprocess": preprocess | change.get("preprocess", {})}
    (tmp_path / "model.json").write_text(json.dumps(described | changed))
    with pytest.raises(ModelError, match="does not describe a model"):
        read_fitted(str(tmp_path))
    (tmp_path / "model.json").write_text("[" * 100_000)
    with pytest.raises(ModelError, match="does not describe a model"):
        read_fitted(str(tmp_path))


def test_damage_in_the_folder_is_mended_or_named(camcli, data, tmp_path):
    model = tmp_path / os.fsdecode(b"model\xff")
    command = ("fit", data, "-o", model, *FIT)
    assert camcli(*command).code == 0
    sound = (model / "model.safetensors").read_bytes()
    assert camcli("run", "--model", model, *RUN, "-o", tmp_path / "out", data).code == 0  # whatever its name is
    for damage in ("[]", '{"validation": {"classes": [{"class": 5}], "confusion": [["x"]]}}', "[" * 100_000):
        (model / "metrics.json").write_text(damage)
        again = camcli(*command)
        assert again.code == 0, again.err
        assert "Nothing to do" in again.err
        assert "nan" not in again.err
    (model / "model.json").unlink()
    (chunk,) = (model / ".camcli" / "features").glob("*/*")
    chunk.write_bytes(save({"features": np.zeros((3, 8), np.float32)}, {"images": json.dumps([5])}))
    assert camcli(*command).code == 0
    assert (model / "model.safetensors").read_bytes() == sound
    (model / "model.json").write_text("{")
    refused = camcli(*command)
    assert refused.code == 2
    assert "cannot be read" in refused.err
    assert camcli(*command, "--overwrite").code == 0
    assert (model / "model.safetensors").read_bytes() == sound


def test_another_model_among_the_classes_is_no_class_and_links_are_told(camcli, data, tmp_path):
    assert camcli("fit", data, "-o", data / "model", *FIT).code == 0
    assert camcli("fit", data, "-o", data / "other", *FIT).code == 0
    assert (data / "other" / "labels.txt").read_text() == "blue\nred\n"
    (data / "green").symlink_to(data / "red")
    told = camcli("fit", data, "-o", tmp_path / "third", *FIT)
    assert told.code == 2
    assert "links to folders are not followed" in told.err


@pytest.mark.parametrize("rate", ["inf", "-1"])
def test_a_learning_rate_without_sense_is_refused(rate, camcli, data, tmp_path):
    refused = camcli("fit", data, "-o", tmp_path / "model", *FIT, "--unfreeze", 1, "--learning-rate", rate)
    assert refused.code == 2
    assert "--learning-rate" in refused.err


def test_any_seed_and_a_loss_beyond_all_bounds_end_well(camcli, data, tmp_path):
    options = ("--unfreeze", 1, "--epochs", 2, "--seed", 10**22, "--learning-rate", 1e30)
    assert camcli("fit", data, "-o", tmp_path / "model", *FIT, *options).code == 0

    def refuse(word):
        raise ValueError(word)

    json.loads((tmp_path / "model" / "metrics.json").read_text(), parse_constant=refuse)
