"""Deletion and insertion: the score while pixels are removed, or put back, in the order of the map (Petsiuk et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from camcli.metrics.batch import Items, Scorer

BLUR = 5.0
"""Standard deviation of the blur in pixels, as in the authors' code; its kernel has 11 pixels."""

_RADIUS = 5


def pixel_ranks(maps: Tensor) -> Tensor:
    """The rank of each pixel, 0 for the highest value; equal values by position, row by row. (N, H, W) -> (N, H * W) int64."""
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def step_counts(pixels: int, steps: int) -> list[int]:
    """How many pixels have changed at each point of a curve, from none to all, in equal steps; the last may be shorter."""
    size = -(-pixels // steps)
    return [*range(0, pixels, size), pixels]


def area(curve: Tensor, counts: Sequence[int]) -> Tensor:
    """The area under ``curve`` (N, P), by the trapezoidal rule over the share of changed pixels. (N,)."""
    share = torch.tensor(counts, device=curve.device, dtype=curve.dtype) / counts[-1]
    return torch.trapezoid(curve, share, dim=1)


def baseline_images(inputs: Tensor, kind: str) -> Tensor:
    """What is in the place of removed pixels, (B, 3, H, W).

    ``zero``: zeros, which are the mean colour of the training images; ``mean``: the mean colour of each image; ``blur``: the image,
    blurred by a Gaussian.
    """
    if kind == "zero":
        return torch.zeros_like(inputs)
    if kind == "mean":
        return inputs.mean(dim=(2, 3), keepdim=True).expand_as(inputs)
    return blurred(inputs)


def blurred(inputs: Tensor) -> Tensor:
    """``inputs`` (B, 3, H, W), blurred by a Gaussian of BLUR pixels; the edge pixels are repeated outside."""
    place = torch.arange(-_RADIUS, _RADIUS + 1, device=inputs.device, dtype=inputs.dtype)
    kernel = torch.exp(-0.5 * (place / BLUR) ** 2)
    kernel = kernel / kernel.sum()
    channels = inputs.shape[1]
    padded = functional.pad(inputs, (_RADIUS,) * 4, mode="replicate")
    across = functional.conv2d(padded, kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
    return functional.conv2d(across, kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)


def deletion_curves(items: Items, scorer: Scorer) -> Tensor:
    """The scores while the most important pixels are removed, (N, P) float64; P - 1 passes for each map."""
    return _curves(items, scorer, scorer.settings.baseline or "zero", insert=False)


def insertion_curves(items: Items, scorer: Scorer) -> Tensor:
    """The scores while the most important pixels are put into the baseline image, (N, P) float64; P - 1 passes for each map."""
    return _curves(items, scorer, scorer.settings.baseline or "blur", insert=True)


def _curves(items: Items, scorer: Scorer, kind: str, *, insert: bool) -> Tensor:
    counts = step_counts(items.size[0] * items.size[1], scorer.settings.steps)
    found = items.original[:, None].expand(-1, len(counts)).clone()
    others = baseline_images(items.inputs, kind)
    empty = _baseline_scores(items, scorer, others, kind)
    found[:, 0 if insert else -1] = empty[items.images, items.positions]
    inner = torch.tensor(counts[1:-1], device=found.device)
    chunk = scorer.options.chunk
    for group in items.chunks(chunk):  # the ranks of a few maps at a time
        ranks = pixel_ranks(items.placed(group)).view(len(group), 1, *items.size)
        jobs = torch.cartesian_prod(torch.arange(len(group), device=found.device), torch.arange(len(inner), device=found.device))
        for part in torch.split(jobs.view(-1, 2), chunk):
            own, points = part[:, 0], part[:, 1]
            images = items.images[group[own]]
            changed = ranks[own] < inner[points].view(-1, 1, 1, 1)
            pictures = torch.where(changed == insert, items.inputs[images], others[images])
            found[group[own], points + 1] = scorer(pictures, items.classes[group[own]])
    return found


def _baseline_scores(items: Items, scorer: Scorer, others: Tensor, kind: str) -> Tensor:
    """The scores (B, T) of the baseline images; the zeros of all images are the same."""
    logits = scorer.logits(others[:1] if kind == "zero" else others)
    return scorer.of_logits(logits.expand(len(others), -1), items.targets)
