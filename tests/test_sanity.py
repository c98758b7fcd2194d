"""``camcli sanity``: what is randomized and put back, how maps are compared, and what the verdicts follow from."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from scipy.stats import spearmanr
from torch import nn
from torch.nn import functional

from camcli.cam import METHODS, Method
from camcli.cam.explain import explain_batch
from camcli.config.run import RunConfig
from camcli.errors import ModelError
from camcli.images.discover import Search, discover_sources
from camcli.layout import SANITY_PICTURES
from camcli.listener import SilentListener
from camcli.pipeline.job import prepare_module
from camcli.records import Grid, Layer, Preprocess
from camcli.sanity.check import MODES, Check, Measurement, check_maps
from camcli.sanity.config import SanityConfig
from camcli.sanity.plot import curves_figure
from camcli.sanity.randomize import LayerGroup, find_layer_groups, randomized
from camcli.sanity.similarity import MEASURES, Similarity, compare_maps, normalized_map
from camcli.sanity.strip import strip_png
from camcli.sanity.study import prepare_study, read_inputs
from camcli.sanity.verdict import KEEPS, KEPT, LOSES, LOST, NONE, PART, judge
from camcli.sanity.write import FILES
from camcli.source import Source
from tests.conftest import ROOT, SAMPLES
from tests.folders import state_of
from tests.pictures import encoded, photo
from tests.walks import pictures_of, run_walk

# ---- how alike two maps are


def measured(one, other):
    return compare_maps(normalized_map(one), normalized_map(other))


@pytest.mark.parametrize("shape", [(7, 7), (14, 9), (224, 224), (112, 112)])
@pytest.mark.parametrize("signed", [False, True])
def test_a_map_is_exactly_like_itself(shape, signed):
    values = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    values = values if signed else np.maximum(values, 0)
    assert measured(values, values.copy()) == Similarity(1.0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize("seed", range(5))
def test_rank_correlation_is_that_of_scipy_with_ties(seed):
    draw = np.random.default_rng(seed)
    one, other = (draw.integers(-3, 4, (5, 6)).astype(np.float32) for _ in range(2))
    found = measured(one, other)
    assert found.spearman == pytest.approx(spearmanr(one.ravel(), other.ravel()).statistic, abs=1e-12)
    assert found.spearman_abs == pytest.approx(spearmanr(abs(one).ravel(), abs(other).ravel()).statistic, abs=1e-12)


def test_the_sign_counts_once():
    values = np.random.default_rng(0).normal(size=(7, 7)).astype(np.float32)
    found = measured(values, -values)
    assert (found.spearman, found.spearman_abs) == (-1.0, 1.0)


def test_scale_does_not_count():
    values = np.random.default_rng(0).random((7, 7)).astype(np.float32)
    assert dataclasses.astuple(measured(values, values * 1e-6)) == pytest.approx((1, 1, 1, 1), abs=1e-6)


def test_structure_and_edges_see_what_ranks_do_not():
    """A ramp squared has the ranks of the ramp, but is another picture; turned by 90 degrees its edges are others too."""
    ramp = np.tile(np.linspace(0, 1, 28, dtype=np.float32), (28, 1))
    squared, turned = measured(ramp, ramp**4), measured(ramp, ramp.T.copy())
    assert squared.spearman == 1.0
    assert squared.ssim < 0.9
    assert squared.hog > 0.9
    assert abs(turned.spearman) < 1e-9
    assert turned.hog < 0


NAN = np.float32("nan")


@pytest.mark.parametrize(
    ("values", "known"),
    [
        (np.zeros((7, 7), np.float32), ()),
        (np.full((7, 7), 2, np.float32), ()),
        (np.full((7, 7), NAN, np.float32), ()),
        (np.where(np.eye(7) > 0, np.float32("inf"), 1).astype(np.float32), ()),
        (-np.arange(49, dtype=np.float32).reshape(7, 7) - 1, ("spearman", "spearman_abs")),
    ],
    ids=["zeros", "constant", "nan", "infinite", "negative"],
)
def test_what_cannot_be_compared_is_not_a_number(values, known):
    """Never 1 and never 0, not even with itself; and without a warning."""
    other = np.random.default_rng(0).random((7, 7)).astype(np.float32)
    for found in (measured(values, other), measured(other, values), measured(values, values)):
        for measure in MEASURES:
            assert math.isfinite(getattr(found, measure)) == (measure in known), measure


# ---- what is randomized, and in which order


class Upside(nn.Module):
    """Registered from the end to the beginning; one part never runs; attention applies a matrix of a module that does not run."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(4, 4)
        self.head = nn.Linear(8, 3)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(6, 8, 3, stride=4)
        self.scale = nn.Parameter(torch.full((1, 6, 1, 1), 1.5))
        self.first = nn.Conv2d(3, 6, 3, stride=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.norm(self.second((self.first(x) * self.scale).relu()))
        tokens = features.flatten(2).transpose(1, 2)
        return self.head(self.attention(tokens, tokens, tokens)[0].mean(1))


@pytest.fixture
def upside():
    torch.manual_seed(1)
    module = Upside().eval()
    module.norm.running_mean.normal_()
    module.norm.running_var.uniform_(0.5, 2)
    module.norm.weight.data.uniform_(0.5, 2)
    module.norm.bias.data.normal_()
    return module


PICTURES = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(5))


