"""The linear layer: multinomial logistic regression on pooled features, its weight decay chosen on the validation part."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

WEIGHT_DECAYS = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
"""Tried from the strongest to the weakest, each begun where the last one ended."""

_ROUNDS, _STEPS, _PATIENCE = 20, 10, 2
"""At most so many rounds of so many L-BFGS steps for each; it ends when so many rounds did not lower the validation loss."""

_LEAST = 0.1
"""Of the root of the mean variance of all features. A channel that is all but dead in the training images would be blown up
otherwise: with one image that fires it, its weight would decide alone (829 instead of 0.5 in a trial with twelve images)."""

_CONSTANT = 1e-6
"""Of a feature's mean: what varies less is constant but for the rounding of float32, which must not be made into a feature."""

_LOWER = 0.99
"""Of a loss: what falls no further counts as no lower. Where a line parts the classes it falls for ever, to no use."""


@dataclass(frozen=True)
class Head:
    """``weight`` (K, C) and ``bias`` (K), float32, for features as they are; what was chosen: ``weight_decay``.

    ``loss`` and ``accuracy``: on validation, all classes counting the same.
    """

    weight: Tensor
    bias: Tensor
    weight_decay: float
    loss: float
    accuracy: float


def class_weights(labels: Tensor, count: int) -> Tensor:
    """What an image of each class counts, so that all classes count the same: (N,) -> (count,), of mean 1 over the images."""
    frequencies = torch.bincount(labels, minlength=count).double()
    return len(labels) / (count * frequencies)


def balanced_accuracy(right: Tensor, labels: Tensor, count: int) -> tuple[float, float]:
    """The mean of the recalls r of ``count`` classes, and its standard error, by which r (1 - r) / n is the variance of each.

    ``right``, ``labels``: (N,), whether the class of an image was found, and which it is; each class has an image.
    """
    images = torch.bincount(labels, minlength=count).double()
    recall = torch.bincount(labels, right.double(), minlength=count) / images
    return float(recall.mean()), float((recall * (1 - recall) / images).sum().sqrt() / count)


def train_head(
    train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor], count: int, decays: Sequence[float] = WEIGHT_DECAYS
) -> Head:
    """The linear layer for ``count`` classes. ``train``, ``val``: features (N, C), and labels (N,) int64.

    Each feature is scaled to mean 0 and variance 1 over the training part, which is undone in what is returned; one that hardly
    varies to less. Classes count the same whatever their number of images, in both parts, and in the standard error, which is
    that of the mean of their recalls. From zero, by L-BFGS in float64, so nothing is left to chance. For each
    weight decay the point of least validation loss is kept. Of these heads the one with the strongest decay is taken whose
    validation accuracy is within one standard error of the best (Breiman et al. 1984, section 3.4.3): of equally good ones the
    simplest, whose maps are also the least noisy.
    """
    mean, scale = _scaling(train[0])
    scaled = [(part - mean).div_(scale) for part in (train[0], val[0])]
    basis = None
    if scaled[0].shape[0] < scaled[0].shape[1]:
        # Orthonormal columns (C, N) that span the images: with weight decay the weights lie in their span.
        basis = torch.linalg.qr(scaled[0].T).Q
        scaled = [part @ basis for part in scaled]
    problem = _Problem(scaled, [train[1], val[1]], count)
    heads, errors = [], {}
    for decay in decays:
        weight, bias, loss = min(problem.descend(decay), key=lambda found: found[2])
        accuracy, errors[decay] = problem.accuracy(weight, bias)
        unscaled = (weight if basis is None else weight @ basis.T) / scale
        heads.append(Head(unscaled.float(), (bias - unscaled @ mean).float(), decay, loss, accuracy))
    best = max(heads, key=lambda head: head.accuracy)
    good = [head for head in heads if head.accuracy >= best.accuracy - errors[best.weight_decay]]
    return max(good, key=lambda head: head.weight_decay)


def _scaling(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (C,) of ``features`` (N, C), and what to divide by (C,): the standard deviation, or _LEAST of all where that is more.

    Both float64. 1 for a feature that varies by rounding only.
    """
    mean = features.mean(dim=0, dtype=torch.float64)
    scale = features.double().std(dim=0, correction=0)
    typical = scale.square().mean().sqrt()
    return mean, torch.where(scale > _CONSTANT * mean.abs(), scale.clamp_min(_LEAST * typical), torch.ones_like(scale))


class _Problem:
    """Logistic regression from where the last weight decay ended. ``features``, ``labels``: of training and validation."""

    def __init__(self, features: list[Tensor], labels: list[Tensor], count: int) -> None:
        self._features, self._labels = features, labels
        self._weights = [class_weights(own, count) for own in labels]
        self._weight = torch.zeros((count, features[0].shape[1]), dtype=torch.float64, requires_grad=True)
        self._bias = torch.zeros(count, dtype=torch.float64, requires_grad=True)

    def descend(self, decay: float) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Weight, bias, and validation loss after each round of lowering the training loss, until that falls no more."""
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
        """On validation, all classes counting the same: the mean of their recalls, and its standard error."""
        right = (self._features[1] @ weight.T + bias).argmax(dim=1) == self._labels[1]
        return balanced_accuracy(right, self._labels[1], len(bias))
