"""The files of an evaluation: ``evaluation.csv``, ``evaluation.json`` and pictures, written into an output folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from camcli import __version__
from camcli.evaluate.bootstrap import LEVEL, RESAMPLES, Estimate
from camcli.evaluate.compare import Kind, Result
from camcli.evaluate.values import CONTROLS, Evaluated, Values
from camcli.layout import EVALUATION, EVALUATION_PICTURES, EVALUATION_RECORD, EVALUATION_TABLE, JOURNAL, OUTPUT_NAMES
from camcli.output.checks import check_place
from camcli.output.locks import claimed
from camcli.output.root import Root
from camcli.output.writers import csv_line, json_bytes, table_line

COLUMNS = (
    "metric", "run", "layer", "method", "images", "left_out", "mean", "low", "high",
    *(f"{control}_{what}" for control in CONTROLS for what in ("difference", "low", "high", "better")),
    "verdict",
)  # fmt: skip
"""The columns of ``evaluation.csv``."""

FORMAT = 1
"""Format of ``evaluation.json``."""


def write_evaluation(
    place: str,
    results: Sequence[Result],
    values: Values,
    runs: Sequence[Evaluated],
    kinds: Mapping[str, Kind],
    facts: Mapping[str, Any],
) -> list[str]:
    """Write the files of an evaluation into the folder ``place``, which is created if it is missing. Returns their names.

    ``facts``: more for ``evaluation.json``. Files of an earlier evaluation are replaced. Raises OutputError if the folder cannot be
    written, and InUseError while another process writes into it.
    """
    from camcli.evaluate.plots import curves_png, methods_png

    better = {metric: kinds[metric].better for metric in dict.fromkeys(result.metric for result in results)}
    contents = {
        EVALUATION_TABLE: csv_line(COLUMNS) + b"".join(_line(result, runs) for result in results),
        EVALUATION_PICTURES[0]: methods_png(results, better, runs),
        EVALUATION_PICTURES[1]: curves_png(values, runs),
        EVALUATION_RECORD: json_bytes(_record(results, runs, better, facts)),
    }
    return write_files(place, contents)


def write_files(place: str, contents: Mapping[str, bytes | None]) -> list[str]:
    """Write the files ``contents`` into the folder ``place``; None removes an earlier one. Returns the names that were written."""
    root = Root(place)
    check_place(root.path)
    with claimed(root, "camcli command", lambda: any(map(root.exists, (JOURNAL, *OUTPUT_NAMES)))):
        for name in EVALUATION:
            data = contents.get(name)
            if data is None:
                root.remove(name)
            else:
                root.write_changed(name, data)
    return [name for name in EVALUATION if contents.get(name) is not None]


def _line(result: Result, runs: Sequence[Evaluated]) -> bytes:
    own, cells = result.estimate, list[Any]()
    for control in CONTROLS:
        found = result.controls.get(control)
        cells += [None] * 4 if found is None else [*_limits(found.estimate), _known(found.better)]
    facts = (result.metric, runs[result.key.run].label, result.key.layer, result.key.method, own.count, result.left_out)
    return table_line((*facts, *_limits(own), *cells, result.verdict))


def _limits(found: Estimate) -> tuple[float | None, float | None, float | None]:
    return _known(found.value), _known(found.low), _known(found.high)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _record(
    results: Sequence[Result], runs: Sequence[Evaluated], better: Mapping[str, str], facts: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "camcli": __version__,
        "camcli_evaluation": FORMAT,
        "runs": [run.label for run in runs],
        "interval": {"level": LEVEL, "resamples": RESAMPLES, "method": "percentile bootstrap over images"},
        "better": dict(better),
        **facts,
        "results": [_as_json(result, runs) for result in results],
    }


def _as_json(result: Result, runs: Sequence[Evaluated]) -> dict[str, Any]:
    differences = {
        control: {**_estimate(found.estimate), "better": _known(found.better)} for control, found in result.controls.items()
    }
    return {
        "metric": result.metric,
        "run": runs[result.key.run].label,
        "layer": result.key.layer,
        "method": result.key.method,
        **_estimate(result.estimate),
        "left_out": result.left_out,
        "controls": differences,
        "best_control": result.best or None,
        "verdict": result.verdict or None,
    }


def _estimate(found: Estimate) -> dict[str, Any]:
    value, low, high = _limits(found)
    return {"value": value, "low": low, "high": high, "images": found.count}
