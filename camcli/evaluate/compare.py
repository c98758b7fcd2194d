"""Each method against the controls: means with intervals, paired differences, and a verdict where they allow one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from camcli.evaluate.bootstrap import Estimate, Reduce, difference, estimate, mean, present
from camcli.evaluate.values import CONTROLS, Evaluated, Key, Values, is_curve
from camcli.metrics import FACTS

NO_DIFFERENCE, NO_CONTROL = "no difference shown", "no control"


@dataclass(frozen=True)
class Kind:
    """How a metric is evaluated. ``better``: lower, higher, or empty if neither is. ``reduce``: from images to a statistic.

    ``by_image``: whether one image has a value of its own, so that images can be compared one by one.
    """

    better: str
    reduce: Reduce = mean
    by_image: bool = True


@dataclass(frozen=True)
class Difference:
    """A method less a control, over the images that both have. ``better``: the share of images in which the method is better.

    An image in which both are equal counts half. ``better`` is NaN for a metric that has no value for a single image.
    """

    estimate: Estimate
    better: float


@dataclass(frozen=True)
class Result:
    """A metric of a method at a layer in a run. ``left_out``: maps that have no value, because they are empty or not finite.

    ``controls``: control -> difference to it. ``best``: the best control. ``verdict``: empty for controls, and for metrics of which
    neither end is better.
    """

    metric: str
    key: Key
    estimate: Estimate
    left_out: int
    controls: Mapping[str, Difference]
    best: str
    verdict: str


def kinds_of_metrics() -> dict[str, Kind]:
    """The kinds of the metrics of a run, by name."""
    return {name: Kind(fact.better) for name, fact in FACTS.items()}


def compare(values: Values, runs: Sequence[Evaluated], kinds: Mapping[str, Kind]) -> list[Result]:
    """The results of all metrics in ``values``, in the order of the metrics, runs, layers and methods; controls come last."""
    found: list[Result] = []
    for metric in values.metrics:
        if not is_curve(metric):
            keys = sorted(values.keys(metric), key=lambda key: (key.method in CONTROLS, key.run))
            found += [_result(values, metric, key, _controls(keys, key, runs), kinds[metric]) for key in keys]
    return found


def _controls(keys: Sequence[Key], key: Key, runs: Sequence[Evaluated]) -> dict[str, Key]:
    """The controls for ``key``: those of its own run, else those of a run with the same network."""
    found: dict[str, Key] = {}
    for name in CONTROLS:
        same = [one for one in keys if one.method == name and runs[one.run].network == runs[key.run].network]
        same.sort(key=lambda one: one.run != key.run)
        if same:
            found[name] = same[0]
    return found


def _result(values: Values, metric: str, key: Key, controls: Mapping[str, Key], kind: Kind) -> Result:
    own = estimate(values.of(metric, key), kind.reduce)
    left_out = values.left_out.get((metric, key), 0)
    if key.method in CONTROLS:
        return Result(metric, key, own, left_out, {}, "", "")
    differences = {name: _difference(values, metric, key, control, kind) for name, control in controls.items()}
    best = _best(differences, kind)
    return Result(metric, key, own, left_out, differences, best, _verdict(differences, best, kind))


def _difference(values: Values, metric: str, key: Key, control: Key, kind: Kind) -> Difference:
    one, other = values.pair(metric, key, control)
    share = math.nan
    if kind.by_image and kind.better:
        both = present(one) & present(other)
        gap = (one[both, 0] - other[both, 0]) * (1 if kind.better == "higher" else -1)
        share = float(np.mean((gap > 0) + 0.5 * (gap == 0))) if both.any() else math.nan
    return Difference(difference(one, other, kind.reduce), share)


def _best(differences: Mapping[str, Difference], kind: Kind) -> str:
    """The control that is best, so that the method's difference to it is the least favourable; empty without one."""
    sign = -1 if kind.better == "lower" else 1
    known = {name: sign * found.estimate.value for name, found in differences.items() if not math.isnan(found.estimate.value)}
    return min(known, key=lambda name: known[name]) if known and kind.better else ""


def _verdict(differences: Mapping[str, Difference], best: str, kind: Kind) -> str:
    if not kind.better:
        return ""
    if not best:
        return NO_CONTROL
    found = differences[best].estimate
    low, high = (found.low, found.high) if kind.better == "higher" else (-found.high, -found.low)
    if low > 0:
        return f"better than {best}"
    return f"worse than {best}" if high < 0 else NO_DIFFERENCE
