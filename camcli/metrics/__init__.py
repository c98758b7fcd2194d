"""Metrics of heatmaps: does the score follow the map (faithfulness), does the map stay the same, how concentrated is it.

This module is the table of metrics and knows no torch. ``measure`` computes them in the batch in which the maps are made.
"""

from __future__ import annotations

from dataclasses import dataclass

from camcli.config.run import METRICS


@dataclass(frozen=True)
class Metric:
    """What ``camcli methods --metrics`` prints about a metric.

    ``better``: ``lower`` or ``higher``; empty if neither is better. ``passes``: forward passes for each map, beside those that make
    the map; {steps} stands for ``--steps``. ``wrong``: what it rewards wrongly.
    """

    name: str
    source: str
    better: str
    passes: str
    measures: str
    wrong: str


_MASKED = "1, shared by drop, increase, gain, coherency and adcc"
_FACTS = (
    Metric(
        "drop",
        "Chattopadhay et al. 2018, average drop",
        "lower",
        _MASKED,
        "share of the score that is lost when the image is multiplied by the map",
        "a map that covers everything: its drop is 0",
    ),
    Metric(
        "increase",
        "Chattopadhay et al. 2018, increase in confidence",
        "higher",
        _MASKED,
        "1 if the score rises when the image is multiplied by the map, else 0",
        "any darkening that happens to help; the size of the rise does not count",
    ),
    Metric(
        "gain",
        "Zhang et al. 2024 (Opti-CAM), average gain",
        "higher",
        _MASKED,
        "share of what the probability can still gain that it gains by the multiplication",
        "images of low probability, which have more to gain",
    ),
    Metric(
        "deletion",
        "Petsiuk et al. 2018",
        "lower",
        "{steps}, less 1",
        "area under the score while the most important pixels are removed",
        "maps whose holes look strange to the network, such as scattered pixels",
    ),
    Metric(
        "insertion",
        "Petsiuk et al. 2018",
        "higher",
        "{steps}",
        "area under the score while the most important pixels are put into a blurred image",
        "large connected regions, and maps that begin where the blurred image still shows the object",
    ),
    Metric(
        "road",
        "Rong et al. 2022",
        "higher",
        "8",
        "half the difference of the scores without the least and without the most important pixels, which are imputed",
        "smooth maps: holes of scattered pixels are imputed almost perfectly",
    ),
    Metric(
        "coherency",
        "Poppi et al. 2021",
        "higher",
        "1, and the passes of the method once more",
        "correlation with the map of the image multiplied by the map",
        "maps that do not depend on the image: random has 1",
    ),
    Metric(
        "complexity",
        "Poppi et al. 2021",
        "lower",
        "0",
        "mean of the map, scaled to its peak",
        "a single pixel, wherever it is",
    ),
    Metric(
        "adcc",
        "Poppi et al. 2021",
        "higher",
        "1, and the passes of the method once more",
        "harmonic mean of coherency, 1 - complexity and 1 - drop",
        "middling maps; what its three parts reward, in a smaller measure",
    ),
    Metric(
        "entropy",
        "Shannon 1948",
        "",
        "0",
        "entropy of the positive values: 0 one cell, 1 all cells alike",
        "it knows nothing of the network: neither end is better",
    ),
    Metric(
        "sparsity",
        "Hurley and Rickard 2009, Gini index",
        "",
        "0",
        "Gini index of the positive values: 0 all cells alike, towards 1 one cell",
        "it knows nothing of the network: neither end is better",
    ),
    Metric(
        "infidelity",
        "Yeh et al. 2019",
        "lower",
        "10 an image",
        "mean squared error of the change of the score that the map predicts for removed squares, at the best scale",
        "images whose score never changes: their infidelity is 0 for every map",
    ),
    Metric(
        "sensitivity",
        "Yeh et al. 2019, max-sensitivity",
        "lower",
        "4 times the passes of the method",
        "largest relative change of the map under noise that nobody sees",
        "maps that ignore the image: the controls have 0",
    ),
)

FACTS = {fact.name: fact for fact in _FACTS}
"""The metrics by name, in the order of their columns."""

assert tuple(FACTS) == METRICS, "config.run.METRICS has the names for the command line"
