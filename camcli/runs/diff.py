"""Comparing two runs over the same images: predictions that flipped and maps that moved."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from camcli.errors import InputError
from camcli.output.journal import Entry
from camcli.output.ledger import read_ledger
from camcli.output.maps import StoredMaps
from camcli.output.root import Root
from camcli.records import Box, escape_name, unescape_name
from camcli.render.maps import place_map, scale_map

_SAMPLES = 56
"""Two maps are compared at this many points a side, over the part of the image that both networks saw."""

_LARGEST_SIDE = 1 << 30
"""Maximum side of an image in pixels; a table with a larger number is forged."""


@dataclass(frozen=True, slots=True)
class Change:
    """One image in two runs. The pairs are (first run, second run).

    ``correlation`` and ``overlap`` compare the maps; None if there are no maps to compare. ``explained``: the classes of the two
    rows that were compared. ``overlays``: their overlays, relative to the folder of the run; empty if none was painted.
    """

    image: str
    predicted: tuple[str, str]
    probability: tuple[float, float]
    correlation: float | None
    overlap: float | None
    explained: tuple[str, str]
    overlays: tuple[str, str]

    @property
    def flipped(self) -> bool:
        """Whether the two runs predict different classes."""
        return self.predicted[0] != self.predicted[1]


@dataclass(frozen=True)
class Comparison:
    """All changes, the largest first. ``only``: how many images only the first and only the second run has explained."""

    changes: tuple[Change, ...]
    only: tuple[int, int]

    @property
    def agreement(self) -> float:
        """The fraction of images with the same predicted class, 0 to 1."""
        return 1 - sum(change.flipped for change in self.changes) / len(self.changes)

    @property
    def correlation(self) -> float | None:
        """The median correlation of the maps; None if no maps could be compared."""
        found = [change.correlation for change in self.changes if change.correlation is not None]
        return statistics.median(found) if found else None


@dataclass(frozen=True)
class _Run:
    root: Root
    rows: Mapping[str, list[dict[str, str]]]
    entries: Mapping[str, Entry]
    maps: StoredMaps


def compare_runs(first: str, second: str, threshold: float = 0.15) -> Comparison:
    """The changes from the run in the folder ``first`` to the run in ``second``; images are matched by name.

    If both runs stored maps, the compared maps have the same class, layer and method; if there is no such pair, the same class;
    else they belong to the first row of each run. They are sampled over the part of the image that both networks saw.
    ``correlation`` is Pearson's correlation; ``overlap`` is the intersection over union of the parts at or above ``threshold``, a
    fraction of the peak. Flipped predictions come first, then the lowest correlations. Raises InputError for a folder without a
    run, and for runs without a common image.
    """
    runs = _read(first), _read(second)
    common = [image for image in runs[0].rows if image in runs[1].rows]
    if not common:
        raise InputError(
            f"the runs in {escape_name(first)!r} and {escape_name(second)!r} have no image in common. "
            "Images are matched by their names in predictions.csv."
        )
    changes = [_change(image, runs, threshold) for image in common]
    changes.sort(key=lambda change: (not change.flipped, 2.0 if change.correlation is None else change.correlation))
    only = len(runs[0].rows) - len(common), len(runs[1].rows) - len(common)
    return Comparison(tuple(changes), only)


def _read(path: str) -> _Run:
    ledger = read_ledger(path)
    rows = {entry.image: own for entry, own in ledger.explained()}
    root = Root(path)
    return _Run(root, rows, ledger.entries, StoredMaps(root, ledger))


def _change(image: str, runs: tuple[_Run, _Run], threshold: float) -> Change:
    rows = runs[0].rows[image], runs[1].rows[image]
    one, other = _matched(*rows)
    maps = _map_of(image, one, runs[0]), _map_of(image, other, runs[1])
    seen = _both_see(one, other)
    correlation = overlap = None
    if maps[0] is not None and maps[1] is not None and seen is not None:
        placed = [_sampled(values, row, seen) for values, row in zip(maps, (one, other), strict=True) if values is not None]
        correlation, overlap = pearson(*placed), _overlap(placed[0] >= threshold, placed[1] >= threshold)
    predicted, explained, overlays = (
        (unescape_name(one[column]), unescape_name(other[column])) for column in ("predicted_class", "class_name", "overlay")
    )
    probability = _number(one["predicted_probability"]), _number(other["predicted_probability"])
    return Change(image, predicted, probability, correlation, overlap, explained, overlays)


def _matched(first: list[dict[str, str]], second: list[dict[str, str]]) -> tuple[dict[str, str], dict[str, str]]:
    """A row of each run with the same class, layer and method; if there is none, the same class; else the first rows.

    Classes are compared by name, because the same class may have different indices in two models. If several classes have the same
    name, their indices are compared too.
    """
    where = "layer", "method"
    for columns in (("class_index", "class_name", *where), ("class_name", *where), ("class_index", "class_name"), ("class_name",)):
        by_key = {tuple(row[column] for column in columns): row for row in reversed(second)}
        for row in first:
            key = tuple(row[column] for column in columns)
            if key in by_key:
                return row, by_key[key]
    return first[0], second[0]


def _map_of(image: str, row: Mapping[str, str], run: _Run) -> np.ndarray | None:
    rows = run.rows[image]
    stored = run.maps.of_image(run.entries[image], rows)[next(place for place, own in enumerate(rows) if own is row)]
    try:
        return None if stored is None else stored.read()
    except (OSError, ValueError) as error:
        place = run.root.at(stored.name) if stored is not None else ""
        raise InputError(f"the map {escape_name(place)!r} cannot be read: {error}. To check the folder: camcli verify") from error


def _number(cell: str) -> float:
    """The number in a cell of a table; NaN if it is not a finite number."""
    try:
        value = float(cell)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _box(row: Mapping[str, str]) -> Box | None:
    """The part of the image that the network saw, in pixels; None if the cells of the box are invalid."""
    sides = [_number(row[column]) for column in ("box_x", "box_y", "box_w", "box_h")]
    if not all(0 <= side <= _LARGEST_SIDE for side in sides) or 0 in sides[2:]:
        return None
    return Box(*map(int, sides))


def _both_see(one: Mapping[str, str], other: Mapping[str, str]) -> Box | None:
    a, b = _box(one), _box(other)
    if a is None or b is None:
        return None
    left, top = max(a.x, b.x), max(a.y, b.y)
    right, bottom = min(a.x + a.w, b.x + b.w), min(a.y + a.h, b.y + b.h)
    return Box(left, top, right - left, bottom - top) if right > left and bottom > top else None


def _sampled(values: np.ndarray, row: Mapping[str, str], seen: Box) -> np.ndarray:
    box = _box(row) or seen
    covered = float(box.x), float(box.y), float(box.w), float(box.h)
    return place_map(scale_map(values), covered, seen, (_SAMPLES, _SAMPLES)).whole()


def pearson(one: np.ndarray, other: np.ndarray) -> float | None:
    """Pearson's correlation of two arrays of any shape, the same for both; None if one of them is constant.

    It is exactly 1 for equal arrays, because the square root of a square is exact.
    """
    if one.min() == one.max() or other.min() == other.max():  # rounding errors of its mean would be correlated
        return None
    a, b = one.astype(np.float64) - one.mean(dtype=np.float64), other.astype(np.float64) - other.mean(dtype=np.float64)
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale > 0 else None


def _overlap(one: np.ndarray, other: np.ndarray) -> float | None:
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else None
