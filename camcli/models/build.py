"""Shared by the model sources: an architecture with a checkpoint's weights or with random ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from camcli.errors import ModelError, WeightsError, did_you_mean
from camcli.models.channels import first_convolution, for_channels, grey_note
from camcli.models.checkpoints import fill_module, read_checkpoint
from camcli.models.labels import IMAGENET_SIZE, default_labels
from camcli.models.request import CHECKPOINT_SUFFIXES, NOT_HOOKED, ModelRequest
from camcli.records import LoadedModel, Preprocess

RANDOM_SEED = 0
"""Random seed of ``--weights none``: every run gets the same network."""


def with_weights(
    request: ModelRequest,
    build: Callable[..., nn.Module],
    preprocess: Preprocess,
    known_weights: tuple[str, ...],
    *,
    aim_at_imagenet: bool = True,
) -> LoadedModel:
    """The architecture with a checkpoint's weights, or with random ones from a fixed seed."""
    if request.random:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_SEED)
            module = build()
            _draw_zero_layers(module)
        labels = default_labels(class_count(module))
        note = "the weights are random: the heatmaps show the architecture's influence, not what the network has learned."
        return LoadedModel(request.name, module, preprocess, labels, f"random, seed {RANDOM_SEED}", (note,))
    if not request.checkpoint:
        raise unknown_weights(request, known_weights)
    module, count = fill_module(build, read_checkpoint(request.weights), request.weights, request.name)
    labels = default_labels(count or class_count(module), imagenet=aim_at_imagenet)
    first = first_convolution(module)
    if first is None or first[1].in_channels != 1 or preprocess.channels == 1:
        return LoadedModel(request.name, module, preprocess, labels, request.weights)
    grey = request.changes.applied(for_channels(preprocess, 1))
    return LoadedModel(request.name, module, grey, labels, request.weights, (grey_note(request.name, grey),))


def _draw_zero_layers(module: nn.Module) -> None:
    """Random weights for layers that an architecture initializes to zero (the head of a Vision Transformer): its logits would not
    depend on the image.
    """
    for child in module.modules():
        if isinstance(child, (nn.Linear, nn.Conv2d)) and not child.weight.any():
            nn.init.trunc_normal_(child.weight, std=0.02)


def class_count(module: nn.Module) -> int:
    """The number of classes of a module: its ``num_classes``, else the outputs of its last linear layer or convolution."""
    declared = getattr(module, "num_classes", None)
    if isinstance(declared, int) and declared > 0:
        return declared
    heads = [child for child in module.modules() if isinstance(child, (nn.Linear, nn.Conv2d))]
    last = heads[-1] if heads else None
    if isinstance(last, nn.Linear):
        return last.out_features
    return last.out_channels if isinstance(last, nn.Conv2d) else IMAGENET_SIZE


def unknown_weights(request: ModelRequest, known: tuple[str, ...]) -> WeightsError:
    """The error for ``--weights`` that are neither one of the ``known`` names nor a file."""
    looks_like_file = os.sep in request.weights or os.path.splitext(request.weights)[1] in CHECKPOINT_SUFFIXES
    if looks_like_file:
        return WeightsError(f"--weights: there is no file {request.weights!r}.")
    return WeightsError(
        f"{request.name} has no weights {request.weights!r}.{did_you_mean(request.weights, known)} "
        f"Known: {', '.join(known)}, none, or a checkpoint's path."
    )


def as_module(built: Any) -> nn.Module:
    """``built``. Raises ModelError if it is not a module, or one whose layers cannot be reached."""
    if not isinstance(built, nn.Module):
        raise ModelError(f"a model must be a torch.nn.Module, not {type(built).__name__}.")
    if isinstance(built, torch.jit.ScriptModule):
        raise ModelError(f"the model is {NOT_HOOKED}")
    return built
