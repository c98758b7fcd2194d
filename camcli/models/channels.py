"""Networks of one input channel, such as those for X-rays: they get grey images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from camcli.records import Preprocess

WAY_OUT = (
    "camcli gives a network the three colours of an image, or one grey channel. Wrap the network in a factory whose forward pass "
    "makes its channels from the three colours: --model package.module:factory"
)
"""What to do with a network of another number of channels."""


def first_convolution(module: nn.Module) -> tuple[str, nn.Conv2d] | None:
    """The name of the convolution that a module defines first, and the convolution; None without one."""
    return next(((name, child) for name, child in module.named_modules() if isinstance(child, nn.Conv2d)), None)


def channels_in(tensors: Mapping[str, Tensor], module: nn.Module) -> tuple[str, int] | None:
    """The first convolution's name, and the number of input channels of its weight (C, I, h, w) among ``tensors``.

    None if that is the number of ``module``, the architecture that the tensors are for, or if there is no such weight.
    """
    first = first_convolution(module)
    found = None if first is None else tensors.get(f"{first[0]}.weight")
    if first is None or found is None or found.ndim != 4 or first[1].groups != 1:
        return None
    name, convolution = first
    expected = convolution.weight.shape
    same = found.shape[0] == expected[0] and found.shape[2:] == expected[2:]
    return (name, found.shape[1]) if same and found.shape[1] != expected[1] else None


def set_channels(module: nn.Module, name: str, channels: int) -> nn.Module:
    """``module`` with another number of input channels at the convolution ``name``, whose new weights are zeros."""
    convolution = module.get_submodule(name)
    assert isinstance(convolution, nn.Conv2d)
    weight = convolution.weight
    convolution.in_channels = channels
    shape = (weight.shape[0], channels, *weight.shape[2:])
    convolution.weight = nn.Parameter(torch.zeros(shape, dtype=weight.dtype, device=weight.device))
    if getattr(module, "transform_input", False):  # GoogLeNet and Inception: it rescales three colours
        setattr(module, "transform_input", False)  # noqa: B010
    return module


def for_channels(preprocess: Preprocess, channels: int) -> Preprocess:
    """``preprocess`` for a network of one channel: the means of the colours' means and standard deviations; else unchanged."""
    if channels != 1 or preprocess.channels == 1:
        return preprocess
    mean, std = (sum(values) / len(values) for values in (preprocess.mean, preprocess.std))
    return replace(preprocess, mean=(mean,), std=(std,))


def grey_note(name: str, preprocess: Preprocess) -> str:
    """A message that says what a network of one channel gets."""
    return (
        f"{name} takes one channel: it gets grey images, normalized with mean {preprocess.mean[0]:.3g} and std "
        f"{preprocess.std[0]:.3g} unless --mean and --std, or its own preprocessing, say otherwise."
    )
