"""Pictures of an evaluation: methods against controls, and the curves of deletion and insertion."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from camcli.config.run import CURVES
from camcli.evaluate.bootstrap import band
from camcli.evaluate.compare import Result
from camcli.evaluate.values import CONTROLS, Evaluated, Key, Values
from camcli.records import escape_name

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D1F", "#000000")
"""Colours that colour-blind people can tell apart (Okabe and Ito 2008)."""

_GREYS = {"uniform": "#555555", "random": "#888888", "center": "#b0a090"}
_DASHES = {"uniform": (0, (1, 1.5)), "random": (0, (4, 2)), "center": (0, (4, 1.5, 1, 1.5))}
_DIRECTIONS = {"lower": "lower is better", "higher": "higher is better", "": "neither end is better"}
_MOST_LINES = 24
_LONGEST_NAME = 40


def label_of(key: Key, keys: Sequence[Key], runs: Sequence[Evaluated]) -> str:
    """The method; with the layer and the run if there are several of them."""
    layers = {one.layer for one in keys if one.method not in CONTROLS}
    text = key.method if len(layers) < 2 or key.method in CONTROLS else f"{key.method} at {key.layer}"
    text = text if len({one.run for one in keys}) < 2 else f"{text}, {runs[key.run].label}"
    text = escape_name(text)
    return text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 1]}…"


def methods_png(results: Sequence[Result], better: dict[str, str], runs: Sequence[Evaluated]) -> bytes:
    """A panel for each metric: the mean of each method and control with its interval."""
    metrics = list(dict.fromkeys(result.metric for result in results))
    keys = list(dict.fromkeys(result.key for result in results))
    columns = min(3, len(metrics))
    lines = -(-len(metrics) // columns)
    height = 0.9 + 0.26 * min(len(keys), _MOST_LINES)
    figure = Figure(figsize=(4.6 * columns, max(2.2, height) * lines), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    panels = figure.subplots(lines, columns, squeeze=False)
    for axes in panels.flat[len(metrics) :]:
        axes.set_visible(False)
    for axes, metric in zip(panels.flat, metrics, strict=False):
        _draw_metric(axes, [result for result in results if result.metric == metric][:_MOST_LINES], keys, runs)
        axes.set_title(f"{metric} ({_DIRECTIONS[better[metric]]})", fontsize=10, loc="left")
    return _png(figure)


def _draw_metric(axes: Axes, results: Sequence[Result], keys: Sequence[Key], runs: Sequence[Evaluated]) -> None:
    methods = [key for key in keys if key.method not in CONTROLS]
    for place, result in enumerate(results):
        color = _color(result.key, methods)
        found = result.estimate
        low, high = (found.value if math.isnan(limit) else limit for limit in (found.low, found.high))
        axes.plot([low, high], [place, place], color=color, linewidth=2)
        axes.plot([found.value], [place], marker="s" if result.key.method in CONTROLS else "o", color=color, markersize=6)
    axes.set_yticks(range(len(results)), [label_of(result.key, keys, runs) for result in results], fontsize=9)
    axes.set_ylim(len(results) - 0.5, -0.5)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _color(key: Key, methods: Sequence[Key]) -> str:
    return _GREYS[key.method] if key.method in CONTROLS else COLORS[methods.index(key) % len(COLORS)]


def curves_png(values: Values, runs: Sequence[Evaluated]) -> bytes | None:
    """The mean curves of deletion and insertion with their intervals; None if no run has them."""
    names = [metric for metric in CURVES if CURVES[metric] in values.metrics and values.keys(CURVES[metric])]
    if not names:
        return None
    figure = Figure(figsize=(6.2 * len(names), 5.2), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        _draw_curves(axes, values, CURVES[name], runs)
        axes.set_title(f"{name} ({'lower' if name == 'deletion' else 'higher'} is better)", fontsize=11, loc="left")
        axes.set_xlabel("share of the pixels " + ("removed" if name == "deletion" else "put in"))
    panels[0].set_ylabel("score of the explained class")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False)
    return _png(figure)


def _draw_curves(axes: Axes, values: Values, column: str, runs: Sequence[Evaluated]) -> None:
    keys = sorted(values.keys(column), key=lambda key: key.method in CONTROLS)[:_MOST_LINES]
    methods = [key for key in keys if key.method not in CONTROLS]
    for key in keys:
        middle, low, high = band(values.of(column, key))
        share = np.linspace(0, 1, len(middle))
        color = _color(key, methods)
        axes.fill_between(share, low, high, color=color, alpha=0.05 if key.method in CONTROLS else 0.15, linewidth=0)
        axes.plot(
            share, middle, color=color, linestyle=_DASHES.get(key.method, "-"), linewidth=1.8, label=label_of(key, keys, runs)
        )
    axes.set_xlim(0, 1)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": "camcli"})
    return buffer.getvalue()
