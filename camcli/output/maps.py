"""Reading the raw maps that a run has stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from camcli.layout import MAPS_TABLE, map_file
from camcli.output.files import ARRAY_START, packs_maps, row_stems
from camcli.output.journal import Entry
from camcli.output.ledger import Ledger
from camcli.output.packed import PackedTable, unpack_arrays
from camcli.output.root import Root

_MOST_BYTES = 1 << 30


class StoredMaps:
    """The raw maps of the run in ``root``. ``has_maps``: whether it has stored any."""

    def __init__(self, root: Root, ledger: Ledger) -> None:
        self._root = root
        self.has_maps = bool(ledger.settings.get("save-maps"))
        self._packed = ledger.packed(MAPS_TABLE) if packs_maps(ledger.settings) else None

    def of_image(self, entry: Entry, rows: Sequence[Mapping[str, str]]) -> list[StoredMap | None]:
        """The map of each of ``rows``, which are all rows of the image of ``entry``; None for a row without a stored map."""
        if not self.has_maps:
            return [None] * len(rows)
        if self._packed is None:
            stems = row_stems(rows, folded=entry.folded)
            return [StoredMap(map_file(stem), partial(read_map, self._root, map_file(stem))) if stem else None for stem in stems]
        packed = _PackedMaps(self._packed, entry)
        return [
            StoredMap(MAPS_TABLE, partial(packed.read, number)) if row["status"] == "ok" else None
            for number, row in enumerate(rows)
        ]


@dataclass(frozen=True)
class StoredMap:
    """A raw map that is not read yet. ``name``: the path of the file that has it.

    ``read`` returns it, (h, w) float32. It raises OSError, and ValueError if the map is damaged.
    """

    name: str
    read: Callable[[], np.ndarray]


class _PackedMaps:
    """The packed maps of one image, which are read all at once when the first is asked for."""

    def __init__(self, table: PackedTable, entry: Entry) -> None:
        self._table, self._entry = table, entry
        self._found: dict[int, np.ndarray] | None = None

    def read(self, number: int) -> np.ndarray:
        if self._found is None:
            self._found = dict(unpack_arrays(self._table.read(self._entry)))
        values = self._found.get(number)
        if values is None or values.ndim != 2 or values.dtype != np.float32 or 0 in values.shape:
            raise ValueError(f"{MAPS_TABLE} has no map of row {number + 1} of the image")
        return _finite(values, MAPS_TABLE)


def _finite(values: np.ndarray, name: str) -> np.ndarray:
    if not np.isfinite(values).all():  # camcli never stores such a map
        raise ValueError(f"{name} contains values that are not finite")
    return values


def read_map(root: Root, name: str) -> np.ndarray:
    """The raw map in the file ``name`` of ``root``, (h, w) float32. Raises OSError, and ValueError if it is not a map of camcli.

    Untrusted files are safe: the header is never evaluated, and no more memory is allocated than the file has bytes.
    """
    data = root.read(name, _MOST_BYTES)
    found = ARRAY_START.match(data)
    if found is None:
        raise ValueError(f"{name} is not a map written by camcli")
    height, width = int(found[1]), int(found[2])
    if height < 1 or width < 1 or len(data) - found.end() != 4 * height * width:
        raise ValueError(f"{name} does not have the size of {height} x {width} values")
    return _finite(np.frombuffer(data, "<f4", offset=found.end()).reshape(height, width), name)