def test_the_order_is_that_of_running(upside):
    groups = find_layer_groups(upside, PICTURES[:1], "all")
    assert [group.name for group in groups] == ["head", "attention", "second", "first", "(itself)"]
    assert {group.name: group.modules for group in groups} == {
        "head": ("head",),
        "attention": ("attention", "attention.out_proj"),
        "second": ("second", "norm"),
        "first": ("first",),
        "(itself)": ("",),
    }
    assert not upside._forward_pre_hooks
    with pytest.raises(ModelError, match="no weights"):
        find_layer_groups(nn.Flatten(), PICTURES[:1])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mobilenet_v2", ["classifier.1", *(f"features.{k}" for k in range(18, -1, -1))]),
        ("resnet18", ["fc", *(f"layer{k}.{j}" for k in (4, 3, 2, 1) for j in (1, 0)), "conv1"]),
    ],
)
def test_blocks_are_parts_of_the_network_and_cover_it(name, expected):
    from torchvision.models import get_model

    module = get_model(name, weights=None).eval()
    groups = find_layer_groups(module, PICTURES[:1], "blocks")
    assert [group.name for group in groups] == expected
    covered = [name for group in groups for name in group.modules]
    holders = {name for name, child in module.named_modules() if list(child.parameters(recurse=False))}
    assert len(covered) == len(set(covered))
    assert set(covered) == holders


def values_of(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def changed(module, before):
    return {name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])}


@pytest.mark.parametrize("mode", MODES)
def test_exactly_the_named_layers_lose_their_weights(upside, mode):
    before = values_of(upside)
    groups = find_layer_groups(upside, PICTURES[:1], "all")
    parameters = {name for name, _ in upside.named_parameters()}
    assert len(groups) == 5
    for step, group in enumerate(groups, 1):
        randomized_groups = groups[:step] if mode == "cascading" else [group]
        with randomized(upside, randomized_groups, 0, PICTURES):
            found = changed(upside, before)
        prefixes = tuple(f"{name}." if name else "scale" for group in randomized_groups for name in group.modules)
        own = {name for name in before if name.startswith(prefixes)}
        assert found <= own
        assert found & parameters == own & parameters
        assert not changed(upside, before)


def test_a_layer_keeps_its_new_weights_from_step_to_step(upside):
    groups = find_layer_groups(upside, PICTURES[:1], "all")

    def drawn(groups, seed=0):
        with randomized(upside, groups, seed, PICTURES):
            return {name: value.clone() for name, value in upside.named_parameters()}

    alone, lower, again, other = drawn(groups[:1]), drawn(groups[:3]), drawn(groups[:1]), drawn(groups[:1], seed=1)
    state = torch.random.get_rng_state()
    assert torch.equal(alone["head.weight"], lower["head.weight"])
    assert torch.equal(alone["head.weight"], again["head.weight"])
    assert not torch.equal(alone["head.weight"], other["head.weight"])
    assert torch.equal(torch.random.get_rng_state(), state), "the caller's random numbers were used up"


def test_a_new_layer_is_what_its_class_makes_of_it(upside):
    """The bounds of nn.Linear's own initialisation, and the scale, which nobody can reset, cut at two deviations."""
    groups = find_layer_groups(upside, PICTURES[:1], "all")
    with randomized(upside, groups, 0, PICTURES):
        bound = 1 / math.sqrt(upside.head.in_features)
        largest = upside.head.weight.detach().abs().max()
        assert bound / 2 < largest <= bound
        assert upside.scale.detach().abs().max() <= 2 * 0.02
        assert torch.equal(upside.norm.weight, torch.ones(8))


