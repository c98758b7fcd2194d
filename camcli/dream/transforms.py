"""Moving a picture about at random: jitter, rotation and zoom; blur; and how much a picture varies from pixel to pixel.

What holds wherever the picture is looked at from is a shape; what holds in one place only is noise (Olah et al. 2017,
"Transformation Robustness"). Blur and total variation are older (Yosinski et al. 2015; Mahendran and Vedaldi 2015).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Transforms:
    """How far a picture is moved at most. ``jitter``: pixels, each way. ``rotate``: degrees, each way. ``zoom``: 0.2 stands for
    between 1 / 1.2 and 1.2 times as large.
    """

    jitter: int = 0
    rotate: float = 0.0
    zoom: float = 0.0

    @property
    def any(self) -> bool:
        """Whether it moves at all."""
        return bool(self.jitter or self.rotate or self.zoom)


def draw_transforms(moves: Transforms, count: int, generator: torch.Generator) -> Tensor:
    """``count`` random moves: rows of shift right and down (whole pixels), angle (degrees), factor of size. (N, 4) float32.

    Shifts and angles are uniform, and so is the logarithm of the factor: as many are larger as are smaller.
    """
    shifts = torch.randint(-moves.jitter, moves.jitter + 1, (count, 2), generator=generator).float()
    angles = (torch.rand((count, 1), generator=generator) * 2 - 1) * moves.rotate
    factors = torch.exp((torch.rand((count, 1), generator=generator) * 2 - 1) * math.log1p(moves.zoom))
    return torch.cat([shifts, angles, factors], dim=1)


def moved(picture: Tensor, moves: Tensor) -> Tensor:
    """``picture`` (1, 3, H, W) turned anticlockwise, enlarged and then shifted as each row of ``moves`` (N, 4) says. (N, 3, H, W).

    About its centre, bilinear; what comes in from outside is the picture mirrored at its border. No move at all is the picture
    itself, and a whole pixel's shift or a quarter turn moves values and changes none, but for float32's last digits.
    """
    height, width = picture.shape[2:]
    right, down, angle, factor = moves.to(picture).unbind(1)
    cos, sin = torch.cos(torch.deg2rad(angle)) / factor, torch.sin(torch.deg2rad(angle)) / factor
    # affine_grid asks where each pixel of the result comes from, in units of half the picture's sides
    x_from_y, y_from_x = -sin * (height / width), sin * (width / height)
    left, up = -2 * right / width, -2 * down / height
    rows = [cos, x_from_y, cos * left + x_from_y * up, y_from_x, cos, y_from_x * left + cos * up]
    matrices = torch.stack(rows, dim=1).reshape(-1, 2, 3)
    grid = functional.affine_grid(matrices, [len(moves), 3, height, width], align_corners=False)
    return functional.grid_sample(picture.expand(len(moves), -1, -1, -1), grid, padding_mode="reflection", align_corners=False)


def blurred(picture: Tensor, sigma: float) -> Tensor:
    """``picture`` (N, 3, H, W) under a Gaussian of ``sigma`` pixels, mirrored at its border. (N, 3, H, W)."""
    reach = min(math.ceil(3 * sigma), min(picture.shape[2:]) - 1)
    if reach < 1:
        return picture
    offsets = torch.arange(-reach, reach + 1, dtype=picture.dtype, device=picture.device)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    padded = functional.pad(picture, (reach,) * 4, mode="reflect")
    return functional.conv2d(functional.conv2d(padded, kernel, groups=3), kernel.transpose(2, 3), groups=3)


def total_variation(picture: Tensor) -> Tensor:
    """Mean difference between neighbours, beside plus below, of ``picture`` (1, 3, H, W). A scalar."""
    beside = (picture[..., 1:] - picture[..., :-1]).abs().mean()
    below = (picture[..., 1:, :] - picture[..., :-1, :]).abs().mean()
    return beside + below
