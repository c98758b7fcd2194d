"""The results of the network for a batch of images, as arrays. Knows no torch: worker processes make rows and overlays of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from camcli.records import Findings, Heatmap, MetricValue, Prediction, QuicklyPickled

STATUSES = ("ok", "empty", "nonfinite")
"""The statuses of a map, in the order of their numbers in ``BatchFindings.statuses``."""


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-logits)))


HEADS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"softmax": _softmax, "sigmoid": _sigmoid}
"""The functions of ``--head``: logits (B, K) float64 -> probabilities."""


@dataclass(frozen=True, slots=True)
class Names:
    """What the numbers in ``BatchFindings`` mean. ``results``: (layer, method) of each map of a class, in the order of the rows."""

    classes: tuple[str, ...]
    results: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class BatchFindings(QuicklyPickled):
    """The results for B images with T classes each, and R maps for each class: one for each layer and method.

    ``best``, ``best_logits`` and ``best_probabilities`` (B,): the class with the highest logit. ``classes`` (B, T): the explained
    classes; -1 for a repetition of an earlier one, which is left out. ``ranks``, ``logits`` and ``probabilities`` (B, T).
    ``maps``: R arrays (B, T, h, w) float32, raw. ``statuses`` (B, T, R): indices of STATUSES. ``peaks`` (B, T, R): raw maxima.
    ``metrics``: for each column of ``--metrics`` the values (B, T, R), or curves (B, T, R, P); NaN where there is none.
    ``contributions``: R arrays (B, T, C) float32, of the channels of the layer to the logit; none if the run does not store them.
    """

    best: np.ndarray
    best_logits: np.ndarray
    best_probabilities: np.ndarray
    classes: np.ndarray
    ranks: np.ndarray
    logits: np.ndarray
    probabilities: np.ndarray
    maps: tuple[np.ndarray, ...]
    statuses: np.ndarray
    peaks: np.ndarray
    metrics: tuple[np.ndarray, ...] = ()
    contributions: tuple[np.ndarray, ...] = ()

    def __len__(self) -> int:
        return len(self.best)

    def take(self, images: Sequence[int] | slice) -> BatchFindings:
        """The results of some ``images`` of the batch."""
        columns: list[Any] = [getattr(self, field.name) for field in fields(self)]
        chosen: list[Any] = [tuple(one[images] for one in each) if isinstance(each, tuple) else each[images] for each in columns]
        return BatchFindings(*chosen)

    def contributions_of(self, image: int) -> Iterator[np.ndarray]:
        """The contributions (C,) of each map of one image, in the order of ``of``."""
        for target, index in enumerate(self.classes[image].tolist()):
            if index >= 0:
                yield from (values[image, target] for values in self.contributions)

    def of(self, image: int, names: Names) -> Findings:
        """The results of one image of the batch."""
        heatmaps: list[Heatmap] = []
        for target, index in enumerate(self.classes[image].tolist()):
            if index < 0:
                continue
            prediction = Prediction(
                int(self.ranks[image, target]),
                index,
                names.classes[index],
                float(self.logits[image, target]),
                float(self.probabilities[image, target]),
            )
            for result, (layer, method) in enumerate(names.results):
                status = STATUSES[self.statuses[image, target, result]]
                values, peak = self.maps[result][image, target], float(self.peaks[image, target, result])
                measured = tuple(_measured(column[image, target, result]) for column in self.metrics)
                heatmaps.append(Heatmap(prediction, layer, method, values, status, peak, measured))
        best = int(self.best[image])
        logit, probability = float(self.best_logits[image]), float(self.best_probabilities[image])
        return Findings(Prediction(1, best, names.classes[best], logit, probability), tuple(heatmaps))

    def each(self, names: Names) -> Iterator[Findings]:
        """The results of every image, in order."""
        return (self.of(image, names) for image in range(len(self)))


def _measured(value: np.ndarray) -> MetricValue:
    """The value or curve of a metric for one map; None if a number is not finite."""
    if not np.isfinite(value).all():
        return None
    return float(value) if value.ndim == 0 else tuple(value.tolist())


def joined(parts: Sequence[BatchFindings]) -> BatchFindings:
    """The results of several parts of a batch as one."""
    if len(parts) == 1:
        return parts[0]
    columns: list[Any] = [[getattr(part, field.name) for part in parts] for field in fields(BatchFindings)]
    return BatchFindings(*(_concatenated(column) for column in columns))


def _concatenated(column: Sequence[Any]) -> Any:
    if isinstance(column[0], tuple):
        return tuple(map(np.concatenate, zip(*column, strict=True)))
    return np.concatenate(column)


def batch_findings(
    logits: np.ndarray,
    probabilities: np.ndarray,
    targets: np.ndarray,
    order: np.ndarray,
    maps: Sequence[np.ndarray],
    *,
    constant: Collection[int] = (),
    metrics: Sequence[np.ndarray] = (),
    contributions: Sequence[np.ndarray] = (),
) -> BatchFindings:
    """The results of a batch.

    ``logits`` and ``probabilities`` (B, K) of all classes; ``targets`` (B, T): the explained classes, perhaps with repetitions;
    ``order`` (B, K): the classes from best to worst. ``maps``: R arrays (B, T, h, w). ``constant``: the numbers of maps that are
    constant on purpose. ``metrics``: for each column (B, T, R) or (B, T, R, P). ``contributions``: none, or R arrays (B, T, C).
    """
    rank_of_class = np.empty_like(order)
    np.put_along_axis(rank_of_class, order, np.arange(1, order.shape[1] + 1)[None], axis=1)
    best = order[:, :1]
    statuses, peaks = all_statuses(maps, np.take_along_axis(logits, targets, axis=1), constant)
    return BatchFindings(
        best[:, 0],
        np.take_along_axis(logits, best, axis=1)[:, 0],
        np.take_along_axis(probabilities, best, axis=1)[:, 0],
        np.where(is_first(targets), targets, -1),
        np.take_along_axis(rank_of_class, targets, axis=1),
        np.take_along_axis(logits, targets, axis=1),
        np.take_along_axis(probabilities, targets, axis=1),
        tuple(maps),
        statuses,
        peaks,
        tuple(metrics),
        tuple(contributions),
    )


def is_first(targets: np.ndarray) -> np.ndarray:
    """Whether each of ``targets`` (B, T) is the first of its value in its row. A class given by name may also be among the best."""
    first = np.ones(targets.shape, bool)
    if targets.shape[1] > 1:
        places = np.argsort(targets, axis=1, kind="stable")
        ordered = np.take_along_axis(targets, places, axis=1)
        np.put_along_axis(first, places[:, 1:], ordered[:, 1:] != ordered[:, :-1], axis=1)
    return first


def all_statuses(maps: Sequence[np.ndarray], logits: np.ndarray, constant: Collection[int]) -> tuple[np.ndarray, np.ndarray]:
    """The statuses and peaks of R maps (B, T, h, w) with the ``logits`` (B, T) of their classes, as ``map_statuses``: (B, T, R)."""
    found = [map_statuses(values, logits, may_be_constant=number in constant) for number, values in enumerate(maps)]
    statuses, peaks = (np.stack(each, axis=2) for each in zip(*found, strict=True))
    return statuses, peaks


def map_statuses(values: np.ndarray, logits: np.ndarray, *, may_be_constant: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The status of each map in ``values`` (B, T, h, w) as an index of STATUSES, and its raw maximum; both (B, T).

    A map is ``nonfinite`` if it or its logit contains NaN or infinity. It is ``empty`` if it has no positive value, or the same
    value in every cell to one part in ten thousand, unless it ``may_be_constant``.
    """
    with np.errstate(invalid="ignore"):
        peaks, lowest = (extreme(axis=(2, 3)).astype(np.float64) for extreme in (values.max, values.min))
        finite = np.isfinite(peaks) & np.isfinite(lowest) & np.isfinite(logits)  # NaN anywhere is NaN in both
        empty = (peaks <= 0) | ((peaks - lowest <= 1e-4 * peaks) & (not may_be_constant))
    return np.where(~finite, 2, np.where(empty, 1, 0)).astype(np.int8), peaks
