"""Metrics of a map alone: entropy and sparsity. No pass through the network."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from camcli.metrics.batch import precise


def entropy(maps: Tensor) -> Tensor:
    """The entropy of the positive values, 0 for one cell to 1 for all cells alike. (N, h, w) -> (N,).

    Shannon's, of the values divided by their sum, divided by that of a uniform map.
    """
    values = precise(maps).clamp_min(0).flatten(1)
    shares = values / values.sum(dim=1, keepdim=True)
    terms = torch.where(shares > 0, shares * torch.where(shares > 0, shares, 1.0).log(), 0.0)
    return -terms.sum(dim=1) / math.log(values.shape[1]) if values.shape[1] > 1 else torch.zeros_like(shares[:, 0])


def gini(maps: Tensor) -> Tensor:
    """The Gini index of the positive values: 0 for all cells alike, 1 - 1/n for one of n cells. (N, h, w) -> (N,).

    Hurley and Rickard 2009, eq. 17: the sum of (2k - n - 1) v_k / (n sum v) over the values v_1 <= ... <= v_n.
    """
    values = precise(maps).clamp_min(0).flatten(1).sort(dim=1).values
    count = values.shape[1]
    weights = 2 * torch.arange(1, count + 1, device=maps.device, dtype=values.dtype) - count - 1
    return (values * weights).sum(dim=1) / (count * values.sum(dim=1))
