"""Bootstrap intervals over images (Efron 1979): what other images of the same kind would have given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95
_SEED = 0
_PART = 64

Reduce = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Weighted sums over images (S, D), and the sums of the weights (S,) -> a statistic (S,) or (S, P)."""


@dataclass(frozen=True)
class Estimate:
    """A statistic over ``count`` images, and the limits of its interval; NaN where there are fewer than two images."""

    value: float
    low: float
    high: float
    count: int


def mean(sums: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean of one value an image: sums (S, 1) -> (S,)."""
    return np.asarray(sums[:, 0] / weights)


def means(sums: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean of each of P values: sums (S, P) -> (S, P)."""
    return np.asarray(sums / weights[:, None])


def present(data: np.ndarray) -> np.ndarray:
    """The images (n,) bool that have a value: rows of ``data`` (n, D) without NaN in the first column."""
    return np.asarray(~np.isnan(data[:, 0]))


def estimate(data: np.ndarray, reduce: Reduce) -> Estimate:
    """The statistic of ``data`` (n, D), a row an image; images without a value are left out. Percentile interval."""
    known = data[present(data)]
    if not len(known):
        return Estimate(np.nan, np.nan, np.nan, 0)
    low, high = interval(resampled(known, reduce)) if len(known) > 1 else (np.nan, np.nan)
    return Estimate(float(_whole(known, reduce)), float(low), float(high), len(known))


def difference(one: np.ndarray, other: np.ndarray, reduce: Reduce) -> Estimate:
    """The statistic of ``one`` less that of ``other``, both (n, D) over the same images: paired, each resample takes both."""
    both = present(one) & present(other)
    if not both.any():
        return Estimate(np.nan, np.nan, np.nan, 0)
    a, b = one[both], other[both]
    value = float(_whole(a, reduce) - _whole(b, reduce))
    low, high = interval(resampled(a, reduce) - resampled(b, reduce)) if len(a) > 1 else (np.nan, np.nan)
    return Estimate(value, float(low), float(high), len(a))


def band(data: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mean curve of ``data`` (n, P) and its pointwise limits, (P,) each; the limits are the mean for a single image."""
    known = data[present(data)]
    middle = known.mean(axis=0)
    if len(known) < 2:
        return middle, middle, middle
    low, high = interval(resampled(known, means))
    return middle, low, high


def interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The percentiles of resampled statistics (RESAMPLES,) or (RESAMPLES, P) that enclose LEVEL of them."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high


def resampled(data: np.ndarray, reduce: Reduce) -> np.ndarray:
    """The statistic of RESAMPLES resamples of ``data`` (n, D): (RESAMPLES,) or (RESAMPLES, P). They depend on n alone."""
    weights = _weights(len(data))
    parts = []
    for start in range(0, RESAMPLES, _PART):
        part = weights[start : start + _PART].astype(np.float64)
        parts.append(reduce(part @ data, part.sum(axis=1)))
    return np.concatenate(parts)


def _whole(data: np.ndarray, reduce: Reduce) -> np.ndarray:
    return np.asarray(reduce(data.sum(axis=0, keepdims=True), np.array([float(len(data))]))[0])


@lru_cache(maxsize=2)
def _weights(count: int) -> np.ndarray:
    """How often each of ``count`` images is in each resample, (RESAMPLES, count) uint8."""
    generator = np.random.default_rng(_SEED)
    found = np.empty((RESAMPLES, count), np.uint8)
    for row in found:
        row[:] = np.bincount(generator.integers(0, count, count), minlength=count)
    return found
