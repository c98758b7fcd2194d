"""Random transformations of a picture (jitter, rotation, zoom), Gaussian blur, and total variation.

A picture that activates the target under random transformations has less noise (Olah et al. 2017, "Transformation Robustness").
Blur and total variation come from Yosinski et al. 2015 and from Mahendran and Vedaldi 2015.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Transforms:
    """Limits of random transformations. ``jitter``: pixels in each direction. ``rotate``: degrees in each direction. ``zoom``: 0.2
    means a factor from 1 / 1.2 to 1.2.
    """

    jitter: int = 0
    rotate: float = 0.0
    zoom: float = 0.0

    @property
    def any(self) -> bool:
        """Whether any limit is above 0."""
        return bool(self.jitter or self.rotate or self.zoom)


def draw_transforms(limits: Transforms, count: int, generator: torch.Generator) -> Tensor:
    """``count`` random transformations (N, 4) float32: shift right and down in whole pixels, angle in degrees, zoom factor.

    Shifts, angles and the logarithm of the factor are uniformly distributed.
    """
    shifts = torch.randint(-limits.jitter, limits.jitter + 1, (count, 2), generator=generator).float()
    angles = (torch.rand((count, 1), generator=generator) * 2 - 1) * limits.rotate
    factors = torch.exp((torch.rand((count, 1), generator=generator) * 2 - 1) * math.log1p(limits.zoom))
    return torch.cat([shifts, angles, factors], dim=1)


def apply_transforms(picture: Tensor, transforms: Tensor) -> Tensor:
    """Copies (N, 3, H, W) of ``picture`` (1, 3, H, W), one for each row of ``transforms`` (N, 4) from ``draw_transforms``.

    Each copy is rotated anticlockwise and enlarged about the centre, then shifted. Interpolation is bilinear, and the picture is
    mirrored at its border. The identity, shifts by whole pixels and quarter turns keep all values up to float32 rounding.
    """
    height, width = picture.shape[2:]
    right, down, angle, factor = transforms.to(picture).unbind(1)
    cos, sin = torch.cos(torch.deg2rad(angle)) / factor, torch.sin(torch.deg2rad(angle)) / factor
    # affine_grid asks where each pixel of the result comes from, in units of half the picture's sides
    x_from_y, y_from_x = -sin * (height / width), sin * (width / height)
    left, up = -2 * right / width, -2 * down / height
    rows = [cos, x_from_y, cos * left + x_from_y * up, y_from_x, cos, y_from_x * left + cos * up]
    matrices = torch.stack(rows, dim=1).reshape(-1, 2, 3)
    grid = functional.affine_grid(matrices, [len(transforms), 3, height, width], align_corners=False)
    return functional.grid_sample(picture.expand(len(transforms), -1, -1, -1), grid, padding_mode="reflection", align_corners=False)


def blurred(picture: Tensor, sigma: float) -> Tensor:
    """``picture`` (N, 3, H, W) blurred with a Gaussian of ``sigma`` pixels, mirrored at the border."""
    reach = min(math.ceil(3 * sigma), min(picture.shape[2:]) - 1)
    if reach < 1:
        return picture
    offsets = torch.arange(-reach, reach + 1, dtype=picture.dtype, device=picture.device)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    padded = functional.pad(picture, (reach,) * 4, mode="reflect")
    return functional.conv2d(functional.conv2d(padded, kernel, groups=3), kernel.transpose(2, 3), groups=3)


def total_variation(picture: Tensor) -> Tensor:
    """Mean absolute difference between horizontal plus vertical neighbours in ``picture`` (1, 3, H, W). A scalar."""
    beside = (picture[..., 1:] - picture[..., :-1]).abs().mean()
    below = (picture[..., 1:, :] - picture[..., :-1, :]).abs().mean()
    return beside + below