def test_a_new_batch_norm_has_learned_what_reaches_it(upside):
    groups = find_layer_groups(upside, PICTURES[:1], "all")
    seen = []
    with randomized(upside, groups, 0, PICTURES):
        handle = upside.norm.register_forward_hook(lambda _m, inputs, output: seen.append((inputs[0], output)))
        with torch.no_grad():
            upside(PICTURES)
        handle.remove()
    (reaching, output) = seen[0]
    torch.testing.assert_close(output, functional.batch_norm(reaching, None, None, training=True), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("where", ["inside", "settling"])
def test_the_network_is_as_it_was_after_an_error(upside, where):
    before, flags = values_of(upside), {name: p.requires_grad for name, p in upside.named_parameters()}
    groups = find_layer_groups(upside, PICTURES[:1], "all")
    inputs = PICTURES if where == "inside" else PICTURES[:, :2]
    with pytest.raises(RuntimeError), randomized(upside, groups, 0, inputs):
        raise RuntimeError("the caller's")
    assert not changed(upside, before)
    assert {name: p.requires_grad for name, p in upside.named_parameters()} == flags
    assert not any(child._forward_pre_hooks for child in upside.modules())


def test_cam_after_a_new_head_is_the_cam_of_the_new_head(cam_network):
    """Zhou et al. 2016, eq. 2, with weights read off the randomized head."""
    layer = Layer("features", Grid("nchw", 16, 16))
    (head, *_) = find_layer_groups(cam_network, PICTURES[:1], "all")
    assert head == LayerGroup("head", ("head",))
    targets = torch.tensor([[0], [1], [2], [4]])
    with randomized(cam_network, [head], 7, PICTURES):
        found = explain_batch(cam_network, PICTURES, [layer], ["cam"], lambda _: targets).maps["features", "cam"][:, 0]
        new = cam_network.head.weight.detach().clone()
    assert not torch.allclose(new, cam_network.head.weight)
    expected = torch.einsum("bc,bchw->bhw", new[targets[:, 0]], cam_network.features(PICTURES))
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-6)


# ---- the whole check, on a network whose answer is known


@pytest.fixture
def edges(monkeypatch):
    """A method that ignores the network: how far neighbouring pixels differ."""

    def detect(scene):
        grey = scene.inputs.mean(1)
        maps = (grey[:, 1:, 1:] - grey[:, :-1, 1:]).abs() + (grey[:, 1:, 1:] - grey[:, 1:, :-1]).abs()
        return maps[:, None].expand(-1, scene.targets.shape[1], -1, -1)

    method = Method("edges", "this test", "0", "never", scene=detect, layer_independent=True)
    assert "gradcam" in METHODS
    monkeypatch.setitem(METHODS._items, "edges", method)


def blobs(count):
    """Photos with a bright patch each, elsewhere in each."""
    draw = np.random.default_rng(0)
    inputs = {}
    for k in range(count):
        pixels = draw.integers(0, 80, (64, 64, 3), dtype=np.uint8)
        top, left = draw.integers(0, 40, 2)
        pixels[top : top + 24, left : left + 24] += draw.integers(60, 170, 3, dtype=np.uint8)
        inputs[f"{k}.png"] = pixels
    return inputs


def small_job(module, *methods, **settings):
    config = RunConfig(layer=("features",), method=methods, **settings)
    job = prepare_module(module, config, Preprocess(resize_to=(64, 64), crop=(64, 64)))
    return dataclasses.replace(job, config=config)


def wide(seed):
    from tests.conftest import Cam

    torch.manual_seed(seed)
    return Cam(channels=32).eval()


class Steps(SilentListener):
    def __init__(self):
        self.calls = []

    def progress(self, done, of, note=""):
        self.calls.append((done, of))


