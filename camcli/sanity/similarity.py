"""How alike two maps are, in the four ways of Adebayo et al. 2018 (section 3).

Ranks are compared cell by cell, at the map's own resolution: enlarging a map of 7 x 7 cells would only repeat them. Structure
(SSIM) and edges (HOG) are those of the picture that a person sees: negative values cut to 0, divided by the peak, enlarged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import cv2
import numpy as np
from scipy.stats import rankdata
from skimage.feature import hog
from skimage.metrics import structural_similarity

from camcli.render.maps import scale_map
from camcli.runs.diff import pearson

SIDE = 112
"""Pixels a side of the pictures: half of what most networks see."""

CELL = 14
"""Pixels a side of a cell of HOG: 8 x 8 cells, of 9 directions each, normalised in blocks of 2 x 2."""


@dataclass(frozen=True, slots=True)
class Similarity:
    """Of two maps, each from -1 to 1, and 1 for equal ones; NaN where one of the two has nothing to compare.

    ``spearman``: rank correlation of the values, ``spearman_abs`` of their absolute values. ``ssim``: structural similarity of
    the pictures (Wang et al. 2004), ``hog``: correlation of their histograms of oriented gradients (Dalal and Triggs 2005).
    """

    spearman: float
    spearman_abs: float
    ssim: float
    hog: float


MEASURES = tuple(field.name for field in fields(Similarity))
"""Columns of the table."""


@dataclass(frozen=True)
class NormalizedMap:
    """A map made ready for comparing: what each measure needs, None where the map does not give it."""

    ranks: np.ndarray | None
    ranks_abs: np.ndarray | None
    picture: np.ndarray | None
    edges: np.ndarray | None


def normalized_map(values: np.ndarray) -> NormalizedMap:
    """``values`` (h, w), raw, made ready for any number of comparisons.

    A map with NaN or infinity gives nothing, a constant one no ranks, one without a positive value no picture.
    """
    if not np.isfinite(values).all():
        return NormalizedMap(None, None, None, None)
    scaled = scale_map(values)
    if scaled.max() == scaled.min():
        return NormalizedMap(_ranks(values), _ranks(np.abs(values)), None, None)
    shrinks = scaled.shape[0] > SIDE or scaled.shape[1] > SIDE
    picture = np.asarray(cv2.resize(scaled, (SIDE, SIDE), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR))
    edges = np.asarray(hog(picture, orientations=9, pixels_per_cell=(CELL, CELL), cells_per_block=(2, 2)))
    return NormalizedMap(_ranks(values), _ranks(np.abs(values)), picture, edges)


def compare_maps(one: NormalizedMap, other: NormalizedMap) -> Similarity:
    """How alike two maps of the same size are. Raises ValueError where their sizes differ."""
    ssim = np.nan
    if one.picture is not None and other.picture is not None:
        ssim = float(structural_similarity(one.picture, other.picture, data_range=1.0))  # type: ignore[no-untyped-call]
    return Similarity(
        _correlation(one.ranks, other.ranks),
        _correlation(one.ranks_abs, other.ranks_abs),
        ssim,
        _correlation(one.edges, other.edges),
    )


def mean_similarity(found: Sequence[Similarity]) -> Similarity:
    """The mean of each measure over those of ``found`` in which it is a number; NaN where it is in none."""
    return Similarity(*(mean(getattr(one, measure) for one in found) for measure in MEASURES))


def mean(values: Iterable[float]) -> float:
    """The mean of those that are numbers; NaN where none is."""
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else np.nan


def median(values: Iterable[float]) -> float:
    """The median of those that are numbers; NaN where none is."""
    known = [value for value in values if np.isfinite(value)]
    return float(np.median(known)) if known else np.nan


def _ranks(values: np.ndarray) -> np.ndarray | None:
    """The rank of each cell, the mean of their ranks for equal ones: (h * w,). None where all are equal."""
    ranks: np.ndarray = rankdata(values)
    return None if ranks.min() == ranks.max() else ranks.ravel()


def _correlation(one: np.ndarray | None, other: np.ndarray | None) -> float:
    found = None if one is None or other is None else pearson(one, other)
    return np.nan if found is None else min(1.0, max(-1.0, found))
