"""The linear probe: multinomial logistic regression on pooled features, with its weight decay chosen on the validation part."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

WEIGHT_DECAYS = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
"""Tried from the strongest to the weakest; each starts from the solution of the one before."""

_ROUNDS, _STEPS, _PATIENCE = 20, 10, 2
"""For each weight decay at most 20 rounds of 10 L-BFGS steps; early stopping after 2 rounds without a lower validation loss."""

_LEAST = 0.1
"""Smallest divisor of a feature, relative to the root mean variance of all features. Otherwise a channel that is almost always zero
in the training images would be scaled up so much that a single image with a value there gets a huge weight (829 instead of 0.5 in a
trial with twelve images)."""

_CONSTANT = 1e-6
"""A feature with a smaller standard deviation, relative to its mean, is constant up to float32 rounding and is not scaled."""

_LOWER = 0.99
"""A validation loss counts as lower if it is below 99 % of the lowest one. For separable classes it would fall for ever."""


@dataclass(frozen=True)
class LinearProbe:
    """A trained linear layer: ``weight`` (K, C) and ``bias`` (K), float32, for unscaled features.

    ``weight_decay``: the chosen one. ``loss`` and ``accuracy``: class-balanced, on the validation part.
    """

    weight: Tensor
    bias: Tensor
    weight_decay: float
    loss: float
    accuracy: float


def class_weights(labels: Tensor, count: int) -> Tensor:
    """Weights that balance the classes: labels (N,) -> weight per class (count,), with mean 1 over the images."""
    frequencies = torch.bincount(labels, minlength=count).double()
    return len(labels) / (count * frequencies)


def balanced_accuracy(right: Tensor, labels: Tensor, count: int) -> tuple[float, float]:
    """The mean recall of ``count`` classes, and its standard error from the variance r (1 - r) / n of each recall r.

    ``right`` (N,): whether each image was classified correctly. ``labels`` (N,): true classes; each class has an image.
    """
    images = torch.bincount(labels, minlength=count).double()
    recall = torch.bincount(labels, right.double(), minlength=count) / images
    return float(recall.mean()), float((recall * (1 - recall) / images).sum().sqrt() / count)


def train_probe(
    train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor], count: int, decays: Sequence[float] = WEIGHT_DECAYS
) -> LinearProbe:
    """The linear probe for ``count`` classes. ``train``, ``val``: features (N, C), and class indices (N,) int64.

    Features are standardized over the training part (features that hardly vary are scaled less), and the returned weights apply to
    unscaled features. Losses and accuracies are class-balanced in both parts. Training starts from zero and uses L-BFGS in float64,
    so it is deterministic. For each weight decay the solution with the lowest validation loss is kept. Among these the one with the
    strongest decay is returned whose validation accuracy is within one standard error of the best (Breiman et al. 1984, section
    3.4.3): the simplest of equally good probes, which also has the least noisy maps.
    """
    mean, scale = _scaling(train[0])
    scaled = [(part - mean).div_(scale) for part in (train[0], val[0])]
    basis = None
    if scaled[0].shape[0] < scaled[0].shape[1]:
        # orthonormal columns (C, N) that span the images: with weight decay the optimal weights lie in their span
        basis = torch.linalg.qr(scaled[0].T).Q
        scaled = [part @ basis for part in scaled]
    problem = _Problem(scaled, [train[1], val[1]], count)
    probes, errors = [], {}
    for decay in decays:
        weight, bias, loss = min(problem.descend(decay), key=lambda found: found[2])
        accuracy, errors[decay] = problem.accuracy(weight, bias)
        unscaled = (weight if basis is None else weight @ basis.T) / scale
        probes.append(LinearProbe(unscaled.float(), (bias - unscaled @ mean).float(), decay, loss, accuracy))
    best = max(probes, key=lambda probe: probe.accuracy)
    good = [probe for probe in probes if probe.accuracy >= best.accuracy - errors[best.weight_decay]]
    return max(good, key=lambda probe: probe.weight_decay)


def _scaling(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and divisor (C,) float64 of ``features`` (N, C).

    The divisor is the standard deviation, at least _LEAST of the typical one, and 1 for a feature that is constant up to rounding.
    """
    mean = features.mean(dim=0, dtype=torch.float64)
    scale = features.double().std(dim=0, correction=0)
    typical = scale.square().mean().sqrt()
    return mean, torch.where(scale > _CONSTANT * mean.abs(), scale.clamp_min(_LEAST * typical), torch.ones_like(scale))


class _Problem:
    """Logistic regression whose solution is the start for the next weight decay. ``features``, ``labels``: of train and val."""

    def __init__(self, features: list[Tensor], labels: list[Tensor], count: int) -> None:
        self._features, self._labels = features, labels
        self._weights = [class_weights(own, count) for own in labels]
        self._weight = torch.zeros((count, features[0].shape[1]), dtype=torch.float64, requires_grad=True)
        self._bias = torch.zeros(count, dtype=torch.float64, requires_grad=True)

    def descend(self, decay: float) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Minimize the training loss. Yields weight, bias and validation loss after each round, with early stopping."""
        optimizer = torch.optim.LBFGS([self._weight, self._bias], max_iter=_STEPS, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss: Tensor = self._loss(0) + decay / 2 * self._weight.square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        step: Callable[..., object] = optimizer.step
        least, waited = math.inf, 0
        for _ in range(_ROUNDS):
            step(closure)
            with torch.no_grad():
                loss = float(self._loss(1))
            yield self._weight.detach().clone(), self._bias.detach().clone(), loss
            waited = 0 if loss < _LOWER * least else waited + 1
            least = min(least, loss)
            if waited >= _PATIENCE:
                return

    def _loss(self, part: int) -> Tensor:
        logits = self._features[part] @ self._weight.T + self._bias
        loss: Tensor = functional.cross_entropy(logits, self._labels[part], self._weights[part])
        return loss

    def accuracy(self, weight: Tensor, bias: Tensor) -> tuple[float, float]:
        """The balanced accuracy on the validation part, and its standard error."""
        right = (self._features[1] @ weight.T + bias).argmax(dim=1) == self._labels[1]
        return balanced_accuracy(right, self._labels[1], len(bias))
