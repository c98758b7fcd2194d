"""The linear layer: multinomial logistic regression on pooled features, its weight decay chosen on the validation part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

WEIGHT_DECAYS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 1e-4)
"""Tried from the strongest to the weakest, each begun where the last one ended."""

_ROUNDS, _STEPS, _PATIENCE = 20, 10, 3
"""At most so many rounds of so many L-BFGS steps for each; it ends when so many rounds did not lower the validation loss."""

_SMALLEST_GAIN = 1e-5
"""By which a loss must fall to count as lower."""


@dataclass(frozen=True)
class Head:
    """``weight`` (K, C) and ``bias`` (K), float32, for features as they are; ``weight_decay``: chosen; ``loss``: on validation."""

    weight: Tensor
    bias: Tensor
    weight_decay: float
    loss: float


def class_weights(labels: Tensor, count: int) -> Tensor:
    """What an image of each class counts, so that all classes count the same: (N,) -> (count,), of mean 1 over the images."""
    frequencies = torch.bincount(labels, minlength=count).double()
    return len(labels) / (count * frequencies)


def train_head(
    train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor], count: int, decays: Sequence[float] = WEIGHT_DECAYS
) -> Head:
    """The linear layer for ``count`` classes. ``train``, ``val``: features (N, C), and labels (N,) int64.

    Each feature is scaled to mean 0 and variance 1 over the training part, which is undone in what is returned; classes count the
    same whatever their number of images, in both parts. From zero, by L-BFGS in float64, so nothing is left to chance. Of each
    weight decay's way the point of least validation loss is kept, and of those the least; of equal ones the stronger decay.
    """
    mean, scale = train[0].double().mean(dim=0), train[0].double().std(dim=0, correction=0)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    scaled = [(features.double() - mean) / scale for features in (train[0], val[0])]
    weights = [class_weights(train[1], count), class_weights(val[1], count)]
    weight = torch.zeros((count, train[0].shape[1]), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(count, dtype=torch.float64, requires_grad=True)

    def loss_of(part: int) -> Tensor:
        return functional.cross_entropy(scaled[part] @ weight.T + bias, (train, val)[part][1], weights[part])

    best: tuple[float, float, Tensor, Tensor] | None = None
    for decay in decays:
        for loss in _descend(weight, bias, decay, loss_of):
            if best is None or loss < best[0] - _SMALLEST_GAIN:
                best = (loss, decay, weight.detach().clone(), bias.detach().clone())
    assert best is not None
    loss, decay, found, offset = best
    unscaled = found / scale
    return Head(unscaled.float(), (offset - unscaled @ mean).float(), decay, loss)


def _descend(weight: Tensor, bias: Tensor, decay: float, loss_of):  # type: ignore[no-untyped-def]
    """Lower the training loss, and yield the validation loss after each round, until it falls no more."""
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = loss_of(0) + decay / 2 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    least, waited = float("inf"), 0
    for _ in range(_ROUNDS):
        optimizer.step(closure)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            loss = float(loss_of(1))
        yield loss
        waited = 0 if loss < least - _SMALLEST_GAIN else waited + 1
        least = min(least, loss)
        if waited >= _PATIENCE:
            return
