"""A layer's output as a spatial tensor (B, C, h, w), from any layout."""

from __future__ import annotations

import torch
from torch import Tensor

from camcli.records import Grid


def to_spatial(tensor: Tensor, grid: Grid) -> Tensor:
    """``tensor`` as (B, C, h, w), a view if possible.

    ``nchw`` is unchanged and ``nhwc`` is permuted. From ``tokens`` (B, prefix + h * w, C) the prefix (class and register tokens) is
    removed, and the rest is arranged row by row, as Vision Transformers flatten their patches.
    """
    if grid.kind == "nchw":
        return tensor
    if grid.kind == "nhwc":
        return tensor.permute(0, 3, 1, 2)
    patches = tensor[:, grid.prefix :, :]
    return patches.transpose(1, 2).reshape(tensor.shape[0], tensor.shape[2], grid.height, grid.width)


def from_spatial(spatial: Tensor, output: Tensor, grid: Grid) -> Tensor:
    """The inverse of ``to_spatial``: (B, C, h, w) in the layout of ``output``, with the prefix tokens of ``output``."""
    if grid.kind == "nchw":
        return spatial.to(output.dtype)
    if grid.kind == "nhwc":
        return spatial.permute(0, 2, 3, 1).to(output.dtype)
    patches = spatial.flatten(2).transpose(1, 2).to(output.dtype)
    return torch.cat([output[:, : grid.prefix], patches], dim=1)