def test_the_original_is_like_itself_and_an_edge_detector_always_is(edges):
    module = wide(2)
    before = values_of(module)
    job = small_job(module, "gradcam", "cam", "guided-backprop", "edges")
    groups = find_layer_groups(module, PICTURES[:1], "all")
    steps = Steps()
    check = check_maps(job, blobs(8), groups, seed=0, strips=2, listener=steps)
    assert not changed(module, before)
    assert steps.calls[0] == (0, 8)
    assert steps.calls[-1] == (8, 8)
    assert len(check.measurements) == 8 * 4 * 2 * 4, "images x methods x modes x steps with the original's"
    itself = [one for one in check.measurements if one.step == 0 or one.method == "edges"]
    assert {one.similarity for one in itself} == {Similarity(1.0, 1.0, 1.0, 1.0)}
    verdicts = {one.method: one for one in judge(check)}
    assert verdicts["edges"].verdict == KEPT
    assert verdicts["edges"].kept == 1.0
    assert verdicts["gradcam"].similarity < 0.5
    assert verdicts["cam"].verdict == LOST
    assert {one.class_index for one in check.measurements if one.image == "0.png"} == {class_of(module, "0.png")}
    assert [len(maps) for strip in check.strips for maps in strip.maps.values()] == [4] * 8


def test_chance_is_the_likeness_to_other_images():
    module = wide(2)
    job, images = small_job(module, "hirescam"), blobs(3)
    groups = find_layer_groups(module, PICTURES[:1], "all")
    check = check_maps(job, images, groups, seed=0, strips=3)
    originals = [strip.maps["features", "hirescam"][0].ravel() for strip in check.strips]
    for position, strip in enumerate(check.strips):
        for one in check.measurements:
            if one.image == strip.image and one.mode == "cascading":
                map_ = strip.maps["features", "hirescam"][one.step].ravel()
                found = [spearmanr(map_, original).statistic for original in originals]
                assert one.similarity.spearman == pytest.approx(found.pop(position), abs=1e-9)
                assert one.chance.spearman == pytest.approx(np.mean(found), abs=1e-9)
    (alone,) = {one.chance for one in check_maps(job, blobs(1), groups, seed=0).measurements}
    assert all(map(math.isnan, dataclasses.astuple(alone)))


def class_of(module, name):
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (Preprocess.mean, Preprocess.std))
    pixels = torch.from_numpy(blobs(8)[name]).permute(2, 0, 1)
    with torch.no_grad():
        return int(module(((pixels / 255 - mean) / std)[None]).argmax())


def test_a_layer_alone_and_the_top_of_the_cascade_agree_and_batches_do_not_count():
    module, groups = wide(3), find_layer_groups(wide(3), PICTURES[:1], "all")
    whole, parts = (check_maps(small_job(module, "gradcam", batch_size=size), blobs(5), groups, seed=4) for size in (16, 2))
    first = [[one.similarity for one in whole.measurements if one.mode == mode and one.step == 1] for mode in MODES]
    assert first[0] == first[1]
    for one, other in zip(whole.measurements, parts.measurements, strict=True):
        assert (one.image, one.mode, one.group) == (other.image, other.mode, other.group)
        assert dataclasses.astuple(one.similarity) == pytest.approx(dataclasses.astuple(other.similarity), abs=0.02, nan_ok=True)


def a_check(values, chance=0.2, groups=2):
    """A check of one method: ``values``: image -> rank correlation after each step; ``chance``: with other images' originals."""
    measurements = [
        Measurement(image, "l", "m", "cascading", step, "s", 0, "ok", Similarity(*[value] * 4), Similarity(*[chance] * 4))
        for image, row in values.items()
        for step, value in enumerate((1.0, *row))
    ]
    measurements += [dataclasses.replace(one, mode="independent", similarity=Similarity(1, 1, 1, 1)) for one in measurements]
    return Check(tuple(LayerGroup(f"s{k}", ()) for k in range(groups)), tuple(measurements), ())


