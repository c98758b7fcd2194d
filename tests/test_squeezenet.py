"""A network of torchvision with real weights, the whole chain from a checkpoint of one's own to maps that lie on the object."""

from __future__ import annotations

import csv
import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from safetensors.torch import save_file
from torchvision import models, transforms

import camcli
from camcli.cam import METHODS
from camcli.config.run import RunConfig
from camcli.errors import LayerError
from camcli.pipeline.job import prepare_job
from camcli.render.maps import place_map, scale_map
from tests.commands import command
from tests.conftest import SAMPLES
from tests.folders import rows_of
from tests.squeezenet import OPTIONS, read_arrays, state_dict
from tests.test_meaning import OBJECTS

SEEN = {
    "chelsea.png": {"Egyptian cat": 0.44, "tabby": 0.30, "tiger cat": 0.25},
    "coffee.png": {"espresso": 0.97},
    "camera.png": {"tripod": 0.75},
}
"""Classes and probabilities that another program computed from the same weights."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("squeezenet") / "squeezenet1_1.safetensors"
    save_file(state_dict(), path)
    return path


@pytest.fixture(scope="module")
def run(weights, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    arguments = ("--model", "squeezenet1_1", "--weights", weights, *OPTIONS, "--topk", "3", "--save-maps", "--quiet")
    code, said = command("run", SAMPLES, "-o", out, *arguments, patience=300)
    assert code == 0, said
    return out


@pytest.fixture(scope="module")
def job(weights):
    given = dict(zip((name[2:] for name in OPTIONS[::2]), OPTIONS[1::2], strict=True))
    return prepare_job(RunConfig(model="squeezenet1_1", weights=str(weights), samples=200, **given).check())


def test_the_pickle_of_the_weights_runs_no_code(tmp_path):
    class Bait:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    with pytest.raises(pickle.UnpicklingError, match="not needed for arrays"):
        read_arrays(pickle.dumps(Bait()))
    assert not (tmp_path / "executed").exists()


def test_it_is_the_whole_network_of_torchvision():
    tensors = state_dict()
    assert sum(tensor.numel() for tensor in tensors.values()) == 1_235_496
    models.squeezenet1_1(weights=None).load_state_dict(tensors, strict=True)


def test_classes_and_probabilities_are_those_that_others_found(weights):
    model = camcli.load("tests.squeezenet:squeezenet", weights=str(weights))
    for image, expected in SEEN.items():
        found = camcli.explain(model, SAMPLES / image, classes=list(expected))[0]
        assert found.best.class_name == next(iter(expected))
        for heatmap in found.heatmaps:
            name = heatmap.prediction.class_name
            assert heatmap.prediction.probability == pytest.approx(expected[name], abs=0.02), (image, name)


def test_the_command_predicts_what_torchvision_predicts(run):
    """With the options alone: logits and probabilities of torchvision's own transforms and network."""
    network = models.squeezenet1_1(weights=None).eval()
    network.load_state_dict(state_dict())
    steps = [transforms.Resize(256), transforms.CenterCrop(227), transforms.PILToTensor()]
    mean = torch.tensor([123.68, 116.779, 103.939]).view(3, 1, 1)
    rows = rows_of(run)
    assert len(rows) == 24
    for row in rows:
        pixels = transforms.Compose(steps)(PillowImage.open(SAMPLES / row["image"]).convert("RGB"))
        with torch.no_grad():
            logits = network((pixels.float() - mean)[None])[0]
        assert float(row["logit"]) == pytest.approx(float(logits[int(row["class_index"])]), rel=1e-3, abs=1e-3)
        probability = float(logits.softmax(0)[int(row["class_index"])])
        assert float(row["probability"]) == pytest.approx(probability, abs=1e-3)
    top = {row["image"]: row["class_name"] for row in rows if row["rank"] == "1"}
    assert {image: top[image] for image in SEEN} == {image: next(iter(expected)) for image, expected in SEEN.items()}


NAMED = [(image, name) for image, name in OBJECTS if name != "football helmet"]
"""The objects that this network knows: a helmet in the arm is beyond it."""

# those that explain a class by the layer; guided backpropagation is an edge detector, eigencam does not depend on the class, and
# Score-CAM's softmax over the logits of a thousand channels leaves hardly more than one of them
LIE_ON_OBJECTS = (
    "cam", "gradcam", "gradcam++", "hirescam", "xgradcam", "layercam", "eigengradcam", "finercam",
)  # fmt: skip


# what hiding shows depends on the network's prediction: these two photos are classified rightly, the missile is taken for a pole
PREDICTED = NAMED[:2]


@pytest.mark.parametrize(
    ("image", "name", "method"),
    [
        *((image, name, method) for image, name in NAMED for method in LIE_ON_OBJECTS),
        *((image, name, method) for image, name in PREDICTED for method in ("rise", "occlusion")),
    ],
    ids=str,
)
def test_the_map_lies_on_the_object(job, image, name, method):
    """The share of the map's energy inside the object's box is well above the box's share of what the network saw."""
    one = camcli.explain(job, SAMPLES / image, classes=name, methods=method)[0]
    seen, (left, top, right, bottom) = one.pixels, OBJECTS[image, name]
    heat = place_map(scale_map(one.heatmaps[0].values), one.box, seen, (seen.w, seen.h)).whole()
    inside = np.zeros_like(heat, bool)
    inside[max(0, top - seen.y) : bottom - seen.y, max(0, left - seen.x) : right - seen.x] = True
    energy, area = heat[inside].sum() / heat.sum(), inside.mean()
    assert energy > 1.25 * area, f"{energy:.2f} of the energy on {area:.2f} of the area"


def test_every_method_runs_or_says_why_not(job, weights):
    """On a real network: a map that is finite and not constant, or the reason why the method does not apply."""
    refused = {}
    narrow = camcli.load("squeezenet1_1", weights=str(weights), layers="features.12.squeeze")  # 64 channels
    for name in METHODS:
        of_channels = name in ("scorecam", "ablationcam")
        try:
            values = camcli.explain(narrow if of_channels else job, SAMPLES / "coffee.png", methods=name)[0].heatmaps[0].values
        except LayerError as error:
            refused[name] = str(error)
            continue
        assert np.isfinite(values).all(), name
        assert values.max() > values.min() or name == "uniform", name
    assert set(refused) == {"rollout", "legrad"}
    assert all("Vision Transformers" in reason for reason in refused.values())


def test_sanity_tells_the_methods_apart(weights, tmp_path):
    """Grad-CAM depends on the weights of this network; guided backpropagation, an edge detector, hardly does."""
    images = [SAMPLES / name for name in ("camera.png", "coffee.png")]
    arguments = ("-m", "squeezenet1_1", "-w", weights, *OPTIONS, "--method", "gradcam", "--method", "guided-backprop")
    code, said = command("sanity", *images, "-o", tmp_path / "out", *arguments, patience=300)
    assert code == 0, said
    with open(tmp_path / "out" / "verdicts.csv", encoding="utf-8", newline="") as file:
        kept = {row["method"]: float(row["kept"]) for row in csv.DictReader(file)}
    assert kept["gradcam"] < 0.5 < kept["guided-backprop"]
