"""The verdict on each method: does it lose its maps when the network loses its weights?

The verdict uses Spearman's rank correlation of absolute values between a map and its original, averaged over all steps of the
cascade, and the median of that over the images. It does not use the last step alone: a map that stays the same while the upper half
of the network is randomized cannot explain the decision, whatever happens in the lowest layers.

The correlation is compared with a chance level, because any two maps of 7 x 7 cells, or of photos with a central object, are
somewhat similar. The chance level is the similarity to the original maps of other images. ``kept`` rescales the correlation: 0 is
the chance level, 1 is the original map itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from camcli.sanity.check import MODES, Check, Key, Measurement
from camcli.sanity.similarity import mean, median

JUDGED_BY = "spearman_abs"
"""The measure that the verdict uses: the first one of Adebayo et al., and one that needs no rendered picture."""

KEEPS, LOSES = 0.5, 0.1
"""Limits of ``kept``: from 0.5 on a method keeps its map, below 0.1 it loses it, in between it keeps a part. See docs/sanity.md."""

LEAST_SHARE = 0.5
"""A verdict needs at least this share of comparable maps among those of the cascade."""

LOST, PART, KEPT, NONE = "loses its map", "keeps a part", "keeps its map", "undecided"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on one method at one layer: LOST, PART, KEPT or NONE.

    ``similarity``: to the original map of the same image, mean over the cascade, median over images. ``last``: the same after the
    last step only. ``chance``: mean similarity to the original maps of other images, 0 if there is only one image. ``kept``:
    (``similarity`` - ``chance``) / (1 - ``chance``), NaN without a verdict. ``maps``: number of maps of the cascade;
    ``comparable``: how many of them have a rank correlation.
    """

    method: str
    layer: str
    verdict: str
    kept: float
    similarity: float
    last: float
    chance: float
    maps: int
    comparable: int


def judge(check: Check) -> list[Verdict]:
    """A verdict for each method and layer, in the order of the check."""
    found: dict[Key, list[Measurement]] = {}
    for measurement in check.measurements:
        if measurement.mode == MODES[0] and measurement.step:
            found.setdefault((measurement.layer, measurement.method), []).append(measurement)
    return [_verdict(key, measurements, len(check.groups)) for key, measurements in found.items()]


def _verdict(key: Key, measurements: Sequence[Measurement], steps: int) -> Verdict:
    own, others = (_means_over_cascade(measurements, which) for which in ("similarity", "chance"))
    comparable = int(np.isfinite([getattr(one.similarity, JUDGED_BY) for one in measurements]).sum())
    similarity, chance = median(own), median(others)
    last = median(getattr(one.similarity, JUDGED_BY) for one in measurements if one.step == steps)
    chance = chance if np.isfinite(chance) else 0.0
    kept = (similarity - chance) / (1 - chance) if chance < 1 and comparable >= LEAST_SHARE * len(measurements) else np.nan
    layer, method = key
    return Verdict(method, layer, _verdict_of(kept), kept, similarity, last, chance, len(measurements), comparable)


def _means_over_cascade(measurements: Sequence[Measurement], which: str) -> list[float]:
    """For each image the mean over all steps of the cascade. ``which``: similarity or chance."""
    rows: dict[str, list[float]] = {}
    for one in measurements:
        rows.setdefault(one.image, []).append(getattr(getattr(one, which), JUDGED_BY))
    return [mean(row) for row in rows.values()]


def _verdict_of(kept: float) -> str:
    if np.isnan(kept):
        return NONE
    if kept >= KEEPS:
        return KEPT
    return LOST if kept < LOSES else PART
