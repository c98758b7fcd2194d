"""Accuracy, precision and recall of a classifier on held-out images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Metrics:
    """Classification metrics. ``confusion`` (K, K): number of images of class i that were classified as class j."""

    classes: tuple[str, ...]
    confusion: np.ndarray

    @property
    def accuracy(self) -> float:
        """The share of images that were classified correctly."""
        return float(np.trace(self.confusion) / self.confusion.sum())

    @property
    def recall(self) -> list[float | None]:
        """For each class the share of its images that were classified correctly; None for a class without images."""
        return [_share(row[index], row.sum()) for index, row in enumerate(self.confusion)]

    @property
    def precision(self) -> list[float | None]:
        """For each class the share of correct images among those classified as it; None if there are none."""
        return [_share(column[index], column.sum()) for index, column in enumerate(self.confusion.T)]

    def as_json(self) -> dict[str, object]:
        """The metrics for ``metrics.json``."""
        each = zip(self.classes, self.precision, self.recall, self.confusion.sum(axis=1).tolist(), strict=True)
        return {
            "accuracy": self.accuracy,
            "classes": [{"class": name, "precision": p, "recall": r, "images": n} for name, p, r, n in each],
            "confusion": self.confusion.tolist(),
        }


def measure(labels: Sequence[int], predicted: Sequence[int], classes: Sequence[str]) -> Metrics:
    """The metrics of ``predicted`` class indices against the true ``labels``."""
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(confusion, (np.asarray(labels), np.asarray(predicted)), 1)
    return Metrics(tuple(classes), confusion)


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None
