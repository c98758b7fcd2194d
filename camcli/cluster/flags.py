"""Signs that a group of images is recognised by a shortcut, each with its figures, and how suspicious they make the group."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from camcli.cluster.gap import MINORITY

TIGHT, SMALL = 0.4, 0.6
"""A group is small and tight with a silhouette of at least 0.4 and at most 60 percent of the images of its class."""

FIXED, NARROW = 0.7, 0.25
"""Evidence is in a fixed place if the maps resemble their mean map (cosine of at least 0.7) and 25 percent of it is in one tenth of
the cells."""

OUTSIDE = 0.67
"""Evidence is outside the usual place if the mean map overlaps with that of the rest, which is the larger part of the class, by at
most 67 percent."""

SET_APART = ((0.21, 0.0), (0.17, 3.0))
"""A group is set apart by few channels if 1 percent of the channels carry 21 percent of the evidence that it has more than the
rest, and it does not overlap with the rest; or 17 percent, with a gap of 3 standard deviations."""

BETTER, SURER = 0.1, 0.8
"""Accuracy at least 10 percentage points above that of the rest; a probability that is above that of an image of the rest in 80
percent of pairs."""

_SIGNIFICANT = 1e-3
"""Differences that chance makes more often than this are no sign."""

FLAGS = {
    "tight": "small and tight",
    "apart": "set apart by few channels",
    "fixed": "evidence in a fixed place",
    "outside": "evidence outside the usual place",
    "right": "right mainly within the group",
    "sure": "unusually high confidence",
}
"""Flag -> words for people."""


@dataclass(frozen=True)
class Measured:
    """What the flags are made from. ``maps``: mean map of the group and of the rest, (h, w), each adds up to 1, or None.

    ``likeness``: mean cosine between the maps of the group and their mean map. ``right``: right and all labelled images, in the
    group and outside. ``confidences``: probabilities of the group's images and of the rest. ``gap``: its width, see ``gap.Gap``.
    ``few``: the share of 1 percent of the channels in the evidence that the group has more, 0 without contributions.
    """

    share: float
    silhouette: float
    maps: tuple[np.ndarray, np.ndarray] | None
    likeness: float
    right: tuple[tuple[int, int], tuple[int, int]]
    confidences: tuple[np.ndarray, np.ndarray]
    gap: float = -math.inf
    few: float = 0.0


def flags_of(measured: Measured) -> dict[str, str]:
    """The flags of a group: name in FLAGS -> the figures in words."""
    found: dict[str, str] = {}
    if measured.silhouette >= TIGHT and measured.share <= SMALL:
        found["tight"] = f"{measured.share:.0%} of the class, silhouette {measured.silhouette:.2f}"
    if measured.share <= MINORITY and any(measured.few >= few and measured.gap >= gap for few, gap in SET_APART):
        found["apart"] = f"1% of the channels carry {measured.few:.0%} of its extra evidence, gap to the others {measured.gap:.1f}"
    if measured.maps is not None:
        mean, rest = measured.maps
        narrow = peak_share(mean)
        if measured.likeness >= FIXED and narrow >= NARROW:
            found["fixed"] = (
                f"{place_of(mean)}; {narrow:.0%} of the evidence in a tenth of the cells, alike to {measured.likeness:.2f}"
            )
        overlap = float(np.minimum(mean, rest).sum())
        if rest.sum() > 0 and mean.sum() > 0 and overlap <= OUTSIDE and measured.share <= MINORITY:
            found["outside"] = f"{place_of(excess(mean, rest))}; overlaps with that of the other images by {overlap:.0%}"
    (right, all_in), (other, all_out) = measured.right
    if all_in and all_out and right / all_in - other / all_out >= BETTER and _chance(right, all_in, other, all_out) < _SIGNIFICANT:
        found["right"] = f"accuracy {right / all_in:.0%} in the group, {other / all_out:.0%} outside"
    inside, outside = measured.confidences
    if len(inside) and len(outside):
        above, chance = _above(inside, outside)
        if above >= SURER and chance < _SIGNIFICANT:
            found["sure"] = f"mean probability {inside.mean():.2f}, {outside.mean():.2f} outside"
    return found


def suspicion(flags: dict[str, str], silhouette: float) -> float:
    """How much a group looks like a shortcut: a point a flag, one more each for few channels and for a fixed place with tightness,
    and the silhouette.
    """
    bonus = float("apart" in flags) + float({"tight", "fixed"} <= flags.keys())
    return len(flags) + bonus + max(0.0, silhouette)


def is_suspected(flags: dict[str, str]) -> bool:
    """Whether a group may be a shortcut: few channels set it apart, or it is small and tight and the network is surer or more often
    right within it.
    """
    return "apart" in flags or ("tight" in flags and bool({"sure", "right"} & flags.keys()))


def excess(mean: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """By how much the mean map of a group exceeds that of the rest in each cell, or 0: (h, w) twice -> (h, w). Both add up to 1."""
    return np.asarray(np.maximum(mean - rest, 0))


def peak_share(mean: np.ndarray) -> float:
    """The share of a mean map (h, w) in the tenth of its cells with the largest values."""
    total = float(mean.sum())
    return float(_peak(mean).sum() / total) if total > 0 else 0.0


def _peak(mean: np.ndarray) -> np.ndarray:
    """A mean map (h, w) in the tenth of its cells with the largest values, 0 elsewhere: (h, w)."""
    peak = np.zeros(mean.size)
    highest = np.argsort(mean.ravel(), kind="stable")[-max(1, mean.size // 10) :]
    peak[highest] = mean.ravel()[highest]
    return peak.reshape(mean.shape)


def place_of(mean: np.ndarray) -> str:
    """Where the centre of the tenth of a mean map (h, w) with the largest values is, in words."""
    mean = _peak(mean)
    total = float(mean.sum())
    if total <= 0:
        return "nowhere"
    height, width = mean.shape
    y = float((mean.sum(axis=1) * (np.arange(height) + 0.5)).sum() / total / height)
    x = float((mean.sum(axis=0) * (np.arange(width) + 0.5)).sum() / total / width)
    row = "top" if y < 0.38 else "bottom" if y > 0.62 else ""
    column = "left" if x < 0.38 else "right" if x > 0.62 else ""
    return f"{row} {column}".strip() or "centre"


def _chance(right: int, all_in: int, other: int, all_out: int) -> float:
    """The probability that chance alone makes the group so much better: Fisher's exact test, one-sided."""
    total, good = all_in + all_out, right + other

    def log_choose(n: int, k: int) -> float:
        return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)

    whole = log_choose(total, all_in)
    terms = (
        math.exp(log_choose(good, k) + log_choose(total - good, all_in - k) - whole)
        for k in range(right, min(good, all_in) + 1)
        if all_in - k <= total - good
    )
    return min(1.0, sum(terms))


def _above(inside: np.ndarray, outside: np.ndarray) -> tuple[float, float]:
    """The share of pairs in which the value inside is higher, and the probability of chance (Mann and Whitney 1947, normal)."""
    ordered = np.sort(outside)
    below = np.searchsorted(ordered, inside, "left") + np.searchsorted(ordered, inside, "right")
    n, m = len(inside), len(outside)
    share = float(below.sum() / 2 / n / m)
    z = (share - 0.5) / math.sqrt((n + m + 1) / (12 * n * m))
    return share, 0.5 * math.erfc(z / math.sqrt(2))
