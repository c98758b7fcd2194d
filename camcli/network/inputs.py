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
    """Prepared ``images``, each (h, w, C) uint8, as the network's input (B, C, h, w) float32 on ``device``. C is 3, or 1 for grey.

    Bytes travel to the device, and become floats there. The memory format is channels-last, in which the images come.
    """
    if device.type == "cpu":
        return torch.from_numpy(_normalized(images, preprocess)).permute(0, 3, 1, 2)
    batch = torch.empty((len(images), *images[0].shape), dtype=torch.uint8, pin_memory=device.type == "cuda")
    np.stack(images, out=batch.numpy())
    pixels = batch.to(device, non_blocking=True).permute(0, 3, 1, 2)
    return normalize(pixels.float().div_(255), preprocess, in_place=True)


def _normalized(images: Sequence[np.ndarray], preprocess: Preprocess) -> np.ndarray:
    """``images`` as (B, h, w, C) float32, computed as ``normalize`` does, to the last bit, but without PyTorch's threads.

    These would wait for one another longer than they compute, because others use the cores too.
    """
    height, width, channels = images[0].shape
    batch = np.empty((len(images), height, width * channels), np.float32)
    mean, std = (np.tile(np.array(values, np.float32), width) for values in (preprocess.mean, preprocess.std))
    for image, rows in zip(images, batch, strict=True):  # one at a time stays in the processor's cache
        np.copyto(rows, image.reshape(height, width * channels))
        for operation, values in ((np.divide, np.float32(255)), (np.subtract, mean), (np.divide, std)):
            operation(rows, values, out=rows)
    return batch.reshape(len(images), height, width, channels)
