"""Curves of a check: similarity of each method's maps to the originals after each step, with the spread over images."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from camcli.records import escape_name
from camcli.sanity.check import Check, Key
from camcli.sanity.similarity import MEASURES, median

COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8C6D1F", "#000000")
"""Colours that colour-blind people can tell apart (Okabe and Ito 2008)."""

_DASHES = ("-", (0, (4, 1.5)))
"""Line styles, used alternately: two curves that coincide (Grad-CAM and CAM) are both visible."""

_DOTS = (0, (1, 3))
_TITLES = {
    "spearman": "Rank correlation",
    "spearman_abs": "Rank correlation of absolute values",
    "ssim": "Structural similarity (SSIM)",
    "hog": "Correlation of oriented gradients (HOG)",
}
_HEADINGS = {
    "cascading": "Cascading randomization: all layers from the top down to the one named",
    "independent": "Independent randomization: the layer named alone",
}
_LONGEST_NAME = 22


def curves_png(check: Check, mode: str, model: str) -> bytes:
    """``curves_figure`` as a PNG file."""
    buffer = io.BytesIO()
    curves_figure(check, mode, model).savefig(buffer, format="png", metadata={"Software": "camcli"})
    return buffer.getvalue()


def curves_figure(check: Check, mode: str, model: str) -> Figure:
    """A figure with one panel per measure: the median over images of each method, and a band between the quartiles.

    Dotted lines show the chance level: the median similarity to the originals of other images. ``mode``: one of ``check.MODES``;
    ``model``: the model's name for the heading.
    """
    figure = Figure(figsize=(12.5, 8.6), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2, sharex=True)
    for axes, measure in zip(panels.flat, MEASURES, strict=True):
        _draw_panel(axes, check, mode, measure)
    for axes in panels[-1]:
        axes.set_xticks(range(len(check.groups) + 1), ["original", *(_short(group.name) for group in check.groups)])
        axes.tick_params(axis="x", labelrotation=60 if len(check.groups) <= 30 else 90)
        for label in axes.get_xticklabels():
            label.set_horizontalalignment("right" if len(check.groups) <= 30 else "center")
            label.set_rotation_mode("anchor" if len(check.groups) <= 30 else "default")
            label.set_fontsize(9 if len(check.groups) <= 30 else 5)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    between = Line2D([], [], color="#777777", linestyle=_DOTS, linewidth=1.2)
    handles, labels = [*handles, between], [*labels, "chance: similarity to other images' originals"]
    figure.legend(handles, labels, loc="outside lower center", ncols=min(5, len(labels)), frameon=False)
    images = len({measurement.image for measurement in check.measurements})
    photos = "1 image" if images == 1 else f"{images} images"
    figure.suptitle(f"{escape_name(model)}, {photos}. {_HEADINGS[mode]}", x=0.01, ha="left", fontsize=12)
    return figure


def label_of(key: Key, keys: Sequence[Key]) -> str:
    """The name of the method, with the layer if the method was computed at several layers."""
    layer, method = key
    return method if sum(other == method for _, other in keys) == 1 else f"{method} at {layer}"


def _draw_panel(axes: Axes, check: Check, mode: str, measure: str) -> None:
    keys = check.keys
    own, others = (_values(check, mode, which, measure) for which in ("similarity", "chance"))
    lowest = 0.0
    for position, key in enumerate(keys):
        color, dash = COLORS[position % len(COLORS)], _DASHES[position % len(_DASHES)]
        steps = sorted(own[key])
        quartiles = np.array([_quartiles(own[key][step]) for step in steps])
        lowest = min(lowest, np.nanmin(quartiles, initial=0.0))
        axes.fill_between(steps, quartiles[:, 0], quartiles[:, 2], color=color, alpha=0.13, linewidth=0)
        axes.plot(
            steps, quartiles[:, 1], linestyle=dash, color=color, marker="o", markersize=3.5, label=escape_name(label_of(key, keys))
        )
        axes.plot(steps, [median(others[key][step]) for step in steps], linestyle=_DOTS, color=color, linewidth=1.2)
    axes.set_title(_TITLES[measure], fontsize=11, loc="left")
    axes.set_ylim(min(-0.1, lowest - 0.03), 1.04)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _values(check: Check, mode: str, which: str, measure: str) -> dict[Key, dict[int, list[float]]]:
    """For each (layer, method) and step the values of all images. ``which``: similarity or chance."""
    found: dict[Key, dict[int, list[float]]] = {key: {} for key in check.keys}
    for measurement in check.measurements:
        if measurement.mode == mode:
            steps = found[measurement.layer, measurement.method]
            steps.setdefault(measurement.step, []).append(getattr(getattr(measurement, which), measure))
    return found


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    known = [value for value in values if np.isfinite(value)]
    if not known:
        return np.nan, np.nan, np.nan
    low, middle, high = np.percentile(known, (25, 50, 75))
    return float(low), float(middle), float(high)


def _short(name: str) -> str:
    name = escape_name(name)
    return name if len(name) <= _LONGEST_NAME else f"…{name[1 - _LONGEST_NAME :]}"
