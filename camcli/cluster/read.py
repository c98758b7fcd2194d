"""The explained images of runs, by class, and their contributions and maps in blocks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from camcli.cluster.config import ClusterConfig
from camcli.errors import InputError
from camcli.output.contributions import StoredContributions, has_contributions
from camcli.output.journal import Entry
from camcli.output.ledger import Ledger, read_ledger
from camcli.output.maps import StoredMap, StoredMaps
from camcli.output.root import Root
from camcli.records import escape_name, unescape_name

BLOCK = 1024
"""Images that are read at a time."""


@dataclass(frozen=True, slots=True)
class Item:
    """The row of an image in the run number ``run``. ``number``: of the row among those of the image. ``place``: of the image in
    the run's report. ``correct``: None if the true class is not known. ``has_map``: False if
    the map has no positive value. ``stored``: the map, if it has a file of its own.
    """

    run: int
    entry: Entry
    number: int
    place: int
    class_name: str
    predicted: str
    probability: float
    correct: bool | None
    overlay: str
    has_map: bool
    stored: StoredMap | None


@dataclass
class RunData:
    """A finished run. ``images``: how many its report has."""

    path: str
    root: Root
    ledger: Ledger
    maps: StoredMaps | None
    contributions: StoredContributions | None
    images: int = 0


@dataclass
class Collection:
    """The images of several runs. ``classes``: name -> its images. ``without``: images without a row of their class.

    ``damaged``: images that are left out because their rows, map or contributions are damaged or missing.
    """

    runs: list[RunData]
    classes: dict[str, list[Item]] = field(default_factory=dict)
    layer: str = ""
    method: str = ""
    without: int = 0
    damaged: int = 0


def collect(paths: Sequence[str], config: ClusterConfig) -> Collection:
    """The images of the runs in the folders ``paths``. Raises InputError if a run lacks what is compared."""
    found = Collection([_open(path, config.evidence) for path in paths])
    known: set[tuple[str, str]] = set()
    wanted = tuple(unescape_name(name) for name in (config.layer or "", config.method or ""))
    for number, run in enumerate(found.runs):
        for entry, data in run.ledger.rows():
            rows = run.ledger.own_rows(entry, data)
            if rows is None:
                found.damaged += 1
                continue
            place = run.images
            run.images += 1
            if not entry.stage:
                wanted = _add(found, number, entry, rows, place, config.by, wanted, known)
    if not found.classes:
        _refuse(found, config, known)
    found.layer, found.method = wanted
    return found


def _open(path: str, evidence: str) -> RunData:
    ledger = read_ledger(path)
    root = Root(path)
    missing = [] if has_contributions(ledger) or evidence == "where" else ["--save-contributions"]
    missing += [] if ledger.settings.get("save-maps") or evidence == "what" else ["--save-maps"]
    if missing:
        kept = {"--save-contributions": "contributions of channels", "--save-maps": "maps"}
        words = " and ".join(kept[option] for option in missing)
        other = {"--save-contributions": "where", "--save-maps": "what"}
        instead = f", or use --evidence {other[missing[0]]}" if len(missing) == 1 else ""
        raise InputError(
            f"the run in {escape_name(path)!r} has stored no {words}. Repeat the command that made it, with {' '.join(missing)} "
            f"--overwrite added: camcli run ... {' '.join(missing)} --overwrite{instead}."
        )
    maps = StoredMaps(root, ledger) if evidence != "what" or ledger.settings.get("save-maps") else None
    return RunData(path, root, ledger, maps, StoredContributions(ledger) if has_contributions(ledger) else None)


def _add(
    found: Collection,
    run: int,
    entry: Entry,
    rows: list[dict[str, str]],
    place: int,
    by: str,
    wanted: tuple[str, ...],
    known: set[tuple[str, str]],
) -> tuple[str, ...]:
    """Add the row of an image's own class. Returns the layer and method that are compared, once the first row has decided them."""
    class_column = "predicted_class" if by == "predicted" else "label"
    for number, row in enumerate(rows):
        names = unescape_name(row["layer"]), unescape_name(row["method"])
        known.add(names)
        if row["class_name"] != row.get(class_column) or (by == "predicted" and row["rank"] != "1"):
            continue
        if any(one and one != other for one, other in zip(wanted, names, strict=True)):
            continue
        probability = float(row["predicted_probability"])
        if row["status"] == "nonfinite" or not math.isfinite(probability):
            break
        maps = found.runs[run].maps
        stored = maps.of_image(entry, rows)[number] if maps is not None and row["status"] == "ok" else None
        own_file = stored if stored is not None and stored.name.endswith(".npy") else None
        correct = {"yes": True, "no": False}.get(row.get("correct", ""))
        name = unescape_name(row["class_name"])
        item = Item(
            run, entry, number, place, name, unescape_name(row["predicted_class"]), probability, correct,
            unescape_name(row["overlay"]), row["status"] == "ok", own_file,
        )  # fmt: skip
        found.classes.setdefault(name, []).append(item)
        return names
    found.without += 1
    return wanted


