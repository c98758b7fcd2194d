"""What the figures of a check amount to: does a method lose its map when the network loses its weights?

What is judged is how much of the likeness to the original survives the cascade on the whole: Spearman's rank correlation of
absolute values, averaged over all steps, the median over the images. Not that after the last step alone: a map that stays as it was
while the upper half of the network has forgotten everything explains no decision, whatever the lowest layers do to it.

And not the bare figure: any two maps of 7 x 7 cells, or of pictures with their object in the middle, are a little alike. So a map
of the redrawn network is compared with the originals of other images too. Where it is no more like its own original than like
theirs, nothing of it is left; ``kept`` is how far it stands above that, on a scale on which the original itself is 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from camcli.sanity.check import MODES, Check, Key, Measurement
from camcli.sanity.similarity import mean, median

JUDGED_BY = "spearman_abs"
"""The measure of the verdict: the authors' first one, and the one that needs no picture."""

KEEPS, LOSES = 0.5, 0.1
"""Of ``kept``: from here on a method keeps its map, below here it loses it; in between it keeps a part. See docs/sanity.md."""

LEAST_SHARE = 0.5
"""Of the maps after a redraw that must be comparable, or there is no verdict."""

LOST, PART, KEPT, NONE = "loses its map", "keeps a part", "keeps its map", "undecided"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one method at one layer. ``verdict``: one of LOST, PART, KEPT, NONE.

    ``kept``: (``similarity`` - ``chance``) / (1 - ``chance``), NaN without a verdict. ``similarity``: to the image's own original,
    the mean over the cascade, the median over images; ``last``: after its last step alone. ``chance``: the same to originals of
    other images, 0 where there is one image only. ``maps``: made with redrawn weights in the cascade, of which ``comparable`` have
    something to compare.
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
    own, others = (_over_cascade(measurements, which) for which in ("similarity", "chance"))
    comparable = int(np.isfinite([getattr(one.similarity, JUDGED_BY) for one in measurements]).sum())
    similarity, chance = median(own), median(others)
    last = median(getattr(one.similarity, JUDGED_BY) for one in measurements if one.step == steps)
    chance = chance if np.isfinite(chance) else 0.0
    kept = (similarity - chance) / (1 - chance) if chance < 1 and comparable >= LEAST_SHARE * len(measurements) else np.nan
    layer, method = key
    return Verdict(method, layer, _word(kept), kept, similarity, last, chance, len(measurements), comparable)


def _over_cascade(measurements: Sequence[Measurement], which: str) -> list[float]:
    """For each image the mean over the steps. ``which``: similarity or chance."""
    rows: dict[str, list[float]] = {}
    for one in measurements:
        rows.setdefault(one.image, []).append(getattr(getattr(one, which), JUDGED_BY))
    return [mean(row) for row in rows.values()]


def _word(kept: float) -> str:
    if np.isnan(kept):
        return NONE
    if kept >= KEEPS:
        return KEPT
    return LOST if kept < LOSES else PART