@pytest.mark.parametrize(
    ("values", "chance", "verdict", "kept", "comparable"),
    [
        ({"a": (1.0, 1.0)}, 0.2, KEPT, 1.0, 2),
        ({"a": (0.75, 0.5)}, 0.25, KEPT, 0.5, 2),
        ({"a": (0.7, 0.3)}, 0.2, PART, 0.375, 2),
        ({"a": (0.3, 0.1)}, 0.2, LOST, 0.0, 2),
        ({"a": (0.9, 0.1), "b": (0.3, 0.1), "c": (0.2, 0.1)}, 0.2, LOST, 0.0, 6),
        ({"a": (0.5, 0.1)}, math.nan, PART, 0.3, 2),
        ({"a": (0.9, math.nan), "b": (0.9, 0.9)}, 0.2, KEPT, 0.875, 3),
        ({"a": (math.nan, math.nan), "b": (0.9, math.nan)}, 0.2, NONE, math.nan, 1),
        ({"a": (1.0, 1.0)}, 1.0, NONE, math.nan, 2),
    ],
)
def test_verdicts(values, chance, verdict, kept, comparable):
    (found,) = judge(a_check(values, chance))
    assert found.verdict == verdict
    assert found.kept == pytest.approx(kept, nan_ok=True)
    assert (found.maps, found.comparable) == (2 * len(values), comparable)


# ---- the pictures


def test_curves_show_medians_quartiles_and_chance():
    values = {"a": (0.9, 0.1), "b": (0.5, 0.2), "c": (0.3, math.nan)}
    figure = curves_figure(a_check(values, 0.175), "cascading", "net")
    for axes in figure.axes:
        curve, chance = axes.lines
        assert curve.get_ydata() == pytest.approx([1.0, 0.5, 0.15])
        assert list(chance.get_ydata()) == [0.175] * 3
        (band,) = axes.collections
        edges_of = band.get_paths()[0].vertices
        assert edges_of[edges_of[:, 0] == 1, 1].min() == pytest.approx(0.4)
        assert edges_of[edges_of[:, 0] == 1, 1].max() == pytest.approx(0.7)
    assert "3 images" in figure.get_suptitle()


def test_a_strip_shows_each_map_where_it_belongs():
    from camcli.sanity.check import MapStrip

    hot, flat = np.zeros((4, 4), np.float32), np.zeros((4, 4), np.float32)
    hot[3, 0] = 5
    photo_pixels = np.full((50, 40, 3), 90, np.uint8)
    strip = MapStrip("cat.jpg", "tabby", photo_pixels, {("l", "m"): [hot, flat], ("l", "n"): [hot.T.copy(), np.full((4, 4), NAN)]})
    check = dataclasses.replace(a_check({"a": (0.5,)}, groups=1), strips=(strip, strip))
    picture = np.asarray(PillowImage.open(io.BytesIO(strip_png(check))))
    half = picture.shape[0] // 2
    assert np.array_equal(picture[:half], picture[half:])
    cells = picture[:half].astype(int).sum(2)
    bright = [
        np.argwhere(part == part.max()).mean(0) for part in (cells[34 : 34 + 112, 246 : 246 + 112], cells[150:262, 246 : 246 + 112])
    ]
    assert bright[0][0] > 90 > 20 > bright[0][1], "the hot cell of m is below on the left"
    assert bright[1][1] > 90 > 20 > bright[1][0]
    for top in (34, 150):
        assert (picture[top + 3, 365] == 205).all(), "a map with nothing to show is grey"


# ---- the command

TINY = ("--model", "tests.networks:with_classes")


