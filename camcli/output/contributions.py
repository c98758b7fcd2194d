"""The contributions of the channels that a run has stored, with ``--save-contributions``: writing and reading them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from camcli.layout import CONTRIBUTIONS_TABLE
from camcli.output.journal import Entry
from camcli.output.ledger import Ledger
from camcli.output.packed import unpack_arrays

_LARGEST = float(np.finfo(np.float16).max)


def packable(contributions: Iterable[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
    """The ``contributions`` (C,) of the rows of an image for ``pack_arrays``: number of the row, (C,) float16.

    Values beyond the range of float16, 65,504, become its limits. A row whose contributions are not finite is left out.
    """
    for number, values in enumerate(contributions):
        if np.isfinite(values).all():
            yield number, np.clip(values, -_LARGEST, _LARGEST).astype(np.float16)


class StoredContributions:
    """The contributions that the run of ``ledger`` has stored; for reading."""

    def __init__(self, ledger: Ledger) -> None:
        self._table = ledger.packed(CONTRIBUTIONS_TABLE)

    def read(self, entry: Entry, number: int) -> np.ndarray | None:
        """The contributions of row ``number`` of the image of ``entry``, (C,) float16; None if none were stored for the row.

        Raises OSError, and ValueError if they are damaged.
        """
        for row, values in unpack_arrays(self._table.read(entry)):
            if row == number:
                if values.ndim != 1 or values.dtype != np.float16 or not np.isfinite(values).all():  # camcli stores no such
                    raise ValueError(f"{CONTRIBUTIONS_TABLE} has no contributions of row {number + 1} of the image")
                return values
        return None


def has_contributions(ledger: Ledger) -> bool:
    """Whether the run of ``ledger`` stores contributions."""
    return CONTRIBUTIONS_TABLE in ledger.binaries
