"""What finished runs have measured: for each run, layer and method a value an image and class."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from camcli.config.run import CURVES, METRIC_COLUMNS
from camcli.errors import InputError
from camcli.output.journal import Entry
from camcli.output.ledger import Ledger, read_ledger
from camcli.output.root import Root
from camcli.records import escape_name, unescape_name

CONTROLS = ("uniform", "random", "center")
"""The methods that know nothing of the network; ``Method.control`` says so too, but this module knows no torch."""

_NETWORK = ("model", "weights", "weights-sha256", "model-sha256", "labels", "head", "fit", "precision", "steps", "baseline",
            "metric-score")  # fmt: skip
"""Settings that must agree for a control of one run to serve another."""

Rows = list[dict[str, str]]


class Evaluated(Protocol):
    """What results are about. ``label``: its name in the results. ``path``: where it is. ``network``: as for ``Run``."""

    @property
    def label(self) -> str:
        """The name in the results."""

    @property
    def path(self) -> str:
        """Where it is."""

    @property
    def network(self) -> tuple[object, ...]:
        """What must agree for controls to be shared."""


@dataclass(frozen=True)
class Run:
    """A finished run. ``label``: its name in the results, different for each. ``ledger``: its tables."""

    label: str
    path: str
    root: Root
    ledger: Ledger

    @property
    def network(self) -> tuple[Any, ...]:
        """What must agree for the controls of another run to serve this one."""
        settings = self.ledger.header.current
        return tuple(str(settings.get(name)) for name in _NETWORK)

    def explained(self) -> Iterator[tuple[Entry, Rows]]:
        """The entry and the rows of each explained image."""
        return self.ledger.explained()


@dataclass(frozen=True, order=True)
class Key:
    """What is compared: a method at a layer in a run, by its number."""

    run: int
    layer: str
    method: str


def open_runs(paths: Sequence[str]) -> list[Run]:
    """The runs in the folders ``paths``. Raises InputError for a folder without a run, and SettingsError."""
    paths = list(dict.fromkeys(os.path.normpath(path) for path in paths))
    return [Run(label, path, Root(path), read_ledger(path)) for label, path in zip(_labels(paths), paths, strict=True)]


def _labels(paths: Sequence[str]) -> list[str]:
    names = [os.path.basename(os.path.abspath(path)) for path in paths]
    return [escape_name(name if names.count(name) == 1 else path) for name, path in zip(names, paths, strict=True)]


@dataclass
class Values:
    """Values of images: a row an image, in the order of ``images``, which all runs share.

    ``columns``: (metric, key) -> for each pair of image and class a vector (D,). ``left_out``: (metric, key) -> number of pairs
    that have no value, because the map is empty or not finite.
    """

    images: dict[str, int] = field(default_factory=dict)
    columns: dict[tuple[str, Key], dict[tuple[int, str], np.ndarray]] = field(default_factory=dict)
    left_out: dict[tuple[str, Key], int] = field(default_factory=dict)

    def add(self, metric: str, key: Key, image: str, class_name: str, value: Sequence[float] | np.ndarray | None) -> None:
        """Add the value (D,) of one map; None if it has none."""
        number = self.images.setdefault(image, len(self.images))
        column = self.columns.setdefault((metric, key), {})
        if value is None:
            self.left_out[metric, key] = self.left_out.get((metric, key), 0) + 1
        else:
            column[number, class_name] = np.asarray(value, np.float64)

    @property
    def metrics(self) -> list[str]:
        """The metrics that have a value, in the order in which they came."""
        return list(dict.fromkeys(metric for metric, _ in self.columns))

    def keys(self, metric: str) -> list[Key]:
        """The keys that have a value of ``metric``, in the order in which they came."""
        return [key for found, key in self.columns if found == metric and self.columns[found, key]]

    def of(self, metric: str, key: Key) -> np.ndarray:
        """A row an image, the mean over its classes; NaN for an image without a value. (n, D)."""
        return self._rows(self.columns[metric, key])

    def pair(self, metric: str, one: Key, other: Key) -> tuple[np.ndarray, np.ndarray]:
        """Both columns as ``of`` returns them, (n, D), over the pairs of image and class that both have."""
        first, second = self.columns[metric, one], self.columns[metric, other]
        return (
            self._rows({pair: value for pair, value in first.items() if pair in second}),
            self._rows({pair: value for pair, value in second.items() if pair in first}),
        )

    def _rows(self, column: Mapping[tuple[int, str], np.ndarray]) -> np.ndarray:
        if not column:
            return np.full((len(self.images), 1), np.nan)
        values = np.stack(list(column.values()))
        places = np.array([image for image, _ in column])
        sums = np.zeros((len(self.images), values.shape[1]))
        np.add.at(sums, places, values)
        counts = np.bincount(places, minlength=len(self.images))
        return np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], np.nan)


def read_metrics(runs: Sequence[Run]) -> Values:
    """The metrics and curves in the tables of ``runs``. Raises InputError if they have none."""
    found = Values()
    for number, run in enumerate(runs):
        columns = [column for column in METRIC_COLUMNS if column in run.ledger.columns]
        for entry, rows in run.explained() if columns else ():
            for row in rows:
                key = Key(number, unescape_name(row["layer"]), unescape_name(row["method"]))
                name = unescape_name(row["class_name"])
                for column in columns:
                    found.add(column, key, entry.image, name, _numbers(row[column]))
    return found


def refuse_nothing(found: Values, runs: Sequence[Run], left_out: Sequence[str]) -> None:
    """Raise InputError if nothing was measured. ``left_out``: why maps could not be compared with objects, in sentences."""
    if not any(found.columns.values()):
        names = ", ".join(escape_name(run.path) for run in runs)
        if left_out:
            raise InputError(f"{names}: no map can be compared with an object: {'; '.join(left_out)}.")
        raise InputError(
            f"{names}: there is nothing to evaluate. Run with --metrics, such as --metrics drop,insertion,deletion, or give boxes "
            "or masks of the objects with --boxes or --masks."
        )


def _numbers(cell: str) -> list[float] | None:
    return [float(number) for number in cell.split(" ")] if cell else None


def is_curve(metric: str) -> bool:
    """Whether the values of ``metric`` are curves."""
    return metric in CURVES.values()
