"""Groups that a gap sets apart from the rest of their class: how wide the gap is, and where the border of such a group runs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from camcli.cluster.features import some_of
from camcli.cluster.groups import MOST_MEASURED, NONE, SMALLEST

FEWEST = 20
"""Images of a group whose gap is measured; of fewer, a tenth would be a single one."""

MINORITY = 0.5
"""What sets a group apart says something about the group only if it is the smaller part of its class."""

_SHRINKAGE, _PARTS, _ROUNDS, _DECIMALS = 0.5, 5, 11, 5


@dataclass(frozen=True)
class Gap:
    """``width``: from the lowest tenth of a group to the highest tenth of the rest along the direction that separates them best, in
    pooled standard deviations; negative if they overlap. ``places`` (N,): of all images along that direction. ``border``: among
    them, between the group and the rest.
    """

    width: float
    border: float
    places: np.ndarray

    @property
    def beyond(self) -> np.ndarray:
        """(N,) bool: the images on the group's side of the border."""
        return self.places > self.border


def gap_of(space: np.ndarray, inside: np.ndarray, seed: int) -> Gap | None:
    """The gap between a group and the rest. ``space`` (N, K): all components. ``inside`` (N,) bool: the images of the group.

    The direction is that of a regularized linear discriminant (Friedman 1989), found each time without the fifth of the images that
    is placed along it: the halves of a cloud have a gap of at most 0.4. Equal images have equal places. Of more than 2,000 images a
    sample finds it. None for fewer than 20 images inside or outside.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.model_selection import PredefinedSplit, cross_val_predict

    points = np.asarray(space, np.float64)
    chosen = some_of(len(points), MOST_MEASURED, seed)
    own = inside[chosen]
    if min(own.sum(), (~own).sum()) < FEWEST:
        return None
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=_SHRINKAGE, priors=[0.5, 0.5])
    parts = PredefinedSplit(_fifths(points[chosen], own, seed))
    found = cross_val_predict(model, points[chosen], own, cv=parts, method="decision_function")
    places = found if len(chosen) == len(points) else model.fit(points[chosen], own).decision_function(points)
    places[chosen] = found
    low, high = float(np.quantile(found[own], 0.1)), float(np.quantile(found[~own], 0.9))
    spread = math.sqrt(float(found[own].var() + found[~own].var()) / 2)
    return Gap((low - high) / spread if spread > 0 else -math.inf, _border(found, own), places)


def _border(places: np.ndarray, inside: np.ndarray) -> float:
    """Where two normal distributions that describe ``places`` (N,) are best divided (Kittler and Illingworth 1986, equation 15).

    It lies between the medians of the images ``inside`` (N,) and outside. The group may be wider than the rest, and may have been
    found in part only, so its own images alone do not say where it ends.
    """
    middle = places.mean()
    ordered, low, high = np.sort(places - middle), np.median(places[~inside]) - middle, np.median(places[inside]) - middle
    allowed = (ordered[:-1] >= low) & (ordered[1:] <= high)
    if not allowed.any() or ordered[0] == ordered[-1]:
        return float((low + high) / 2 + middle)
    below = np.arange(1, len(ordered)) / len(ordered)
    spreads = _spreads(ordered)[:-1], _spreads(-ordered[::-1])[-2::-1]
    least = 0.01 * ordered.std()
    errors = [
        share * (np.log(np.maximum(spread, least)) - np.log(share))
        for share, spread in zip((below, 1 - below), spreads, strict=True)
    ]
    best = int(np.argmin(np.where(allowed, errors[0] + errors[1], np.inf)))
    return float((ordered[best] + ordered[best + 1]) / 2 + middle)


def _spreads(values: np.ndarray) -> np.ndarray:
    """The standard deviation of the first 1, 2, ... of ``values`` (N,): (N,)."""
    count = np.arange(1, len(values) + 1)
    return np.sqrt(np.maximum(np.cumsum(values**2) / count - (np.cumsum(values) / count) ** 2, 0))


def _widest(space: np.ndarray, inside: np.ndarray, seed: int) -> Gap | None:
    """The gap of the group that is beyond the border of the group ``inside`` (N,), and so on, as long as it becomes wider.

    None if the group is more than half of the images, or too small.
    """
    widest: Gap | None = None
    for _ in range(_ROUNDS):
        gap = gap_of(space, inside, seed) if inside.mean() <= MINORITY else None
        if gap is None or (widest is not None and gap.width <= widest.width):
            break
        widest, inside = gap, gap.beyond
    return widest


def _fifths(points: np.ndarray, own: np.ndarray, seed: int) -> np.ndarray:
    """A number from 0 to 4 for each of ``points`` (N, K): (N,), at random, evenly inside and outside, the same for equal points."""
    _, first, twins = np.unique(points.round(_DECIMALS), axis=0, return_index=True, return_inverse=True)
    part = np.empty(len(first), int)
    part[np.lexsort((np.random.default_rng(seed).random(len(first)), own[first]))] = np.arange(len(first)) % _PARTS
    return np.asarray(part[twins])


def redraw(labels: np.ndarray, space: np.ndarray, seed: int) -> tuple[np.ndarray, list[float]]:
    """Move the border of each group that has a gap into it. Returns the new labels, and the width of each group's gap.

    ``labels`` (N,): the group of each image, NONE for none. ``space`` (N, K): all components. The width is -inf where none was
    measured: for small groups, and for those with more than half of the images. Where two groups claim an image, the one with the
    wider gap gets it. A group that shrinks to fewer than ten images is dissolved.
    """
    count = int(labels.max(initial=NONE)) + 1
    gaps: dict[int, Gap] = {}
    for label in range(count):
        gap = _widest(space, labels == label, seed)
        if gap is not None:
            gaps[label] = gap
    found, taken = labels.copy(), np.zeros(len(labels), bool)
    for label in sorted(gaps, key=lambda label: (-gaps[label].width, label)):
        if gaps[label].width <= 0:
            break
        beyond = gaps[label].beyond & ~taken
        found[(labels == label) & ~beyond & ~taken] = NONE
        found[beyond] = label
        taken |= beyond
    sizes = np.bincount(found[found != NONE], minlength=count)
    shrunk = sizes < np.bincount(labels[labels != NONE], minlength=count)
    left = [label for label in range(count) if not (shrunk[label] and sizes[label] < SMALLEST)]
    renamed = np.full(count + 1, NONE)
    renamed[left] = np.arange(len(left))
    return renamed[found], [gaps[label].width if label in gaps else -math.inf for label in left]
