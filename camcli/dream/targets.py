"""Targets of activation maximization: the logit of a class, the mean of a channel, or one unit of a channel."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from camcli.cam.grid import to_spatial
from camcli.errors import ConfigError, LayerError, ModelError, first_line
from camcli.models.labels import find_class
from camcli.network import Network
from camcli.output.names import distinct_slug, slug
from camcli.records import Layer, LoadedModel

_TAKEN = ("sheet",)
"""File names that are used for something else in the folder."""


@dataclass(frozen=True, slots=True)
class Target:
    """What one picture maximizes. ``stem``: file name without suffix, unique per target. ``words``: name in messages.

    Either ``class_index`` is set, or ``layer`` and ``channel``. ``cell``: (row, column) of a unit, None for the channel's mean.
    """

    stem: str
    words: str
    class_index: int | None = None
    layer: Layer | None = None
    channel: int | None = None
    cell: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """The network's response to N pictures: ``activation`` (N,), and ``probability`` (N,) of the class, None for a channel."""

    activation: Tensor
    probability: Tensor | None


def find_targets(
    model: LoadedModel, classes: Sequence[str], layers: Sequence[Layer], channels: Sequence[str], units: Sequence[str]
) -> tuple[Target, ...]:
    """The targets without duplicates: first the classes, then for each layer its channels and units.

    Raises ClassError for an unknown class, and ConfigError for a channel or unit that is not a number.
    """
    found = [class_target(find_class(wanted, model.classes), model.classes) for wanted in classes]
    for layer in layers:
        found += [channel_target(layer, _numbers("--channel", channel, 1)[0]) for channel in channels]
        for unit in units:
            channel, row, column = _numbers("--unit", unit, 3)
            found.append(channel_target(layer, channel, (row, column)))
    return tuple(dict.fromkeys(found))


def class_target(index: int, classes: Sequence[str]) -> Target:
    """The logit of class ``index``. Its files are named after the class, with the index if the name is not unique."""
    name = slug(classes[index]) or "class"
    alone = sum(slug(other).casefold() == name.casefold() for other in classes) == 1 and name.casefold() not in _TAKEN
    return Target(name if alone else f"{name}-{index}", classes[index], class_index=index)


def channel_target(layer: Layer, channel: int, cell: tuple[int, int] | None = None) -> Target:
    """The mean of a channel over the map of ``layer``, or one unit of it at ``cell`` (row, column)."""
    where = "-".join(map(str, (channel, *(cell or ()))))
    kind = "channel" if cell is None else "unit"
    words = f"{layer.name}, {kind} {where.replace('-', ',')}"
    return Target(f"{distinct_slug(layer.name)}.{kind}-{where}", words, layer=layer, channel=channel, cell=cell)


def _numbers(option: str, text: str, count: int) -> tuple[int, ...]:
    if re.fullmatch(r"\d{1,9}(,\d{1,9})*", text) is None or text.count(",") != count - 1:
        example = "a channel's number, such as 17" if count == 1 else "channel, row and column, such as 17,3,3"
        raise ConfigError(f"{option} {text!r} is not {example}; all are counted from 0.")
    return tuple(map(int, text.split(",")))


def respond(network: Network, inputs: Tensor, target: Target) -> Response:
    """The network's response to ``inputs`` (N, 3, H, W) at ``target``, differentiable if the inputs are.

    The probability is the softmax, or for a network with a single logit the sigmoid.
    """
    layer = target.layer
    tapped = network.run(network.cast_inputs(inputs), [] if layer is None else [layer.name])
    if target.class_index is not None:
        logits = tapped.logits
        probabilities = torch.sigmoid(logits) if logits.shape[1] == 1 else logits.softmax(dim=1)
        return Response(logits[:, target.class_index], probabilities[:, target.class_index])
    assert layer is not None
    channel = to_spatial(tapped.outputs[0], layer.grid)[:, target.channel].float()
    return Response(channel.mean(dim=(1, 2)) if target.cell is None else channel[:, target.cell[0], target.cell[1]], None)


def check_targets(
    network: Network, model: LoadedModel, targets: Sequence[Target], size: tuple[int, int], device: torch.device
) -> None:
    """Raise LayerError for a channel or unit that does not exist, and ModelError if the network does not accept ``size``."""
    grey = torch.zeros((1, 3, *size), device=device)
    for layer in dict.fromkeys(target.layer for target in targets):
        try:
            with torch.no_grad():
                tapped = network.run(network.cast_inputs(grey), [] if layer is None else [layer.name])
                shape = to_spatial(tapped.outputs[0], layer.grid).shape[1:] if layer is not None else None
        except (LayerError, ModelError):
            raise
        except Exception as error:  # the user's own forward may raise anything
            usual = " x ".join(map(str, model.preprocess.crop))
            raise ModelError(
                f"{model.name} does not run on a picture of {size[0]} x {size[1]} ({first_line(error)}). "
                f"Its input size is {usual}: leave --size out."
            ) from error
        for target in targets:
            if target.layer == layer and shape is not None:
                _check_exists(target, tuple(shape), model.name)


def _check_exists(target: Target, shape: tuple[int, ...], model: str) -> None:
    assert target.layer is not None
    channels, height, width = shape
    where = f"layer {target.layer.name!r} of {model}"
    if target.channel is not None and target.channel >= channels:
        raise LayerError(f"{where} has no channel {target.channel}: it has {channels}, 0 to {channels - 1}.")
    if target.cell is not None and (target.cell[0] >= height or target.cell[1] >= width):
        row, column = target.cell
        raise LayerError(
            f"{where} has no unit at row {row}, column {column}: its map is {height} x {width}, rows 0 to {height - 1}, "
            f"columns 0 to {width - 1}."
        )
