"""Where models come from: each source is offered a name and loads what it owns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from camcli.errors import ModelError, did_you_mean
from camcli.models.bundled import BundledSource
from camcli.models.checkpoints import SUFFIXES as CHECKPOINT_SUFFIXES
from camcli.models.factory import FactorySource
from camcli.models.fitted import FittedSource
from camcli.models.labels import read_labels
from camcli.models.request import ModelInfo, ModelRequest, ModelSource
from camcli.models.timm_models import TimmSource
from camcli.models.torchvision_models import TorchvisionSource
from camcli.records import LoadedModel

_BACKBONES: tuple[ModelSource, ...] = (BundledSource(), TorchvisionSource(), TimmSource(), FactorySource())

SOURCES: tuple[ModelSource, ...] = (*_BACKBONES[:-1], FittedSource(_BACKBONES), _BACKBONES[-1])
"""In the order in which a name is offered to them."""


def load_model(request: ModelRequest, device: torch.device | str = "cpu") -> LoadedModel:
    """The model ready to run on ``device``: evaluation mode, no gradients for its parameters.

    Raises ModelError for an unknown name, with the nearest ones; WeightsError for weights that do not exist, cannot be
    downloaded, do not fit or would run code; LabelsError when ``labels`` does not fit the head.
    """
    model = source_of(request.name).load(request)
    if request.labels is not None and len(model.classes) > 1:  # one logit may have two names: the head decides
        model = replace(model, classes=read_labels(request.labels, len(model.classes)))
    model.module.eval().requires_grad_(False).to(device)
    return model


def weights_at_hand(name: str) -> str:
    """Weights to look at a model with, its layers say, without a download: its own where it brings them, else random ones."""
    return "DEFAULT" if isinstance(source_of(name), FittedSource) else "none"


def list_models() -> Iterator[ModelInfo]:
    """Every model of every source that can be listed."""
    for source in SOURCES:
        yield from source.list()


def class_names(request: ModelRequest) -> tuple[str, ...]:
    """The class names of a model, without loading its weights where they are known otherwise."""
    names = source_of(request.name).labels(request)
    return read_labels(request.labels, len(names)) if request.labels is not None else names


def source_of(name: str) -> ModelSource:
    """The source that a model's name belongs to. Raises ModelError for a name that none knows, with the nearest ones."""
    for source in SOURCES:
        if source.owns(name):
            return source
    if name.lower().endswith(CHECKPOINT_SUFFIXES):
        raise ModelError(
            f"{name!r} is a file of weights, not a model. Name the architecture that it was trained with too: "
            f"--model ARCH --weights {name}, where ARCH is a name such as resnet50. See them all: camcli models"
        )
    known = [info.name for info in list_models()]
    raise ModelError(f"there is no model {name!r}.{did_you_mean(name, known)} See them all: camcli models")
