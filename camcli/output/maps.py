"""Reading the raw maps that a run has stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from camcli.layout import map_file
from camcli.output.files import ARRAY_START, row_stems
from camcli.output.journal import Entry
from camcli.output.ledger import Ledger
from camcli.output.root import Root

_MOST_BYTES = 1 << 30


class StoredMaps:
    """The raw maps of the run in ``root``. ``has_maps``: whether it has stored any."""

    def __init__(self, root: Root, ledger: Ledger) -> None:
        self._root = root
        self.has_maps = bool(ledger.settings.get("save-maps"))

    def of_image(self, entry: Entry, rows: Sequence[Mapping[str, str]]) -> list[StoredMap | None]:
        """The map of each of ``rows``, which are all rows of the image of ``entry``; None for a row without a stored map."""
        if not self.has_maps:
            return [None] * len(rows)
        return [StoredMap(self._root, map_file(stem)) if stem else None for stem in row_stems(rows, folded=entry.folded)]


@dataclass(frozen=True)
class StoredMap:
    """A raw map that is not read yet. ``name``: the path of its file in ``root``."""

    root: Root
    name: str

    def read(self) -> np.ndarray:
        """The map, (h, w) float32. Raises OSError, and ValueError if it is damaged."""
        return read_map(self.root, self.name)


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
    values = np.frombuffer(data, "<f4", offset=found.end()).reshape(height, width)
    if not np.isfinite(values).all():  # camcli never stores such a map
        raise ValueError(f"{name} contains values that are not finite")
    return values