def table(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for k in range(3):
        (folder / f"{k}.png").write_bytes(encoded(photo(k), "PNG"))
    return folder


def test_a_check_from_the_command_line(camcli, photos, tmp_path):
    out = tmp_path / "out"
    done = camcli("sanity", photos, "-o", out, *TINY)
    assert done.code == 0, done.err
    assert "2 steps from the top layer down: 4, 0" in done.err
    assert sorted(path.name for path in out.iterdir() if path.name[0] != ".") == sorted(FILES)
    rows = table(out / "sanity.csv")
    assert len(rows) == 3 * 4 * 2 * 3
    assert {row[measure] for row in rows if row["step"] == "0" for measure in MEASURES} == {"1"}
    assert {(row["mode"], row["step"], row["stage"]) for row in rows} == {
        (mode, *step) for mode in MODES for step in (("0", ""), ("1", "4"), ("2", "0"))
    }
    lines = [line.split("\t") for line in done.out.splitlines()]
    assert lines[0][:3] == ["method", "layer", "verdict"]
    verdicts = {row["method"]: row for row in table(out / "verdicts.csv")}
    assert {line[0]: line[2] for line in lines[1:]} == {name: row["verdict"] for name, row in verdicts.items()}
    assert json.loads((out / "sanity.json").read_text())["stages"] == {"4": ["4"], "0": ["0"]}
    before = state_of(out)
    again = camcli("sanity", photos, "-o", out, *TINY)
    assert again.code == 0
    assert "Nothing to do" in again.err
    assert again.out == done.out
    assert state_of(out) == before
    found = [source.image for source in discover_sources([str(tmp_path)], Search("elsewhere"))]
    assert found == [f"photos/{k}.png" for k in range(3)], "pictures of a check are taken for photos"
    assert set(SANITY_PICTURES) < set(FILES)


def test_other_settings_are_refused_and_changed_images_are_checked_again(camcli, photos, tmp_path):
    out, flags = tmp_path / "out", (*TINY, "--method", "gradcam", "-q")
    assert camcli("sanity", photos, "-o", out, *flags).code == 0
    before = state_of(out)
    refused = camcli("sanity", photos, "-o", out, *flags, "--seed", 1)
    assert refused.code == 2
    assert "seed: was 0, now 1" in refused.err
    assert state_of(out) == before
    assert camcli("sanity", photos, "-o", out, *flags, "--seed", 1, "--overwrite").code == 0
    other = (out / "sanity.csv").read_bytes()
    assert other != before["sanity.csv"][0]
    (photos / "2.png").unlink()
    assert camcli("sanity", photos, "-o", out, *flags, "--seed", 1).code == 0
    assert {row["image"] for row in table(out / "sanity.csv")} == {"0.png", "1.png"}
    (out / "strip.png").unlink()
    assert camcli("sanity", photos, "-o", out, *flags, "--seed", 1).code == 0
    assert (out / "strip.png").exists(), "what is gone is not made again"


def test_a_broken_image_takes_no_part(camcli, photos, tmp_path):
    (photos / "1.png").write_text("text")
    done = camcli("sanity", photos, "-o", tmp_path / "out", *TINY, "--method", "gradcam")
    assert done.code == 1
    assert "1 image could not be read" in done.err
    assert {row["image"] for row in table(tmp_path / "out" / "sanity.csv")} == {"0.png", "2.png"}
    again = camcli("sanity", photos, "-o", tmp_path / "out", *TINY, "--method", "gradcam")
    assert (again.code, again.out) == (1, done.out)


def test_methods_that_a_network_does_not_allow_are_left_out(camcli, photos, tmp_path):
    flags = ("--model", "tests.networks:brightness", "--layer", "cells", "--class", "dark")
    done = camcli("sanity", photos, "-o", tmp_path / "out", *flags)
    assert done.code == 0, done.err
    assert "guided-backprop is not checked: guided backpropagation is defined for" in done.err
    assert {row["method"] for row in table(tmp_path / "out" / "verdicts.csv")} == {"gradcam", "cam"}
    assert {row["class_index"] for row in table(tmp_path / "out" / "sanity.csv")} == {"1"}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--method", "gradcan"), "Did you mean 'gradcam'"),
        (("--method", "rollout"), "none of the methods can be checked"),
        (("--class", "horse"), "horse"),
        (("--steps", "some"), "not one of blocks, all"),
        (("--limit", "0"), "at least 1"),
        (("--seed", "-1"), "at least 0"),
        (("--layer", "9"), "no layer '9'"),
        (("--device", "tpu"), "--device 'tpu'"),
    ],
)
def test_wrong_usage_leaves_nothing(camcli, photos, tmp_path, flags, said):
    done = camcli("sanity", photos, "-o", tmp_path / "out", *TINY, *flags)
    assert done.code == 2, done.err
    assert said in done.err
    assert not (tmp_path / "out").exists()


def test_folders_of_others_are_left_alone(camcli, photos, tmp_path):
    taken, run = tmp_path / "taken", tmp_path / "run"
    taken.mkdir()
    (taken / "strip.png").write_text("mine")
    done = camcli("sanity", photos, "-o", taken, *TINY)
    assert (done.code, (taken / "strip.png").read_text()) == (3, "mine")
    assert "strip.png, which camcli did not write" in done.err
    assert camcli("run", photos, "-o", run, *TINY, "-q").code == 0
    before = state_of(run)
    done = camcli("sanity", photos, "-o", run, *TINY)
    assert done.code == 3
    assert "holds a run of camcli" in done.err
    assert state_of(run) == before
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    assert camcli("sanity", nothing, "-o", tmp_path / "out", *TINY).code == 2
    (nothing / "a.png").write_text("text")
    broken = camcli("sanity", nothing, "-o", tmp_path / "out", *TINY)
    assert broken.code == 2
    assert "none of the images can be read" in broken.err
    assert not (tmp_path / "out").exists()


