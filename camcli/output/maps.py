"""Reading the raw maps that a run has stored."""

from __future__ import annotations

import numpy as np

from camcli.layout import map_file
from camcli.output.files import ARRAY_START
from camcli.output.root import Root

_MOST_BYTES = 1 << 30


def read_map(root: Root, overlay: str) -> np.ndarray:
    """The raw map of ``overlay`` in ``root``, (h, w) float32. Raises OSError, and ValueError if the file is not a map of camcli.

    Untrusted files are safe: the header is never evaluated, and no more memory is allocated than the file has bytes.
    """
    name = map_file(overlay)
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
