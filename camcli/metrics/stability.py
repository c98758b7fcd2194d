"""Infidelity and sensitivity (Yeh et al. 2019), with few samples from a fixed seed."""

from __future__ import annotations

import torch
from torch import Tensor

from camcli.cam.explain import explain_batch
from camcli.metrics.batch import Items, Scorer, precise

SQUARES = 10
"""Squares that infidelity removes, one at a time."""

SIDE = 0.25
"""Side of a square, as a fraction of the input's shorter side."""

NOISES = 4
"""Noisy copies for sensitivity."""

RADIUS = 0.02
"""The largest change of a value of the normalised input, as in captum: half a grey level of 255 or so."""

_SEED = 0


def squares(size: tuple[int, int], count: int = SQUARES) -> Tensor:
    """``count`` masks (S, H, W) float32, each 1 in a square at a random place inside the image; the same at every call."""
    generator = torch.Generator().manual_seed(_SEED)
    side = max(1, round(SIDE * min(size)))
    masks = torch.zeros((count, *size))
    for mask in masks:
        top, left = (int(torch.randint(0, length - side + 1, (), generator=generator)) for length in size)
        mask[top : top + side, left : left + side] = 1
    return masks


def infidelity(items: Items, scorer: Scorer) -> Tensor:
    """The mean over squares of (b * sum of the map in the square - change of the score without the square) squared, (N,) float64.

    b is the scale of the map for which this is least, as a map has no scale (Yeh et al. 2019, eq. 1 and section 3.3): scaling the
    map changes nothing. The pixels of a square become zero, and the map counts as the contribution of each pixel.
    """
    masks = squares(items.size).to(items.inputs)
    changes = torch.empty((*items.targets.shape, len(masks)), device=items.inputs.device, dtype=items.scores.dtype)
    for image, pixels in enumerate(items.inputs):
        logits = scorer.logits(pixels * (1 - masks[:, None]))
        own = scorer.of_logits(logits, items.targets[image].expand(len(masks), -1))
        changes[image] = items.scores[image][:, None] - own.T
    found = torch.empty_like(items.original)
    flat = precise(masks.flatten(1))
    for part in items.chunks(scorer.options.chunk):
        predicted = precise(items.placed(part).flatten(1)) @ flat.T
        actual = changes[items.images[part], items.positions[part]]
        found[part] = least_error(predicted, actual)
    return found


def least_error(predicted: Tensor, actual: Tensor) -> Tensor:
    """The mean of (b * predicted - actual) squared for the best b; b is 0 if nothing is predicted. (N, S) x2 -> (N,)."""
    square = predicted.square().sum(dim=1, keepdim=True)
    scale = torch.where(square > 0, (predicted * actual).sum(dim=1, keepdim=True) / torch.where(square > 0, square, 1.0), 0.0)
    return (scale * predicted - actual).square().mean(dim=1)


def noises(shape: tuple[int, ...], count: int = NOISES) -> Tensor:
    """``count`` arrays of ``shape`` (3, H, W), uniform in -RADIUS to RADIUS; the same at every call."""
    generator = torch.Generator().manual_seed(_SEED)
    return RADIUS * (2 * torch.rand((count, *shape), generator=generator) - 1)


def sensitivity(items: Items, scorer: Scorer) -> Tensor:
    """The largest relative change of each raw map under noise, |map' - map| / |map|, (N,) float64 (Yeh et al. 2019, eq. 2)."""
    methods = list(dict.fromkeys(method for _, method in items.results))
    largest = torch.zeros_like(items.original)
    for noise in noises(tuple(items.inputs.shape[1:])):
        noisy = items.inputs + noise.to(items.inputs)
        again = explain_batch(scorer.network, noisy, items.layers, methods, lambda _: items.targets, scorer.options)
        for number, result in enumerate(items.results):
            places = items.of_result(number)
            images, positions = items.images[places], items.positions[places]
            before, after = (precise(maps[images, positions].flatten(1)) for maps in (items.maps[number], again.maps[result]))
            largest[places] = torch.maximum(largest[places], (after - before).norm(dim=1) / before.norm(dim=1))
    return largest