def test_random_weights_and_single_images_are_warned_about(camcli, photos, tmp_path):
    flags = ("--model", "squeezenet1_1", "--weights", "none", "--method", "gradcam", "--limit", 1)
    done = camcli("sanity", photos, "-o", tmp_path / "out", *flags)
    assert done.code == 0, done.err
    assert "the weights are random" in done.err
    assert "a single image gives no chance level" in done.err
    assert "--limit left" in done.err


def test_what_the_help_needs_loads_nothing_large():
    check = (
        "import sys; from camcli.cli.commands.sanity import sanity_command; sanity_command()\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'torch', 'numpy', 'cv2', 'scipy', 'skimage', 'matplotlib'}))"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# ---- the page

PAGE = ROOT / "docs" / "sanity.md"


def test_the_commands_of_the_page_run(camcli, tmp_path, monkeypatch):
    """On two of the photographs and a small network; each leaves what the page says."""
    (tmp_path / "sample_images").mkdir()
    for name in ("chelsea.png", "coffee.png"):
        shutil.copy(SAMPLES / name, tmp_path / "sample_images" / name)
    for name in ("face", "other"):
        (tmp_path / "faces" / name).mkdir(parents=True)
        for k in range(4):
            (tmp_path / "faces" / name / f"{k}.png").write_bytes(encoded(photo(k + 10 * (name == "face")), "PNG"))
    monkeypatch.chdir(tmp_path)
    done = run_walk(PAGE, camcli, {"sanity": {TINY[0]: TINY[1]}, "fit": {"--unfreeze": "1", "--epochs": "1"}})
    assert len(done) == 6
    text = PAGE.read_text(encoding="utf-8")
    folders = {path.name for path in tmp_path.iterdir()} - {"sample_images", "faces", "squeezenet-faces"}
    assert folders == {"sanity", "sanity-others", "sanity-all", "sanity-seed1", "sanity-squeezenet"}
    for folder in folders:
        assert sorted(path.name for path in (tmp_path / folder).glob("[!.]*")) == sorted(FILES)
    assert all(f"`{name}`" in text for name in FILES)
    assert len(pictures_of(PAGE)) >= 2
    assert all(f"`{name}`" in text for name in (*MEASURES, KEPT, LOST, PART, NONE))
    assert f"`{KEPT}` from {KEEPS} on, `{LOST}` below {LOSES}" in text


def test_the_bundled_network_behaves_as_published(tmp_path):
    """After three of ten blocks, counted from the top: Grad-CAM has moved away, guided backpropagation has not."""
    config = SanityConfig(method=("gradcam", "guided-backprop"))
    study = prepare_study(config, RunConfig(device="cpu"), SilentListener())
    assert [group.name for group in study.groups] == [
        "classifier", "conv_head", *(f"blocks.{k}" for k in range(6, -1, -1)), "conv_stem",
    ]  # fmt: skip
    inputs, _ = read_inputs([Source(str(SAMPLES), name) for name in ("chelsea.png", "coffee.png", "camera.png")], study.job)
    merged = LayerGroup("top", tuple(name for group in study.groups[:3] for name in group.modules))
    check = check_maps(study.job, inputs, [merged], seed=0)
    verdicts = {verdict.method: verdict for verdict in judge(check)}
    assert verdicts["gradcam"].similarity < 0.5
    assert verdicts["guided-backprop"].verdict == KEPT
    assert verdicts["guided-backprop"].similarity > 0.9
    assert {one.similarity for one in check.measurements if one.step == 0} == {Similarity(1.0, 1.0, 1.0, 1.0)}


@pytest.mark.gpu
def test_a_gpu_gives_the_verdicts_of_the_cpu(camcli, photos, tmp_path):
    found = []
    for name in ("cpu", "cuda"):
        done = camcli("sanity", photos, *TINY, "-o", tmp_path / name, "--method", "gradcam", "--device", name)
        assert done.code == 0, done.err
        with open(tmp_path / name / "sanity.csv", encoding="utf-8", newline="") as file:
            found.append([float(row["spearman"] or "nan") for row in csv.DictReader(file)])
    assert found[0] == pytest.approx(found[1], abs=0.05, nan_ok=True)
