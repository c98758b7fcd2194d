"""What the figures of a check amount to: does a method lose its map when the network loses its weights?

What is judged is how much of the likeness to the original survives the cascade on the whole: Spearman's rank correlation of
absolute values, averaged over all steps, the median over the images. Not that after the last step alone: a map that stays as it was
while the upper half of the network has forgotten everything explains no decision, whatever the lowest layers do to it.

And not the bare figure: two maps of 7 x 7 cells, or of pictures with their object in the middle, are alike by chance. What chance
gives is measured on the originals of different images; ``kept`` is how far the likeness stands above that, where 1 is the original.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from camcli.sanity.check import MODES, Check, Key, Measurement
from camcli.sanity.similarity import Similarity

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

    ``kept``: (``similarity`` - ``chance``) / (1 - ``chance``), NaN without a verdict. ``similarity``: the mean over the cascade,
    median over images; ``last``: after its last step. ``chance``: the median between originals of different images, 0 where
    there is one image only. ``maps``: made with redrawn weights in the cascade, of which ``comparable`` have something to compare.
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
    return [_verdict(key, measurements, check.chance[key], len(check.stages)) for key, measurements in found.items()]


def _verdict(key: Key, measurements: Sequence[Measurement], between: Iterable[Similarity], steps: int) -> Verdict:
    rows: dict[str, list[float]] = {}
    for measurement in measurements:
        rows.setdefault(measurement.image, []).append(getattr(measurement.similarity, JUDGED_BY))
    comparable = int(sum(np.isfinite(row).sum() for row in rows.values()))
    similarity = median(mean(row) for row in rows.values())
    last = median(getattr(m.similarity, JUDGED_BY) for m in measurements if m.step == steps)
    by_chance = median(getattr(one, JUDGED_BY) for one in between)
    chance = by_chance if np.isfinite(by_chance) else 0.0
    kept = (similarity - chance) / (1 - chance) if chance < 1 else np.nan
    enough = comparable >= LEAST_SHARE * len(measurements) and bool(np.isfinite(kept))
    layer, method = key
    word = _word(kept) if enough else NONE
    return Verdict(method, layer, word, kept if enough else np.nan, similarity, last, chance, len(measurements), comparable)


def _word(kept: float) -> str:
    if kept >= KEEPS:
        return KEPT
    return LOST if kept < LOSES else PART


def median(values: Iterable[float]) -> float:
    """The median of those that are numbers; NaN where none is."""
    known = [value for value in values if np.isfinite(value)]
    return float(np.median(known)) if known else np.nan


def mean(values: Iterable[float]) -> float:
    """The mean of those that are numbers; NaN where none is."""
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else np.nan
