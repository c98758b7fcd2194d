"""The inputs with which a network is examined before its first image: noise from a fixed seed, so that every run sees the same."""

from __future__ import annotations

import torch
from torch import Tensor

from camcli.records import Preprocess


def probe_input(preprocess: Preprocess, device: torch.device, dtype: torch.dtype = torch.float32, count: int = 1) -> Tensor:
    """Seeded noise images (N, C, H, W) of the channels and the size that ``preprocess`` makes."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn((count, preprocess.channels, *preprocess.crop), generator=generator).to(device, dtype)


def random_direction(logits: Tensor) -> Tensor:
    """A fixed random direction (K,) of the ``logits`` (B, K), which no symmetry of a network cancels; of their type and device."""
    return torch.randn(logits.shape[1], generator=torch.Generator().manual_seed(0)).to(logits)