def _refuse(found: Collection, config: ClusterConfig, known: set[tuple[str, str]]) -> None:
    if config.by == "true" and not any(run.ledger.settings.get("class-from") for run in found.runs):
        raise InputError("--by true needs the true labels: run with --class-from folder or --class-from FILE.")
    for position, option, value in ((0, "layer", config.layer), (1, "method", config.method)):
        names = sorted({pair[position] for pair in known})
        if value is not None and value not in names:
            raise InputError(f"--{option} {value!r} is not in the run, which has: {escape_name(', '.join(names)) or 'none'}.")
    if found.without:
        raise InputError("no image has a row of its predicted class: run with --topk 1 beside --class or --class-from.")
    raise InputError("the runs have no explained image.")


class Arrays:
    """The contributions or the maps of the images of a class, read in blocks; held in memory if they are few.

    ``kind``: ``what`` or ``where``. A map's positive values are divided by their sum; a map without any is zeros. A row that is
    missing or damaged is zeros and False in ``whole``.
    """

    def __init__(self, found: Collection, items: Sequence[Item], kind: str, hold: int) -> None:
        self._found, self._items, self._kind = found, items, kind
        self.whole = np.ones(len(items), bool)
        self.shape = self._first_shape()
        self._held = self._read(slice(0, len(items))) if len(items) <= hold else None

    def _first_shape(self) -> tuple[int, ...]:
        for number in range(len(self._items)):
            if (self._kind == "what" or self._items[number].has_map) and (values := self._one(number)) is not None:
                return values.shape
        return (0,)

    def _one(self, number: int) -> np.ndarray | None:
        item = self._items[number]
        run = self._found.runs[item.run]
        try:
            if self._kind == "what":
                assert run.contributions is not None
                return run.contributions.read(item.entry, item.number)
            assert run.maps is not None
            if item.stored is not None:
                return item.stored.read()
            stored = run.maps.of_image(item.entry, [{"status": "ok"}] * (item.number + 1))[item.number]
            return None if stored is None else stored.read()
        except (ValueError, OSError):
            return None

    def _read(self, part: slice) -> np.ndarray:
        numbers = range(*part.indices(len(self._items)))
        block = np.zeros((len(numbers), math.prod(self.shape)), np.float32)
        for row, number in enumerate(numbers):
            if self._kind == "where" and not self._items[number].has_map:
                continue
            values = self._one(number)
            if values is None or values.shape != self.shape:
                self.whole[number] = False
                continue
            flat = values.astype(np.float32).ravel()
            if self._kind == "where":
                flat = np.maximum(flat, 0)
                total = float(flat.sum(dtype=np.float64))
                flat = flat / total if total > 0 else flat
            block[row] = flat
        return block

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """The rows in blocks: which they are, and (n, D) float32."""
        for start in range(0, len(self._items), BLOCK):
            part = slice(start, min(start + BLOCK, len(self._items)))
            yield part, self._read(part) if self._held is None else self._held[part]

    def check(self) -> np.ndarray:
        """Whether each row is there and undamaged, (N,) bool."""
        if self._held is None:
            for _ in self.blocks():
                pass
        return self.whole

    @property
    def held(self) -> np.ndarray | None:
        """All rows (N, D) float32; None if they are too many."""
        return self._held
