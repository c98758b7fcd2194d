"""How good a classifier is on images that it was not taught."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Metrics:
    """``confusion`` (K, K): images of class i taken for class j."""

    classes: tuple[str, ...]
    confusion: np.ndarray

    @property
    def accuracy(self) -> float:
        """The share of images whose class was found."""
        return float(np.trace(self.confusion) / self.confusion.sum())

    @property
    def recall(self) -> list[float | None]:
        """For each class the share of its images that were found; None for a class without images."""
        return [_share(own[index], own.sum()) for index, own in enumerate(self.confusion)]

    @property
    def precision(self) -> list[float | None]:
        """For each class the share of what was taken for it that is of it; None where nothing was."""
        return [_share(taken[index], taken.sum()) for index, taken in enumerate(self.confusion.T)]

    def as_json(self) -> dict[str, object]:
        """For the model's metrics."""
        each = zip(self.classes, self.precision, self.recall, self.confusion.sum(axis=1).tolist(), strict=True)
        return {
            "accuracy": self.accuracy,
            "classes": [{"class": name, "precision": p, "recall": r, "images": n} for name, p, r, n in each],
            "confusion": self.confusion.tolist(),
        }


def measure(labels: Sequence[int], predicted: Sequence[int], classes: Sequence[str]) -> Metrics:
    """The metrics of ``predicted`` classes against the true ``labels``, both indices."""
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(confusion, (np.asarray(labels), np.asarray(predicted)), 1)
    return Metrics(tuple(classes), confusion)


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None
