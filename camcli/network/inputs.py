"""Pixels -> the input of a network, on its device."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from camcli.records import Preprocess


@lru_cache
def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device).view(1, -1, 1, 1)


def normalize(images: Tensor, preprocess: Preprocess, *, in_place: bool = False) -> Tensor:
    """``images`` (B, 3, H, W) in [0, 1] as (x - mean) / std of ``preprocess``, per channel. (B, 3, H, W)."""
    mean, std = (_channels(values, images.device) for values in (preprocess.mean, preprocess.std))
    return images.sub_(mean).div_(std) if in_place else (images - mean) / std


def input_tensor(images: Sequence[np.ndarray], preprocess: Preprocess, device: torch.device) -> Tensor:
    """Prepared ``images``, each (h, w, 3) uint8, as the network's input (B, 3, h, w) float32 on ``device``.

    Bytes travel to the device, and become floats there. The memory format is channels-last, in which the images come.
    """
    batch = torch.empty((len(images), *images[0].shape), dtype=torch.uint8, pin_memory=device.type == "cuda")
    np.stack(images, out=batch.numpy())
    pixels = batch.to(device, non_blocking=True).permute(0, 3, 1, 2)
    return normalize(pixels.float().div_(255), preprocess, in_place=True)
