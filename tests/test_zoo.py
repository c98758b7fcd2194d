"""Every classifier of torchvision through ``camcli run``, at its native size, with its default layer and seeded weights."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from torchvision import models

from camcli.models.sources import load_model
from tests.conftest import SAMPLES
from tests.folders import rows_of

NAMES = models.list_models(module=models)

SMALL = {
    "alexnet", "densenet121", "efficientnet_b0", "googlenet", "inception_v3", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small",
    "regnet_x_400mf", "regnet_y_400mf", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_0", "swin_t", "vit_b_32", "convnext_tiny",
}  # fmt: skip
"""One of each family but MaxViT and VGG, the slowest, for every run of the tests; the others belong to make oracle."""


def maps_of(folder):
    found = {}
    for row in rows_of(folder):
        assert row["status"] in ("ok", "empty"), row
        if row["status"] == "ok":
            stem = row["overlay"].removeprefix("overlays/").removesuffix(".jpg")
            found[row["image"], row["class_index"]] = np.load(folder / "maps" / f"{stem}.npy")
    return found


@pytest.mark.parametrize("name", [name if name in SMALL else pytest.param(name, marks=pytest.mark.zoo) for name in NAMES])
def test_a_classifier_gives_maps_and_a_batch_equals_its_images(camcli, tmp_path, monkeypatch, name):
    # both runs get the same network: drawing the weights of the largest takes longer than explaining with them
    monkeypatch.setattr("camcli.pipeline.job.load_model", lru_cache(load_model))
    files = [SAMPLES / "chelsea.png", SAMPLES / "coffee.png"]
    flags = ("--model", name, "--weights", "none", "--class", 0, "--class", 281, "--class", 500, "--class", 967, "--save-maps")
    for batch in (1, 2):
        done = camcli("run", *files, "-o", tmp_path / str(batch), *flags, "--batch-size", batch, "--device", "cpu")
        assert done.code == 0, done.err
    one, two = maps_of(tmp_path / "1"), maps_of(tmp_path / "2")
    assert {image for image, _ in two} == {"chelsea.png", "coffee.png"}, "an image with nothing but empty maps"
    for key, values in two.items():
        assert np.isfinite(values).all()
        assert values.max() > values.min()
        if key in one:
            np.testing.assert_allclose(values, one[key], atol=2e-3 * values.max())
    assert len(set(one) ^ set(two)) <= 1, "a map near zero may be empty in one of the two"


def test_the_whole_zoo_is_here():
    assert len(NAMES) >= 80
    assert set(NAMES) >= SMALL
