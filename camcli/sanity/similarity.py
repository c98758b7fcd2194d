"""Similarity of two maps by the four measures of Adebayo et al. 2018 (section 3).

Rank correlations are computed cell by cell at the resolution of the map; enlarging a map of 7 x 7 cells would only repeat them.
SSIM and HOG are computed on the map as it is shown: negative values cut to 0, divided by the peak, enlarged to 112 x 112 pixels.
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
"""Width and height of the enlarged maps in pixels: half of the usual network input."""

CELL = 14
"""Width and height of a HOG cell in pixels: 8 x 8 cells with 9 orientations each, normalized in blocks of 2 x 2."""


@dataclass(frozen=True, slots=True)
class Similarity:
    """Similarity of two maps, each measure from -1 to 1, and 1 for equal maps; NaN if one of the maps cannot be compared.

    ``spearman``: rank correlation of the values. ``spearman_abs``: rank correlation of the absolute values. ``ssim``: structural
    similarity (Wang et al. 2004). ``hog``: correlation of the histograms of oriented gradients (Dalal and Triggs 2005).
    """

    spearman: float
    spearman_abs: float
    ssim: float
    hog: float


MEASURES = tuple(field.name for field in fields(Similarity))
"""Names of the measures, which are columns of ``sanity.csv``."""


@dataclass(frozen=True)
class NormalizedMap:
    """A map prepared for comparison: the input of each measure, None where the map has none."""

    ranks: np.ndarray | None
    ranks_abs: np.ndarray | None
    picture: np.ndarray | None
    edges: np.ndarray | None


def normalized_map(values: np.ndarray) -> NormalizedMap:
    """The raw map ``values`` (h, w), prepared for comparisons.

    A map with NaN or infinity cannot be compared at all. A constant map has no ranks; a map without positive values has no picture.
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
    """The similarity of two maps of the same size. Raises ValueError if their sizes differ."""
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
    """The mean of each measure, without NaN values; NaN if all are NaN."""
    return Similarity(*(mean(getattr(one, measure) for one in found) for measure in MEASURES))


def mean(values: Iterable[float]) -> float:
    """The mean of the finite values; NaN if there are none."""
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else np.nan


def median(values: Iterable[float]) -> float:
    """The median of the finite values; NaN if there are none."""
    known = [value for value in values if np.isfinite(value)]
    return float(np.median(known)) if known else np.nan


def _ranks(values: np.ndarray) -> np.ndarray | None:
    """The rank of each cell (h * w,), ties averaged; None if all cells are equal."""
    ranks: np.ndarray = rankdata(values)
    return None if ranks.min() == ranks.max() else ranks.ravel()


def _correlation(one: np.ndarray | None, other: np.ndarray | None) -> float:
    found = None if one is None or other is None else pearson(one, other)
    return np.nan if found is None else min(1.0, max(-1.0, found))
