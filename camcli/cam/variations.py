"""Averages over varied inputs: noise (SmoothGrad), mirror images and scales; and one map from several layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

SCALES = (0.9, 1.0, 1.1)
"""Scales of ``--augment``: each with and without mirroring, six passes in all."""

NOISE_SEED = 0


@dataclass(frozen=True)
class Variation:
    """A varied input (B, 3, H, W), and ``undo``, which moves its maps (N, h, w) back to the original's grid."""

    inputs: Tensor
    undo: Callable[[Tensor], Tensor]


def variations(inputs: Tensor, smooth: int, noise: float, augment: bool) -> Iterator[Variation]:
    """The variations of ``inputs`` (B, 3, H, W) over which maps are averaged; ``inputs`` itself without ``smooth`` and ``augment``.

    ``smooth``: the number of copies with Gaussian noise; its standard deviation is ``noise`` times the range of each image's values
    (Smilkov et al. 2017). The noise is the same for every image, so the place in a batch does not matter. ``augment``: each copy at
    each of SCALES about the centre, mirrored and not.
    """
    for noisy in _noisy(inputs, smooth, noise):
        if not augment:
            yield Variation(noisy, lambda maps: maps)
            continue
        for scale in SCALES:
            scaled = _zoomed(noisy, scale) if scale != 1 else noisy
            yield Variation(scaled, partial(_unzoomed, scale=scale))
            yield Variation(scaled.flip(-1), partial(_unmirrored, scale=scale))


def fuse_maps(maps: Sequence[Tensor], how: str) -> Tensor:
    """One map from those of several layers: each divided by its peak, enlarged to the largest grid, then combined.

    ``how``: ``max``, ``mean``, or ``product`` (RefineCAM, arXiv 2605.14641), which keeps what all layers agree on. Each map is
    (B, T, h, w), with its own h and w. A map without positive values contributes zeros.
    """
    size = max((values.shape[2:] for values in maps), key=lambda shape: shape[0] * shape[1])
    large = []
    for values in maps:
        positive = values.relu()
        peak = positive.amax(dim=(2, 3), keepdim=True)
        unit = torch.where(peak > 0, positive / torch.where(peak > 0, peak, 1.0), positive)
        large.append(functional.interpolate(unit, size, mode="bilinear", align_corners=False))
    stacked = torch.stack(large)
    if how == "product":
        return stacked.prod(dim=0)
    return stacked.amax(dim=0) if how == "max" else stacked.mean(dim=0)


def _noisy(inputs: Tensor, count: int, level: float) -> Iterator[Tensor]:
    if count < 1:
        yield inputs
        return
    generator = torch.Generator().manual_seed(NOISE_SEED)
    deviation = level * (inputs.amax(dim=(1, 2, 3), keepdim=True) - inputs.amin(dim=(1, 2, 3), keepdim=True))
    for _ in range(count):
        yield inputs + deviation * torch.randn(inputs.shape[1:], generator=generator).to(inputs)


def _zoomed(images: Tensor, scale: float) -> Tensor:
    """``images`` enlarged by ``scale`` about the centre, at the same size; the edge pixels are repeated outside."""
    theta = torch.tensor([[1 / scale, 0.0, 0.0], [0.0, 1 / scale, 0.0]], device=images.device, dtype=images.dtype)
    grid = functional.affine_grid(theta.expand(len(images), -1, -1), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _unmirrored(maps: Tensor, scale: float) -> Tensor:
    return _unzoomed(maps.flip(-1), scale)


def _unzoomed(maps: Tensor, scale: float) -> Tensor:
    return maps if scale == 1 else _zoomed(maps[:, None], 1 / scale)[:, 0]
