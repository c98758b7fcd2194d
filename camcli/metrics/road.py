"""ROAD: remove pixels by noisy linear imputation, and compare the scores (Rong et al. 2022)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from camcli.metrics.batch import Items, Scorer
from camcli.metrics.curves import pixel_ranks

SHARES = (0.2, 0.4, 0.6, 0.8)
"""Shares of the pixels that are removed."""

NOISE = 0.01
"""Standard deviation of the noise of imputed pixels, in normalised values, as published."""

_SEED = 0
_TOLERANCE = 1e-5
"""Largest norm of the residual, as a fraction of that of the right-hand side."""

_MOST_ITERATIONS = 500
_COARSEST = 2
"""Side in pixels below which the preconditioner has no coarser level."""


def road(items: Items, scorer: Scorer) -> Tensor:
    """(score without the least important - score without the most important pixels) / 2, mean over SHARES. (N,) float64."""
    pixels = items.size[0] * items.size[1]
    counts = [round(share * pixels) for share in SHARES]
    noise = NOISE * torch.randn(items.inputs.shape[1:], generator=torch.Generator().manual_seed(_SEED)).to(items.inputs)
    found = torch.zeros_like(items.original)
    for part in items.chunks(scorer.options.chunk):
        ranks = pixel_ranks(items.placed(part)).view(-1, 1, *items.size)
        images, classes = items.inputs[items.images[part]], items.classes[part]
        for count in counts:
            for removed, sign in ((ranks >= pixels - count, 1), (ranks < count, -1)):
                found[part] += sign * scorer(imputed(images, removed) + noise * removed, classes)
    return found / (2 * len(counts))


def imputed(images: Tensor, removed: Tensor) -> Tensor:
    """``images`` (N, 3, H, W) with the pixels in ``removed`` (N, 1, H, W, bool) replaced by the weighted mean of their neighbours.

    The mean of the eight neighbours, 1/6 beside and 1/12 diagonal (Rong et al. 2022, section 4.2). Removed neighbours count with
    their new values, so this is a linear system; it is solved by conjugate gradients, each image on its own, so that images do not
    influence each other. At least one pixel of each image must remain.
    """
    mask = removed.to(images.dtype)
    weights = _neighbours(torch.ones_like(mask))
    pyramid = _pyramid(mask)

    def system(values: Tensor) -> Tensor:
        return mask * (weights * values - _neighbours(values))

    right = mask * _neighbours(images * (1 - mask))
    solution = torch.zeros_like(images)
    residual = right.clone()
    limit = _TOLERANCE * right.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()
    direction, product = torch.zeros_like(right), torch.ones_like(limit)
    for _ in range(_MOST_ITERATIONS):
        active = (residual.square().sum(dim=(1, 2, 3), keepdim=True).sqrt() > limit).to(
            images.dtype
        )  # a solved image does not change any more
        if not active.any():
            break
        step = _preconditioned(residual, pyramid)
        before, product = product, (residual * step).sum(dim=(1, 2, 3), keepdim=True)
        direction = step + direction * _ratio(product, before)
        image = system(direction)
        length = active * _ratio(product, (direction * image).sum(dim=(1, 2, 3), keepdim=True))
        solution, residual = solution + length * direction, residual - length * image
    return torch.where(removed, solution, images)


def _neighbours(values: Tensor) -> Tensor:
    """The weighted sum of the eight neighbours of each pixel, of those inside the image. (N, C, H, W), any C."""
    padded = functional.pad(values, (1, 1, 1, 1))
    across = padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]
    return (across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :] - 4 * values) / 12


def _ratio(upper: Tensor, lower: Tensor) -> Tensor:
    return torch.where(lower > 0, upper / torch.where(lower > 0, lower, 1.0), 0.0)


def _coarser(values: Tensor) -> Tensor:
    """Sums over hat functions at every second pixel, weights 1/2, 1, 1/2 along each axis: (N, C, H, W) at half the size."""
    padded = functional.pad(values, (1, 1, 1, 1))
    across = 0.5 * (padded[..., :-2:2] + padded[..., 2::2]) + padded[..., 1:-1:2]
    return 0.5 * (across[..., :-2:2, :] + across[..., 2::2, :]) + across[..., 1:-1:2, :]


def _finer(values: Tensor, size: tuple[int, int]) -> Tensor:
    """The sum of the hat functions times ``values``: the transpose of ``_coarser``. (N, C, h, w) -> (N, C, *size)."""
    for axis, length in ((3, size[1]), (2, size[0])):
        fine = values.new_zeros((*values.shape[:axis], length, *values.shape[axis + 1 :]))
        even, odd = fine.transpose(axis, 0)[::2], fine.transpose(axis, 0)[1::2]
        given = values.transpose(axis, 0)
        even.copy_(given)
        odd.copy_(given[: len(odd)])
        odd[: len(given) - 1] += given[1:]
        odd.mul_(0.5)
        values = fine
    return values


def _pyramid(mask: Tensor) -> list[Tensor]:
    """For each level the grid points (N, 1, h, w) whose hat functions lie within the removed pixels: 1, others 0."""
    levels, outside = [mask], 1 - mask
    while min(levels[-1].shape[2:]) >= 2 * _COARSEST:
        outside = (_coarser(outside) > 0).to(mask.dtype)
        levels.append(1 - outside)
    return levels


def _preconditioned(residual: Tensor, pyramid: list[Tensor]) -> Tensor:
    """The residual plus its corrections on coarser grids, which carry values across large holes (Bramble, Pasciak and Xu 1990)."""
    parts = [residual]
    for _ in pyramid[1:]:
        parts.append(_coarser(parts[-1]))
    total = pyramid[-1] * parts[-1]
    for inside, part in zip(pyramid[-2::-1], parts[-2::-1], strict=True):
        total = _finer(total, (part.shape[2], part.shape[3])) + inside * part
    return total
